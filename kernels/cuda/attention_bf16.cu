#include "kernels/cuda/attention_bf16.h"

#include "kernels/cuda/attention.h"
#include "kernels/cuda/bf16_matrix.h"

namespace fp4lab::cuda {

namespace {

constexpr int kQueries = 128, kKeys = 64;  // of a tile
constexpr int kThreads = 256;              // 8 warps of 16 queries

struct Problem {
  MatrixView<const __nv_bfloat16> q, k, v;  // (tokens, heads * head_dim)
  MatrixView<float> out;
  int64_t head_dim, length, heads, group;
  float scale;
};

__device__ __forceinline__ uint32_t pack(float low, float high) {
  const __nv_bfloat162 pair = __floats2bfloat162_rn(low, high);
  return *reinterpret_cast<const uint32_t*>(&pair);
}

/// D += A B for 16 x 16 and 16 x 8 bf16 tiles.
__device__ __forceinline__ void multiply(float (&d)[4], const uint32_t (&a)[4], uint32_t b0, uint32_t b1) {
  asm volatile(
      "mma.sync.aligned.m16n8k16.row.col.f32.bf16.bf16.f32 {%0,%1,%2,%3}, {%4,%5,%6,%7}, {%8,%9}, "
      "{%0,%1,%2,%3};"
      : "+f"(d[0]), "+f"(d[1]), "+f"(d[2]), "+f"(d[3])
      : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b0), "r"(b1));
}
__device__ __forceinline__ void load_tiles(uint32_t (&r)[4], const __nv_bfloat16* at) {
  asm volatile("ldmatrix.sync.aligned.m8n8.x4.shared.b16 {%0,%1,%2,%3}, [%4];"
               : "=r"(r[0]), "=r"(r[1]), "=r"(r[2]), "=r"(r[3])
               : "r"(uint32_t(__cvta_generic_to_shared(at))));
}
__device__ __forceinline__ void load_tiles_transposed(uint32_t (&r)[4], const __nv_bfloat16* at) {
  asm volatile("ldmatrix.sync.aligned.m8n8.x4.trans.shared.b16 {%0,%1,%2,%3}, [%4];"
               : "=r"(r[0]), "=r"(r[1]), "=r"(r[2]), "=r"(r[3])
               : "r"(uint32_t(__cvta_generic_to_shared(at))));
}

/// Starts copying rows [begin, begin + kRows) of one head of a window; zeros past the window and past
/// head_dim.
template <int D, int kRows>
__device__ __forceinline__ void fetch_rows(MatrixView<const __nv_bfloat16> x, int64_t window_row,
                                           int64_t begin, int64_t length, int64_t column, int head_dim,
                                           __nv_bfloat16* to) {
  constexpr int kPieces = D / 8;  // of 16 bytes in a row
  for (int at = threadIdx.x; at < kRows * kPieces; at += kThreads) {
    const int r = at / kPieces, i = at % kPieces * 8;
    const bool inside = begin + r < length && i < head_dim;
    const __nv_bfloat16* from = x.row(window_row + (inside ? begin + r : 0)) + column + (inside ? i : 0);
    asm volatile("cp.async.cg.shared.global [%0], [%1], 16, %2;" ::"r"(
                     uint32_t(__cvta_generic_to_shared(to + r * (D + 8) + i))),
                 "l"(from), "r"(inside ? 16 : 0));
  }
}
__device__ __forceinline__ void end_fetch() { asm volatile("cp.async.commit_group;"); }
template <int kLeft>
__device__ __forceinline__ void await_fetch() {
  asm volatile("cp.async.wait_group %0;" ::"n"(kLeft));
}

template <int D>
__global__ void __launch_bounds__(kThreads) attention_kernel(const Problem p) {
  constexpr int kPitch = D + 8;  // rows lie 4 banks apart
  extern __shared__ __nv_bfloat16 shared[];
  // Two tiles of keys and of values: one is computed with while the next is on its way.
  __nv_bfloat16 *const queries = shared, *const all_keys = queries + kQueries * kPitch,
                       *const all_values = all_keys + 2 * kKeys * kPitch;
  const int64_t tiles = (p.length + kQueries - 1) / kQueries, pairs = p.q.rows / p.length * p.heads;
  const int64_t tile = tiles - 1 - int64_t(blockIdx.x) / pairs, pair = int64_t(blockIdx.x) % pairs;
  const int64_t window_row = pair / p.heads * p.length, head = pair % p.heads, first = tile * kQueries;
  const int64_t q_column = head * p.head_dim, kv_column = head / p.group * p.head_dim;
  const int d = int(p.head_dim), warp = threadIdx.x / 32, lane = threadIdx.x % 32;
  const int row = lane / 4, pair_column = lane % 4 * 2;  // this thread's rows row, row + 8; columns + 0, + 1

  const auto fetch = [&](int64_t begin, int stage) {
    fetch_rows<D, kKeys>(p.k, window_row, begin, p.length, kv_column, d, all_keys + stage * kKeys * kPitch);
    fetch_rows<D, kKeys>(p.v, window_row, begin, p.length, kv_column, d, all_values + stage * kKeys * kPitch);
    end_fetch();
  };
  fetch_rows<D, kQueries>(p.q, window_row, first, p.length, q_column, d, queries);
  fetch(0, 0);
  float sum[D / 8][4] = {}, total[2] = {}, largest[2] = {-INFINITY, -INFINITY};
  const float scale = p.scale * 1.44269504f;  // exponents of 2
  const int64_t mine = first + warp * 16;     // this warp's first query
  const int64_t end = min(first + kQueries, p.length);
  int stage = 0;
  for (int64_t begin = 0; begin < end; begin += kKeys, stage ^= 1) {
    if (begin + kKeys < end) {
      fetch(begin + kKeys, stage ^ 1);
      await_fetch<1>();
    } else {
      await_fetch<0>();
    }
    __syncthreads();
    const __nv_bfloat16 *const keys = all_keys + stage * kKeys * kPitch, *const values =
                                                                             all_values +
                                                                             stage * kKeys * kPitch;
    if (begin <= mine + 15) {  // else nothing that this warp's queries see
      float score[kKeys / 8][4] = {};
#pragma unroll
      for (int i = 0; i < D; i += 32) {
        uint32_t a[2][4];
#pragma unroll
        for (int half = 0; half < 2; ++half)
          load_tiles(a[half], queries + (warp * 16 + lane % 16) * kPitch + i + 16 * half + lane / 16 * 8);
#pragma unroll
        for (int n = 0; n < kKeys / 8; ++n) {
          uint32_t b[4];
          load_tiles(b, keys + (n * 8 + lane % 8) * kPitch + i + lane / 8 * 8);
          multiply(score[n], a[0], b[0], b[1]);
          multiply(score[n], a[1], b[2], b[3]);
        }
      }
      float top[2] = {-INFINITY, -INFINITY};
#pragma unroll
      for (int n = 0; n < kKeys / 8; ++n)
#pragma unroll
        for (int c = 0; c < 4; ++c) {
          const int64_t query = mine + row + 8 * (c / 2), key = begin + n * 8 + pair_column + c % 2;
          score[n][c] = key <= query ? score[n][c] * scale : -INFINITY;
          top[c / 2] = fmaxf(top[c / 2], score[n][c]);
        }
      float factor[2], base[2];
#pragma unroll
      for (int r = 0; r < 2; ++r) {
        top[r] = fmaxf(top[r], __shfl_xor_sync(~0u, top[r], 1));
        top[r] = fmaxf(top[r], __shfl_xor_sync(~0u, top[r], 2));
        const float now = fmaxf(largest[r], top[r]);
        base[r] = now == -INFINITY ? 0.0f : now;
        factor[r] = exp2f(largest[r] - base[r]);
        largest[r] = now, total[r] *= factor[r];
      }
#pragma unroll
      for (int n = 0; n < kKeys / 8; ++n)
#pragma unroll
        for (int c = 0; c < 4; ++c) {
          score[n][c] = exp2f(score[n][c] - base[c / 2]);
          total[c / 2] += score[n][c];
        }
#pragma unroll
      for (int n = 0; n < D / 8; ++n)
#pragma unroll
        for (int c = 0; c < 4; ++c) sum[n][c] *= factor[c / 2];
#pragma unroll
      for (int j = 0; j < kKeys / 16; ++j) {
        const uint32_t a[4] = {pack(score[2 * j][0], score[2 * j][1]), pack(score[2 * j][2], score[2 * j][3]),
                               pack(score[2 * j + 1][0], score[2 * j + 1][1]),
                               pack(score[2 * j + 1][2], score[2 * j + 1][3])};
#pragma unroll
        for (int n = 0; n < D / 8; n += 2) {
          uint32_t b[4];
          load_tiles_transposed(b, values + (j * 16 + lane % 16) * kPitch + n * 8 + lane / 16 * 8);
          multiply(sum[n], a, b[0], b[1]);
          multiply(sum[n + 1], a, b[2], b[3]);
        }
      }
    }
    __syncthreads();  // before the next but one tile takes this one's place
  }
#pragma unroll
  for (int r = 0; r < 2; ++r) {
    total[r] += __shfl_xor_sync(~0u, total[r], 1);
    total[r] += __shfl_xor_sync(~0u, total[r], 2);
    const int64_t query = mine + row + 8 * r;
    if (query >= p.length) continue;
    float* const to = p.out.row(window_row + query) + q_column;
#pragma unroll
    for (int n = 0; n < D / 8; ++n)
#pragma unroll
      for (int c = 0; c < 2; ++c)
        if (n * 8 + pair_column + c < d) to[n * 8 + pair_column + c] = sum[n][2 * r + c] / total[r];
  }
}

template <int D>
void launch(Gpu& gpu, const Problem& p) {
  constexpr int kBytes = (kQueries + 4 * kKeys) * (D + 8) * int(sizeof(__nv_bfloat16));
  FP4LAB_CUDA_CALL(
      cudaFuncSetAttribute(attention_kernel<D>, cudaFuncAttributeMaxDynamicSharedMemorySize, kBytes),
      "attention with ", kBytes, " bytes of shared memory");
  const int64_t blocks = (p.length + kQueries - 1) / kQueries * (p.q.rows / p.length) * p.heads;
  FP4LAB_CHECK(blocks <= INT32_MAX, blocks, " tiles");
  attention_kernel<D><<<unsigned(blocks), kThreads, kBytes, gpu.stream()>>>(p);
  FP4LAB_CUDA_LAUNCHED("bf16 attention of ", p.q.rows, " tokens, ", p.heads, " heads of ", p.head_dim);
}

}  // namespace

void attention_bf16(Gpu& gpu, MatrixView<const float> q, MatrixView<const float> k, MatrixView<const float> v,
                    int64_t head_dim, int64_t length, float scale, MatrixView<float> out) {
  if (head_dim > 128 || head_dim % 8 != 0) return attention(gpu, q, k, v, head_dim, length, scale, out);
  check_attention(q, k, v, head_dim, length, out);
  if (q.rows == 0) return;
  const Bf16Matrix queries = to_bf16(gpu, q), keys = to_bf16(gpu, k), values = to_bf16(gpu, v);
  const auto view = [](const Bf16Matrix& m) {
    return MatrixView<const __nv_bfloat16>{m.data.data(), m.rows, m.cols, m.stride};
  };
  const Problem p{view(queries), view(keys),        view(values),    out,  head_dim,
                  length,        q.cols / head_dim, q.cols / k.cols, scale};
  if (head_dim <= 32) return launch<32>(gpu, p);
  if (head_dim <= 64) return launch<64>(gpu, p);
  launch<128>(gpu, p);
}

}  // namespace fp4lab::cuda
