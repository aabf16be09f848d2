// core/half.h - bfloat16 and IEEE binary16 as storage: 16 bits and their conversions.
//   to_float is exact; from_float rounds to nearest, ties to even (overflow gives Inf, as IEEE 754 says).
#pragma once
#include "core/portable.h"

namespace fp4lab {

struct bf16 {
  uint16_t bits;
};
struct f16 {
  uint16_t bits;
};

FP4LAB_HD constexpr float to_float(float x) { return x; }

FP4LAB_HD constexpr float to_float(bf16 h) { return bits_float(uint32_t(h.bits) << 16); }

FP4LAB_HD constexpr float to_float(f16 h) {
  const uint32_t sign = uint32_t(h.bits & 0x8000u) << 16, body = uint32_t(h.bits & 0x7fffu) << 13;
  if (body >= 0x0f800000u) return bits_float(sign | 0x70000000u | body);  // Inf, NaN
  // 2^112 moves the exponent from bias 15 to bias 127 and makes subnormals normal, exactly.
  return bits_float(sign | float_bits(bits_float(body) * 0x1p112f));
}

FP4LAB_HD constexpr bf16 bf16_from_float(float x) {
  const uint32_t b = float_bits(x);
  if ((b & 0x7fffffffu) > 0x7f800000u) return {uint16_t((b >> 16) | 0x40u)};  // NaN stays NaN
  return {uint16_t((b + 0x7fffu + ((b >> 16) & 1u)) >> 16)};
}

FP4LAB_HD constexpr f16 f16_from_float(float x) {
  const uint32_t b = float_bits(x), sign = (b >> 16) & 0x8000u, a = b & 0x7fffffffu;
  if (a > 0x7f800000u) return {uint16_t(sign | 0x7e00u)};
  if (a >= 0x477ff000u) return {uint16_t(sign | 0x7c00u)};  // from 65520 up: Inf
  if (a < 0x38800000u) {                                    // below 2^-14: multiples of 2^-24
    const uint32_t k = float_bits(bits_float(a) + 0.5f) - float_bits(0.5f);  // ulp(0.5) = 2^-24
    return {uint16_t(sign | k)};
  }
  return {uint16_t(sign | ((a + 0xfffu + ((a >> 13) & 1u) - 0x38000000u) >> 13))};
}

}  // namespace fp4lab
