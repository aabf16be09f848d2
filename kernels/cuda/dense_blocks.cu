#include "kernels/cuda/dense_blocks.h"

#include "kernels/cuda/lanes.cuh"

namespace fp4lab::cuda {

namespace {

constexpr int kThreads = 256;
constexpr int kStep = 16;  // channels that are in shared memory at once

template <class T>
struct alignas(16) Four {
  T v[4];
};

template <class T>
struct Product {
  DenseBlocks blocks;
  MatrixView<const T> from;
  MatrixView<T> to;
  T factor;
  const float *before, *after;
};

/// A vector is what a matrix is applied to: one row's channels (b, :, s), vector r * stride + s of run b. A
/// block takes kVectors vectors of a run and kOutputs of their results, a thread 4 x 4 of them.
template <class T, int kOutputs>
__global__ void __launch_bounds__(kThreads) product_kernel(const Product<T> p) {
  constexpr int kVectors = 16 * kThreads / kOutputs, kPitch = kVectors + 4;
  __shared__ alignas(16) T x[kStep * kPitch];
  __shared__ alignas(16) T m[kStep * kOutputs];
  const int64_t k = p.blocks.k, stride = p.blocks.stride, runs = p.from.cols / (k * stride);
  const int64_t vectors = p.from.rows * stride, parts = (k + kOutputs - 1) / kOutputs;
  const int tx = threadIdx.x % (kOutputs / 4), ty = threadIdx.x / (kOutputs / 4);

  for (int64_t at = blockIdx.x; at < (vectors + kVectors - 1) / kVectors * runs * parts; at += gridDim.x) {
    const int64_t part = at % parts * kOutputs, run = at / parts % runs, first = at / parts / runs * kVectors;
    const float* const M = p.blocks.matrices + (p.blocks.shared ? 0 : run * k * k);
    const int64_t run_channel = run * k * stride;
    T y[4][4] = {};
    for (int64_t begin = 0; begin < k; begin += kStep) {
      const int n = int(min(int64_t(kStep), k - begin));
      __syncthreads();  // nobody reads the last step any more
      for (int e = threadIdx.x; e < kStep * kVectors; e += kThreads) {
        // Neighbouring threads read neighbouring channels.
        const int i = stride == 1 ? e % kStep : e / kVectors, v = stride == 1 ? e / kStep : e % kVectors;
        const int64_t vector = first + v;
        T value = 0;
        if (i < n && vector < vectors) {
          const int64_t r = stride == 1 ? vector : vector / stride, s = stride == 1 ? 0 : vector % stride;
          const int64_t c = run_channel + (begin + i) * stride + s;
          value = p.before ? p.from(r, c) * T(p.before[c]) : p.from(r, c);
        }
        x[i * kPitch + v] = value;
      }
      for (int e = threadIdx.x; e < kStep * kOutputs; e += kThreads) {
        const int i = p.blocks.transposed ? e % kStep : e / kOutputs,
                  j = p.blocks.transposed ? e / kStep : e % kOutputs;
        const int64_t row = begin + i, column = part + j;
        T value = 0;
        if (i < n && column < k) value = T(p.blocks.transposed ? M[column * k + row] : M[row * k + column]);
        m[i * kOutputs + j] = value;
      }
      __syncthreads();
      // Not beyond n: adding 0 would make a sum of -0 a 0.
      for (int i = 0; i < n; ++i) {
        const Four<T> a = *reinterpret_cast<const Four<T>*>(x + i * kPitch + 4 * ty),
                      b = *reinterpret_cast<const Four<T>*>(m + i * kOutputs + 4 * tx);
#pragma unroll
        for (int v = 0; v < 4; ++v)
#pragma unroll
          for (int j = 0; j < 4; ++j) y[v][j] = multiply_add(a.v[v], b.v[j], y[v][j]);
      }
    }
#pragma unroll
    for (int v = 0; v < 4; ++v) {
      const int64_t vector = first + 4 * ty + v;
      if (vector >= vectors) continue;
      const int64_t r = stride == 1 ? vector : vector / stride, s = stride == 1 ? 0 : vector % stride;
#pragma unroll
      for (int j = 0; j < 4; ++j) {
        const int64_t output = part + 4 * tx + j;
        if (output >= k) continue;
        const int64_t c = run_channel + output * stride + s;
        const T scaled = y[v][j] * p.factor;
        p.to(r, c) = p.after ? scaled * T(p.after[c]) : scaled;
      }
    }
  }
}

template <class T, int kOutputs>
void launch(Gpu& gpu, const Product<T>& p) {
  constexpr int kVectors = 16 * kThreads / kOutputs;
  const int64_t k = p.blocks.k, tiles = (p.from.rows * p.blocks.stride + kVectors - 1) / kVectors;
  const int64_t work = tiles * (p.from.cols / (k * p.blocks.stride)) * ((k + kOutputs - 1) / kOutputs);
  product_kernel<T, kOutputs><<<blocks_for(work, 1), kThreads, 0, gpu.stream()>>>(p);
  FP4LAB_CUDA_LAUNCHED("blocks of ", k, " on ", p.from.rows, " x ", p.from.cols);
}

}  // namespace

template <class T>
void dense_blocks(Gpu& gpu, const DenseBlocks& blocks, MatrixView<const T> from, T factor,
                  const float* before, const float* after, MatrixView<T> to) {
  FP4LAB_CHECK(blocks.k >= 1 && from.cols % (blocks.k * blocks.stride) == 0 && from.rows == to.rows &&
                   from.cols == to.cols,
               "blocks of ", blocks.k, ", stride ", blocks.stride, " on (", from.rows, ", ", from.cols,
               ") to (", to.rows, ", ", to.cols, ")");
  if (from.size() == 0) return;
  const Product<T> p{blocks, from, to, factor, before, after};
  // Blocks below 64 channels would leave most of a 64 x 64 tile empty.
  blocks.k < 64 ? launch<T, 16>(gpu, p) : launch<T, 64>(gpu, p);
}

template void dense_blocks(Gpu&, const DenseBlocks&, MatrixView<const float>, float, const float*,
                           const float*, MatrixView<float>);
template void dense_blocks(Gpu&, const DenseBlocks&, MatrixView<const double>, double, const float*,
                           const float*, MatrixView<double>);

}  // namespace fp4lab::cuda
