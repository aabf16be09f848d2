"""Figures of the paper's analysis, drawn from result files alone (their layout: results/README.md).

    from analysis.figures import figures_of, save
    for figure in figures_of(["results/figure3_laplace.h5", "results/figure3_weights.h5"]):
        save(figure, "pictures")                    # pictures/figure3.svg and .png

or `python3 -m analysis.figures RESULT.h5... --to FOLDER`. A figure that needs several files (weights and activations)
appears once; a file without what a figure needs adds nothing to it. Needs matplotlib, h5py and NumPy.
"""
import os

from analysis.figures import (fig_ablation, fig_fits, fig_frontier, fig_hadamard, fig_lemmas, fig_ranges,
                              fig_scale_types)
from analysis.figures.data import read_cells
from analysis.figures.figure import Figure, png, svg

__all__ = ["Figure", "figures_of", "png", "save", "svg"]

# In the order of the paper. A builder takes the finished cells of all files and gives a list of Figure.
BUILDERS = (fig_fits.figures, fig_hadamard.figure3, fig_ranges.figures, fig_lemmas.figures, fig_scale_types.figures,
            fig_hadamard.figure10, fig_ablation.figures, fig_frontier.figures)


def figures_of(paths):
    """All figures that these result files have the data for, in the paper's order: a list of Figure.

    OSError for what is no HDF5 file; KeyError for an HDF5 file that is no result.
    """
    cells = [cell for path in paths for cell in read_cells(path)]
    return [figure for build in BUILDERS for figure in build(cells)]


def save(figure, folder):
    """Writes NAME.svg and NAME.png into `folder` (made if missing); returns their paths. Equal data, equal bytes."""
    os.makedirs(folder, exist_ok=True)
    paths = []
    for suffix, content in ((".svg", svg(figure).encode()), (".png", png(figure))):
        paths.append(os.path.join(folder, figure.name + suffix))
        with open(paths[-1] + ".tmp", "wb") as file:
            file.write(content)
        os.replace(paths[-1] + ".tmp", paths[-1])  # a crash leaves the old picture
    return paths
