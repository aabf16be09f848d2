#include "kernels/cuda/elementwise.h"

#include "kernels/cuda/lanes.cuh"

namespace fp4lab::cuda {

namespace {

constexpr int kThreads = 256;
constexpr int kRowsOfBlock = kThreads / kLanes;

__global__ void rms_norm_kernel(MatrixView<const float> X, const float* weight, int64_t n, float eps,
                                MatrixView<float> out) {
  const int lane = threadIdx.x % kLanes;
  const unsigned threads = half_warp();
  const int64_t parts = X.cols / n;
  for (int64_t i = int64_t(blockIdx.x) * kRowsOfBlock + threadIdx.x / kLanes; i < X.rows * parts;
       i += int64_t(gridDim.x) * kRowsOfBlock) {
    const float* x = X.row(i / parts) + i % parts * n;
    float* y = out.row(i / parts) + i % parts * n;
    double sum = 0;  // kernels/cpu/elementwise.cpp: sum_of_squares; squares are exact in double
    for (int64_t c = lane; c < n; c += kLanes) sum += double(x[c]) * double(x[c]);
    sum = add_lanes(sum, threads);
    const float root = float(sqrt(sum / double(n) + double(eps)));
    for (int64_t c = lane; c < n; c += kLanes) y[c] = x[c] / root * weight[c];
  }
}

__global__ void rope_kernel(MatrixView<float> X, int64_t head_dim, MatrixView<const float> table,
                            int64_t length) {
  const int64_t half = head_dim / 2, pairs = X.cols / 2;
  for (int64_t at = int64_t(blockIdx.x) * blockDim.x + threadIdx.x; at < X.rows * pairs;
       at += int64_t(gridDim.x) * blockDim.x) {
    const int64_t t = at / pairs, head = at % pairs / half, i = at % pairs % half;
    const float cosine = table(t % length, i), sine = table(t % length, i + half);
    float* low = X.row(t) + head * head_dim + i;
    const float a = low[0], b = low[half];
    low[0] = a * cosine - b * sine;
    low[half] = b * cosine + a * sine;
  }
}

__global__ void swiglu_kernel(MatrixView<const float> gate_up, MatrixView<float> out) {
  for (int64_t at = int64_t(blockIdx.x) * blockDim.x + threadIdx.x; at < out.rows * out.cols;
       at += int64_t(gridDim.x) * blockDim.x) {
    const int64_t t = at / out.cols, i = at % out.cols;
    const float gate = gate_up(t, i), up = gate_up(t, i + out.cols);
    out(t, i) = gate / (exp_lanes(-gate) + 1.0f) * up;
  }
}

__global__ void first_nonfinite_kernel(MatrixView<const float> X, unsigned long long* first) {
  for (int64_t at = int64_t(blockIdx.x) * blockDim.x + threadIdx.x; at < X.rows * X.cols;
       at += int64_t(gridDim.x) * blockDim.x)
    if ((float_bits(X(at / X.cols, at % X.cols)) & 0x7f800000u) == 0x7f800000u)
      atomicMin(first, static_cast<unsigned long long>(at));
}

__global__ void count_above_kernel(MatrixView<const float> X, float limit, unsigned long long* count) {
  unsigned long long mine = 0;
  for (int64_t at = int64_t(blockIdx.x) * blockDim.x + threadIdx.x; at < X.rows * X.cols;
       at += int64_t(gridDim.x) * blockDim.x)
    mine += magnitude(X(at / X.cols, at % X.cols)) > limit;
  if (mine) atomicAdd(count, mine);
}

/// One thread per column: sums are chains over ascending rows.
__global__ void column_stats_kernel(MatrixView<const float> X, float* amax, double* sum_abs) {
  const int64_t c = int64_t(blockIdx.x) * blockDim.x + threadIdx.x;
  if (c >= X.cols) return;
  float top = amax[c];
  double sum = sum_abs[c];
  constexpr int kAtOnce = 16;  // loads in flight
  int64_t t = 0;
  for (; t + kAtOnce <= X.rows; t += kAtOnce) {
    float a[kAtOnce];
#pragma unroll
    for (int i = 0; i < kAtOnce; ++i) a[i] = magnitude(X(t + i, c));
#pragma unroll
    for (int i = 0; i < kAtOnce; ++i) top = a[i] > top ? a[i] : top, sum += double(a[i]);
  }
  for (; t < X.rows; ++t) {
    const float a = magnitude(X(t, c));
    top = a > top ? a : top, sum += double(a);
  }
  amax[c] = top, sum_abs[c] = sum;
}

unsigned grid(const Gpu& gpu, int64_t work) { return blocks_for(work, kThreads, 16 * gpu.multiprocessors()); }

/// A number that a kernel counts or minimizes, from `start`.
template <class Launch>
unsigned long long counted(Gpu& gpu, unsigned long long start, const Launch& launch) {
  const GpuArray<unsigned long long> number = gpu.upload(std::span<const unsigned long long>(&start, 1));
  launch(number.data());
  unsigned long long found = 0;
  gpu.download<unsigned long long>(number.data(), std::span(&found, 1));
  return found;
}

}  // namespace

void rms_norm(Gpu& gpu, MatrixView<const float> X, std::span<const float> weight, float eps,
              MatrixView<float> out) {
  const auto n = int64_t(weight.size());
  FP4LAB_CHECK(n > 0 && X.cols % n == 0, X.cols, " columns, ", n, " weights");
  FP4LAB_CHECK(X.rows == out.rows && X.cols == out.cols, "X (", X.rows, ", ", X.cols, "), out (", out.rows,
               ", ", out.cols, ")");
  if (X.rows == 0) return;
  rms_norm_kernel<<<grid(gpu, X.rows * (X.cols / n) * kLanes), kThreads, 0, gpu.stream()>>>(X, weight.data(),
                                                                                            n, eps, out);
  FP4LAB_CUDA_LAUNCHED("rms_norm of ", X.rows, " x ", X.cols);
}

void rope(Gpu& gpu, MatrixView<float> X, int64_t head_dim, MatrixView<const float> table, int64_t length) {
  FP4LAB_CHECK(head_dim > 0 && head_dim % 2 == 0 && X.cols % head_dim == 0, X.cols, " columns, heads of ",
               head_dim);
  FP4LAB_CHECK(length > 0 && table.rows >= length && table.cols == head_dim, "table (", table.rows, ", ",
               table.cols, "), length ", length, ", heads of ", head_dim);
  if (X.size() == 0) return;
  rope_kernel<<<grid(gpu, X.size() / 2), kThreads, 0, gpu.stream()>>>(X, head_dim, table, length);
  FP4LAB_CUDA_LAUNCHED("rope of ", X.rows, " x ", X.cols);
}

void swiglu(Gpu& gpu, MatrixView<const float> gate_up, MatrixView<float> out) {
  FP4LAB_CHECK(gate_up.rows == out.rows && gate_up.cols == 2 * out.cols, "gate_up (", gate_up.rows, ", ",
               gate_up.cols, "), out (", out.rows, ", ", out.cols, ")");
  if (out.size() == 0) return;
  swiglu_kernel<<<grid(gpu, out.size()), kThreads, 0, gpu.stream()>>>(gate_up, out);
  FP4LAB_CUDA_LAUNCHED("swiglu of ", out.rows, " x ", out.cols);
}

int64_t first_nonfinite(Gpu& gpu, MatrixView<const float> X) {
  if (X.size() == 0) return -1;
  const unsigned long long found = counted(gpu, ~0ull, [&](unsigned long long* first) {
    first_nonfinite_kernel<<<grid(gpu, X.size()), kThreads, 0, gpu.stream()>>>(X, first);
    FP4LAB_CUDA_LAUNCHED("first_nonfinite of ", X.rows, " x ", X.cols);
  });
  return found == ~0ull ? -1 : int64_t(found);
}

int64_t count_above(Gpu& gpu, MatrixView<const float> X, float limit) {
  if (X.size() == 0) return 0;
  return int64_t(counted(gpu, 0, [&](unsigned long long* count) {
    count_above_kernel<<<grid(gpu, X.size()), kThreads, 0, gpu.stream()>>>(X, limit, count);
    FP4LAB_CUDA_LAUNCHED("count_above of ", X.rows, " x ", X.cols);
  }));
}

void column_stats(Gpu& gpu, MatrixView<const float> X, std::span<float> amax, std::span<double> sum_abs) {
  FP4LAB_CHECK(int64_t(amax.size()) == X.cols && int64_t(sum_abs.size()) == X.cols, X.cols, " columns, ",
               amax.size(), " maxima, ", sum_abs.size(), " sums");
  if (X.size() == 0) return;
  const GpuArray<float> top = gpu.upload<float>(amax);
  const GpuArray<double> sum = gpu.upload<double>(sum_abs);
  column_stats_kernel<<<blocks_for(X.cols, 64), 64, 0, gpu.stream()>>>(X, top.data(), sum.data());
  FP4LAB_CUDA_LAUNCHED("column_stats of ", X.rows, " x ", X.cols);
  gpu.download(top.data(), amax);
  gpu.download(sum.data(), sum_abs);
}

}  // namespace fp4lab::cuda
