// kernels/cpu/attention_kernels.h - one tile of attention, compiled for x86-64-v3 and x86-64-v4 from
// attention_kernels.inc. Both give the same bits: scores and weighted values are chains of fused
// multiply-adds, sums of weights run in 16 fixed lanes, and exp is vector_math.h's.
#pragma once
#include "core/matrix.h"

namespace fp4lab {

/// Rows of a query tile; columns of a key tile. They are equal, so that only the last key tile of a query
/// tile is cut by the causal mask. 64 keys of 64 channels are 16 KiB: half of a level 1 cache.
inline constexpr int64_t kAttentionTile = 64;

/// One query tile of one head. Keys and values are those of the head's window, packed by `attention`:
///   keys    tiles of 64 keys, transposed: (tile, head_dim, 64), zeros past the window's end
///   values  (length, padded), padded = head_dim rounded up to 16, zeros in between
struct QueryTile {
  const float* q;  // the tile's first row, head_dim channels of it
  int64_t q_stride;
  int64_t first, rows;  // position in the window of the first row; 1 <= rows <= 64; first % 64 == 0
  int64_t head_dim, padded;
  const float* keys;
  const float* values;
  float scale;
  float* out;
  int64_t out_stride;
  float* scratch;  // attention_scratch() floats, 64-byte aligned
};

/// Lanes, scores, weighted values, maxima and a copy of q; whole cache lines.
inline int64_t attention_scratch(int64_t padded) {
  return kAttentionTile * (16 + kAttentionTile + padded + 1 + padded);
}

struct AttentionKernels {
  const char* name;  // "x86-64-v3", "x86-64-v4"
  void (*query_tile)(const QueryTile& tile);
  /// exp_lanes of vector_math.h over n floats.
  void (*exp)(const float* x, int64_t n, float* out);
};

/// The kernels for this processor; FP4LAB_ISA decides as it does for row_kernels().
const AttentionKernels& attention_kernels();
/// Both sets; the v4 one is null when this processor cannot run it. For tests and benchmarks.
const AttentionKernels& attention_kernels_v3();
const AttentionKernels* attention_kernels_v4();

/// `attention` of attention.h with the given kernels.
void attention_with(const AttentionKernels& kernels, MatrixView<const float> q, MatrixView<const float> k,
                    MatrixView<const float> v, int64_t head_dim, int64_t length, float scale,
                    MatrixView<float> out);

}  // namespace fp4lab
