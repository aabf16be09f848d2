// methods/transforms/hadamard.h - the Hadamard rotation of blocks: every run of k channels becomes
// x H_k / sqrt(k), k a power of two, H_k in natural order. With `randomize` each channel's sign is drawn
// first.
//   Each coordinate of a block is then a mean of all its channels, so an outlier is shared out among k of
//   them and groups look Normal; the inverse is the same map, or its transpose.
//   "full"   every channel: H_m kron H_p, where p is the largest power of two for which m = K / p has a
//            Hadamard matrix (1536 = 12 * 128, as QuaRot does it); two factors, O(K (m + log p)) per row
//   "heads"  across the heads of the input of `o`: channel c of all heads is one block, head_dim apart
//   source  SPEC section 4; the rotation of MR-GPTQ (arXiv 2509.23202) has k = the format's group; "full" and
//           "heads" are the online rotations of QuaRot (arXiv 2404.00456) before down_proj and o_proj
#pragma once
#include "methods/transforms/transform.h"

namespace fp4lab {

TransformSpec read_hadamard(Params& p);
void write_hadamard(const TransformSpec& spec, Json& object);
/// k must be a power of two from 2 that divides the channels. k = 0 stands for the group size, which must be
/// one; under a whole-row scale for the largest power of two that divides the channels. "full" and "heads"
/// need a Hadamard matrix of their size, "heads" the heads.
std::string hadamard_problem(const TransformSpec& spec, const TransformFit& fit);
void fit_hadamard(const TransformSpec& spec, const TransformInput& input, LinearMap& map);

}  // namespace fp4lab
