// methods/site_stats.h - what is known of the inputs of one site: the data that transforms, scale searches
// and roundings are fitted on.
#pragma once
#include <utility>
#include <vector>

#include "core/matrix.h"
#include "kernels/ops.h"

namespace fp4lab {

/// The inputs X (tokens, K) of one site.
struct SiteStats {
  int64_t tokens = 0;
  MatrixD H;                // X^T X (K, K), upper triangle, the rest 0; empty unless asked for
  ArrayD H_on_gpu;          // instead of H while it is still where a GPU summed it (`to_host`)
  MatrixD D;                // (X_fp - X)^T X (K, K), X_fp of the full-precision model; empty unless asked for
  std::vector<float> amax;  // per channel (K)
  std::vector<double> mean_abs;  // per channel (K)
  Matrix sample;                 // (rows, K), rows of X in their order; empty unless asked for

  /// With the Hessian on the host.
  SiteStats clone() const {
    FP4LAB_CHECK(H_on_gpu.empty());
    return {tokens, H.clone(), {}, D.clone(), amax, mean_abs, sample.clone()};
  }
  /// The Hessian in a GPU's memory, wherever it was; it is not here afterwards.
  ArrayD take_on_gpu(Ops& ops) {
    if (!H_on_gpu.empty()) return std::exchange(H_on_gpu, {});
    ArrayD out = ops.zeros_double(H.rows(), H.cols());
    ops.upload(H, out.view());
    H = {};
    return out;
  }
  /// Brings the Hessian to the host, where everything else is.
  void to_host(Ops& ops) {
    if (H_on_gpu.empty()) return;
    H = MatrixD(H_on_gpu.rows(), H_on_gpu.cols());
    ops.download(H_on_gpu.view(), H);
    H_on_gpu = {};
  }
};

/// What of it something looks at.
struct StatsNeeds {
  bool columns = false;  // amax and mean_abs
  bool hessian = false, cross = false, sample = false;

  bool any() const { return columns || hessian || cross || sample; }
  StatsNeeds operator|(const StatsNeeds& o) const {
    return {columns || o.columns, hessian || o.hessian, cross || o.cross, sample || o.sample};
  }
  bool operator==(const StatsNeeds&) const = default;
};

}  // namespace fp4lab
