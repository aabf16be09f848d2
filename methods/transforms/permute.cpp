#include "methods/transforms/permute.h"

#include <algorithm>
#include <cmath>
#include <functional>
#include <nlohmann/json.hpp>
#include <numeric>
#include <queue>

#include "methods/transforms/block_size.h"

namespace fp4lab {

namespace {

/// Channels by descending weight, equal ones by index.
std::vector<int32_t> descending(const std::vector<double>& weight) {
  std::vector<int32_t> order(weight.size());
  std::iota(order.begin(), order.end(), 0);
  std::stable_sort(order.begin(), order.end(),
                   [&](int32_t a, int32_t b) { return weight[size_t(a)] > weight[size_t(b)]; });
  return order;
}

/// The channels of block 0, then of block 1, ...
std::vector<int32_t> balanced(const std::vector<double>& mass, int64_t k) {
  const int64_t blocks = int64_t(mass.size()) / k;
  std::vector<std::vector<int32_t>> channels(static_cast<size_t>(blocks));
  using Block = std::pair<double, int64_t>;  // mass, index: the least comes out first
  std::priority_queue<Block, std::vector<Block>, std::greater<>> open;
  for (int64_t b = 0; b < blocks; ++b) open.push({0, b});
  for (const int32_t c : descending(mass)) {
    const auto [sum, b] = open.top();
    open.pop();
    channels[size_t(b)].push_back(c);
    if (int64_t(channels[size_t(b)].size()) < k) open.push({sum + mass[size_t(c)], b});
  }
  std::vector<int32_t> order;
  for (std::vector<int32_t>& block : channels) {
    std::sort(block.begin(), block.end());
    order.insert(order.end(), block.begin(), block.end());
  }
  return order;
}

}  // namespace

TransformSpec read_permute(Params& p) {
  TransformSpec spec{TransformSpec::permute};
  spec.by =
      p.choice("by", "mass", {"mass", "hessian"},
               {"mass: blocks of k channels with equal shares of mean |x|; hessian: descending diag(H)"});
  if (spec.by == "mass")
    spec.k = read_block_size(
        p, BlockSizes::any, {},
        "by mass: channels per block of the rotation that follows; 0: the format's group size");
  return spec;
}

void write_permute(const TransformSpec& spec, Json& object) {
  object["by"] = spec.by;
  if (spec.by == "mass") object["k"] = block_size_json(spec.k);
}

std::string permute_problem(const TransformSpec& spec, const TransformFit& fit) {
  if (spec.by != "mass") return "";
  if (spec.k == kGroupSize && fit.group_size == 0)
    return "permute: a scale per row leaves no blocks to balance; k is to be that of the rotation that "
           "follows";
  return block_size_problem(spec, fit, BlockSizes::any);
}

StatsNeeds permute_needs(const TransformSpec& spec) {
  StatsNeeds needs;
  (spec.by == "mass" ? needs.columns : needs.hessian) = true;
  return needs;
}

void fit_permute(const TransformSpec& spec, const TransformInput& input, LinearMap& map) {
  const int64_t K = input.fit.channels;
  std::vector<double> weight;
  if (spec.by == "mass") {
    weight = input.stats->mean_abs;
  } else {
    const MatrixD& H = input.stats->H;
    for (int64_t c = 0; c < H.rows(); ++c) weight.push_back(H(c, c));
  }
  FP4LAB_CHECK(int64_t(weight.size()) == K, "permute: statistics of ", weight.size(), " channels for ", K);
  for (int64_t c = 0; c < K; ++c)
    if (!std::isfinite(weight[size_t(c)]))
      throw DataError(str("permute: ", spec.by == "mass" ? "mean |x|" : "diag(H)", " of channel ", c, " is ",
                          weight[size_t(c)]));
  map.factors.push_back(PermutationFactor{spec.by == "mass" ? balanced(weight, block_size(spec, input.fit))
                                                            : descending(weight)});
}

}  // namespace fp4lab
