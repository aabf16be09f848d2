// kernels/cuda/hessian_factor.h - methods/rounding/hessian_factor.h on a GPU: the factor of a damped Hessian
// that GPTQ works with. The Cholesky is cuSOLVER's, in double, so that its last bits are not the CPU's;
// everything before and after it is computed as there.
#pragma once
#include <vector>

#include "kernels/cuda/gpu.h"

namespace fp4lab::cuda {

struct DeviceFactor {
  bool ok = false;       // false: not positive definite after every rise of the damping
  double damping = 0;    // fraction of mean(diag H) that was used
  double added = 0;      // what was added to the diagonal
  double condition = 0;  // estimate for the damped H in the 1-norm
  int64_t dead_channels = 0;
  std::vector<int32_t> order;    // (K) loop position -> channel
  std::vector<uint8_t> dead;     // (K) by channel
  GpuArray<float> coefficients;  // (K, K) R_ik / R_kk in row k, column i < k; 0 elsewhere
  std::vector<float> weight;     // (K) R_kk^2 over their mean
  double weight_unit = 1;
};

/// H (K, K), upper triangle, on the GPU. `by_activation`: channels by descending diag(H). DataError for NaN
/// and Inf. Takes 20 K^2 bytes beside H while it runs.
DeviceFactor factor_hessian(Gpu& gpu, MatrixView<const double> H, bool by_activation, double damping);

}  // namespace fp4lab::cuda
