#include "kernels/cpu/gemm.h"

#include <algorithm>

#include "formats/row_kernels.h"
#include "kernels/cpu/gemm_kernels.h"

namespace fp4lab {

namespace v3 {
extern const GemmKernels kGemmKernels;
}
namespace v4 {
extern const GemmKernels kGemmKernels;
}

const GemmKernels& gemm_kernels_v3() { return v3::kGemmKernels; }
const GemmKernels* gemm_kernels_v4() { return row_kernels_v4() ? &v4::kGemmKernels : nullptr; }

namespace {

// What is packed at a time: up to 2048 x 2048 of either operand, 16 MB in float32 and some padding, twice
// that in double. Deeper products come back to Y, whose accumulators are stored and loaded again exactly.
constexpr int64_t kBlock = 2048;
// A task is what one thread takes at a time: 126 rows are whole panels of 14 and of 6. Within it kDepth
// values of k at a time: a panel of A (24 KB) stays in the first-level cache, its strips of B (384 KB) in the
// second. On a Zen 4 a depth of 256 measured up to 5 % slower, 128 columns 8 to 17 %, 512 columns up to 6 %.
constexpr int64_t kTaskRows = 126, kTaskCols = 256, kDepth = 384;

struct Range {
  int64_t begin, end;
};

constexpr int64_t round_up(int64_t n, int64_t step) { return (n + step - 1) / step * step; }

/// The chosen set is the row kernels' choice, so that FP4LAB_ISA speaks for the whole program.
const GemmKernels& chosen_set() {
  return &row_kernels() == row_kernels_v4() ? v4::kGemmKernels : v3::kGemmKernels;
}

/// At least n elements that this thread keeps from call to call: fresh pages would cost a small product as
/// much time as its arithmetic.
template <class T>
T* kept_buffer(MatrixOf<T>& buffer, int64_t n) {
  if (buffer.size() < n) buffer = MatrixOf<T>(), buffer = MatrixOf<T>(1, n);
  return buffer.data();
}

/// A tile that Y's last columns or the diagonal cut, through a temporary. Row r of y owns the columns from
/// r - ahead on (ahead: by how much the tile's first column is ahead of its first row; `rows` for a whole Y).
template <class T>
void edge_tile(const TileKernels<T>& kernels, int64_t k, const T* a, const T* b, MatrixView<T> y,
               int64_t ahead, bool from_zero) {
  T part[kMaxTileRows * 32];
  const int64_t stride = kernels.cols;
  for (int64_t r = 0; r < y.rows; ++r)
    for (int64_t c = 0; c < stride; ++c)
      part[r * stride + c] = !from_zero && c >= r - ahead && c < y.cols ? y(r, c) : T(0);
  kernels.tile[y.rows - 1](k, a, b, part, stride, false);
  for (int64_t r = 0; r < y.rows; ++r)
    for (int64_t c = std::max<int64_t>(0, r - ahead); c < y.cols; ++c) y(r, c) = part[r * stride + c];
}

/// Y += A B, tile by tile, where pack_a(row, rows, k, depth, panel) and pack_b(col, cols, k, depth, strip)
/// bring the operands into the layout of TileKernels. `upper`: only j >= i is read and written.
template <class T, class PackA, class PackB>
void product(const TileKernels<T>& kernels, int64_t K, PackA pack_a, PackB pack_b, MatrixView<T> Y,
             bool from_zero, bool upper) {
  const int64_t rows = kernels.rows, cols = kernels.cols, width = kernels.width;
  const int64_t depth = std::min(K, kBlock);
  const int64_t panels = round_up(std::min(Y.rows, kBlock), rows) / rows;
  const int64_t strips = round_up(std::min(Y.cols, kBlock), cols) / cols;
  static thread_local MatrixOf<T> kept_a, kept_b;
  T* const a = kept_buffer(kept_a, panels * width * depth);
  T* const b = kept_buffer(kept_b, strips * cols * depth);

  // The tiles of one task, from the blocks of A and B that begin at row m0 and column n0.
  auto task = [&](Range is, Range js, Range ks, int64_t m0, int64_t n0) {
    const int64_t packed = ks.end - ks.begin;
    for (int64_t k = ks.begin; k < ks.end; k += kDepth)
      for (int64_t i = is.begin; i < is.end; i += rows)
        for (int64_t j = js.begin; j < js.end; j += cols) {
          const int64_t r = std::min(rows, is.end - i), c = std::min(cols, js.end - j);
          if (upper && j + c <= i) continue;  // wholly below the diagonal
          const int64_t n = std::min(kDepth, ks.end - k);
          const T* pa = a + ((i - m0) / rows * packed + k - ks.begin) * width;
          const T* pb = b + ((j - n0) / cols * packed + k - ks.begin) * cols;
          const bool zero = from_zero && k == 0;
          if (c == cols && (!upper || j >= i + r - 1))
            kernels.tile[r - 1](n, pa, pb, &Y(i, j), Y.stride, zero);
          else
            edge_tile(kernels, n, pa, pb, MatrixView<T>{&Y(i, j), r, c, Y.stride}, upper ? j - i : rows,
                      zero);
        }
  };

  // A million multiply-adds take 20 us, about what waking the other threads does.
  const bool parallel = double(Y.rows) * double(Y.cols) * double(K) > 1e6;
#pragma omp parallel if (parallel)
  for (int64_t n0 = 0; n0 < Y.cols; n0 += kBlock)
    for (int64_t k0 = 0; k0 < K; k0 += kBlock) {  // ascending: the chains go on
      const int64_t n1 = std::min(Y.cols, n0 + kBlock), k1 = std::min(K, k0 + kBlock);
#pragma omp for schedule(static) nowait
      for (int64_t j = n0; j < n1; j += cols)
        pack_b(j, std::min(cols, n1 - j), k0, k1 - k0, b + (j - n0) * (k1 - k0));
      for (int64_t m0 = 0; m0 < Y.rows; m0 += kBlock) {
        const int64_t m1 = std::min(Y.rows, m0 + kBlock);
        if (upper && n1 <= m0) break;  // wholly below the diagonal, as all that follow
#pragma omp for schedule(static)
        for (int64_t i = m0; i < m1; i += rows)
          pack_a(i, std::min(rows, m1 - i), k0, k1 - k0, a + (i - m0) / rows * width * (k1 - k0));
#pragma omp for collapse(2) schedule(dynamic)
        for (int64_t j = n0; j < n1; j += kTaskCols)
          for (int64_t i = m0; i < m1; i += kTaskRows)
            task({i, std::min(m1, i + kTaskRows)}, {j, std::min(n1, j + kTaskCols)}, {k0, k1}, m0, n0);
      }
    }
}

/// panel (depth, width) = x (depth, cols) in double, zeros beyond.
void pack_widened(const float* x, int64_t stride, int64_t cols, int64_t depth, double* panel, int64_t width) {
  for (int64_t t = 0; t < depth; ++t, x += stride, panel += width) {
    for (int64_t c = 0; c < cols; ++c) panel[c] = double(x[c]);
    for (int64_t c = cols; c < width; ++c) panel[c] = 0;
  }
}

/// Packs columns of X (T, K), widened, as either operand of X^T Y.
auto columns_of(MatrixView<const float> X, int64_t width) {
  return [X, width](int64_t col, int64_t cols, int64_t t, int64_t depth, double* panel) {
    pack_widened(X.row(t) + col, X.stride, cols, depth, panel, width);
  };
}

}  // namespace

void gemm_with(const GemmKernels& set, MatrixView<const float> X, MatrixView<const float> W,
               MatrixView<float> Y, bool accumulate) {
  FP4LAB_CHECK(X.cols == W.cols && Y.rows == X.rows && Y.cols == W.rows, "X (", X.rows, ", ", X.cols,
               "), W (", W.rows, ", ", W.cols, "), Y (", Y.rows, ", ", Y.cols, ")");
  if (X.cols == 0 && !accumulate)
    for (int64_t i = 0; i < Y.rows; ++i) std::fill_n(Y.row(i), Y.cols, 0.0f);
  if (Y.rows == 0 || Y.cols == 0 || X.cols == 0) return;
  auto pack = [&set](MatrixView<const float> m, int64_t width) {
    return [&set, m, width](int64_t row, int64_t rows, int64_t k, int64_t depth, float* panel) {
      set.pack_transposed(m.row(row) + k, m.stride, rows, depth, panel, width);
    };
  };
  product(set.f32, X.cols, pack(X, set.f32.width), pack(W, set.f32.cols), Y, !accumulate, false);
}

void syrk_with(const GemmKernels& set, MatrixView<const float> X, MatrixView<double> H) {
  FP4LAB_CHECK(H.rows == X.cols && H.cols == X.cols, "X (", X.rows, ", ", X.cols, "), H (", H.rows, ", ",
               H.cols, ")");
  if (X.rows == 0 || X.cols == 0) return;
  product(set.f64, X.rows, columns_of(X, set.f64.width), columns_of(X, set.f64.cols), H, false, true);
}

void cross_with(const GemmKernels& set, MatrixView<const float> X, MatrixView<const float> Y,
                MatrixView<double> D) {
  FP4LAB_CHECK(X.rows == Y.rows && D.rows == X.cols && D.cols == Y.cols, "X (", X.rows, ", ", X.cols,
               "), Y (", Y.rows, ", ", Y.cols, "), D (", D.rows, ", ", D.cols, ")");
  if (X.rows == 0 || D.rows == 0 || D.cols == 0) return;
  product(set.f64, X.rows, columns_of(X, set.f64.width), columns_of(Y, set.f64.cols), D, false, false);
}

void gemm(MatrixView<const float> X, MatrixView<const float> W, MatrixView<float> Y, bool accumulate) {
  gemm_with(chosen_set(), X, W, Y, accumulate);
}

void syrk(MatrixView<const float> X, MatrixView<double> H) { syrk_with(chosen_set(), X, H); }

void cross(MatrixView<const float> X, MatrixView<const float> Y, MatrixView<double> D) {
  cross_with(chosen_set(), X, Y, D);
}

}  // namespace fp4lab
