#include "kernels/cuda/linear_map.h"

#include <algorithm>
#include <bit>
#include <cmath>
#include <type_traits>
#include <vector>

#include "kernels/cpu/linear_map.h"
#include "kernels/cuda/lanes.cuh"

namespace fp4lab::cuda {

namespace {

enum class Side { weights, activations };
enum class Way { there, back };

constexpr int kThreads = 256;

__device__ __forceinline__ double multiply_add(double a, double b, double c) { return fma(a, b, c); }
using fp4lab::multiply_add;

/// One block per run of `run` = k * stride channels of a row, which lies in shared memory between the stages:
/// signs, (a, b) -> (a + b, a - b) h = stride, 2 stride, ... apart, the factor, signs.
template <class T>
__global__ void hadamard_kernel(MatrixView<T> X, int64_t k, int64_t stride, T factor, const float* signs,
                                bool there) {
  extern __shared__ double shared[];
  T* const x = reinterpret_cast<T*>(shared);
  const int64_t run = k * stride, runs = X.cols / run;
  for (int64_t at = blockIdx.x; at < X.rows * runs; at += gridDim.x) {
    T* const row = X.row(at / runs) + at % runs * run;
    const float* const sign = signs ? signs + at % runs * run : nullptr;
    for (int64_t c = threadIdx.x; c < run; c += blockDim.x)
      x[c] = sign && there ? row[c] * T(sign[c]) : row[c];
    __syncthreads();
    for (int64_t h = stride; h < run; h *= 2) {
      for (int64_t i = threadIdx.x; i < run / 2; i += blockDim.x) {
        const int64_t low = i / h * 2 * h + i % h;
        const T a = x[low], b = x[low + h];
        x[low] = a + b, x[low + h] = a - b;
      }
      __syncthreads();
    }
    for (int64_t c = threadIdx.x; c < run; c += blockDim.x) {
      const T y = k > 1 ? x[c] * factor : x[c];
      row[c] = sign && !there ? y * T(sign[c]) : y;
    }
    __syncthreads();
  }
}

/// The same for k = 2 ... 32 of neighbouring channels: a channel per thread, stages by shuffles.
template <class T>
__global__ void small_hadamard_kernel(MatrixView<T> X, int k, T factor, const float* signs, bool there) {
  const int64_t total = X.rows * X.cols;  // a multiple of k, so that runs never straddle the end
  for (int64_t at = int64_t(blockIdx.x) * blockDim.x + threadIdx.x; at - at % 32 < total;
       at += int64_t(gridDim.x) * blockDim.x) {
    const int64_t c = at % X.cols;
    T* const place = X.row(at / X.cols) + c;
    T v = at < total ? *place : T(0);
    if (signs && there && at < total) v *= T(signs[c]);
    for (int h = 1; h < k; h *= 2) {
      const T other = __shfl_xor_sync(~0u, v, h);
      v = at & h ? other - v : v + other;
    }
    v *= factor;
    if (at >= total) continue;
    *place = signs && !there ? v * T(signs[c]) : v;
  }
}

/// Each run of k * stride channels of a row: y_j = fma(x_i, M_ij, y_j) over ascending i, from 0, then times
/// `factor` where there is one; channel i of the block is i * stride + s. M (k, k) is the run's own, or
/// shared.
template <class T>
__global__ void blocks_kernel(MatrixView<T> X, int64_t k, int64_t stride, const T* matrices,
                              bool shared_matrix, const float* signs, bool there, bool scaled, T factor) {
  extern __shared__ double shared[];
  T* const x = reinterpret_cast<T*>(shared);
  const int64_t run = k * stride, runs = X.cols / run;
  for (int64_t at = blockIdx.x; at < X.rows * runs; at += gridDim.x) {
    T* const row = X.row(at / runs) + at % runs * run;
    const float* const sign = signs ? signs + at % runs * run : nullptr;
    const T* const M = matrices + (shared_matrix ? 0 : at % runs * k * k);
    for (int64_t c = threadIdx.x; c < run; c += blockDim.x)
      x[c] = sign && there ? row[c] * T(sign[c]) : row[c];
    __syncthreads();
    for (int64_t c = threadIdx.x; c < run; c += blockDim.x) {
      const int64_t j = c / stride, s = c % stride;
      T y = 0;
      for (int64_t i = 0; i < k; ++i) y = multiply_add(x[i * stride + s], M[i * k + j], y);
      if (scaled) y *= factor;
      row[c] = sign && !there ? y * T(sign[c]) : y;
    }
    __syncthreads();
  }
}

template <class T>
__global__ void diagonal_kernel(MatrixView<T> X, const float* scale, bool multiply) {
  for (int64_t at = int64_t(blockIdx.x) * blockDim.x + threadIdx.x; at < X.rows * X.cols;
       at += int64_t(gridDim.x) * blockDim.x) {
    const int64_t c = at % X.cols;
    T& x = X(at / X.cols, c);
    x = multiply ? x * T(scale[c]) : x / T(scale[c]);
  }
}

template <class T>
__global__ void permute_kernel(MatrixView<const T> X, const int32_t* from, bool there, MatrixView<T> out) {
  for (int64_t at = int64_t(blockIdx.x) * blockDim.x + threadIdx.x; at < X.rows * X.cols;
       at += int64_t(gridDim.x) * blockDim.x) {
    const int64_t r = at / X.cols, c = at % X.cols;
    if (there)
      out(r, c) = X(r, from[c]);
    else
      out(r, from[c]) = X(r, c);
  }
}

unsigned grid(const Gpu& gpu, int64_t work) { return blocks_for(work, kThreads, 16 * gpu.multiprocessors()); }

/// Room in shared memory for one run; ConfigError when it does not fit.
template <class Kernel>
size_t room(const Gpu& gpu, Kernel kernel, int64_t run, size_t element) {
  const size_t bytes = size_t(run) * element, most = gpu.properties().sharedMemPerBlockOptin;
  if (bytes > most)
    throw ConfigError(str("a transform over ", run, " channels at once; on this GPU up to ", most / element));
  FP4LAB_CUDA_CALL(cudaFuncSetAttribute(kernel, cudaFuncAttributeMaxDynamicSharedMemorySize, int(bytes)),
                   "a transform over ", run, " channels");
  return bytes;
}

template <class T>
class Mapper {
 public:
  Mapper(Gpu& gpu, Side side, Way way, MatrixView<T> X)
      : gpu_(gpu), side_(side), there_(way == Way::there), X_(X) {}

  void operator()(const HadamardFactor& f) {
    const GpuArray<float> signs = f.signs.empty() ? GpuArray<float>{} : gpu_.upload<float>(f.signs);
    const T factor = T(1 / std::sqrt(double(f.k)));
    const bool power_of_two = std::has_single_bit(uint64_t(f.k));
    FP4LAB_CHECK(X_.cols % (f.k * f.stride) == 0, "k ", f.k, ", stride ", f.stride, " on ", X_.cols,
                 " channels");
    if (!power_of_two) {
      const std::vector<int8_t> H = hadamard_matrix(f.k);
      std::vector<T> matrix(H.size());
      for (int64_t i = 0; i < f.k; ++i)
        for (int64_t j = 0; j < f.k; ++j)
          matrix[size_t(i * f.k + j)] = T(there_ ? H[size_t(i * f.k + j)] : H[size_t(j * f.k + i)]);
      return blocks(f.k, f.stride, matrix, signs.data(), true, factor);
    }
    if (f.stride == 1 && f.k <= 32 && f.k > 1) {
      small_hadamard_kernel<T>
          <<<grid(gpu_, X_.size()), kThreads, 0, gpu_.stream()>>>(X_, int(f.k), factor, signs.data(), there_);
    } else {
      const size_t bytes = room(gpu_, hadamard_kernel<T>, f.k * f.stride, sizeof(T));
      const int64_t runs = X_.size() / (f.k * f.stride);
      hadamard_kernel<T><<<blocks_for(runs, 1), threads_for(f.k * f.stride / 2), bytes, gpu_.stream()>>>(
          X_, f.k, f.stride, factor, signs.data(), there_);
    }
    FP4LAB_CUDA_LAUNCHED("Hadamard ", f.k, " of ", X_.rows, " x ", X_.cols);
  }

  void operator()(const DiagonalFactor& f) {
    const GpuArray<float> scale = gpu_.upload<float>(f.scale);
    diagonal_kernel<T><<<grid(gpu_, X_.size()), kThreads, 0, gpu_.stream()>>>(
        X_, scale.data(), (side_ == Side::weights) == there_);
    FP4LAB_CUDA_LAUNCHED("diagonal of ", X_.rows, " x ", X_.cols);
  }

  void operator()(const PermutationFactor& f) {
    const GpuArray<int32_t> from = gpu_.upload<int32_t>(f.from);
    const GpuArray<T> copy = gpu_.allocate<T>(X_.size());
    const MatrixView<T> before{copy.data(), X_.rows, X_.cols, X_.cols};
    gpu_.copy_rows(X_.data, X_.stride * int64_t(sizeof(T)), before.data, X_.cols * int64_t(sizeof(T)),
                   X_.cols * int64_t(sizeof(T)), X_.rows);
    permute_kernel<T><<<grid(gpu_, X_.size()), kThreads, 0, gpu_.stream()>>>(before, from.data(), there_, X_);
    FP4LAB_CUDA_LAUNCHED("permutation of ", X_.rows, " x ", X_.cols);
  }

  void operator()(const BlocksFactor& f) {
    // There: the side's own matrices. Back: the inverse of one side's is the transpose of the other side's.
    const bool of_weights = f.activations.empty() || (side_ == Side::weights) == there_;
    const std::vector<float>& stored = of_weights ? f.weights : f.activations;
    std::vector<T> matrices(stored.begin(), stored.end());
    const auto k = size_t(f.k);
    if (!there_)
      for (size_t b = 0; b < matrices.size(); b += k * k)
        for (size_t i = 0; i < k; ++i)
          for (size_t j = i + 1; j < k; ++j) std::swap(matrices[b + i * k + j], matrices[b + j * k + i]);
    blocks(f.k, 1, matrices, nullptr, false, T(1));
  }

 private:
  static unsigned threads_for(int64_t work) {
    return unsigned(std::clamp<int64_t>((work + 31) / 32 * 32, 32, 1024));
  }

  void blocks(int64_t k, int64_t stride, const std::vector<T>& matrices, const float* signs, bool scaled,
              T factor) {
    const size_t bytes = room(gpu_, blocks_kernel<T>, k * stride, sizeof(T));
    const GpuArray<T> on_gpu = gpu_.upload(std::span<const T>(matrices));
    const bool shared_matrix = int64_t(matrices.size()) == k * k;
    blocks_kernel<T>
        <<<blocks_for(X_.size() / (k * stride), 1), threads_for(k * stride), bytes, gpu_.stream()>>>(
            X_, k, stride, on_gpu.data(), shared_matrix, signs, there_, scaled, factor);
    FP4LAB_CUDA_LAUNCHED("blocks of ", k, " on ", X_.rows, " x ", X_.cols);
  }

  Gpu& gpu_;
  Side side_;
  bool there_;
  MatrixView<T> X_;
};

template <class T>
void map_rows(Gpu& gpu, const LinearMap& map, Side side, Way way, MatrixView<T> X) {
  if (X.size() == 0) return;
  Mapper<T> mapper(gpu, side, way, X);
  if (way == Way::there)
    for (const Factor& f : map.factors) std::visit(mapper, f);
  else
    for (auto f = map.factors.rbegin(); f != map.factors.rend(); ++f) std::visit(mapper, *f);
}

enum class Triangle { mirror, transpose, clear };

/// Works on (i, j), j > i, and its mirror image: copies it there, swaps the two, or clears the image.
__global__ void triangle_kernel(MatrixView<double> H, Triangle what) {
  for (int64_t i = blockIdx.y; i < H.rows; i += gridDim.y)
    for (int64_t j = i + 1 + int64_t(blockIdx.x) * blockDim.x + threadIdx.x; j < H.cols;
         j += int64_t(gridDim.x) * blockDim.x) {
      const double upper = H(i, j);
      if (what == Triangle::transpose) H(i, j) = H(j, i);
      H(j, i) = what == Triangle::clear ? 0.0 : upper;
    }
}

}  // namespace

void map_weights(Gpu& gpu, const LinearMap& map, MatrixView<float> W) {
  map_rows(gpu, map, Side::weights, Way::there, W);
}
void map_activations(Gpu& gpu, const LinearMap& map, MatrixView<float> X) {
  map_rows(gpu, map, Side::activations, Way::there, X);
}
void unmap_weights(Gpu& gpu, const LinearMap& map, MatrixView<float> W) {
  map_rows(gpu, map, Side::weights, Way::back, W);
}

void map_hessian(Gpu& gpu, const LinearMap& map, MatrixView<double> H) {
  FP4LAB_CHECK(H.rows == H.cols, "H (", H.rows, ", ", H.cols, ")");
  if (H.rows == 0) return;
  const auto triangle = [&](Triangle what) {
    const dim3 blocks(blocks_for(H.cols, kThreads, 64), unsigned(std::min<int64_t>(H.rows, 65535)));
    triangle_kernel<<<blocks, kThreads, 0, gpu.stream()>>>(H, what);
    FP4LAB_CUDA_LAUNCHED("the triangles of H with ", H.rows, " channels");
  };
  if (!map.identity()) {
    triangle(Triangle::mirror);
    map_rows(gpu, map, Side::activations, Way::there, H);  // H T^-T
    triangle(Triangle::transpose);                         // T^-1 H
    map_rows(gpu, map, Side::activations, Way::there, H);
  }
  triangle(Triangle::clear);
}

}  // namespace fp4lab::cuda
