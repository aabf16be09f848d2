// kernels/cpu/vector_math.h - fused multiply-add, exp, the largest lane and sums for the lane type of
// formats/vector_lanes.h: the same bits for 8 and for 16 lanes, and for every math library. As there, only
// files that define FP4LAB_VECTOR include it.
#pragma once
#include "formats/vector_lanes.h"

namespace fp4lab {

#if FP4LAB_VECTOR == 16
/// a b + c, rounded once.
FP4LAB_HD FloatLanes multiply_add(FloatLanes a, FloatLanes b, FloatLanes c) {
  return (FloatLanes)_mm512_fmadd_ps((__m512)a, (__m512)b, (__m512)c);
}
/// The largest lane; no lane is NaN.
FP4LAB_HD float largest(FloatLanes v) { return _mm512_reduce_max_ps((__m512)v); }
#else
FP4LAB_HD FloatLanes multiply_add(FloatLanes a, FloatLanes b, FloatLanes c) {
  return (FloatLanes)_mm256_fmadd_ps((__m256)a, (__m256)b, (__m256)c);
}
FP4LAB_HD float largest(FloatLanes v) {
  __m128 m = _mm_max_ps(_mm256_castps256_ps128((__m256)v), _mm256_extractf128_ps((__m256)v, 1));
  m = _mm_max_ps(m, _mm_movehl_ps(m, m));
  m = _mm_max_ss(m, _mm_movehdup_ps(m));
  return _mm_cvtss_f32(m);
}
#endif

}  // namespace fp4lab

#include "kernels/exp.h"

namespace fp4lab {

/// Four floats as doubles.
FP4LAB_HD __m256d widen(const float* x) { return _mm256_cvtps_pd(_mm_loadu_ps(x)); }

/// A sum in 16 lanes of double: element i of a row belongs to lane i mod 16; `total` adds lanes by halves, 8,
/// 4, 2, 1.
struct Sum16 {
  __m256d part[4] = {};  // lanes 4p, ..., 4p + 3

  FP4LAB_HD void add(int p, __m256d x) { part[p] = _mm256_add_pd(part[p], x); }
  FP4LAB_HD double total() const {
    const __m256d four = (part[0] + part[2]) + (part[1] + part[3]);
    return (four[0] + four[2]) + (four[1] + four[3]);
  }
};

}  // namespace fp4lab
