// formats/vector_lanes.h - one register of floats as a lane type, 8 wide for AVX2 and 16 wide for AVX-512.
// Included by files that are compiled for one instruction set each (FP4LAB_VECTOR 8 or 16).
#pragma once
#include <immintrin.h>

#include "core/portable.h"

// g++ 12 takes the undefined operand inside its own AVX-512 intrinsics for a mistake (GCC bug 105593).
#pragma GCC diagnostic ignored "-Wmaybe-uninitialized"
#pragma GCC diagnostic ignored "-Wuninitialized"

namespace fp4lab {

inline constexpr int kLanes = FP4LAB_VECTOR;
typedef float FloatLanes __attribute__((vector_size(FP4LAB_VECTOR * 4)));
typedef uint32_t BitLanes __attribute__((vector_size(FP4LAB_VECTOR * 4)));
typedef int32_t IntLanes __attribute__((vector_size(FP4LAB_VECTOR * 4)));

template <>
struct Lanes<FloatLanes> {
  using Bits = BitLanes;
  FP4LAB_HD static Bits bits(FloatLanes x) { return (BitLanes)x; }
  FP4LAB_HD static FloatLanes value(Bits b) { return (FloatLanes)b; }
  FP4LAB_HD static FloatLanes all(float x) { return x - FloatLanes{}; }
  FP4LAB_HD static Bits all_bits(uint32_t b) { return b - BitLanes{}; }
  FP4LAB_HD static FloatLanes from_int(Bits b) { return __builtin_convertvector((IntLanes)b, FloatLanes); }
};

FP4LAB_HD FloatLanes load(const float* p) {
  FloatLanes v;
  __builtin_memcpy(&v, p, sizeof v);
  return v;
}
FP4LAB_HD void store(float* p, FloatLanes v) { __builtin_memcpy(p, &v, sizeof v); }
/// The first n lanes (n < kLanes), zeros above.
FP4LAB_HD FloatLanes load_part(const float* p, int64_t n) {
  FloatLanes v{};
  __builtin_memcpy(&v, p, size_t(n) * sizeof(float));
  return v;
}
FP4LAB_HD void store_part(float* p, FloatLanes v, int64_t n) {
  __builtin_memcpy(p, &v, size_t(n) * sizeof(float));
}

/// Lanes start, start + 1, ...
FP4LAB_HD BitLanes first_lanes(uint32_t start) {
  BitLanes v;
  for (int l = 0; l < kLanes; ++l) v[l] = start + uint32_t(l);
  return v;
}

#if FP4LAB_VECTOR == 16
typedef FloatLanes Table16;  // sixteen floats to look codes up in
FP4LAB_HD Table16 load_table(const float* values) { return load(values); }
FP4LAB_HD FloatLanes lookup(Table16 t, BitLanes code) {
  return (FloatLanes)_mm512_permutexvar_ps((__m512i)code, (__m512)t);
}
FP4LAB_HD BitLanes load_bytes(const uint8_t* p) {
  return (BitLanes)_mm512_cvtepu8_epi32(_mm_loadu_si128(reinterpret_cast<const __m128i*>(p)));
}
FP4LAB_HD void store_bytes(uint8_t* p, BitLanes v) {
  _mm_storeu_si128(reinterpret_cast<__m128i*>(p), _mm512_cvtepi32_epi8((__m512i)v));
}
FP4LAB_HD uint32_t max_lane(BitLanes v) { return _mm512_reduce_max_epu32((__m512i)v); }
FP4LAB_HD BitLanes max_bits(BitLanes a, BitLanes b) {
  return (BitLanes)_mm512_max_epu32((__m512i)a, (__m512i)b);
}
#else
struct Table16 {
  FloatLanes low, high;
};
FP4LAB_HD Table16 load_table(const float* values) { return {load(values), load(values + 8)}; }
FP4LAB_HD FloatLanes lookup(Table16 t, BitLanes code) {
  const __m256 low = _mm256_permutevar8x32_ps((__m256)t.low, (__m256i)code);
  const __m256 high = _mm256_permutevar8x32_ps((__m256)t.high, (__m256i)code);
  return (FloatLanes)_mm256_blendv_ps(low, high,
                                      (__m256)(code << 28));  // bit 3 becomes the sign that blendv reads
}
FP4LAB_HD BitLanes load_bytes(const uint8_t* p) {
  return (BitLanes)_mm256_cvtepu8_epi32(_mm_loadl_epi64(reinterpret_cast<const __m128i*>(p)));
}
FP4LAB_HD void store_bytes(uint8_t* p, BitLanes v) {  // the low byte of every lane
  const __m256i gathered = _mm256_shuffle_epi8(
      (__m256i)v, _mm256_setr_epi8(0, 4, 8, 12, -1, -1, -1, -1, -1, -1, -1, -1, -1, -1, -1, -1, 0, 4, 8, 12,
                                   -1, -1, -1, -1, -1, -1, -1, -1, -1, -1, -1, -1));
  _mm_storel_epi64(reinterpret_cast<__m128i*>(p), _mm_unpacklo_epi32(_mm256_castsi256_si128(gathered),
                                                                     _mm256_extracti128_si256(gathered, 1)));
}
FP4LAB_HD uint32_t max_lane(BitLanes v) {
  __m128i m = _mm_max_epu32(_mm256_castsi256_si128((__m256i)v), _mm256_extracti128_si256((__m256i)v, 1));
  m = _mm_max_epu32(m, _mm_shuffle_epi32(m, 0x4e));
  m = _mm_max_epu32(m, _mm_shuffle_epi32(m, 0xb1));
  return uint32_t(_mm_cvtsi128_si32(m));
}
FP4LAB_HD BitLanes max_bits(BitLanes a, BitLanes b) {
  return (BitLanes)_mm256_max_epu32((__m256i)a, (__m256i)b);
}
#endif
FP4LAB_HD BitLanes load_bytes_part(const uint8_t* p, int64_t n) {
  uint8_t bytes[kLanes] = {};
  __builtin_memcpy(bytes, p, size_t(n));
  return load_bytes(bytes);
}
FP4LAB_HD void store_bytes_part(uint8_t* p, BitLanes v, int64_t n) {
  uint8_t bytes[kLanes];
  store_bytes(bytes, v);
  __builtin_memcpy(p, bytes, size_t(n));
}

}  // namespace fp4lab
