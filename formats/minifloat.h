// formats/minifloat.h - any small unsigned float, as a codec that a vector loop and a GPU thread can share.
//   decode   code < 2^M: code * 2^(1 - bias - M);  else (1 + mantissa/2^M) * 2^(exponent - bias)
//   encode   nearest, ties to the even code; beyond max_code saturates; Inf saturates; input is not negative,
//   not NaN Elements add a sign bit above the code (formats/elements.h); scales use it as it is
//   (formats/scale_types.h).
#pragma once
#include "core/portable.h"

namespace fp4lab {

struct Minifloat {
  int man_bits;  // M, 0 to 22
  int bias;
  uint32_t max_code;  // the largest finite code in use

  FP4LAB_HD constexpr float min_normal() const { return bits_float(uint32_t(128 - bias) << 23); }
  /// Distance between neighbours below 2 min_normal: 2^(1 - bias - M).
  FP4LAB_HD constexpr float smallest() const { return bits_float(uint32_t(128 - bias - man_bits) << 23); }

  /// F is float, or a vector of them; codes come as F's bits type.
  template <class F = float>
  FP4LAB_HD constexpr F decode(typename Lanes<F>::Bits code) const {
    using L = Lanes<F>;
    const F subnormal = L::from_int(code) * smallest();
    const F normal = L::value((code << (23 - man_bits)) + (uint32_t(127 - bias) << 23));
    return code < L::all_bits(1u << man_bits) ? subnormal : normal;
  }

  template <class F>
  FP4LAB_HD constexpr typename Lanes<F>::Bits encode(F a) const {
    using L = Lanes<F>;
    using U = typename L::Bits;
    // Normal range: round the float's own bits to M mantissa bits; a carry moves into the exponent by itself.
    // The parity of the kept bits is the code's, since (127 - bias) << M is even for every type here (M = 0:
    // bias 63).
    const int drop = 23 - man_bits;
    const U b = L::bits(a);
    const U normal =
        ((b + ((1u << (drop - 1)) - 1u) + ((b >> drop) & 1u)) >> drop) - (uint32_t(127 - bias) << man_bits);
    // Subnormal range: adding C with ulp(C) = smallest() rounds to a multiple of it, ties to even.
    const float c = bits_float(uint32_t(151 - bias - man_bits) << 23);
    const auto below = a < L::all(min_normal());
    const U subnormal = L::bits((below ? a : L::all(0.0f)) + c) - float_bits(c);
    const U code = below ? subnormal : normal;
    return code < L::all_bits(max_code) ? code : L::all_bits(max_code);
  }

  FP4LAB_HD constexpr float max() const { return decode(max_code); }
};

}  // namespace fp4lab
