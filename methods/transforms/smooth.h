// methods/transforms/smooth.h - SmoothQuant: a diagonal that shares each channel's range between activations
// and weights.
//   s_j = max|X_j|^alpha / max|W_j|^(1 - alpha),   W -> W diag(s), X -> X diag(s)^-1
//   max|X_j| over the calibration tokens, max|W_j| over the stacked rows of the site.
//   source   Xiao et al., ICML 2023 (arXiv 2211.10438), eq. (4); alpha 0.6 is the best for FP4 in
//            arXiv 2509.23202
//   Differs: a channel whose weights or inputs are all 0 keeps s = 1 (their code floors max|W| at 1e-5 and
//            lets the floor decide); s is clamped to [1e-5, 1e5], theirs from below only.
#pragma once
#include "methods/transforms/transform.h"

namespace fp4lab {

TransformSpec read_smooth(Params& p);
void write_smooth(const TransformSpec& spec, Json& object);
/// Any number of channels and any format will do.
std::string smooth_problem(const TransformSpec& spec, const TransformFit& fit);
/// One DiagonalFactor. Looks at W and stats.amax.
void fit_smooth(const TransformSpec& spec, const TransformInput& input, LinearMap& map);

}  // namespace fp4lab
