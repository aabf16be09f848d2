"""Draws every figure that result files have the data for.

    python3 -m analysis.figures RESULT.h5... --to FOLDER
"""
import argparse
import os
import sys

if __package__ in (None, ""):  # python3 path/to/analysis/figures: from anywhere
    sys.path.insert(0, os.path.dirname(os.path.dirname(os.path.dirname(os.path.abspath(__file__)))))

from analysis.figures import figures_of, save


def main():
    parser = argparse.ArgumentParser(prog="analysis.figures", description=__doc__.splitlines()[0])
    parser.add_argument("results", nargs="+", metavar="RESULT.h5", help="consolidated result files")
    parser.add_argument("--to", required=True, metavar="FOLDER", help="where NAME.svg and NAME.png go")
    options = parser.parse_args()
    try:
        found = figures_of(options.results)
    except (OSError, KeyError) as error:
        sys.exit(f"analysis.figures: {error.args[0]}")
    if not found:
        print("analysis.figures: no figure has its data in these files", file=sys.stderr)
    for figure in found:
        for path in save(figure, options.to):
            print(path)


if __name__ == "__main__":
    main()
