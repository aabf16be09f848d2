#include "methods/transforms/hadamard.h"

#include <nlohmann/json.hpp>

#include "core/random.h"
#include "kernels/cpu/linear_map.h"
#include "methods/transforms/block_size.h"

namespace fp4lab {

namespace {

/// The largest power of two p that leaves K / p channels with a Hadamard matrix; 0: none does.
int64_t power_part(int64_t channels) {
  for (int64_t p = channels & -channels; p >= 1; p /= 2)
    if (has_hadamard_matrix(channels / p)) return p;
  return 0;
}

std::string heads_problem(const TransformFit& fit) {
  if (fit.head_dim == 0)
    return "hadamard: k = \"heads\" is for the site o of a model, whose input has heads; elsewhere k is a "
           "number or "
           "\"full\"";
  if (fit.channels % fit.head_dim != 0)
    return str("hadamard: heads of ", fit.head_dim, " channels do not divide ", fit.channels);
  const int64_t heads = fit.channels / fit.head_dim;
  if (heads < 2) return "hadamard: k = \"heads\" needs more than one head";
  if (!has_hadamard_matrix(heads))
    return str("hadamard: no Hadamard matrix of order ", heads, " is known here, for k = \"heads\" of ",
               heads, " heads");
  return "";
}

}  // namespace

TransformSpec read_hadamard(Params& p) {
  TransformSpec spec{TransformSpec::hadamard};
  spec.k = read_block_size(p, BlockSizes::powers_of_two, {"full", "heads"},
                           "channels per block, a power of two; 0: the format's group size; \"full\": every "
                           "channel; \"heads\": across the heads, for the site o");
  spec.randomize =
      p.boolean("randomize", false, {"draw the channels' signs from the seed before the rotation"});
  return spec;
}

void write_hadamard(const TransformSpec& spec, Json& object) {
  object["k"] = block_size_json(spec.k);
  object["randomize"] = spec.randomize;
}

std::string hadamard_problem(const TransformSpec& spec, const TransformFit& fit) {
  if (spec.k == kHeads) return heads_problem(fit);
  if (spec.k != kFullWidth) return block_size_problem(spec, fit, BlockSizes::powers_of_two);
  if (fit.channels < 2 || power_part(fit.channels) == 0)
    return str("hadamard: k = \"full\": no Hadamard matrix is known here for ", fit.channels,
               " channels, as a power of two times an order of Paley's");
  return "";
}

void fit_hadamard(const TransformSpec& spec, const TransformInput& input, LinearMap& map) {
  const TransformFit& fit = input.fit;
  std::vector<HadamardFactor> factors;
  if (spec.k == kHeads) {
    factors.push_back({fit.channels / fit.head_dim, {}, fit.head_dim});
  } else if (spec.k == kFullWidth) {
    const int64_t p = power_part(fit.channels), m = fit.channels / p;
    if (p > 1) factors.push_back({p, {}});
    if (m > 1) factors.push_back({m, {}, p});
  } else {
    factors.push_back({block_size(spec, fit), {}});
  }
  if (spec.randomize) {
    // A channel's block of random bits serves the whole list, so that two transforms share no sign.
    const Stream stream(fit.seed, "hadamard signs", fit.index);
    std::vector<float>& signs = factors.front().signs;
    signs.resize(size_t(fit.channels));
    for (size_t c = 0; c < signs.size(); ++c)
      signs[c] = stream.block(c)[0] >> input.position & 1 ? -1.0f : 1.0f;
  }
  map.factors.insert(map.factors.end(), factors.begin(), factors.end());
}

}  // namespace fp4lab
