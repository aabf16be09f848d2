#include "methods/transforms/trigonometric.h"

#include <cmath>
#include <nlohmann/json.hpp>
#include <numbers>

#include "methods/transforms/block_size.h"

namespace fp4lab {

namespace {

TransformSpec read(Params& p, TransformSpec::Kind kind) {
  TransformSpec spec{kind};
  spec.k = read_block_size(p, BlockSizes::any, {"full"},
                           "channels per block; 0: the format's group size; \"full\": every channel");
  return spec;
}

}  // namespace

TransformSpec read_dct(Params& p) { return read(p, TransformSpec::dct); }
TransformSpec read_dst(Params& p) { return read(p, TransformSpec::dst); }

void write_trigonometric(const TransformSpec& spec, Json& object) { object["k"] = block_size_json(spec.k); }

std::string trigonometric_problem(const TransformSpec& spec, const TransformFit& fit) {
  return block_size_problem(spec, fit, BlockSizes::any);
}

void fit_trigonometric(const TransformSpec& spec, const TransformInput& input, LinearMap& map) {
  const int64_t k = block_size(spec, input.fit);
  const bool sine = spec.kind == TransformSpec::dst;
  BlocksFactor factor{k, {}, {}};
  factor.weights.reserve(size_t(k * k));
  for (int64_t n = 0; n < k; ++n)
    for (int64_t j = 0; j < k; ++j) {
      // The wave runs j (dct) or j + 1 (dst) half periods over the block; 4 k steps are a full turn.
      const int64_t half_periods = sine ? j + 1 : j;
      const double angle = std::numbers::pi * double((2 * n + 1) * half_periods % (4 * k)) / double(2 * k);
      const double c = std::sqrt((half_periods % k == 0 ? 1.0 : 2.0) / double(k));
      factor.weights.push_back(float(c * (sine ? std::sin(angle) : std::cos(angle))));
    }
  map.factors.push_back(std::move(factor));
}

}  // namespace fp4lab
