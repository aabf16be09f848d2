#include "methods/transforms/hadamard.h"

#include <bit>
#include <nlohmann/json.hpp>

#include "core/random.h"

namespace fp4lab {

namespace {

bool is_block_size(int64_t k) { return k >= 2 && std::has_single_bit(uint64_t(k)); }

/// The largest power of two that divides n > 0.
int64_t power_of_two_in(int64_t n) { return n & -n; }

/// "2, 4, 8, 16": the sizes of blocks that these channels divide into.
std::string possible_sizes(int64_t channels) {
  std::string list = "2";
  for (int64_t k = 4; k <= power_of_two_in(channels); k *= 2) list += str(", ", k);
  return list;
}

int64_t block_size(const TransformSpec& spec, int64_t channels, int64_t group_size) {
  if (spec.k != 0) return spec.k;
  return group_size != 0 ? group_size : power_of_two_in(channels);
}

}  // namespace

TransformSpec read_hadamard(Params& p) {
  TransformSpec spec{TransformSpec::hadamard};
  spec.k = p.integer("k", 0, {"channels per block, a power of two; 0: the format's group size", 0, 0x1p30});
  spec.randomize =
      p.boolean("randomize", false, {"draw the channels' signs from the seed before the rotation"});
  if (!p.is_declaring() && spec.k != 0 && !is_block_size(spec.k))
    p.fail("k", str(spec.k, " is not a power of two from 2 on"));
  return spec;
}

void write_hadamard(const TransformSpec& spec, Json& object) {
  object["k"] = spec.k;
  object["randomize"] = spec.randomize;
}

std::string hadamard_problem(const TransformSpec& spec, int64_t channels, int64_t group_size) {
  if (power_of_two_in(channels) < 2) return str("hadamard: no power of two divides ", channels, " channels");
  const int64_t k = block_size(spec, channels, group_size);
  const std::string what = spec.k != 0 ? str("k = ", k) : str("the format's group size ", k);
  if (!is_block_size(k))
    return str("hadamard: ", what, " is not a power of two; those that divide ", channels,
               " channels as \"k\": ", possible_sizes(channels));
  if (channels % k != 0)
    return str("hadamard: ", what, " does not divide ", channels,
               " channels; powers of two that do: ", possible_sizes(channels));
  return "";
}

void fit_hadamard(const TransformSpec& spec, const TransformFit& fit, LinearMap& map) {
  HadamardFactor factor{block_size(spec, fit.channels, fit.group_size), {}};
  if (spec.randomize) {
    // A channel's block of random bits serves the whole list, so that two transforms share no sign.
    const Stream stream(fit.seed, "hadamard signs", fit.index);
    factor.signs.resize(size_t(fit.channels));
    for (size_t c = 0; c < factor.signs.size(); ++c)
      factor.signs[c] = stream.block(c)[0] >> fit.position & 1 ? -1.0f : 1.0f;
  }
  map.factors.push_back(std::move(factor));
}

}  // namespace fp4lab
