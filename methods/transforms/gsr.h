// methods/transforms/gsr.h - the sequency-ordered (Walsh) Hadamard rotation of blocks: coordinate s of a
// block is its product with the row of H_k / sqrt(k) that changes sign s times, s = 0, 1, ..., k - 1.
//   The rotation is that of `hadamard`, only the order of the coordinates differs: neighbours have similar
//   sequencies. It therefore changes nothing where one scale covers a whole block, and something where a
//   block holds several groups (k above the group size), or where the order of the channels matters.
//   source  "Grouped Sequency-arranged Rotation", arXiv 2505.03810
#pragma once
#include "methods/transforms/transform.h"

namespace fp4lab {

TransformSpec read_gsr(Params& p);
void write_gsr(const TransformSpec& spec, Json& object);
/// k: as for `hadamard`; "full" where the channels are a power of two.
std::string gsr_problem(const TransformSpec& spec, const TransformFit& fit);
/// A Hadamard, then a permutation within each block.
void fit_gsr(const TransformSpec& spec, const TransformInput& input, LinearMap& map);

}  // namespace fp4lab
