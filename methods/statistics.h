// methods/statistics.h - what the inputs of a model's linears look like: Hessians, per-channel statistics and
// sampled rows, gathered in one walk of the model in full precision.
#pragma once
#include <functional>
#include <vector>

#include "core/model/checkpoint.h"
#include "kernels/ops.h"

namespace fp4lab {

/// The inputs X (tokens, K) of one site.
struct SiteStats {
  int64_t tokens = 0;
  MatrixD H;                     // X^T X (K, K), upper triangle, the rest 0; empty unless asked for
  std::vector<float> amax;       // per channel (K)
  std::vector<double> mean_abs;  // per channel (K)
  Matrix sample;                 // (rows, K), rows of X in their order; empty unless asked for
};

struct StatsRequest {
  std::function<bool(int64_t layer, SiteKind site)> wanted;
  bool hessians = false;
  bool sample = false;
  int64_t rows = 0;  // of the sample, chosen by (seed, "activation rows"); 0, or more than there are: all
  uint64_t seed = 0;
};

/// Runs the full-precision model over the windows, block by block, and hands over each wanted site when its
/// block is done; stops after the last wanted block. Every site's sample has the same rows. Memory: the
/// hidden states of all windows, one block of weights, and the statistics of one block's wanted sites.
void collect_statistics(Ops& ops, const Checkpoint& checkpoint, std::span<const int32_t> ids, int64_t length,
                        const StatsRequest& request, const std::function<void()>& step,
                        const std::function<void(int64_t layer, SiteKind site, SiteStats&& stats)>& done);

}  // namespace fp4lab
