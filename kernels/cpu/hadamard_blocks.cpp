#include "kernels/cpu/hadamard_blocks.h"

#include <algorithm>
#include <cmath>

namespace fp4lab {

namespace {

// One register of eight floats. AVX-512 has no second version of these loops: rows are read from memory
// once, and the additions hide behind that.
constexpr int kLanes = 8;
typedef float Floats __attribute__((vector_size(4 * kLanes)));
typedef int32_t Ints __attribute__((vector_size(4 * kLanes)));

Floats load(const float* p) {
  Floats v;
  __builtin_memcpy(&v, p, sizeof v);
  return v;
}
void store(float* p, Floats v) { __builtin_memcpy(p, &v, sizeof v); }

/// One stage within a register: `partner` swaps lanes h apart; the upper lane of a pair gets a - b as
/// a + (-b), which is the same number.
Floats stage(Floats v, Ints partner, Ints negated) {
  return __builtin_shuffle(v, partner) + (Floats)((Ints)v ^ negated);
}
/// The first log2(min(k, 8)) stages: h = 1, 2, 4.
template <int kStages>
Floats stages_within(Floats v) {
  constexpr int32_t kMinus = INT32_MIN;  // the sign bit
  v = stage(v, Ints{1, 0, 3, 2, 5, 4, 7, 6}, Ints{0, kMinus, 0, kMinus, 0, kMinus, 0, kMinus});
  if constexpr (kStages > 1)
    v = stage(v, Ints{2, 3, 0, 1, 6, 7, 4, 5}, Ints{0, 0, kMinus, kMinus, 0, 0, kMinus, kMinus});
  if constexpr (kStages > 2)
    v = stage(v, Ints{4, 5, 6, 7, 0, 1, 2, 3}, Ints{0, 0, 0, 0, kMinus, kMinus, kMinus, kMinus});
  return v;
}

/// The log2(N) stages between N registers.
template <int N>
void stages_between(Floats (&v)[N]) {
#pragma GCC unroll 3
  for (int h = 1; h < N; h *= 2)
#pragma GCC unroll 8
    for (int i = 0; i < N; ++i)
      if ((i & h) == 0) {
        const Floats a = v[i], b = v[i + h];
        v[i] = a + b, v[i + h] = a - b;
      }
}

/// Stages h = 1 ... 4 N of every run of 8 N channels, then the factor.
template <int N>
void first_pass(float* x, int64_t channels, float factor) {
  for (int64_t c = 0; c < channels; c += N * kLanes) {
    Floats v[N];
#pragma GCC unroll 8
    for (int i = 0; i < N; ++i) v[i] = stages_within<3>(load(x + c + i * kLanes));
    stages_between<N>(v);
#pragma GCC unroll 8
    for (int i = 0; i < N; ++i) store(x + c + i * kLanes, v[i] * factor);
  }
}
/// Stages h, 2 h, ..., h N / 2 of every run of h N channels, then the factor.
template <int N>
void next_pass(float* x, int64_t channels, int64_t h, float factor) {
  for (int64_t run = 0; run < channels; run += h * N)
    for (int64_t c = run; c < run + h; c += kLanes) {
      Floats v[N];
#pragma GCC unroll 8
      for (int i = 0; i < N; ++i) v[i] = load(x + c + i * h);
      stages_between<N>(v);
#pragma GCC unroll 8
      for (int i = 0; i < N; ++i) store(x + c + i * h, v[i] * factor);
    }
}

/// Blocks of 2 or 4 channels; what is left of the row below a register goes through a padded one.
template <int kStages>
void small_blocks(float* x, int64_t channels, float factor) {
  int64_t c = 0;
  for (; c + kLanes <= channels; c += kLanes) store(x + c, stages_within<kStages>(load(x + c)) * factor);
  if (c == channels) return;
  float rest[kLanes] = {};
  std::copy(x + c, x + channels, rest);
  store(rest, stages_within<kStages>(load(rest)) * factor);
  std::copy(rest, rest + (channels - c), x + c);
}

/// Stages h = stride, 2 stride, ..., k stride / 2 of one run of k * stride channels, one at a time.
template <class T>
void plain_stages(T* x, int64_t k, int64_t stride) {
  for (int64_t h = stride; h < k * stride; h *= 2)
    for (int64_t pair = 0; pair < k * stride; pair += 2 * h)
      for (int64_t c = pair; c < pair + h; ++c) {
        const T a = x[c], b = x[c + h];
        x[c] = a + b, x[c + h] = a - b;
      }
}

/// The stages from h on of one run of k channels, h and k powers of two times a whole number of registers,
/// then the factor.
void last_passes(float* x, int64_t k, int64_t h, float scale) {
  while (h < k) {
    const int64_t n = std::min<int64_t>(8, k / h);
    const float factor = h * n == k ? scale : 1;
    if (n == 8)
      next_pass<8>(x, k, h, factor);
    else if (n == 4)
      next_pass<4>(x, k, h, factor);
    else
      next_pass<2>(x, k, h, factor);
    h *= n;
  }
}

/// Stride 1. Passes keep up to three stages in registers; which additions are made, and their order, is the
/// same as one stage at a time.
void adjacent_blocks(float* x, int64_t channels, int64_t k, float scale) {
  if (k == 2) return small_blocks<1>(x, channels, scale);
  if (k == 4) return small_blocks<2>(x, channels, scale);
  if (k == 8) return first_pass<1>(x, channels, scale);
  if (k == 16) return first_pass<2>(x, channels, scale);
  if (k == 32) return first_pass<4>(x, channels, scale);
  // Block by block, so that one stays in the first cache from pass to pass.
  for (float* block = x; block < x + channels; block += k) {
    first_pass<8>(block, k, k == 64 ? scale : 1);
    last_passes(block, k, 64, scale);
  }
}

}  // namespace

void hadamard_blocks(float* x, int64_t channels, int64_t k, int64_t stride) {
  if (k == 1) return;
  const float scale = float(1 / std::sqrt(double(k)));
  if (stride == 1) return adjacent_blocks(x, channels, k, scale);
  for (float* run = x; run < x + channels; run += k * stride)
    if (stride % kLanes == 0) {
      last_passes(run, k * stride, stride, scale);
    } else {
      plain_stages(run, k, stride);
      for (int64_t c = 0; c < k * stride; ++c) run[c] *= scale;
    }
}

void hadamard_blocks(double* x, int64_t channels, int64_t k, int64_t stride) {
  if (k == 1) return;
  const double scale = 1 / std::sqrt(double(k));
  for (double* run = x; run < x + channels; run += k * stride) plain_stages(run, k, stride);
  for (int64_t c = 0; c < channels; ++c) x[c] *= scale;
}

}  // namespace fp4lab
