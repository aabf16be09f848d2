// kernels/exp.h - e^x by one formula, for a float and for vectors of them: the same bits on every machine.
//   Whoever includes it has declared, for its lane type F, multiply_add(a, b, c) = a b + c rounded once.
#pragma once
#include "core/portable.h"

namespace fp4lab {

/// e^x within 1 ulp (tests/kernels/vector_math_test.cpp; the worst measured is 0.94). exp(+-0) = 1 exactly;
/// below ln 2^-126 = -87.3365 the result, which would be subnormal, is 0; above 88.7228 it is Inf; NaN stays
/// NaN.
///   x = n ln 2 + r, |r| <= 0.35: e^x = 2^n e^r, e^r by its Taylor series to r^7 (remainder below 6e-9)
template <class F>
FP4LAB_HD F exp_lanes(F x) {
  using L = Lanes<F>;
  // Adding 1.5 * 2^23 leaves n, rounded to nearest, in the low bits of the sum.
  const F shift = L::all(0x1.8p23f);
  const F shifted = multiply_add(x, L::all(1.44269504f), shift);
  const F n = shifted - shift;
  // ln 2 as two floats; the product with the first is exact inside the fused operation.
  F r = multiply_add(n, L::all(-0x1.62e430p-1f), x);
  r = multiply_add(n, L::all(0x1.05c610p-29f), r);
  F q = multiply_add(L::all(1.0f / 5040), r, L::all(1.0f / 720));
  q = multiply_add(q, r, L::all(1.0f / 120));
  q = multiply_add(q, r, L::all(1.0f / 24));
  q = multiply_add(q, r, L::all(1.0f / 6));
  q = multiply_add(q, r, L::all(0.5f));
  q = multiply_add(q, r, L::all(1.0f));
  q = multiply_add(q, r, L::all(1.0f));
  // n is added to the exponent of q in [0.7, 1.42]: no overflow on the way to the largest floats.
  F power = L::value(L::bits(q) + (L::bits(shifted) << 23));
  power = x < L::all(-0x1.5d589ep6f) ? L::all(0.0f) : power;
  power = x > L::all(0x1.62e42ep6f) ? L::value(L::all_bits(0x7f800000u)) : power;
  return x == x ? power : x;
}

}  // namespace fp4lab
