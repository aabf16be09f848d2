#include "kernels/cuda/elementwise.h"

#include "kernels/cuda/cells.cuh"
#include "kernels/cuda/lanes.cuh"

namespace fp4lab::cuda {

namespace {

constexpr int kThreads = 128;
constexpr int kRunsOfBlock = kThreads / kLanes;

/// 16 threads, the CPU's lanes, take a run of n columns.
__global__ void __launch_bounds__(kThreads) rms_norm_kernel(MatrixView<const float> X, const float* weight,
                                                            int64_t n, float eps, MatrixView<float> out) {
  const int lane = threadIdx.x % kLanes;
  const unsigned threads = half_warp();
  const int64_t parts = X.cols / n;
  for (int64_t i = int64_t(blockIdx.x) * kRunsOfBlock + threadIdx.x / kLanes; i < X.rows * parts;
       i += int64_t(gridDim.x) * kRunsOfBlock) {
    const float* x = X.row(i / parts) + i % parts * n;
    float* y = out.row(i / parts) + i % parts * n;
    // kernels/cpu/elementwise.cpp: sum_of_squares. A square is exact in double, so that the fma is the
    // addition.
    double sum = 0;
#pragma unroll 8
    for (int64_t c = lane; c < n; c += kLanes) sum = fma(double(x[c]), double(x[c]), sum);
    sum = add_lanes(sum, threads);
    const float root = float(sqrt(sum / double(n) + double(eps)));
    constexpr int kAtOnce = 4;  // loads come before stores, which the compiler must take for the same place
    int64_t c = lane;
    for (; c + (kAtOnce - 1) * kLanes < n; c += kAtOnce * kLanes) {
      float v[kAtOnce];
#pragma unroll
      for (int j = 0; j < kAtOnce; ++j) v[j] = x[c + j * kLanes];
#pragma unroll
      for (int j = 0; j < kAtOnce; ++j) y[c + j * kLanes] = v[j] / root * __ldg(weight + c + j * kLanes);
    }
    for (; c < n; c += kLanes) y[c] = x[c] / root * __ldg(weight + c);
  }
}

__global__ void rope_kernel(MatrixView<float> X, int head_dim, MatrixView<const float> table,
                            int64_t length) {
  const int half = head_dim / 2;
  const auto place = [&](int64_t t, int pair) {
    return X.row(t) + int64_t(pair / half) * head_dim + pair % half;
  };
  for_cells(
      X.rows, X.cols / 2,
      [&](int64_t t, int pair) {
        const float* low = place(t, pair);
        return make_float2(low[0], low[half]);
      },
      [&](int64_t t, int pair, float2 x) {
        const float* cosine = table.row(t % length) + pair % half;
        const float c = __ldg(cosine), s = __ldg(cosine + half);
        float* low = place(t, pair);
        low[0] = x.x * c - x.y * s;
        low[half] = x.y * c + x.x * s;
      });
}

__global__ void swiglu_kernel(MatrixView<const float> gate_up, MatrixView<float> out) {
  for_cells(
      out.rows, out.cols,
      [&](int64_t t, int i) { return make_float2(__ldg(&gate_up(t, i)), __ldg(&gate_up(t, i + out.cols))); },
      [&](int64_t t, int i, float2 x) { out(t, i) = x.x / (exp_lanes(-x.x) + 1.0f) * x.y; });
}

__global__ void first_nonfinite_kernel(MatrixView<const float> X, unsigned long long* first) {
  for_cells(
      X.rows, X.cols, [&](int64_t r, int c) { return __ldg(&X(r, c)); },
      [&](int64_t r, int c, float x) {
        const auto at = static_cast<unsigned long long>(r * X.cols + c);
        // The look spares most of the additions to one place where everything is NaN.
        if ((float_bits(x) & 0x7f800000u) == 0x7f800000u &&
            at < *static_cast<volatile unsigned long long*>(first))
          atomicMin(first, at);
      });
}

__global__ void count_above_kernel(MatrixView<const float> X, float limit, unsigned long long* count) {
  unsigned mine = 0;
  for_cells(
      X.rows, X.cols, [&](int64_t r, int c) { return __ldg(&X(r, c)); },
      [&](int64_t, int, float x) { mine += magnitude(x) > limit; });
  // A thread sees less than 2^27 elements: what a GPU holds, over the threads it holds.
  const unsigned of_warp = __reduce_add_sync(~0u, mine);
  if (threadIdx.x == 0 && of_warp) atomicAdd(count, static_cast<unsigned long long>(of_warp));
}

/// One thread per column: sums are chains over ascending rows.
__global__ void __launch_bounds__(32)
    column_stats_kernel(MatrixView<const float> X, float* amax, double* sum_abs) {
  const int64_t c = int64_t(blockIdx.x) * 32 + threadIdx.x;
  if (c >= X.cols) return;
  float top = amax[c];
  double sum = sum_abs[c];
  const auto add = [&](float x) {
    const float a = magnitude(x);
    top = a > top ? a : top, sum += double(a);
  };
  constexpr int kAtOnce = 32;  // loads under way: there are no more threads than columns
  int64_t t = 0;
  for (; t + kAtOnce <= X.rows; t += kAtOnce) {
    float x[kAtOnce];
#pragma unroll
    for (int i = 0; i < kAtOnce; ++i) x[i] = __ldg(&X(t + i, c));
#pragma unroll
    for (int i = 0; i < kAtOnce; ++i) add(x[i]);
  }
  for (; t < X.rows; ++t) add(__ldg(&X(t, c)));
  amax[c] = top, sum_abs[c] = sum;
}

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
  if (X.size() == 0) return;
  const unsigned blocks = blocks_for(X.rows * (X.cols / n), kRunsOfBlock);
  rms_norm_kernel<<<blocks, kThreads, 0, gpu.stream()>>>(X, weight.data(), n, eps, out);
  FP4LAB_CUDA_LAUNCHED("rms_norm of ", X.rows, " x ", X.cols);
}

void rope(Gpu& gpu, MatrixView<float> X, int64_t head_dim, MatrixView<const float> table, int64_t length) {
  FP4LAB_CHECK(head_dim > 0 && head_dim % 2 == 0 && X.cols % head_dim == 0, X.cols, " columns, heads of ",
               head_dim);
  FP4LAB_CHECK(length > 0 && table.rows >= length && table.cols == head_dim, "table (", table.rows, ", ",
               table.cols, "), length ", length, ", heads of ", head_dim);
  if (X.size() == 0) return;
  rope_kernel<<<cell_grid(gpu, X.rows, X.cols / 2), cell_block(), 0, gpu.stream()>>>(X, int(head_dim), table,
                                                                                     length);
  FP4LAB_CUDA_LAUNCHED("rope of ", X.rows, " x ", X.cols);
}

void swiglu(Gpu& gpu, MatrixView<const float> gate_up, MatrixView<float> out) {
  FP4LAB_CHECK(gate_up.rows == out.rows && gate_up.cols == 2 * out.cols, "gate_up (", gate_up.rows, ", ",
               gate_up.cols, "), out (", out.rows, ", ", out.cols, ")");
  if (out.size() == 0) return;
  swiglu_kernel<<<cell_grid(gpu, out.rows, out.cols), cell_block(), 0, gpu.stream()>>>(gate_up, out);
  FP4LAB_CUDA_LAUNCHED("swiglu of ", out.rows, " x ", out.cols);
}

int64_t first_nonfinite(Gpu& gpu, MatrixView<const float> X) {
  if (X.size() == 0) return -1;
  const unsigned long long found = counted(gpu, ~0ull, [&](unsigned long long* first) {
    first_nonfinite_kernel<<<cell_grid(gpu, X.rows, X.cols), cell_block(), 0, gpu.stream()>>>(X, first);
    FP4LAB_CUDA_LAUNCHED("first_nonfinite of ", X.rows, " x ", X.cols);
  });
  return found == ~0ull ? -1 : int64_t(found);
}

int64_t count_above(Gpu& gpu, MatrixView<const float> X, float limit) {
  if (X.size() == 0) return 0;
  return int64_t(counted(gpu, 0, [&](unsigned long long* count) {
    count_above_kernel<<<cell_grid(gpu, X.rows, X.cols), cell_block(), 0, gpu.stream()>>>(X, limit, count);
    FP4LAB_CUDA_LAUNCHED("count_above of ", X.rows, " x ", X.cols);
  }));
}

void column_stats(Gpu& gpu, MatrixView<const float> X, std::span<float> amax, std::span<double> sum_abs) {
  FP4LAB_CHECK(int64_t(amax.size()) == X.cols && int64_t(sum_abs.size()) == X.cols, X.cols, " columns, ",
               amax.size(), " maxima, ", sum_abs.size(), " sums");
  if (X.size() == 0) return;
  const GpuArray<float> top = gpu.upload<float>(amax);
  const GpuArray<double> sum = gpu.upload<double>(sum_abs);
  // A warp per block: 4096 columns reach 128 multiprocessors.
  column_stats_kernel<<<blocks_for(X.cols, 32, INT32_MAX), 32, 0, gpu.stream()>>>(X, top.data(), sum.data());
  FP4LAB_CUDA_LAUNCHED("column_stats of ", X.rows, " x ", X.cols);
  gpu.download(top.data(), amax);
  gpu.download(sum.data(), sum_abs);
}

}  // namespace fp4lab::cuda
