#include "methods/transforms/smooth.h"

#include <algorithm>
#include <cmath>
#include <nlohmann/json.hpp>

namespace fp4lab {

TransformSpec read_smooth(Params& p) {
  TransformSpec spec{TransformSpec::smooth};
  spec.alpha = p.number("alpha", 0.6, {"share of the activations' range that the weights take over", 0, 1});
  return spec;
}

void write_smooth(const TransformSpec& spec, Json& object) { object["alpha"] = spec.alpha; }

std::string smooth_problem(const TransformSpec&, const TransformFit&) { return ""; }

void fit_smooth(const TransformSpec& spec, const TransformInput& input, LinearMap& map) {
  const MatrixView<const float> W = input.W;
  const std::vector<float>& amax = input.stats->amax;
  FP4LAB_CHECK(int64_t(amax.size()) == W.cols, "smooth: amax of ", amax.size(), " channels, W has ", W.cols);
  std::vector<float> weight_amax(amax.size(), 0.0f);
  for (int64_t n = 0; n < W.rows; ++n)
    for (size_t j = 0; j < amax.size(); ++j)
      weight_amax[j] = std::max(weight_amax[j], std::abs(W(n, int64_t(j))));
  DiagonalFactor factor;
  factor.scale.assign(amax.size(), 1.0f);
  for (size_t j = 0; j < amax.size(); ++j)
    if (amax[j] > 0 && weight_amax[j] > 0) {
      const double s =
          std::pow(double(amax[j]), spec.alpha) / std::pow(double(weight_amax[j]), 1 - spec.alpha);
      factor.scale[j] = float(std::clamp(s, 1e-5, 1e5));
    }
  map.factors.emplace_back(std::move(factor));
}

}  // namespace fp4lab
