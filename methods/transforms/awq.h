// methods/transforms/awq.h - AWQ: channels with large inputs get finer weights, as far as that helps.
//   s = mean|X|^a,  s /= sqrt(max s * min s),   W -> W diag(s), X -> X diag(s)^-1
//   a = i / steps, i = 0, ..., steps - 1, is the one with the least error of the weights alone,
//     ||X W^T - (X / s) Q(W s)^T||^2 = sum over rows of d H d^T,   d = w - Q(w s) / s,  H = X^T X
//   (the smallest a among equals; a = 0 changes nothing). Q is the weights' format with its own scale rule.
//   cost     steps * (2 N K^2 flops in float32 and one quantization of W); two copies of W, one of H
//   source   Lin et al., MLSys 2024 (arXiv 2306.00978), section 3.2, and their auto_scale.py (grid, floor
//   1e-4
//            of s before the normalization, normalization)
//   Differs: the error is that of the site's linears, theirs that of the block around them (attention, MLP);
//            it is taken over all calibration tokens, through H. The method's `weight_scales` (their
//            clipping) are searched later, in the coordinates found here, and not inside of this search: so
//            do they. A channel whose inputs are all 0 keeps s = 1 and has no say in the normalization.
#pragma once
#include "methods/transforms/transform.h"

namespace fp4lab {

TransformSpec read_awq(Params& p);
void write_awq(const TransformSpec& spec, Json& object);
/// The weights must be quantized: it is their error that is searched.
std::string awq_problem(const TransformSpec& spec, const TransformFit& fit);
/// One DiagonalFactor. Looks at W, stats.mean_abs and stats.H.
void fit_awq(const TransformSpec& spec, const TransformInput& input, LinearMap& map);

}  // namespace fp4lab
