// methods/transforms/hadamard.h - the block Hadamard: every run of k channels becomes x H_k / sqrt(k), k a
// power of two, H_k in natural order. With `randomize` each channel's sign is drawn first.
//   Each coordinate of a block is then a mean of all its channels, so an outlier is shared out among k of
//   them and groups look Normal; the inverse is the same map.
//   source  SPEC section 4; the rotation of MR-GPTQ (arXiv 2509.23202) has k = the format's group
#pragma once
#include "methods/transforms/transform.h"

namespace fp4lab {

TransformSpec read_hadamard(Params& p);
void write_hadamard(const TransformSpec& spec, Json& object);
/// k must be a power of two from 2 that divides the channels. k = 0 stands for the group size, which must be
/// one; under a whole-row scale for the largest power of two that divides the channels.
std::string hadamard_problem(const TransformSpec& spec, int64_t channels, int64_t group_size);
void fit_hadamard(const TransformSpec& spec, const TransformFit& fit, LinearMap& map);

}  // namespace fp4lab
