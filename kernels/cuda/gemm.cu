#include "kernels/cuda/gemm.h"

namespace fp4lab::cuda {

namespace {

// --- float32
// --------------------------------------------------------------------------------------------------

constexpr int kThreads = 256;  // 16 x 16
constexpr int kDepth = 16;     // k of a tile in shared memory

/// One block: a tile of 16 R x 16 C outputs, R x C of them in a thread, in pieces of 4 that lie 64 apart. The
/// tiles of X and W lie in shared memory with k first, the next ones on their way in registers.
template <int R, int C>
__global__ void __launch_bounds__(kThreads, R* C > 32 ? 2 : 4)
    gemm_kernel(MatrixView<const float> X, MatrixView<const float> W, MatrixView<float> Y, bool accumulate,
                bool vectors) {
  constexpr int kM = 16 * R, kN = 16 * C, kPitchM = kM + 4, kPitchN = kN + 4;
  __shared__ __align__(16) float xs[2][kDepth][kPitchM];
  __shared__ __align__(16) float ws[2][kDepth][kPitchN];
  const int64_t m0 = int64_t(blockIdx.y) * kM, n0 = int64_t(blockIdx.x) * kN, K = X.cols;
  const int tx = threadIdx.x % 16, ty = threadIdx.x / 16;

  // Loading: 4 threads take 16 floats of a row, 64 rows at a time.
  const int part = threadIdx.x % 4 * 4, line = threadIdx.x / 4;
  constexpr int kLoadsX = kM / 64, kLoadsW = kN / 64;
  float4 next_x[kLoadsX], next_w[kLoadsW];
  const auto fetch = [&](MatrixView<const float> A, int64_t row, int64_t k) {
    float4 v{0, 0, 0, 0};
    if (row >= A.rows) return v;
    const float* from = A.row(row) + k;
    if (vectors && k + 4 <= K) return *reinterpret_cast<const float4*>(from);
    if (k < K) v.x = from[0];
    if (k + 1 < K) v.y = from[1];
    if (k + 2 < K) v.z = from[2];
    if (k + 3 < K) v.w = from[3];
    return v;
  };
  const auto load = [&](int64_t k) {
#pragma unroll
    for (int i = 0; i < kLoadsX; ++i) next_x[i] = fetch(X, m0 + line + 64 * i, k + part);
#pragma unroll
    for (int i = 0; i < kLoadsW; ++i) next_w[i] = fetch(W, n0 + line + 64 * i, k + part);
  };
  const auto store = [&](int at) {
#pragma unroll
    for (int i = 0; i < kLoadsX; ++i) {
      const float v[4] = {next_x[i].x, next_x[i].y, next_x[i].z, next_x[i].w};
#pragma unroll
      for (int j = 0; j < 4; ++j) xs[at][part + j][line + 64 * i] = v[j];
    }
#pragma unroll
    for (int i = 0; i < kLoadsW; ++i) {
      const float v[4] = {next_w[i].x, next_w[i].y, next_w[i].z, next_w[i].w};
#pragma unroll
      for (int j = 0; j < 4; ++j) ws[at][part + j][line + 64 * i] = v[j];
    }
  };
  // Output (r, c) of a thread: row m0 + 4 ty + r % 4 + 64 (r / 4), column likewise.
  const auto row_of = [&](int r) { return m0 + 4 * ty + r % 4 + 64 * (r / 4); };
  const auto col_of = [&](int c) { return n0 + 4 * tx + c % 4 + 64 * (c / 4); };

  float y[R][C];
#pragma unroll
  for (int r = 0; r < R; ++r)
#pragma unroll
    for (int c = 0; c < C; ++c)
      y[r][c] = accumulate && row_of(r) < Y.rows && col_of(c) < Y.cols ? Y(row_of(r), col_of(c)) : 0.0f;

  const auto step = [&](int at, int k) {
    float x[R], w[C];
#pragma unroll
    for (int r = 0; r < R; r += 4)
      *reinterpret_cast<float4*>(&x[r]) = *reinterpret_cast<const float4*>(&xs[at][k][4 * ty + 16 * r]);
#pragma unroll
    for (int c = 0; c < C; c += 4)
      *reinterpret_cast<float4*>(&w[c]) = *reinterpret_cast<const float4*>(&ws[at][k][4 * tx + 16 * c]);
#pragma unroll
    for (int r = 0; r < R; ++r)
#pragma unroll
      for (int c = 0; c < C; ++c) y[r][c] = fmaf(x[r], w[c], y[r][c]);
  };

  load(0);
  store(0);
  __syncthreads();
  int at = 0;
  for (int64_t k0 = 0; k0 < K; k0 += kDepth, at ^= 1) {
    if (k0 + kDepth < K) load(k0 + kDepth);
    if (k0 + kDepth <= K) {
#pragma unroll
      for (int k = 0; k < kDepth; ++k) step(at, k);
    } else {  // what pads the last tile must not be multiplied: 0 times Inf, or -0 + 0
      for (int k = 0; k < int(K - k0); ++k) step(at, k);
    }
    if (k0 + kDepth < K) store(at ^ 1);
    __syncthreads();
  }

#pragma unroll
  for (int r = 0; r < R; ++r)
#pragma unroll
    for (int c = 0; c < C; ++c)
      if (row_of(r) < Y.rows && col_of(c) < Y.cols) Y(row_of(r), col_of(c)) = y[r][c];
}

template <int R, int C>
void launch(Gpu& gpu, MatrixView<const float> X, MatrixView<const float> W, MatrixView<float> Y,
            bool accumulate, bool vectors) {
  const dim3 grid(unsigned((Y.cols + 16 * C - 1) / (16 * C)), unsigned((Y.rows + 16 * R - 1) / (16 * R)));
  gemm_kernel<R, C><<<grid, kThreads, 0, gpu.stream()>>>(X, W, Y, accumulate, vectors);
  FP4LAB_CUDA_LAUNCHED("gemm ", X.rows, " x ", W.rows, " x ", X.cols);
}

bool takes_vectors(MatrixView<const float> A) { return A.stride % 4 == 0 && uintptr_t(A.data) % 16 == 0; }

// --- double
// ---------------------------------------------------------------------------------------------------

constexpr int kTile = 64;  // outputs of a block: 64 x 64, 4 x 4 in a thread
constexpr int kTokens = 16;

/// D (i, j) = fma(double(x_ti), double(y_tj), D (i, j)) over ascending t; with `upper` only j >= i.
__global__ void __launch_bounds__(kThreads)
    cross_kernel(MatrixView<const float> X, MatrixView<const float> Y, MatrixView<double> D, bool upper) {
  if (upper && blockIdx.x < blockIdx.y) return;
  __shared__ __align__(16) double xs[kTokens][kTile];
  __shared__ __align__(16) double ys[kTokens][kTile];
  const int64_t i0 = int64_t(blockIdx.y) * kTile, j0 = int64_t(blockIdx.x) * kTile;
  const int tx = threadIdx.x % 16, ty = threadIdx.x / 16;
  // A thread's outputs lie 2 and 2 beside each other, 32 apart: 16-byte reads without conflicts.
  const auto row_of = [&](int r) { return i0 + 2 * ty + r % 2 + 32 * (r / 2); };
  const auto col_of = [&](int c) { return j0 + 2 * tx + c % 2 + 32 * (c / 2); };
  const auto inside = [&](int r, int c) {
    return row_of(r) < D.rows && col_of(c) < D.cols && (!upper || col_of(c) >= row_of(r));
  };
  double d[4][4];
#pragma unroll
  for (int r = 0; r < 4; ++r)
#pragma unroll
    for (int c = 0; c < 4; ++c) d[r][c] = inside(r, c) ? D(row_of(r), col_of(c)) : 0.0;
  for (int64_t t0 = 0; t0 < X.rows; t0 += kTokens) {
    const int count = int(min(int64_t(kTokens), X.rows - t0));
    __syncthreads();
    for (int at = threadIdx.x; at < kTokens * kTile; at += kThreads) {
      const int t = at / kTile, c = at % kTile;
      xs[t][c] = t < count && i0 + c < X.cols ? double(X(t0 + t, i0 + c)) : 0.0;
      ys[t][c] = t < count && j0 + c < Y.cols ? double(Y(t0 + t, j0 + c)) : 0.0;
    }
    __syncthreads();
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
    if (count == kTokens) {
#pragma unroll
      for (int t = 0; t < kTokens; ++t) step(t);
    } else {
      for (int t = 0; t < count; ++t) step(t);
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
  const bool vectors = takes_vectors(X) && takes_vectors(W);
  // Large tiles where they fill the GPU.
  const int64_t large = ((Y.rows + 127) / 128) * ((Y.cols + 127) / 128);
  if (large >= gpu.multiprocessors())
    launch<8, 8>(gpu, X, W, Y, accumulate, vectors);
  else
    launch<4, 4>(gpu, X, W, Y, accumulate, vectors);
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
