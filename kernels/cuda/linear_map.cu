#include "kernels/cuda/linear_map.h"

#include <algorithm>
#include <bit>
#include <cmath>

#include "kernels/cpu/linear_map.h"
#include "kernels/cuda/cells.cuh"
#include "kernels/cuda/dense_blocks.h"
#include "kernels/cuda/hadamard_runs.h"

namespace fp4lab::cuda {

namespace {

enum class Side { weights, activations };
enum class Way { there, back };

/// Rows go through a copy in parts of this size, which the level 2 cache holds.
constexpr int64_t kCopyBytes = int64_t(32) << 20;

template <class T>
__global__ void diagonal_kernel(MatrixView<T> X, const float* scale, bool multiply) {
  for_cells(
      X.rows, X.cols, [&](int64_t r, int c) { return X(r, c); },
      [&](int64_t r, int c, T x) {
        const T s = T(__ldg(scale + c));
        X(r, c) = multiply ? x * s : x / s;
      });
}

template <class T>
__global__ void permute_kernel(MatrixView<const T> from, const int32_t* place, bool there, MatrixView<T> to) {
  for_cells(
      from.rows, from.cols, [&](int64_t r, int c) { return __ldg(&from(r, there ? place[c] : c)); },
      [&](int64_t r, int c, T x) { to(r, there ? c : place[c]) = x; });
}

/// What each factor does to X, in place.
template <class T>
class Mapper {
 public:
  Mapper(Gpu& gpu, Side side, Way way, MatrixView<T> X)
      : gpu_(gpu), side_(side), there_(way == Way::there), X_(X) {}

  void operator()(const DeviceMap::Hadamard& f) {
    const float *const before = there_ ? f.signs.data() : nullptr, *const after =
                                                                       there_ ? nullptr : f.signs.data();
    if (std::has_single_bit(uint64_t(f.k)))  // H is symmetric
      return hadamard_runs(gpu_, X_, f.k, f.stride, before, after);
    const DenseBlocks blocks{f.k, f.stride, f.matrix.data(), true, !there_};
    const T factor = T(1 / std::sqrt(double(f.k)));
    from_copy([&](MatrixView<const T> from, MatrixView<T> to) {
      dense_blocks(gpu_, blocks, from, factor, before, after, to);
    });
  }

  void operator()(const DeviceMap::Diagonal& f) {
    diagonal_kernel<<<cell_grid(gpu_, X_.rows, X_.cols), cell_block(), 0, gpu_.stream()>>>(
        X_, f.scale.data(), (side_ == Side::weights) == there_);
    FP4LAB_CUDA_LAUNCHED("diagonal of ", X_.rows, " x ", X_.cols);
  }

  void operator()(const DeviceMap::Permutation& f) {
    from_copy([&](MatrixView<const T> from, MatrixView<T> to) {
      permute_kernel<<<cell_grid(gpu_, to.rows, to.cols), cell_block(), 0, gpu_.stream()>>>(
          from, f.from.data(), there_, to);
      FP4LAB_CUDA_LAUNCHED("permutation of ", to.rows, " x ", to.cols);
    });
  }

  void operator()(const DeviceMap::Blocks& f) {
    // There: the side's own matrices. Back: the inverse of one side's is the transpose of the other side's.
    const bool of_weights = f.orthogonal || (side_ == Side::weights) == there_;
    const DenseBlocks blocks{f.k, 1, of_weights ? f.weights.data() : f.activations.data(), f.shared, !there_};
    from_copy([&](MatrixView<const T> from, MatrixView<T> to) {
      dense_blocks(gpu_, blocks, from, T(1), nullptr, nullptr, to);
    });
  }

 private:
  /// body(copy of rows, these rows of X), some rows at a time.
  template <class Body>
  void from_copy(const Body& body) {
    const int64_t element = int64_t(sizeof(T)), row = X_.cols * element;
    const int64_t at_once = std::clamp<int64_t>(kCopyBytes / row, 1, X_.rows);
    const GpuArray<T> copy = gpu_.allocate<T>(at_once * X_.cols);
    for (int64_t r = 0; r < X_.rows; r += at_once) {
      const MatrixView<T> rows = X_.middle_rows(r, std::min(at_once, X_.rows - r));
      gpu_.copy_rows(rows.data, rows.stride * element, copy.data(), row, row, rows.rows);
      body(MatrixView<const T>{copy.data(), rows.rows, rows.cols, rows.cols}, rows);
    }
  }

  Gpu& gpu_;
  Side side_;
  bool there_;
  MatrixView<T> X_;
};

template <class T>
void map_rows(Gpu& gpu, const DeviceMap& map, Side side, Way way, MatrixView<T> X) {
  FP4LAB_CHECK(X.cols == map.channels(), "a map of ", map.channels(), " channels on ", X.cols);
  if (X.size() == 0) return;
  Mapper<T> mapper(gpu, side, way, X);
  const auto& factors = map.factors();
  if (way == Way::there)
    for (const DeviceMap::Factor& f : factors) std::visit(mapper, f);
  else
    for (auto f = factors.rbegin(); f != factors.rend(); ++f) std::visit(mapper, *f);
}

constexpr int kSquare = 32, kSquareRows = 8;  // a square of H and the rows of it that threads take at once

enum class Triangle { mirror, transpose, clear };

/// For i < j: H(j, i) becomes H(i, j), is exchanged with it, or becomes 0. A block takes two squares that
/// mirror each other, so that rows of both are read and written whole.
__global__ void triangle_kernel(MatrixView<double> H, Triangle what) {
  __shared__ double upper[kSquare][kSquare + 1], lower[kSquare][kSquare + 1];
  const int64_t row = int64_t(blockIdx.y) * kSquare, column = int64_t(blockIdx.x) * kSquare;
  if (column < row) return;
  const int x = int(threadIdx.x), n_upper_rows = int(min(int64_t(kSquare), H.rows - row)),
            n_lower_rows = int(min(int64_t(kSquare), H.rows - column));
  for (int y = int(threadIdx.y); y < kSquare; y += kSquareRows) {
    if (y < n_upper_rows && x < n_lower_rows) upper[y][x] = H(row + y, column + x);
    if (y < n_lower_rows && x < n_upper_rows) lower[y][x] = H(column + y, row + x);
  }
  __syncthreads();
  for (int y = int(threadIdx.y); y < kSquare; y += kSquareRows) {
    if (y < n_lower_rows && x < n_upper_rows && column + y > row + x)
      H(column + y, row + x) = what == Triangle::clear ? 0.0 : upper[x][y];
    if (what == Triangle::transpose && y < n_upper_rows && x < n_lower_rows && row + y < column + x)
      H(row + y, column + x) = lower[x][y];
  }
}

DeviceMap::Factor upload(Gpu& gpu, const HadamardFactor& f) {
  DeviceMap::Hadamard to{f.k, f.stride, gpu.upload<float>(f.signs), {}};
  if (!std::has_single_bit(uint64_t(f.k))) {
    const std::vector<int8_t> matrix = hadamard_matrix(f.k);
    to.matrix = gpu.upload<float>(std::vector<float>(matrix.begin(), matrix.end()));
  }
  return to;
}
DeviceMap::Factor upload(Gpu& gpu, const DiagonalFactor& f) {
  return DeviceMap::Diagonal{gpu.upload<float>(f.scale)};
}
DeviceMap::Factor upload(Gpu& gpu, const PermutationFactor& f) {
  return DeviceMap::Permutation{gpu.upload<int32_t>(f.from)};
}
DeviceMap::Factor upload(Gpu& gpu, const BlocksFactor& f) {
  const bool shared = int64_t(f.weights.size()) == f.k * f.k;
  DeviceMap::Blocks to{f.k, shared, gpu.upload<float>(f.weights), {}, f.activations.empty()};
  if (!to.orthogonal) to.activations = gpu.upload<float>(f.activations);
  return to;
}

}  // namespace

DeviceMap::DeviceMap(Gpu& gpu, const LinearMap& map, int64_t channels) : channels_(channels) {
  check_map(map, channels);
  for (const fp4lab::Factor& factor : map.factors)
    factors_.push_back(std::visit([&](const auto& f) { return upload(gpu, f); }, factor));
}

void map_weights(Gpu& gpu, const DeviceMap& map, MatrixView<float> W) {
  map_rows(gpu, map, Side::weights, Way::there, W);
}
void map_activations(Gpu& gpu, const DeviceMap& map, MatrixView<float> X) {
  map_rows(gpu, map, Side::activations, Way::there, X);
}
void unmap_weights(Gpu& gpu, const DeviceMap& map, MatrixView<float> W) {
  map_rows(gpu, map, Side::weights, Way::back, W);
}
void unmap_activations(Gpu& gpu, const DeviceMap& map, MatrixView<float> X) {
  map_rows(gpu, map, Side::activations, Way::back, X);
}

void map_hessian(Gpu& gpu, const DeviceMap& map, MatrixView<double> H) {
  FP4LAB_CHECK(H.rows == H.cols && H.rows <= 65535 * kSquare, "H (", H.rows, ", ", H.cols, ")");
  if (H.rows == 0) return;
  const auto triangle = [&](Triangle what) {
    const unsigned squares = blocks_for(H.rows, kSquare);
    triangle_kernel<<<dim3(squares, squares), dim3(kSquare, kSquareRows), 0, gpu.stream()>>>(H, what);
    FP4LAB_CUDA_LAUNCHED("the triangles of H with ", H.rows, " channels");
  };
  if (!map.factors().empty()) {
    triangle(Triangle::mirror);
    map_rows(gpu, map, Side::activations, Way::there, H);  // H T^-T
    triangle(Triangle::transpose);                         // T^-1 H
    map_rows(gpu, map, Side::activations, Way::there, H);
  }
  triangle(Triangle::clear);
}

void map_weights(Gpu& gpu, const LinearMap& map, MatrixView<float> W) {
  map_weights(gpu, DeviceMap(gpu, map, W.cols), W);
}
void map_activations(Gpu& gpu, const LinearMap& map, MatrixView<float> X) {
  map_activations(gpu, DeviceMap(gpu, map, X.cols), X);
}
void unmap_weights(Gpu& gpu, const LinearMap& map, MatrixView<float> W) {
  unmap_weights(gpu, DeviceMap(gpu, map, W.cols), W);
}
void unmap_activations(Gpu& gpu, const LinearMap& map, MatrixView<float> X) {
  unmap_activations(gpu, DeviceMap(gpu, map, X.cols), X);
}
void map_hessian(Gpu& gpu, const LinearMap& map, MatrixView<double> H) {
  map_hessian(gpu, DeviceMap(gpu, map, H.cols), H);
}

}  // namespace fp4lab::cuda
