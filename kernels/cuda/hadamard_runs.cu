// Spans that fit into shared memory go through it once; where a run is longer than that, its last stages go
// through GPU memory, three at a time.
#include "kernels/cuda/hadamard_runs.h"

#include <algorithm>
#include <cmath>

#include "kernels/cuda/cells.cuh"

namespace fp4lab::cuda {

namespace {

constexpr int kThreads = 256;
constexpr int kChunk = 8 * kThreads;  // channels that a block takes at once, where spans are shorter

/// N channels h apart: the stages h, 2 h, ..., h N / 2.
template <int N, class T>
struct Butterflies {
  T v[N];

  __device__ __forceinline__ void stages() {
#pragma unroll
    for (int h = 1; h < N; h *= 2)
#pragma unroll
      for (int i = 0; i < N; ++i)
        if ((i & h) == 0) {
          const T a = v[i], b = v[i + h];
          v[i] = a + b, v[i + h] = a - b;
        }
  }
};

/// The lowest of the N channels h apart that are the `at`-th of a row.
template <int N>
__device__ __forceinline__ int lowest(int at, int h) {
  return int(unsigned(at) / unsigned(h)) * (N * h) + int(unsigned(at) % unsigned(h));
}

/// A gap after 8 channels: threads that read 1, 8 or 64 channels apart meet in few banks.
__host__ __device__ __forceinline__ int padded(int i) { return i + i / 8; }

template <int N, class T>
__device__ void shared_pass(T* x, int length, int h) {
  for (int at = threadIdx.x; at < length / N; at += kThreads) {
    const int low = lowest<N>(at, h);
    Butterflies<N, T> b;
#pragma unroll
    for (int i = 0; i < N; ++i) b.v[i] = x[padded(low + i * h)];
    b.stages();
#pragma unroll
    for (int i = 0; i < N; ++i) x[padded(low + i * h)] = b.v[i];
  }
  __syncthreads();
}

/// The stages stride, 2 stride, ..., span / 2 of every span, whole ones in each chunk of channels, then the
/// factor.
template <class T>
__global__ void __launch_bounds__(kThreads) spans_kernel(MatrixView<T> X, int stride, int span, int chunk,
                                                         T factor, const float* before, const float* after) {
  extern __shared__ double shared8[];
  T* const x = reinterpret_cast<T*>(shared8);
  const int64_t chunks = (X.cols + chunk - 1) / chunk;
  for (int64_t at = blockIdx.x; at < X.rows * chunks; at += gridDim.x) {
    const int64_t begin = at % chunks * chunk;
    const int length = int(min(int64_t(chunk), X.cols - begin));
    T* const row = X.row(at / chunks) + begin;
#pragma unroll 4
    for (int c = threadIdx.x; c < length; c += kThreads)
      x[padded(c)] = before ? row[c] * T(before[begin + c]) : row[c];
    __syncthreads();
    for (int h = stride; h < span;) {
      const int left = span / h;
      if (left >= 8)
        shared_pass<8>(x, length, h), h *= 8;
      else if (left == 4)
        shared_pass<4>(x, length, h), h *= 4;
      else
        shared_pass<2>(x, length, h), h *= 2;
    }
    for (int c = threadIdx.x; c < length; c += kThreads) {
      const T y = x[padded(c)] * factor;
      row[c] = after ? y * T(after[begin + c]) : y;
    }
    __syncthreads();  // before the next chunk comes
  }
}

/// The stages h, 2 h, ..., h N / 2 of every run of h N channels, then the factor.
template <int N, class T>
__global__ void pass_kernel(MatrixView<T> X, int h, T factor, const float* after) {
  for_cells(
      X.rows, X.cols / N,
      [&](int64_t r, int at) {
        const T* const x = X.row(r) + lowest<N>(at, h);
        Butterflies<N, T> b;
#pragma unroll
        for (int i = 0; i < N; ++i) b.v[i] = x[int64_t(i) * h];
        return b;
      },
      [&](int64_t r, int at, Butterflies<N, T> b) {
        b.stages();
        const int low = lowest<N>(at, h);
#pragma unroll
        for (int i = 0; i < N; ++i) {
          const int64_t c = low + int64_t(i) * h;
          const T y = b.v[i] * factor;
          X(r, c) = after ? y * T(after[c]) : y;
        }
      });
}

template <int N, class T>
void pass(Gpu& gpu, MatrixView<T> X, int64_t h, T factor, const float* after) {
  pass_kernel<N, T>
      <<<cell_grid(gpu, X.rows, X.cols / N), cell_block(), 0, gpu.stream()>>>(X, int(h), factor, after);
  FP4LAB_CUDA_LAUNCHED("Hadamard stages from ", h, " on of ", X.rows, " x ", X.cols);
}

}  // namespace

template <class T>
void hadamard_runs(Gpu& gpu, MatrixView<T> X, int64_t k, int64_t stride, const float* before,
                   const float* after) {
  const int64_t run = k * stride;
  FP4LAB_CHECK(X.cols % run == 0 && X.cols <= INT32_MAX / 2, "k ", k, ", stride ", stride, " on ", X.cols,
               " channels");
  if (X.size() == 0 || (k == 1 && !before && !after)) return;
  const T factor = k == 1 ? T(1) : T(1 / std::sqrt(double(k)));
  // Channels, with their gaps, that shared memory holds.
  const int64_t most = int64_t(gpu.properties().sharedMemPerBlockOptin / sizeof(T)) / 9 * 8;
  int64_t span = stride;
  while (span < run && 2 * span <= most) span *= 2;
  if (span > stride || before || k == 1) {
    const int64_t chunk = span > stride ? span * std::max<int64_t>(1, kChunk / span) : kChunk;
    const int length = int(std::min(chunk, X.cols));
    const size_t bytes = size_t(padded(length)) * sizeof(T);
    FP4LAB_CUDA_CALL(
        cudaFuncSetAttribute(spans_kernel<T>, cudaFuncAttributeMaxDynamicSharedMemorySize, int(bytes)),
        "Hadamard spans of ", span, " channels");
    const bool last = span == run;
    const unsigned blocks = blocks_for(X.rows * ((X.cols + length - 1) / length), 1);
    spans_kernel<T><<<blocks, kThreads, bytes, gpu.stream()>>>(
        X, int(stride), int(span), length, last ? factor : T(1), before, last ? after : nullptr);
    FP4LAB_CUDA_LAUNCHED("Hadamard ", k, " of ", X.rows, " x ", X.cols);
  }
  while (span < run) {
    const int64_t n = std::min<int64_t>(8, run / span);
    const bool last = span * n == run;
    const T by = last ? factor : T(1);
    const float* const signs = last ? after : nullptr;
    if (n == 8)
      pass<8>(gpu, X, span, by, signs);
    else if (n == 4)
      pass<4>(gpu, X, span, by, signs);
    else
      pass<2>(gpu, X, span, by, signs);
    span *= n;
  }
}

template void hadamard_runs(Gpu&, MatrixView<float>, int64_t, int64_t, const float*, const float*);
template void hadamard_runs(Gpu&, MatrixView<double>, int64_t, int64_t, const float*, const float*);

}  // namespace fp4lab::cuda
