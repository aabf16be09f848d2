#include "kernels/cuda/hessian_factor.h"

#include <cublas_v2.h>
#include <cusolverDn.h>

#include <algorithm>
#include <cmath>
#include <map>
#include <numeric>

namespace fp4lab::cuda {

namespace {

// As methods/rounding/hessian_factor.cpp has them.
constexpr double kLeastReciprocalCondition = 1e-12;
constexpr double kFirstRise = 1e-3;
constexpr int kThreads = 256;

void check(cusolverStatus_t status, const std::string& what) {
  if (status != CUSOLVER_STATUS_SUCCESS) throw Error(str(what, ": cuSOLVER status ", int(status)));
}
void check(cublasStatus_t status, const std::string& what) {
  if (status != CUBLAS_STATUS_SUCCESS) throw Error(str(what, ": ", cublasGetStatusString(status)));
}

struct Handles {
  cusolverDnHandle_t solver = nullptr;
  cublasHandle_t blas = nullptr;
  cusolverDnParams_t params = nullptr;

  static Handles& get(Gpu& gpu) {
    static auto& all = *new std::map<int, Handles>;  // for ever, as the Gpu
    Handles& h = all[gpu.index()];
    if (!h.solver) {
      check(cusolverDnCreate(&h.solver), "cuSOLVER");
      check(cusolverDnSetStream(h.solver, gpu.stream()), "cuSOLVER");
      check(cusolverDnCreateParams(&h.params), "cuSOLVER");
      check(cublasCreate(&h.blas), "cuBLAS");
      check(cublasSetStream(h.blas, gpu.stream()), "cuBLAS");
    }
    return h;
  }
};

/// The row-major index of the first NaN or Inf on or above the diagonal.
__global__ void nonfinite_kernel(MatrixView<const double> H, unsigned long long* first) {
  for (int64_t i = blockIdx.y; i < H.rows; i += gridDim.y)
    for (int64_t j = i + int64_t(blockIdx.x) * blockDim.x + threadIdx.x; j < H.cols;
         j += int64_t(gridDim.x) * blockDim.x)
      if (!isfinite(H(i, j))) atomicMin(first, static_cast<unsigned long long>(i * H.cols + j));
}

__global__ void diagonal_kernel(MatrixView<const double> H, double* diagonal) {
  const int64_t i = int64_t(blockIdx.x) * blockDim.x + threadIdx.x;
  if (i < H.rows) diagonal[i] = H(i, i);
}

/// H in loop order with its indices flipped, column-major, the lower triangle and its mirror: A (i, j) is
/// loop positions (K - 1 - i, K - 1 - j).
__global__ void flip_kernel(MatrixView<const double> H, const int32_t* order, const uint8_t* dead,
                            double unit, double damping, double* A) {
  const int64_t K = H.rows;
  for (int64_t j = blockIdx.y; j < K; j += gridDim.y)
    for (int64_t i = int64_t(blockIdx.x) * blockDim.x + threadIdx.x; i < K;
         i += int64_t(gridDim.x) * blockDim.x) {
      const int32_t r = order[K - 1 - i], c = order[K - 1 - j];
      const bool none = dead[r] || dead[c];
      const double h = none ? 0.0 : (r <= c ? H(r, c) : H(c, r)) * unit;
      A[j * K + i] = i != j ? h : dead[c] ? 1.0 : h + damping;
    }
}

/// The 1-norm of a column per block.
__global__ void column_norm_kernel(const double* A, int64_t K, double* norms) {
  __shared__ double part[kThreads];
  double sum = 0;
  for (int64_t i = threadIdx.x; i < K; i += kThreads) sum += fabs(A[int64_t(blockIdx.x) * K + i]);
  part[threadIdx.x] = sum;
  __syncthreads();
  for (int half = kThreads / 2; half > 0; half /= 2) {
    if (threadIdx.x < half) part[threadIdx.x] += part[threadIdx.x + half];
    __syncthreads();
  }
  if (threadIdx.x == 0) norms[blockIdx.x] = part[0];
}

__global__ void pivot_kernel(const double* L, int64_t K, double* pivots) {
  const int64_t k = int64_t(blockIdx.x) * blockDim.x + threadIdx.x;
  if (k < K) pivots[k] = L[(K - 1 - k) * K + K - 1 - k];
}

/// Row k of the coefficients: R_ik / R_kk with R_ik = L (K - 1 - i, K - 1 - k).
__global__ void coefficient_kernel(const double* L, const double* pivots, int64_t K, float* coefficients) {
  for (int64_t k = blockIdx.y; k < K; k += gridDim.y)
    for (int64_t i = int64_t(blockIdx.x) * blockDim.x + threadIdx.x; i < K;
         i += int64_t(gridDim.x) * blockDim.x)
      coefficients[k * K + i] = i < k ? float(L[(K - 1 - k) * K + K - 1 - i] / pivots[k]) : 0.0f;
}

dim3 square_grid(int64_t K) {
  return dim3(blocks_for(K, kThreads, 64), unsigned(std::min<int64_t>(K, 65535)));
}

void require_finite(Gpu& gpu, MatrixView<const double> H) {
  const unsigned long long none = ~0ull;
  const GpuArray<unsigned long long> first = gpu.upload(std::span<const unsigned long long>(&none, 1));
  nonfinite_kernel<<<square_grid(H.rows), kThreads, 0, gpu.stream()>>>(H, first.data());
  FP4LAB_CUDA_LAUNCHED("looking through a Hessian of ", H.rows, " channels");
  unsigned long long at = none;
  gpu.download<unsigned long long>(first.data(), std::span(&at, 1));
  if (at == none) return;
  const int64_t row = int64_t(at) / H.cols, col = int64_t(at) % H.cols;
  double value = 0;
  gpu.download<double>(H.row(row) + col, std::span(&value, 1));
  throw DataError(str("the Hessian of the inputs is ", std::isnan(value) ? "NaN" : "infinite", " at row ",
                      row, ", column ", col));
}

/// A = L L^T in place; false when A is not positive definite.
bool cholesky(Gpu& gpu, double* A, int64_t K) {
  Handles& h = Handles::get(gpu);
  const std::string what = str("Cholesky of ", K, " channels");
  size_t on_gpu = 0, on_host = 0;
  check(cusolverDnXpotrf_bufferSize(h.solver, h.params, CUBLAS_FILL_MODE_LOWER, K, CUDA_R_64F, A, K,
                                    CUDA_R_64F, &on_gpu, &on_host),
        what);
  const GpuArray<uint8_t> work = gpu.allocate<uint8_t>(int64_t(on_gpu));
  std::vector<uint8_t> host(on_host);
  const GpuArray<int> info = gpu.allocate<int>(1);
  check(cusolverDnXpotrf(h.solver, h.params, CUBLAS_FILL_MODE_LOWER, K, CUDA_R_64F, A, K, CUDA_R_64F,
                         work.data(), on_gpu, host.data(), on_host, info.data()),
        what);
  int failed = 0;
  gpu.download<int>(info.data(), std::span(&failed, 1));
  return failed == 0;
}

/// 1 / (|A|_1 |A^-1|_1) with Hager's estimate of the second norm (Higham, Algorithm 4.1), as Eigen's
/// LLT::rcond.
double reciprocal_condition(Gpu& gpu, const double* L, int64_t K, double norm) {
  Handles& h = Handles::get(gpu);
  const GpuArray<double> x = gpu.allocate<double>(K);
  std::vector<double> v(size_t(K), 1.0 / double(K));
  const auto solve = [&](std::vector<double>& b) {
    gpu.copy(b.data(), x.data(), K * int64_t(sizeof(double)));
    for (const cublasOperation_t op : {CUBLAS_OP_N, CUBLAS_OP_T})
      check(cublasDtrsv(h.blas, CUBLAS_FILL_MODE_LOWER, op, CUBLAS_DIAG_NON_UNIT, int(K), L, int(K), x.data(),
                        1),
            "a solve for the condition");
    gpu.download<double>(x.data(), b);
  };
  const auto norm1 = [](const std::vector<double>& a) {
    double sum = 0;
    for (const double y : a) sum += std::fabs(y);
    return sum;
  };
  solve(v);
  double bound = norm1(v);
  if (K > 1) {
    std::vector<double> sign(v.size()), old_sign;
    size_t largest = 0;
    for (int round = 0; round < 4; ++round) {
      for (size_t i = 0; i < v.size(); ++i) sign[i] = v[i] < 0 ? -1.0 : 1.0;
      if (round > 0 && sign == old_sign) break;
      std::vector<double> w = sign;
      solve(w);  // A is symmetric
      const size_t old = largest;
      for (size_t i = 0; i < w.size(); ++i)
        if (std::fabs(w[i]) > std::fabs(w[largest])) largest = i;
      if (round > 0 && largest == old) break;
      v.assign(v.size(), 0.0);
      v[largest] = 1;
      solve(v);
      const double next = norm1(v);
      if (next <= bound) break;
      bound = next, old_sign = sign;
    }
    // The vector that Hager's steps may miss.
    for (size_t i = 0; i < v.size(); ++i) v[i] = (i % 2 ? -1.0 : 1.0) * (1 + double(i) / double(K - 1));
    solve(v);
    bound = std::max(bound, 2 * norm1(v) / (3 * double(K)));
  }
  return bound > 0 && norm > 0 ? 1 / bound / norm : 0;
}

}  // namespace

DeviceFactor factor_hessian(Gpu& gpu, MatrixView<const double> H, bool by_activation, double damping) {
  const int64_t K = H.rows;
  FP4LAB_CHECK(K > 0 && H.cols == K && K <= INT32_MAX, "H (", H.rows, ", ", H.cols, ")");
  require_finite(gpu, H);
  DeviceFactor f;
  const GpuArray<double> on_gpu = gpu.allocate<double>(K);
  diagonal_kernel<<<blocks_for(K, kThreads), kThreads, 0, gpu.stream()>>>(H, on_gpu.data());
  FP4LAB_CUDA_LAUNCHED("diagonal of ", K, " channels");
  std::vector<double> diagonal(static_cast<size_t>(K));
  gpu.download<double>(on_gpu.data(), diagonal);
  double trace = 0;
  for (const double h : diagonal) {
    f.dead.push_back(h <= 0);
    f.dead_channels += h <= 0;
    trace += h;
  }
  f.order.resize(size_t(K));
  std::iota(f.order.begin(), f.order.end(), 0);
  if (by_activation)
    std::stable_sort(f.order.begin(), f.order.end(),
                     [&](int32_t a, int32_t b) { return diagonal[size_t(a)] > diagonal[size_t(b)]; });
  const int64_t live = K - f.dead_channels;
  const double mean = live > 0 ? trace / double(live) : 1;

  const GpuArray<int32_t> order = gpu.upload<int32_t>(f.order);
  const GpuArray<uint8_t> dead = gpu.upload<uint8_t>(f.dead);
  const GpuArray<double> A = gpu.allocate<double>(K * K);
  double reciprocal = 0;
  f.damping = damping;
  for (int rise = 0; rise < 4; ++rise) {
    flip_kernel<<<square_grid(K), kThreads, 0, gpu.stream()>>>(H, order.data(), dead.data(), 1 / mean,
                                                               f.damping, A.data());
    FP4LAB_CUDA_LAUNCHED("damped Hessian of ", K, " channels");
    column_norm_kernel<<<unsigned(K), kThreads, 0, gpu.stream()>>>(A.data(), K, on_gpu.data());
    FP4LAB_CUDA_LAUNCHED("norm of ", K, " channels");
    std::vector<double> norms(static_cast<size_t>(K));
    gpu.download<double>(on_gpu.data(), norms);
    if (cholesky(gpu, A.data(), K))
      reciprocal = reciprocal_condition(gpu, A.data(), K, *std::max_element(norms.begin(), norms.end()));
    f.ok = reciprocal > kLeastReciprocalCondition;
    if (f.ok) break;
    if (rise < 3) f.damping = f.damping > 0 ? 10 * f.damping : kFirstRise;
  }
  f.added = f.damping * mean;
  f.condition = f.ok ? 1 / reciprocal : INFINITY;
  if (!f.ok) return f;

  pivot_kernel<<<blocks_for(K, kThreads), kThreads, 0, gpu.stream()>>>(A.data(), K, on_gpu.data());
  FP4LAB_CUDA_LAUNCHED("pivots of ", K, " channels");
  std::vector<double> pivots(static_cast<size_t>(K));
  gpu.download<double>(on_gpu.data(), pivots);
  double sum = 0;
  for (const double p : pivots) sum += p * p * mean;
  f.weight_unit = sum / double(K);
  for (const double p : pivots) f.weight.push_back(float(p * p * mean / f.weight_unit));
  f.coefficients = gpu.allocate<float>(K * K);
  coefficient_kernel<<<square_grid(K), kThreads, 0, gpu.stream()>>>(A.data(), on_gpu.data(), K,
                                                                    f.coefficients.data());
  FP4LAB_CUDA_LAUNCHED("coefficients of ", K, " channels");
  return f;
}

}  // namespace fp4lab::cuda
