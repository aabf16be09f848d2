#include "kernels/cuda/attention.h"

#include "kernels/cuda/lanes.cuh"

namespace fp4lab::cuda {

namespace {

constexpr int kTile = 64;          // queries and keys, as on the CPU (kernels/cpu/attention_kernels.h)
constexpr int kThreads = 256;      // 16 x 16, each 4 queries and 4 keys, or 4 queries and kColumns channels
constexpr int kPitch = kTile + 4;  // of a row of 64 in shared memory

struct Problem {
  MatrixView<const float> q, k, v;
  MatrixView<float> out;
  int64_t head_dim, length, heads, group;  // query heads; query heads of one key head
  float scale;
};

/// Rows [begin, begin + 64) of one head of a window, transposed: to[channel][row], zeros past the window.
__device__ void load_transposed(MatrixView<const float> x, int64_t window_row, int64_t begin, int64_t length,
                                int64_t column, int head_dim, float* to) {
  for (int at = threadIdx.x; at < kTile * head_dim; at += kThreads) {
    const int r = at / head_dim, i = at % head_dim;
    to[i * kPitch + r] = begin + r < length ? x(window_row + begin + r, column + i) : 0.0f;
  }
}

/// One block: one tile of queries of one head. kColumns * 16 >= head_dim.
template <int kColumns>
__global__ void __launch_bounds__(kThreads) attention_kernel(const Problem p) {
  extern __shared__ float4 shared4[];
  const int d = int(p.head_dim), padded = kColumns * 16;
  float* const queries = reinterpret_cast<float*>(shared4);  // (d, 64)
  float* const keys = queries + d * kPitch;                  // (d, 64)
  float* const values = keys + d * kPitch;                   // (64, padded)
  float* const weights = values + kTile * padded;            // (64, 64): scores, then weights
  float* const factors = weights + kTile * kPitch;           // (64)
  float* const totals = factors + kTile;                     // (64)

  const int64_t tiles = (p.length + kTile - 1) / kTile;
  // The longest tiles first.
  const int64_t pairs = p.q.rows / p.length * p.heads;
  const int64_t tile = tiles - 1 - int64_t(blockIdx.x) / pairs, pair = int64_t(blockIdx.x) % pairs;
  const int64_t window_row = pair / p.heads * p.length, head = pair % p.heads;
  const int64_t q_column = head * d, kv_column = head / p.group * d;
  const int64_t first = tile * kTile;
  const int rows = int(min(int64_t(kTile), p.length - first));

  const int tx = threadIdx.x % 16, ty = threadIdx.x / 16;
  const unsigned threads = half_warp();
  load_transposed(p.q, window_row, first, p.length, q_column, d, queries);

  // Of rows ty + 16 i: lane tx of the sums of weights, and the maximum (the same in all 16 lanes).
  float lane_sum[4] = {}, largest[4];
#pragma unroll
  for (int i = 0; i < 4; ++i) largest[i] = -INFINITY;
  // Of rows 4 ty + i: channels tx + 16 j.
  float sum[4][kColumns] = {};

  for (int64_t begin = 0; begin <= first; begin += kTile) {
    __syncthreads();  // nobody reads the last tile any more
    load_transposed(p.k, window_row, begin, p.length, kv_column, d, keys);
    for (int at = threadIdx.x; at < kTile * padded; at += kThreads) {
      const int r = at / padded, i = at % padded;
      values[at] = begin + r < p.length && i < d ? p.v(window_row + begin + r, kv_column + i) : 0.0f;
    }
    __syncthreads();

    float score[4][4] = {};
    for (int i = 0; i < d; ++i) {
      const float4 a = *reinterpret_cast<const float4*>(queries + i * kPitch + 4 * ty),
                   b = *reinterpret_cast<const float4*>(keys + i * kPitch + 4 * tx);
      const float x[4] = {a.x, a.y, a.z, a.w}, y[4] = {b.x, b.y, b.z, b.w};
#pragma unroll
      for (int r = 0; r < 4; ++r)
#pragma unroll
        for (int c = 0; c < 4; ++c) score[r][c] = fmaf(x[r], y[c], score[r][c]);
    }
#pragma unroll
    for (int r = 0; r < 4; ++r)
#pragma unroll
      for (int c = 0; c < 4; ++c) weights[(4 * ty + r) * kPitch + 4 * tx + c] = score[r][c];
    __syncthreads();

    // kernels/cpu/attention_kernels.inc: soften. Column j of a tile adds to lane j mod 16.
    const bool diagonal = begin == first;
#pragma unroll
    for (int i = 0; i < 4; ++i) {
      const int r = ty + 16 * i;
      const int seen = diagonal ? r + 1 : kTile;
      float s[4], top = -INFINITY;
#pragma unroll
      for (int j = 0; j < 4; ++j) {
        const int column = tx + 16 * j;
        s[j] = column < seen ? weights[r * kPitch + column] * p.scale : -INFINITY;
        top = s[j] > top ? s[j] : top;
      }
#pragma unroll
      for (int half = 8; half >= 1; half /= 2) {
        const float other = __shfl_xor_sync(threads, top, half, 16);
        top = other > top ? other : top;
      }
      const float old = largest[i], now = top > old ? top : old, base = now == -INFINITY ? 0.0f : now;
      float factor = 1;
      if (now > old) {
        factor = exp_lanes(old - base);
        lane_sum[i] = lane_sum[i] * factor;
        largest[i] = now;
      }
      if (tx == 0) factors[r] = factor;
#pragma unroll
      for (int j = 0; j < 4; ++j) {
        const int column = tx + 16 * j;
        const float weight = exp_lanes(s[j] - base);
        weights[r * kPitch + column] = weight;
        lane_sum[i] += weight;
      }
    }
    __syncthreads();

#pragma unroll
    for (int r = 0; r < 4; ++r) {
      const float factor = factors[4 * ty + r];
#pragma unroll
      for (int c = 0; c < kColumns; ++c) sum[r][c] = sum[r][c] * factor;
    }
    // What a row does not see is not multiplied, not even by 0: it may be NaN.
    for (int j = 0; j < kTile; ++j) {
      float y[kColumns];
#pragma unroll
      for (int c = 0; c < kColumns; ++c) y[c] = values[j * padded + tx + 16 * c];
#pragma unroll
      for (int r = 0; r < 4; ++r) {
        if (diagonal && j > 4 * ty + r) continue;
        const float w = weights[(4 * ty + r) * kPitch + j];
#pragma unroll
        for (int c = 0; c < kColumns; ++c) sum[r][c] = fmaf(w, y[c], sum[r][c]);
      }
    }
  }
#pragma unroll
  for (int i = 0; i < 4; ++i) {
    const float total = add_lanes(lane_sum[i], threads);
    if (tx == 0) totals[ty + 16 * i] = total;
  }
  __syncthreads();
#pragma unroll
  for (int r = 0; r < 4; ++r) {
    const int row = 4 * ty + r;
    if (row >= rows) continue;
#pragma unroll
    for (int c = 0; c < kColumns; ++c)
      if (tx + 16 * c < d) p.out(window_row + first + row, q_column + tx + 16 * c) = sum[r][c] / totals[row];
  }
}

template <int kColumns>
void launch(Gpu& gpu, const Problem& p) {
  const size_t bytes =
      size_t(2 * p.head_dim * kPitch + kTile * kColumns * 16 + kTile * kPitch + 2 * kTile) * sizeof(float);
  FP4LAB_CUDA_CALL(cudaFuncSetAttribute(attention_kernel<kColumns>,
                                        cudaFuncAttributeMaxDynamicSharedMemorySize, int(bytes)),
                   "attention with ", bytes, " bytes of shared memory");
  const int64_t blocks = (p.length + kTile - 1) / kTile * (p.q.rows / p.length) * p.heads;
  FP4LAB_CHECK(blocks <= INT32_MAX, blocks, " tiles");
  attention_kernel<kColumns><<<unsigned(blocks), kThreads, bytes, gpu.stream()>>>(p);
  FP4LAB_CUDA_LAUNCHED("attention of ", p.q.rows, " tokens, ", p.heads, " heads of ", p.head_dim);
}

}  // namespace

void check_attention(MatrixView<const float> q, MatrixView<const float> k, MatrixView<const float> v,
                     int64_t head_dim, int64_t length, MatrixView<float> out) {
  FP4LAB_CHECK(head_dim > 0 && length > 0 && q.cols > 0 && k.cols > 0, "head_dim ", head_dim, ", length ",
               length, ", ", q.cols, " and ", k.cols, " columns");
  FP4LAB_CHECK(q.cols % head_dim == 0 && k.cols % head_dim == 0 && q.cols % k.cols == 0, "q has ", q.cols,
               " columns, k ", k.cols, ", heads of ", head_dim);
  FP4LAB_CHECK(k.cols == v.cols && q.cols == out.cols, "k, v: ", k.cols, ", ", v.cols, "; q, out: ", q.cols,
               ", ", out.cols, " columns");
  FP4LAB_CHECK(q.rows % length == 0 && q.rows == k.rows && q.rows == v.rows && q.rows == out.rows,
               "q, k, v, out have ", q.rows, ", ", k.rows, ", ", v.rows, ", ", out.rows, " rows, windows of ",
               length);
}

void attention(Gpu& gpu, MatrixView<const float> q, MatrixView<const float> k, MatrixView<const float> v,
               int64_t head_dim, int64_t length, float scale, MatrixView<float> out) {
  check_attention(q, k, v, head_dim, length, out);
  if (q.rows == 0) return;
  const Problem p{q, k, v, out, head_dim, length, q.cols / head_dim, q.cols / k.cols, scale};
  if (head_dim <= 32) return launch<2>(gpu, p);
  if (head_dim <= 64) return launch<4>(gpu, p);
  if (head_dim <= 128) return launch<8>(gpu, p);
  if (head_dim <= 256) return launch<16>(gpu, p);
  throw ConfigError(str("heads of ", head_dim, " channels; on a GPU up to 256"));
}

}  // namespace fp4lab::cuda
