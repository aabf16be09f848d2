// methods/transforms/block_size.h - the key "k" of transforms that work on blocks of channels: a number, or
// a word.
//   0        the format's group size; under a whole-row scale the largest power of two in the channels
//   "full"   every channel
//   "heads"  across the heads of the input of `o`
#pragma once
#include "methods/transforms/transform.h"

namespace fp4lab {

/// Which numbers serve: powers of two from 2, or any from 2. Either must divide the channels.
enum class BlockSizes { powers_of_two, any };

/// Reads "k" (kGroupSize without it), a number or one of the words: "full", "heads".
int64_t read_block_size(Params& p, BlockSizes sizes, const std::vector<std::string>& words,
                        std::string_view doc);
/// The number or the word.
Json block_size_json(int64_t k);

/// Channels per block of a site; not for kHeads.
int64_t block_size(const TransformSpec& spec, const TransformFit& fit);
/// Why blocks of this size cannot serve the site, and which could; or "". Not for kHeads.
std::string block_size_problem(const TransformSpec& spec, const TransformFit& fit, BlockSizes sizes);

}  // namespace fp4lab
