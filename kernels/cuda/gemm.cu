// Products in float32 (gemm) and double (syrk, cross) whose every output is one chain of fused multiply-adds
// in one thread, as kernels/cpu/gemm.h words it.
#include "kernels/cuda/gemm.h"

#include "kernels/cuda/async_copy.cuh"

namespace fp4lab::cuda {

namespace {

constexpr int kThreads = 256;  // 16 x 16 in both kernels

// --- float32 -------------------------------------------------------------------------------------------

constexpr int kDepth = 8;   // k of a tile in shared memory
constexpr int kStages = 4;  // tiles in shared memory: one in use, the others on their way
constexpr int kBand = 16;   // rows of tiles that are taken together, so that the tiles in work share X and W

/// W floats at a multiple of W * 4 bytes as one load.
template <int W>
__device__ __forceinline__ void load_piece(const float* from, float* to) {
  if constexpr (W == 4)
    *reinterpret_cast<float4*>(to) = *reinterpret_cast<const float4*>(from);
  else
    *reinterpret_cast<float2*>(to) = *reinterpret_cast<const float2*>(from);
}

/// One block: a tile of 16 R x 16 C outputs, R x C of them in a thread, in pieces of up to 4 x 4.
///   shared     xs[k][row], ws[k][column]: a thread reads its pieces as vectors. A warp is 4 x 8 threads: the
///              8 pieces of W it reads are 128 bytes in a row, those of X are the same for 8 threads each.
///   copies     a warp takes 8 k of 4 rows at a time, which the pitch (4 more than a multiple of 32) sends to
///              32 different banks. Floats one by one: rows may begin anywhere.
///   `vectors`  rows of Y are 16-byte aligned
template <int R, int C>
__global__ void __launch_bounds__(kThreads, R* C > 32 ? 2 : 4)
    gemm_kernel(MatrixView<const float> X, MatrixView<const float> W, MatrixView<float> Y, bool accumulate,
                bool vectors, unsigned tiles_m, unsigned tiles_n) {
  constexpr int kM = 16 * R, kN = 16 * C, kPitchM = kM + 4, kPitchN = kN + 4;
  constexpr int kRows = R < 4 ? R : 4, kCols = C < 4 ? C : 4;  // of a piece
  __shared__ __align__(16) float xs[kStages][kDepth][kPitchM];
  __shared__ __align__(16) float ws[kStages][kDepth][kPitchN];

  const unsigned in_band = kBand * tiles_n, band = blockIdx.x / in_band, inside = blockIdx.x % in_band;
  const unsigned band_rows = min(unsigned(kBand), tiles_m - band * kBand);
  const int64_t m0 = int64_t(band * kBand + inside % band_rows) * kM, n0 = int64_t(inside / band_rows) * kN;
  const int64_t K = X.cols;
  const int warp = threadIdx.x / 32, lane = threadIdx.x % 32;

  // Copying: this thread has k `copy_k` of rows copy_row, copy_row + 32, ...
  const int copy_k = lane % 8, copy_row = warp * 4 + lane / 8;
  const float* const x_from = X.data + (m0 + copy_row) * X.stride + copy_k;
  const float* const w_from = W.data + (n0 + copy_row) * W.stride + copy_k;
  const bool whole = m0 + kM <= X.rows && n0 + kN <= W.rows;
  const auto copy = [&](int64_t k0) {
    if (k0 < K) {
      const int at = int(k0 / kDepth % kStages);
      float* const x_to = &xs[at][copy_k][copy_row];
      float* const w_to = &ws[at][copy_k][copy_row];
      if (whole && k0 + kDepth <= K) {
#pragma unroll
        for (int i = 0; i < kM / 32; ++i) async_copy(x_to + 32 * i, x_from + k0 + 32 * i * X.stride);
#pragma unroll
        for (int i = 0; i < kN / 32; ++i) async_copy(w_to + 32 * i, w_from + k0 + 32 * i * W.stride);
      } else {
        const bool in_k = k0 + copy_k < K;
        for (int i = 0; i < kM / 32; ++i) {
          const bool valid = in_k && m0 + copy_row + 32 * i < X.rows;
          async_copy(x_to + 32 * i, valid ? x_from + k0 + 32 * i * X.stride : X.data, valid);
        }
        for (int i = 0; i < kN / 32; ++i) {
          const bool valid = in_k && n0 + copy_row + 32 * i < W.rows;
          async_copy(w_to + 32 * i, valid ? w_from + k0 + 32 * i * W.stride : W.data, valid);
        }
      }
    }
    async_commit();  // an empty batch at the end, so that there is always one more to wait for
  };
#pragma unroll
  for (int i = 0; i < kStages - 1; ++i) copy(i * kDepth);

  // Output (r, c) of this thread; pieces lie 16 pieces apart.
  const int tx = warp % 2 * 8 + lane % 8, ty = warp / 2 * 4 + lane / 8;
  const auto row_of = [&](int r) { return m0 + kRows * ty + r % kRows + 16 * kRows * (r / kRows); };
  const auto col_of = [&](int c) { return n0 + kCols * tx + c % kCols + 16 * kCols * (c / kCols); };
  const bool wide = vectors && n0 + kN <= Y.cols;
  float y[R][C];
#pragma unroll
  for (int r = 0; r < R; ++r)
#pragma unroll
    for (int c = 0; c < C; c += kCols) {
      const bool in_row = accumulate && row_of(r) < Y.rows;
      if (in_row && wide) {
        load_piece<kCols>(&Y(row_of(r), col_of(c)), &y[r][c]);
      } else {
#pragma unroll
        for (int j = 0; j < kCols; ++j)
          y[r][c + j] = in_row && col_of(c + j) < Y.cols ? Y(row_of(r), col_of(c + j)) : 0.0f;
      }
    }

  const auto step = [&](int at, int k) {
    float x[R], w[C];
#pragma unroll
    for (int r = 0; r < R; r += kRows) load_piece<kRows>(&xs[at][k][kRows * ty + 16 * r], &x[r]);
#pragma unroll
    for (int c = 0; c < C; c += kCols) load_piece<kCols>(&ws[at][k][kCols * tx + 16 * c], &w[c]);
#pragma unroll
    for (int r = 0; r < R; ++r)
#pragma unroll
      for (int c = 0; c < C; ++c) y[r][c] = fmaf(x[r], w[c], y[r][c]);
  };
  for (int64_t k0 = 0; k0 < K; k0 += kDepth) {
    async_wait<kStages - 2>();
    __syncthreads();  // the tile is there for everybody, and everybody is done with the one before
    copy(k0 + (kStages - 1) * kDepth);
    const int at = int(k0 / kDepth % kStages);
    if (k0 + kDepth <= K) {
#pragma unroll
      for (int k = 0; k < kDepth; ++k) step(at, k);
    } else {  // what pads the last tile must not be multiplied: -0 + 0 is +0
      for (int k = 0; k < int(K - k0); ++k) step(at, k);
    }
  }

#pragma unroll
  for (int r = 0; r < R; ++r)
#pragma unroll
    for (int c = 0; c < C; c += kCols) {
      if (row_of(r) >= Y.rows) continue;
      if (wide) {
        load_piece<kCols>(&y[r][c], &Y(row_of(r), col_of(c)));
      } else {
#pragma unroll
        for (int j = 0; j < kCols; ++j)
          if (col_of(c + j) < Y.cols) Y(row_of(r), col_of(c + j)) = y[r][c + j];
      }
    }
}

struct Tiling {
  int64_t m, n;  // tiles
  double cost;   // of the multiprocessor with the most of them
};
/// `efficiency`: of the multiply-adds in a tile of this size, roughly; smaller ones read more for each.
Tiling tiling(const Gpu& gpu, MatrixView<float> Y, int rows, int cols, double efficiency) {
  const int64_t m = (Y.rows + rows - 1) / rows, n = (Y.cols + cols - 1) / cols;
  const int64_t most = (m * n + gpu.multiprocessors() - 1) / gpu.multiprocessors();
  return {m, n, double(most) * rows * cols / efficiency};
}

template <int R, int C>
void launch(Gpu& gpu, const Tiling& t, MatrixView<const float> X, MatrixView<const float> W,
            MatrixView<float> Y, bool accumulate) {
  FP4LAB_CHECK(t.m * t.n <= INT32_MAX / kBand, t.m, " x ", t.n, " tiles");
  const bool vectors = Y.stride % 4 == 0 && reinterpret_cast<uintptr_t>(Y.data) % 16 == 0;
  gemm_kernel<R, C><<<unsigned(t.m * t.n), kThreads, 0, gpu.stream()>>>(X, W, Y, accumulate, vectors,
                                                                        unsigned(t.m), unsigned(t.n));
  FP4LAB_CUDA_LAUNCHED("gemm ", X.rows, " x ", W.rows, " x ", X.cols);
}

// --- double --------------------------------------------------------------------------------------------

constexpr int kTile = 64;  // outputs of a block: 64 x 64, 4 x 4 in a thread
constexpr int kTokens = 16;
constexpr int kLoads = kTokens * kTile / kThreads;

/// D (i, j) = fma(double(x_ti), double(y_tj), D (i, j)) over ascending t; with `upper` only j >= i.
__global__ void __launch_bounds__(kThreads, 2)
    cross_kernel(MatrixView<const float> X, MatrixView<const float> Y, MatrixView<double> D, bool upper) {
  if (upper && blockIdx.x < blockIdx.y) return;
  __shared__ __align__(16) double xs[kTokens][kTile];
  __shared__ __align__(16) double ys[kTokens][kTile];
  const int64_t i0 = int64_t(blockIdx.y) * kTile, j0 = int64_t(blockIdx.x) * kTile;
  const int warp = threadIdx.x / 32, lane = threadIdx.x % 32;
  const int tx = warp % 2 * 8 + lane % 8, ty = warp / 2 * 4 + lane / 8;  // a warp is 4 x 8 threads
  // A thread's outputs lie 2 and 2 beside each other, 32 apart: 16-byte reads without conflicts.
  const auto row_of = [&](int r) { return i0 + 2 * ty + r % 2 + 32 * (r / 2); };
  const auto col_of = [&](int c) { return j0 + 2 * tx + c % 2 + 32 * (c / 2); };
  const auto inside = [&](int r, int c) {
    return row_of(r) < D.rows && col_of(c) < D.cols && (!upper || col_of(c) >= row_of(r));
  };
  // Loading: column `load_col` of tokens load_t, load_t + 4, ..., on their way in registers.
  const int load_col = threadIdx.x % kTile, load_t = threadIdx.x / kTile;
  const bool in_x = i0 + load_col < X.cols, in_y = j0 + load_col < Y.cols;
  float next_x[kLoads], next_y[kLoads];
  const auto fetch = [&](int64_t t0) {
#pragma unroll
    for (int i = 0; i < kLoads; ++i) {
      const int64_t t = t0 + load_t + i * (kThreads / kTile);
      next_x[i] = in_x && t < X.rows ? X(t, i0 + load_col) : 0.0f;
      next_y[i] = in_y && t < X.rows ? Y(t, j0 + load_col) : 0.0f;
    }
  };
  fetch(0);
  double d[4][4];
#pragma unroll
  for (int r = 0; r < 4; ++r)
#pragma unroll
    for (int c = 0; c < 4; ++c) d[r][c] = inside(r, c) ? D(row_of(r), col_of(c)) : 0.0;
  for (int64_t t0 = 0; t0 < X.rows; t0 += kTokens) {
    __syncthreads();
#pragma unroll
    for (int i = 0; i < kLoads; ++i) {
      const int t = load_t + i * (kThreads / kTile);
      xs[t][load_col] = double(next_x[i]);
      ys[t][load_col] = double(next_y[i]);
    }
    __syncthreads();
    fetch(t0 + kTokens);
    const auto step = [&](int t) {
      const double2 a = *reinterpret_cast<const double2*>(&xs[t][2 * ty]),
                    b = *reinterpret_cast<const double2*>(&xs[t][2 * ty + 32]),
                    e = *reinterpret_cast<const double2*>(&ys[t][2 * tx]),
                    f = *reinterpret_cast<const double2*>(&ys[t][2 * tx + 32]);
      const double x[4] = {a.x, a.y, b.x, b.y}, y[4] = {e.x, e.y, f.x, f.y};
#pragma unroll
      for (int r = 0; r < 4; ++r)
#pragma unroll
        for (int c = 0; c < 4; ++c) d[r][c] = fma(x[r], y[c], d[r][c]);
    };
    if (X.rows - t0 >= kTokens) {
#pragma unroll
      for (int t = 0; t < kTokens; ++t) step(t);
    } else {
      for (int t = 0; t < int(X.rows - t0); ++t) step(t);
    }
  }
#pragma unroll
  for (int r = 0; r < 4; ++r)
#pragma unroll
    for (int c = 0; c < 4; ++c)
      if (inside(r, c)) D(row_of(r), col_of(c)) = d[r][c];
}

void launch_cross(Gpu& gpu, MatrixView<const float> X, MatrixView<const float> Y, MatrixView<double> D,
                  bool upper) {
  if (X.rows == 0 || D.size() == 0) return;
  const dim3 grid(unsigned((D.cols + kTile - 1) / kTile), unsigned((D.rows + kTile - 1) / kTile));
  cross_kernel<<<grid, kThreads, 0, gpu.stream()>>>(X, Y, D, upper);
  FP4LAB_CUDA_LAUNCHED("products of ", X.rows, " tokens, ", X.cols, " and ", Y.cols, " channels");
}

}  // namespace

void gemm(Gpu& gpu, MatrixView<const float> X, MatrixView<const float> W, MatrixView<float> Y,
          bool accumulate) {
  FP4LAB_CHECK(X.cols == W.cols && X.rows == Y.rows && W.rows == Y.cols, "X (", X.rows, ", ", X.cols,
               "), W (", W.rows, ", ", W.cols, "), Y (", Y.rows, ", ", Y.cols, ")");
  if (Y.size() == 0) return;
  const Tiling large = tiling(gpu, Y, 128, 128, 1), middle = tiling(gpu, Y, 64, 64, 0.8),
               small = tiling(gpu, Y, 64, 32, 0.6);
  if (large.cost <= middle.cost && large.cost <= small.cost)
    launch<8, 8>(gpu, large, X, W, Y, accumulate);
  else if (middle.cost <= small.cost)
    launch<4, 4>(gpu, middle, X, W, Y, accumulate);
  else
    launch<4, 2>(gpu, small, X, W, Y, accumulate);
}

void syrk(Gpu& gpu, MatrixView<const float> X, MatrixView<double> H) {
  FP4LAB_CHECK(H.rows == X.cols && H.cols == X.cols, "X has ", X.cols, " columns, H (", H.rows, ", ", H.cols,
               ")");
  launch_cross(gpu, X, X, H, true);
}

void cross(Gpu& gpu, MatrixView<const float> X, MatrixView<const float> Y, MatrixView<double> D) {
  FP4LAB_CHECK(X.rows == Y.rows && D.rows == X.cols && D.cols == Y.cols, "X (", X.rows, ", ", X.cols,
               "), Y (", Y.rows, ", ", Y.cols, "), D (", D.rows, ", ", D.cols, ")");
  launch_cross(gpu, X, Y, D, false);
}

}  // namespace fp4lab::cuda
