#include "methods/transforms/gsr.h"

#include <nlohmann/json.hpp>

#include "methods/transforms/block_size.h"

namespace fp4lab {

namespace {

/// The place in natural order of the row with s sign changes: the bits of s's Gray code in reverse.
int64_t natural_index(int64_t s, int64_t k) {
  int64_t gray = s ^ (s >> 1), index = 0;
  for (int64_t bit = 1; bit < k; bit *= 2, gray /= 2) index = 2 * index + gray % 2;
  return index;
}

}  // namespace

TransformSpec read_gsr(Params& p) {
  TransformSpec spec{TransformSpec::gsr};
  spec.k = read_block_size(
      p, BlockSizes::powers_of_two, {"full"},
      "channels per block, a power of two; 0: the format's group size; \"full\": every channel");
  return spec;
}

void write_gsr(const TransformSpec& spec, Json& object) { object["k"] = block_size_json(spec.k); }

std::string gsr_problem(const TransformSpec& spec, const TransformFit& fit) {
  return block_size_problem(spec, fit, BlockSizes::powers_of_two);
}

void fit_gsr(const TransformSpec& spec, const TransformInput& input, LinearMap& map) {
  const int64_t k = block_size(spec, input.fit);
  PermutationFactor order;
  for (int64_t c = 0; c < input.fit.channels; ++c)
    order.from.push_back(int32_t(c / k * k + natural_index(c % k, k)));
  map.factors.emplace_back(HadamardFactor{k, {}});
  map.factors.emplace_back(std::move(order));
}

}  // namespace fp4lab
