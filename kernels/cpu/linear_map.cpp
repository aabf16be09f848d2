#include "kernels/cpu/linear_map.h"

#include <omp.h>

#include <algorithm>
#include <bit>
#include <cmath>
#include <functional>
#include <map>
#include <mutex>
#include <type_traits>

#include "kernels/cpu/dense_product.h"
#include "kernels/cpu/hadamard_blocks.h"

namespace fp4lab {

namespace {

// Work below this many elements is not worth waking threads for.
constexpr int64_t kSerialElements = 1 << 15;
// Rows that go through all factors together: dense blocks are read once for as many.
constexpr int64_t kGroupRows = 48;

enum class Side { weights, activations };
enum class Way { there, back };

/// What one factor does to a few rows. `scratch` has room for what scratch_size says.
template <class T>
using Step = std::function<void(MatrixView<T> rows, T* scratch)>;

template <class T>
std::vector<T> transposed(const T* m, int64_t k) {
  std::vector<T> out(size_t(k * k));
  for (int64_t i = 0; i < k; ++i)
    for (int64_t j = 0; j < k; ++j) out[size_t(j * k + i)] = m[i * k + j];
  return out;
}

void check_fits(const HadamardFactor& f, int64_t K) {
  FP4LAB_CHECK(f.k >= 1 && f.stride >= 1 && K % f.k == 0 && K / f.k % f.stride == 0, "k ", f.k, ", stride ",
               f.stride, " on ", K, " channels");
  FP4LAB_CHECK(has_hadamard_matrix(f.k), "no Hadamard matrix of order ", f.k);
  FP4LAB_CHECK(f.signs.empty() || int64_t(f.signs.size()) == K, f.signs.size(), " signs for ", K,
               " channels");
}
void check_fits(const DiagonalFactor& f, int64_t K) {
  FP4LAB_CHECK(int64_t(f.scale.size()) == K, f.scale.size(), " scales for ", K, " channels");
}
void check_fits(const PermutationFactor& f, int64_t K) {
  FP4LAB_CHECK(int64_t(f.from.size()) == K, f.from.size(), " places for ", K, " channels");
  std::vector<bool> seen(size_t(K), false);
  for (const int32_t c : f.from) {
    FP4LAB_CHECK(c >= 0 && c < K && !seen[size_t(c)], "channel ", c, " of ", K, " in a permutation");
    seen[size_t(c)] = true;
  }
}
void check_fits(const BlocksFactor& f, int64_t K) {
  FP4LAB_CHECK(f.k >= 1 && K % f.k == 0, "blocks of ", f.k, " on ", K, " channels");
  const int64_t size = int64_t(f.weights.size());
  FP4LAB_CHECK(size == f.k * f.k || size == K * f.k, size, " numbers for blocks of ", f.k, " on ", K,
               " channels");
  FP4LAB_CHECK(f.activations.empty() || f.activations.size() == f.weights.size(), f.activations.size(),
               " numbers of activation blocks, ", size, " of weight blocks");
}

/// hadamard_matrix(k) and its transpose, made once: a decode step asks again for every token.
template <class T>
struct DenseHadamard {
  std::vector<T> matrix, transpose;
};
template <class T>
const DenseHadamard<T>& dense_hadamard(int64_t k) {
  static std::mutex mutex;
  static std::map<int64_t, DenseHadamard<T>> known;
  const std::lock_guard lock(mutex);
  DenseHadamard<T>& h = known[k];
  if (h.matrix.empty()) {
    const std::vector<int8_t> matrix = hadamard_matrix(k);
    h.transpose = transposed(std::vector<T>(matrix.begin(), matrix.end()).data(), k);
    h.matrix.assign(matrix.begin(), matrix.end());
  }
  return h;
}

/// Block b of the rows -> block M_b. matrices (n, k, k) row-major, n = 1: the same for every block.
template <class T>
void multiply_blocks(MatrixView<T> rows, const T* matrices, bool shared, int64_t k, T* scratch) {
  const MatrixView<T> out{scratch, rows.rows, k, k};
  for (int64_t c = 0; c < rows.cols; c += k) {
    const MatrixView<T> block{rows.data + c, rows.rows, k, rows.stride};
    dense_product(block, MatrixView<const T>{matrices + (shared ? 0 : c * k), k, k, k}, out);
    for (int64_t r = 0; r < rows.rows; ++r) std::copy_n(out.row(r), k, block.row(r));
  }
}

template <class T>
Step<T> step_of(const HadamardFactor& f, Side, Way way) {
  const auto multiply_signs = [&f](T* x) {
    for (size_t c = 0; c < f.signs.size(); ++c) x[c] *= T(f.signs[c]);
  };
  if (std::has_single_bit(uint64_t(f.k)))  // H is symmetric
    return [&f, way, multiply_signs](MatrixView<T> rows, T*) {
      for (int64_t r = 0; r < rows.rows; ++r) {
        if (way == Way::there) multiply_signs(rows.row(r));
        hadamard_blocks(rows.row(r), rows.cols, f.k, f.stride);
        if (way == Way::back) multiply_signs(rows.row(r));
      }
    };
  const DenseHadamard<T>& h = dense_hadamard<T>(f.k);
  const T* const H = (way == Way::there ? h.matrix : h.transpose).data();
  const T* const H_transposed = (way == Way::there ? h.transpose : h.matrix).data();
  return [&f, way, multiply_signs, H, H_transposed](MatrixView<T> rows, T* scratch) {
    const T scale = T(1 / std::sqrt(double(f.k)));
    const int64_t k = f.k, stride = f.stride;
    for (int64_t r = 0; r < rows.rows && way == Way::there; ++r) multiply_signs(rows.row(r));
    // Products with +-1 are exact, so that an fma is the addition or subtraction.
    if (stride == 1) {
      multiply_blocks(rows, H, true, k, scratch);
    } else {
      for (int64_t r = 0; r < rows.rows; ++r)
        for (int64_t c = 0; c < rows.cols; c += k * stride) {
          const MatrixView<const T> run{rows.row(r) + c, k, stride, stride};
          dense_product(MatrixView<const T>{H_transposed, k, k, k}, run,
                        MatrixView<T>{scratch, k, stride, stride});
          std::copy_n(scratch, k * stride, rows.row(r) + c);
        }
    }
    for (int64_t r = 0; r < rows.rows; ++r) {
      for (int64_t c = 0; c < rows.cols; ++c) rows(r, c) *= scale;
      if (way == Way::back) multiply_signs(rows.row(r));
    }
  };
}

template <class T>
Step<T> step_of(const DiagonalFactor& f, Side side, Way way) {
  const bool multiply = (side == Side::weights) == (way == Way::there);
  return [&f, multiply](MatrixView<T> rows, T*) {
    for (int64_t r = 0; r < rows.rows; ++r) {
      T* x = rows.row(r);
      if (multiply)
        for (int64_t c = 0; c < rows.cols; ++c) x[c] *= T(f.scale[size_t(c)]);
      else
        for (int64_t c = 0; c < rows.cols; ++c) x[c] /= T(f.scale[size_t(c)]);
    }
  };
}

template <class T>
Step<T> step_of(const PermutationFactor& f, Side, Way way) {
  return [&f, way](MatrixView<T> rows, T* scratch) {
    for (int64_t r = 0; r < rows.rows; ++r) {
      T* x = rows.row(r);
      std::copy_n(x, rows.cols, scratch);
      if (way == Way::there)
        for (int64_t c = 0; c < rows.cols; ++c) x[c] = scratch[f.from[size_t(c)]];
      else
        for (int64_t c = 0; c < rows.cols; ++c) x[f.from[size_t(c)]] = scratch[c];
    }
  };
}

template <class T>
Step<T> step_of(const BlocksFactor& f, Side side, Way way) {
  // There: the side's own matrices. Back: the inverse of one side's is the transpose of the other side's.
  const bool of_weights = f.activations.empty() || (side == Side::weights) == (way == Way::there);
  const std::vector<float>& stored = of_weights ? f.weights : f.activations;
  const bool shared = int64_t(stored.size()) == f.k * f.k;
  std::vector<T> own;
  if (way == Way::back || !std::is_same_v<T, float>) {
    own.assign(stored.begin(), stored.end());
    if (way == Way::back)
      for (size_t b = 0; b < own.size(); b += size_t(f.k * f.k)) {
        const std::vector<T> block = transposed(own.data() + b, f.k);
        std::copy(block.begin(), block.end(), own.begin() + ptrdiff_t(b));
      }
  }
  return [k = f.k, shared, &stored, own = std::move(own)](MatrixView<T> rows, T* scratch) {
    const T* matrices = own.data();
    if constexpr (std::is_same_v<T, float>)
      if (own.empty()) matrices = stored.data();
    multiply_blocks(rows, matrices, shared, k, scratch);
  };
}

/// Elements of scratch that a group of rows takes.
int64_t scratch_size(const Factor& factor, int64_t K, int64_t rows) {
  int64_t block = 0;
  if (const auto* h = std::get_if<HadamardFactor>(&factor)) block = h->k;
  if (const auto* b = std::get_if<BlocksFactor>(&factor)) block = b->k;
  return std::max(K, rows * block);
}

template <class T>
void map_rows(const LinearMap& map, Side side, Way way, MatrixView<T> X) {
  check_map(map, X.cols);
  if (map.identity() || X.size() == 0) return;

  const int threads = X.size() > kSerialElements ? omp_get_max_threads() : 1;
  // Fewer rows when there are many threads, whole tiles of dense_product when there are enough.
  int64_t group = std::clamp<int64_t>(X.rows / (4 * threads), 1, kGroupRows);
  if (group > 6) group = group / 6 * 6;
  int64_t scratch_elements = 0;
  std::vector<Step<T>> steps;
  for (const Factor& factor : map.factors) {
    steps.push_back(std::visit([&](const auto& f) { return step_of<T>(f, side, way); }, factor));
    scratch_elements = std::max(scratch_elements, scratch_size(factor, X.cols, group));
  }
  if (way == Way::back) std::reverse(steps.begin(), steps.end());

  MatrixOf<T> scratch(threads, (scratch_elements + 15) / 16 * 16);
#pragma omp parallel for schedule(static) num_threads(threads)
  for (int64_t r = 0; r < X.rows; r += group)
    for (const Step<T>& step : steps)
      step(X.middle_rows(r, std::min(group, X.rows - r)), scratch.row(omp_get_thread_num()));
}

// Transposition goes by squares that fit into the first cache, each thread some rows of squares.
constexpr int64_t kSquare = 32;

/// body(i, j) for the elements above the diagonal.
template <class Body>
void for_upper(int64_t K, const Body& body) {
#pragma omp parallel for schedule(dynamic) if (K * K > kSerialElements)
  for (int64_t i0 = 0; i0 < K; i0 += kSquare)
    for (int64_t j0 = i0; j0 < K; j0 += kSquare)
      for (int64_t i = i0; i < std::min(K, i0 + kSquare); ++i)
        for (int64_t j = std::max(i + 1, j0); j < std::min(K, j0 + kSquare); ++j) body(i, j);
}

void transpose(MatrixView<double> D) {
  for_upper(D.rows, [&](int64_t i, int64_t j) { std::swap(D(i, j), D(j, i)); });
}

}  // namespace

void check_map(const LinearMap& map, int64_t K) {
  for (const Factor& factor : map.factors) std::visit([&](const auto& f) { check_fits(f, K); }, factor);
}

void map_weights(const LinearMap& map, MatrixView<float> W) { map_rows(map, Side::weights, Way::there, W); }
void map_activations(const LinearMap& map, MatrixView<float> X) {
  map_rows(map, Side::activations, Way::there, X);
}
void unmap_weights(const LinearMap& map, MatrixView<float> W) { map_rows(map, Side::weights, Way::back, W); }
void unmap_activations(const LinearMap& map, MatrixView<float> X) {
  map_rows(map, Side::activations, Way::back, X);
}

void map_hessian(const LinearMap& map, MatrixView<double> H) {
  FP4LAB_CHECK(H.rows == H.cols, "H (", H.rows, ", ", H.cols, ")");
  if (!map.identity()) {
    for_upper(H.rows, [&](int64_t i, int64_t j) { H(j, i) = H(i, j); });
    map_rows(map, Side::activations, Way::there, H);  // H T^-T
    transpose(H);                                     // T^-1 H
    map_rows(map, Side::activations, Way::there, H);
  }
  for_upper(H.rows, [&](int64_t i, int64_t j) { H(j, i) = 0; });
}

void map_cross(const LinearMap& map, MatrixView<double> D) {
  FP4LAB_CHECK(D.rows == D.cols, "D (", D.rows, ", ", D.cols, ")");
  if (map.identity()) return;
  for (int side = 0; side < 2; ++side) {
    map_rows(map, Side::activations, Way::there, D);
    transpose(D);
  }
}

}  // namespace fp4lab
