// kernels/cpu/attention.h - causal attention that never holds a whole score matrix.
#pragma once
#include "core/matrix.h"

namespace fp4lab {

/// Causal softmax attention within each window of `length` consecutive rows (rows are a multiple of length):
///   out[t, h] = sum_s softmax_s(scale q[t, h] . k[s, h / (H / KV)]) v[s, h / (H / KV)], s <= t in the window
///   q     (T, H * head_dim), k, v (T, KV * head_dim): strided views, heads side by side; H a multiple of KV
///   out   (T, H * head_dim), overlaps none of them
///   cost  4 head_dim flops per head and visible key; a copy of k and v of the windows at work (64 MiB, or
///         one window), tiles of 64 rows per thread
/// Scores are float32 fma chains over ascending channels; keys are taken in tiles of fixed size with a
/// running maximum, so a row's bits depend on its own window's rows up to it, never on batch, threads or
/// vector width. A key of score -inf has no weight; a row that sees nothing else is NaN, 0 / 0.
void attention(MatrixView<const float> q, MatrixView<const float> k, MatrixView<const float> v,
               int64_t head_dim, int64_t length, float scale, MatrixView<float> out);

}  // namespace fp4lab
