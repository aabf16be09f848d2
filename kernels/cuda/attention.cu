// One block takes 64 queries of one head. Its threads stand as 16 columns (tx) by kThreads / 16 rows (ty); a
// thread has kRows neighbouring queries and the keys tx, tx + 16, tx + 32, tx + 48 of a tile, so that the 16
// threads of a query are the CPU's 16 lanes and its softmax stays in their registers. For the weighted values
// the same thread has the same queries and 1/16 of the channels: the weights it reads come from its own half
// of the warp.
#include "kernels/cuda/attention.h"

#include <cuda_pipeline.h>

#include <algorithm>

#include "kernels/cuda/lanes.cuh"

namespace fp4lab::cuda {

namespace {

constexpr int kTile = 64;          // queries and keys, as on the CPU (kernels/cpu/attention_kernels.h)
constexpr int kPitch = kTile + 4;  // of a row of 64 in shared memory

struct Problem {
  MatrixView<const float> q, k, v;
  MatrixView<float> out;
  int head_dim;
  int64_t length, heads, group;  // query heads; query heads of one key head
  float scale;
  bool vectors;  // rows and heads of q, k and v begin at multiples of 16 bytes
};

/// Where a key stands in a row of the transposed tile: the four keys of a thread side by side.
__device__ __forceinline__ int place_of(int key) { return 4 * (key % 16) + key / 16; }

/// `count` rows of d channels from x on, transposed: to[channel][place of the row], zeros up to 64 rows.
template <int kThreads, class Place>
__device__ void load_transposed(const float* x, int64_t stride, int count, int d, bool vectors, float* to,
                                const Place& place) {
  if (vectors) {
#pragma unroll 4
    for (int at = threadIdx.x; at < kTile * d / 4; at += kThreads) {
      const int r = at % kTile, i = at / kTile * 4;
      const float4 v =
          r < count ? __ldg(reinterpret_cast<const float4*>(x + r * stride + i)) : float4{0, 0, 0, 0};
      float* const p = to + i * kPitch + place(r);
      p[0] = v.x, p[kPitch] = v.y, p[2 * kPitch] = v.z, p[3 * kPitch] = v.w;
    }
  } else {
    for (int at = threadIdx.x; at < kTile * d; at += kThreads) {
      const int r = at % kTile, i = at / kTile;
      to[i * kPitch + place(r)] = r < count ? __ldg(x + r * stride + i) : 0.0f;
    }
  }
}

/// `count` rows of d channels from x on, kStep channels at a time, without waiting for them:
/// to[row][channel], zeros up to 64 rows and kDim channels.
template <int kThreads, int kDim, int kStep>
__device__ __forceinline__ void load_rows(const float* x, int64_t stride, int count, int d, float* to) {
  constexpr int kAcross = kDim / kStep;
  for (int at = threadIdx.x; at < kTile * kAcross; at += kThreads) {
    const int r = at / kAcross, i = at % kAcross * kStep;
    const bool there = r < count && i < d;
    __pipeline_memcpy_async(to + r * kDim + i, there ? x + r * stride + i : x, kStep * sizeof(float),
                            there ? 0 : kStep * sizeof(float));
  }
}

/// N neighbouring floats, 16-byte aligned where N is a multiple of 4.
template <int N>
__device__ __forceinline__ void load_floats(const float* from, float (&to)[N]) {
  if constexpr (N % 4 == 0) {
#pragma unroll
    for (int i = 0; i < N; i += 4) {
      const float4 v = *reinterpret_cast<const float4*>(from + i);
      to[i] = v.x, to[i + 1] = v.y, to[i + 2] = v.z, to[i + 3] = v.w;
    }
  } else {
    static_assert(N == 2);
    const float2 v = *reinterpret_cast<const float2*>(from);
    to[0] = v.x, to[1] = v.y;
  }
}

/// Heads of up to kDim channels: a thread has kRows queries of kDim / 16 channels.
template <int kDim, int kThreads, int kBlocks>
__global__ void __launch_bounds__(kThreads, kBlocks) attention_kernel(const Problem p) {
  constexpr int kRows = kTile * 16 / kThreads, kChannels = kDim / 16;
  constexpr int kSide = kChannels < 4 ? kChannels : 4, kGroups = kChannels / kSide;  // channels side by side
  extern __shared__ float4 shared4[];
  const int d = p.head_dim;
  float* const queries = reinterpret_cast<float*>(shared4);     // (d, 64)
  float* const tile = queries + d * kPitch;                     // keys (d, 64), then values (64, kDim)
  float* const weights = tile + max(d * kPitch, kTile * kDim);  // (64 keys, 64 queries)

  const int64_t pairs = p.q.rows / p.length * p.heads;
  const int64_t last =
      (p.length - 1) / kTile - int64_t(blockIdx.x) / pairs;  // the longest rows of tiles first
  const int64_t pair = int64_t(blockIdx.x) % pairs;
  const int64_t window = pair / p.heads * p.length, head = pair % p.heads;
  const int64_t first = last * kTile;  // of the queries, in the window
  const int rows = int(min(int64_t(kTile), p.length - first));
  const float* const q = p.q.row(window + first) + head * d;
  const float* const k = p.k.row(window) + head / p.group * d;
  const float* const v = p.v.row(window) + head / p.group * d;

  const int tx = threadIdx.x % 16, row0 = threadIdx.x / 16 * kRows;
  const unsigned threads = half_warp();
  load_transposed<kThreads>(q, p.q.stride, rows, d, p.vectors, queries, [](int r) { return r; });

  float lane[kRows] = {}, largest[kRows];  // lane tx of the sum of weights; the maximum, in all 16 alike
#pragma unroll
  for (int r = 0; r < kRows; ++r) largest[r] = -INFINITY;
  float sum[kRows][kChannels] = {};

  for (int64_t begin = 0; begin <= first; begin += kTile) {
    const bool diagonal = begin == first;
    const int count = int(min(int64_t(kTile), p.length - begin));
    __syncthreads();  // nobody reads the last values any more
    load_transposed<kThreads>(k + begin * p.k.stride, p.k.stride, count, d, p.vectors, tile, place_of);
    __syncthreads();

    float s[kRows][4] = {};
#pragma unroll 4
    for (int i = 0; i < d; ++i) {
      float x[kRows], y[4];
      load_floats(queries + i * kPitch + row0, x);
      load_floats(tile + i * kPitch + 4 * tx, y);
#pragma unroll
      for (int r = 0; r < kRows; ++r)
#pragma unroll
        for (int c = 0; c < 4; ++c) s[r][c] = fmaf(x[r], y[c], s[r][c]);
    }
    __syncthreads();  // nobody reads the keys any more
    const float* const values = v + begin * p.v.stride;
    if (p.vectors)
      load_rows<kThreads, kDim, 4>(values, p.v.stride, count, d, tile);
    else
      load_rows<kThreads, kDim, 1>(values, p.v.stride, count, d, tile);
    __pipeline_commit();

    // kernels/cpu/attention_kernels.inc: soften.
#pragma unroll
    for (int r = 0; r < kRows; ++r) {
      const int seen = diagonal ? row0 + r + 1 : kTile;
      float top = -INFINITY;
#pragma unroll
      for (int c = 0; c < 4; ++c) {
        s[r][c] = tx + 16 * c < seen ? s[r][c] * p.scale : -INFINITY;
        top = s[r][c] > top ? s[r][c] : top;  // never NaN
      }
#pragma unroll
      for (int half = 8; half >= 1; half /= 2) {
        const float other = __shfl_xor_sync(threads, top, half, 16);
        top = other > top ? other : top;
      }
      const float old = largest[r], now = top > old ? top : old, base = now == -INFINITY ? 0.0f : now;
      if (now > old) {
        const float factor = exp_lanes(old - base);
        lane[r] *= factor;
#pragma unroll
        for (int c = 0; c < kChannels; ++c) sum[r][c] *= factor;
        largest[r] = now;
      }
#pragma unroll
      for (int c = 0; c < 4; ++c) {
        s[r][c] = exp_lanes(s[r][c] - base);
        lane[r] += s[r][c];
      }
    }
#pragma unroll
    for (int c = 0; c < 4; ++c)
#pragma unroll
      for (int r = 0; r < kRows; r += 4)
        *reinterpret_cast<float4*>(weights + (tx + 16 * c) * kPitch + row0 + r) =
            float4{s[r][c], s[r + 1][c], s[r + 2][c], s[r + 3][c]};
    __pipeline_wait_prior(0);
    __syncthreads();

    // sum += weight of key j times its values, for the thread's queries from `from` on.
    const auto add = [&](int j, int from) {
      float w[kRows], y[kGroups][kSide];
      load_floats(weights + j * kPitch + row0, w);
#pragma unroll
      for (int g = 0; g < kGroups; ++g) load_floats(tile + j * kDim + (16 * g + tx) * kSide, y[g]);
#pragma unroll
      for (int r = 0; r < kRows; ++r)
#pragma unroll
        for (int c = 0; c < kChannels; ++c)
          if (r >= from) sum[r][c] = fmaf(w[r], y[c / kSide][c % kSide], sum[r][c]);
    };
    // What a query does not see is not multiplied, not even by 0: it may be NaN.
    const int all = diagonal ? row0 + 1 : kTile;
#pragma unroll 4
    for (int j = 0; j < all; ++j) add(j, 0);
    if (diagonal)
#pragma unroll
      for (int more = 1; more < kRows; ++more) add(row0 + more, more);
  }

  float* const out = p.out.row(window + first) + head * d;
#pragma unroll
  for (int r = 0; r < kRows; ++r) {
    const float total = add_lanes(lane[r], threads);
    if (row0 + r >= rows) continue;
#pragma unroll
    for (int c = 0; c < kChannels; ++c)
      if (const int i = (16 * (c / kSide) + tx) * kSide + c % kSide; i < d)
        out[(row0 + r) * p.out.stride + i] = sum[r][c] / total;
  }
}

template <int kDim, int kThreads, int kBlocks>
void launch(Gpu& gpu, const Problem& p) {
  const int d = p.head_dim;
  const int bytes = (d * kPitch + std::max(d * kPitch, kTile * kDim) + kTile * kPitch) * int(sizeof(float));
  const auto kernel = attention_kernel<kDim, kThreads, kBlocks>;
  FP4LAB_CUDA_CALL(cudaFuncSetAttribute(kernel, cudaFuncAttributeMaxDynamicSharedMemorySize, bytes),
                   "attention with ", bytes, " bytes of shared memory");
  const int64_t blocks = (p.length + kTile - 1) / kTile * (p.q.rows / p.length) * p.heads;
  FP4LAB_CHECK(blocks <= INT32_MAX, blocks, " tiles");
  kernel<<<unsigned(blocks), kThreads, size_t(bytes), gpu.stream()>>>(p);
  FP4LAB_CUDA_LAUNCHED("attention of ", p.q.rows, " tokens, ", p.heads, " heads of ", p.head_dim);
}

bool by_16_bytes(MatrixView<const float> x) {
  return reinterpret_cast<uintptr_t>(x.data) % 16 == 0 && x.stride % 4 == 0;
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
  if (head_dim > 256) throw ConfigError(str("heads of ", head_dim, " channels; on a GPU up to 256"));
  if (q.rows == 0) return;
  const bool vectors = head_dim % 4 == 0 && by_16_bytes(q) && by_16_bytes(k) && by_16_bytes(v);
  const Problem p{.q = q,
                  .k = k,
                  .v = v,
                  .out = out,
                  .head_dim = int(head_dim),
                  .length = length,
                  .heads = q.cols / head_dim,
                  .group = q.cols / k.cols,
                  .scale = scale,
                  .vectors = vectors};
  // Blocks of a multiprocessor: what its 227 KiB of shared memory hold, 52 KiB each at 64 channels, 87 at
  // 128.
  if (head_dim <= 32) return launch<32, 128, 4>(gpu, p);
  if (head_dim <= 64) return launch<64, 128, 4>(gpu, p);
  if (head_dim <= 128) return launch<128, 128, 2>(gpu, p);
  return launch<256, 256, 1>(gpu, p);
}

}  // namespace fp4lab::cuda
