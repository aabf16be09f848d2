// methods/transforms/wush.h - WUSH: for each block of k channels the linear map that, among all, makes the
// product of quantized activations and weights best under a smooth model of the quantizer.
//   X' X'^T = E[x x^T], W' W'^T = E[w w^T] of the block (Cholesky), W'^T X' = U S V^T (SVD), H = H_k /
//   sqrt(k):
//     activations  x -> H S^-1/2 U^T W'^T x        weights  w -> H S^-1/2 V^T X'^T w      (columns)
//   Second moments of both become H S H^T: equal, and with the same energy in every coordinate.
//   Here rows are multiplied from the right: T_b = X' V S^-1/2 H for weights, T_b^-T = W' U S^-1/2 H.
//   Each moment is damped by damping * mean(diag) of its own block; a block without energy counts as I, so
//   that dead channels and dead outputs leave the map finite and invertible.
//   cost     O(N k + k^2) per channel, double; 2 k floats of map per channel
//   source   arXiv 2512.00956, section 3 (the "balanced" variant, with the Hadamard)
//   Differs: fitted once on the weights as they are; their GPTQ-WUSH fits a block again on weights that
//   already
//            compensate the blocks before. Their code takes U from the eigenvectors of W'^T E[x x^T] W',
//            which loses half the digits of small singular values; the SVD is taken here.
#pragma once
#include "methods/transforms/transform.h"

namespace fp4lab {

TransformSpec read_wush(Params& p);
void write_wush(const TransformSpec& spec, Json& object);
/// k (0: the format's group, see block_size.h) must be a power of two up to 256 that divides the channels.
std::string wush_problem(const TransformSpec& spec, const TransformFit& fit);
/// One BlocksFactor. Looks at W, stats.H and stats.tokens. DataError when a moment is not positive definite
/// (NaN, or an H that is none).
void fit_wush(const TransformSpec& spec, const TransformInput& input, LinearMap& map);

}  // namespace fp4lab
