#include "kernels/cpu/attention.h"

#include <omp.h>

#include <algorithm>

#include "formats/row_kernels.h"
#include "kernels/cpu/attention_kernels.h"

namespace fp4lab {

namespace v3 {
extern const AttentionKernels kAttentionKernels;
}
namespace v4 {
extern const AttentionKernels kAttentionKernels;
}

const AttentionKernels& attention_kernels_v3() { return v3::kAttentionKernels; }
const AttentionKernels* attention_kernels_v4() { return row_kernels_v4() ? &v4::kAttentionKernels : nullptr; }
const AttentionKernels& attention_kernels() {
  return &row_kernels() == row_kernels_v4() ? v4::kAttentionKernels : v3::kAttentionKernels;
}

namespace {

constexpr int64_t kTile = kAttentionTile;
/// Windows are packed together up to this many bytes: enough tiles for many threads, little beside what the
/// caller holds.
constexpr int64_t kPackedBytes = int64_t(64) << 20;

int64_t tiles_of(int64_t length) { return (length + kTile - 1) / kTile; }

/// k (length, head_dim) as tiles of 64 keys, transposed.
void pack_keys(MatrixView<const float> k, float* keys) {
  for (int64_t begin = 0; begin < k.rows; begin += kTile, keys += k.cols * kTile) {
    const int64_t n = std::min(kTile, k.rows - begin);
    for (int64_t j = 0; j < n; ++j)
      for (int64_t i = 0; i < k.cols; ++i) keys[i * kTile + j] = k(begin + j, i);
    for (int64_t i = 0; i < k.cols; ++i) std::fill(keys + i * kTile + n, keys + (i + 1) * kTile, 0.0f);
  }
}

void pack_values(MatrixView<const float> v, int64_t padded, float* values) {
  for (int64_t j = 0; j < v.rows; ++j, values += padded) {
    std::copy_n(v.row(j), v.cols, values);
    std::fill(values + v.cols, values + padded, 0.0f);
  }
}

/// The rows of one window, the channels of one head.
template <class T>
MatrixView<T> head_of(MatrixView<T> x, int64_t window, int64_t length, int64_t head, int64_t head_dim) {
  return {x.row(window * length) + head * head_dim, length, head_dim, x.stride};
}

}  // namespace

void attention_with(const AttentionKernels& kernels, MatrixView<const float> q, MatrixView<const float> k,
                    MatrixView<const float> v, int64_t head_dim, int64_t length, float scale,
                    MatrixView<float> out) {
  FP4LAB_CHECK(head_dim > 0 && length > 0 && q.cols > 0 && k.cols > 0, "head_dim ", head_dim, ", length ",
               length, ", ", q.cols, " and ", k.cols, " columns");
  FP4LAB_CHECK(q.cols % head_dim == 0 && k.cols % head_dim == 0 && q.cols % k.cols == 0, "q has ", q.cols,
               " columns, k ", k.cols, ", heads of ", head_dim);
  FP4LAB_CHECK(k.cols == v.cols && q.cols == out.cols, "k, v: ", k.cols, ", ", v.cols, "; q, out: ", q.cols,
               ", ", out.cols, " columns");
  FP4LAB_CHECK(q.rows % length == 0 && q.rows == k.rows && q.rows == v.rows && q.rows == out.rows,
               "q, k, v, ", "out have ", q.rows, ", ", k.rows, ", ", v.rows, ", ", out.rows,
               " rows, windows of ", length);
  if (q.rows == 0) return;
  const int64_t heads = q.cols / head_dim, kv_heads = k.cols / head_dim, group = heads / kv_heads;
  const int64_t windows = q.rows / length, tiles = tiles_of(length), padded = (head_dim + 15) / 16 * 16;
  const int64_t key_floats = tiles * kTile * head_dim, value_floats = length * padded;
  const int64_t window_bytes = kv_heads * (key_floats + value_floats) * int64_t(sizeof(float));
  const int64_t at_once = std::clamp<int64_t>(kPackedBytes / window_bytes, 1, windows);
  // Everything is allocated here: an exception could not leave a parallel region.
  Matrix keys(at_once * kv_heads, key_floats), values(at_once * kv_heads, value_floats);
  Matrix scratch(omp_get_max_threads(), attention_scratch(padded));
  for (int64_t first = 0; first < windows; first += at_once) {
    const int64_t count = std::min(at_once, windows - first);
#pragma omp parallel
    {
#pragma omp for schedule(static)
      for (int64_t i = 0; i < count * kv_heads; ++i) {
        const int64_t window = first + i / kv_heads, head = i % kv_heads;
        pack_keys(head_of(k, window, length, head, head_dim), keys.row(i));
        pack_values(head_of(v, window, length, head, head_dim), padded, values.row(i));
      }
#pragma omp for schedule(dynamic)  // the longest first: a tile's work grows with its place
      for (int64_t i = 0; i < count * heads * tiles; ++i) {
        const int64_t tile = tiles - 1 - i / (count * heads), pair = i % (count * heads);
        const int64_t window = first + pair / heads, head = pair % heads;
        const int64_t packed = pair / heads * kv_heads + head / group;
        const int64_t begin = tile * kTile;
        kernels.query_tile({.q = head_of(q, window, length, head, head_dim).row(begin),
                            .q_stride = q.stride,
                            .first = begin,
                            .rows = std::min(kTile, length - begin),
                            .head_dim = head_dim,
                            .padded = padded,
                            .keys = keys.row(packed),
                            .values = values.row(packed),
                            .scale = scale,
                            .out = head_of(out, window, length, head, head_dim).row(begin),
                            .out_stride = out.stride,
                            .scratch = scratch.row(omp_get_thread_num())});
      }
    }
  }
}

void attention(MatrixView<const float> q, MatrixView<const float> k, MatrixView<const float> v,
               int64_t head_dim, int64_t length, float scale, MatrixView<float> out) {
  attention_with(attention_kernels(), q, k, v, head_dim, length, scale, out);
}

}  // namespace fp4lab
