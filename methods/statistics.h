// methods/statistics.h - what the inputs of a model's linears look like: Hessians, per-channel statistics and
// sampled rows.
#pragma once
#include <functional>
#include <vector>

#include "core/io/spill.h"
#include "core/model/model_weights.h"
#include "kernels/ops.h"
#include "methods/site_stats.h"

namespace fp4lab {

/// Gathers the statistics of one site over chunks of rows.
class StatsGatherer {
 public:
  /// `rows`: of the sample, ascending; read where `needs` asks for one, and to outlive the gatherer.
  StatsGatherer(Ops& ops, int64_t inputs, const StatsNeeds& needs, std::span<const int64_t> rows);
  /// X (rows, inputs); `full`: the same tokens' inputs in the full-precision model, for `cross`.
  void add(MatrixView<const float> X, MatrixView<const float> full = {});
  /// A Hessian without a cross term may still be on the GPU.
  SiteStats finish();

 private:
  Ops& ops_;
  SiteStats stats_;
  ArrayD H_, D_;
  std::span<const int64_t> rows_;
  size_t taken_ = 0;
  std::vector<double> sums_;
};

/// Rows of a sample of `rows` of `tokens` tokens, by (seed, "activation rows"); 0, or more than there are:
/// all.
std::vector<int64_t> sample_rows(uint64_t seed, int64_t tokens, int64_t rows);

struct StatsRequest {
  std::function<bool(int64_t layer, SiteKind site)> wanted;
  bool hessians = false;
  bool sample = false;
  int64_t rows = 0;  // of the sample, chosen by (seed, "activation rows"); 0, or more than there are: all
  uint64_t seed = 0;
  SpillPolicy spill{};  // of the hidden states
};

/// Runs the full-precision model over the windows, block by block, and hands over each wanted site when its
/// block is done; stops after the last wanted block. Every site's sample has the same rows. Memory: the
/// hidden states of all windows (in a file above the policy's limit), one block of weights, and the
/// statistics of one block's wanted sites.
void collect_statistics(Ops& ops, const ModelWeights& checkpoint, std::span<const int32_t> ids,
                        int64_t length, const StatsRequest& request, const std::function<void()>& step,
                        const std::function<void(int64_t layer, SiteKind site, SiteStats&& stats)>& done);

}  // namespace fp4lab
