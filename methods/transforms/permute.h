// methods/transforms/permute.h - another order of the channels, for what comes after it: a block rotation, or
// a rounding that goes from channel to channel. By itself it costs nothing where it is folded into the layer
// before; here the activations are permuted.
//   by "mass"     blocks of k channels with equal shares of sum_j mean|x_j|: from the heaviest channel to the
//                 lightest, each goes to the block with the least mass that has room. The largest coordinate
//                 that a rotated block can have is bounded by its l1 norm, so no block is left with several
//                 outliers. Within a block the channels keep their order
//   by "hessian"  descending diag(H): GPTQ's act-order, as a change of coordinates
//   Equal channels go by their index, equal blocks too.
//   source  MassDiff of PeRQ (arXiv 2601.22347); act-order: the code of GPTQ (arXiv 2210.17323)
#pragma once
#include "methods/transforms/transform.h"

namespace fp4lab {

TransformSpec read_permute(Params& p);
void write_permute(const TransformSpec& spec, Json& object);
/// By mass: k, the block of the rotation that follows (0: the format's group size), divides the channels.
std::string permute_problem(const TransformSpec& spec, const TransformFit& fit);
StatsNeeds permute_needs(const TransformSpec& spec);
/// One PermutationFactor, from stats.mean_abs or stats.H. DataError for a channel that is not finite.
void fit_permute(const TransformSpec& spec, const TransformInput& input, LinearMap& map);

}  // namespace fp4lab
