// formats/elements.h - what a 2- to 8-bit element can hold, and the codec between floats and codes.
//   Codes are `bits` wide. Minifloats: sign << (bits-1) | magnitude; the sign is the input's sign bit, so -0
//   and -0.1 give e2m1 code 8, as hardware and vLLM do. Integers: two's complement, or (asym) unsigned with a
//   zero point. Rounding is to nearest, ties to the even code; everything saturates. source   OCP
//   Microscaling Formats (MX) v1.0 (e2m1, e2m3, e3m2), OCP FP8 v1.0 (e4m3, e5m2), Dettmers et al. 2023 (nf4)
#pragma once
#include <string>
#include <string_view>
#include <vector>

#include "core/text.h"
#include "formats/minifloat.h"

namespace fp4lab {

// int_full's scale. Its Qmax is half a step past its largest code, so a group's extreme lands on the tie
// between two codes: x / fl(m / Qmax) is -7.5 or a float beside it, and whether it becomes -8 or -7 is an
// accident of rounding (85 % of negative extremes become -8). The peers compute the scale on a GPU, where
// PyTorch divides by a number as a product with its float reciprocal; 1/7.5 rounds up, and 28 % become -8.
// Wide float scales are made their way, m * (1 / Qmax): only so does a checkpoint have their codes (W4A16
// perplexity of tiny-llama on WikiText-2: 477.34 as FP-Quant has it; divided, 469.88).
enum class ElementKind : uint8_t {
  minifloat,  // sign and magnitude
  int_sym,    // -(2^(n-1)-1) .. 2^(n-1)-1
  int_full,   // -2^(n-1) .. 2^(n-1)-1, scale from 2^(n-1) - 0.5: the peers' INT4
  int_asym,   // 0 .. 2^n-1 with a zero point, scale from the range
  table       // nf4
};

struct Element {
  std::string_view name;
  ElementKind kind;
  int bits;
  Minifloat mini{};     // kind minifloat only
  int man_bits = 0;     // M: mantissa bits in the top binade (-1: none, a table)
  float scale_max = 0;  // Qmax: the magnitude that a scale maps amax to
  int emax = 0;         // floor(log2 max)

  constexpr bool operator==(const Element& o) const { return name == o.name; }
  /// The code of +0 (int_asym: its zero point instead).
  FP4LAB_HD constexpr uint32_t zero_code() const { return kind == ElementKind::table ? 7u : 0u; }
  /// Integer kinds: the smallest and the largest integer.
  FP4LAB_HD constexpr int lowest() const {
    return kind == ElementKind::int_sym    ? -((1 << (bits - 1)) - 1)
           : kind == ElementKind::int_full ? -(1 << (bits - 1))
                                           : 0;
  }
  FP4LAB_HD constexpr int highest() const {
    return kind == ElementKind::int_asym ? (1 << bits) - 1 : (1 << (bits - 1)) - 1;
  }
};

namespace element_detail {
constexpr int floor_log2(float x) { return int(float_bits(x) >> 23) - 127; }
constexpr Element minifloat(std::string_view name, int bits, Minifloat m) {
  return {name, ElementKind::minifloat, bits, m, m.man_bits, m.max(), floor_log2(m.max())};
}
constexpr Element integer(std::string_view name, ElementKind kind, int bits) {
  const float top = float(1 << (bits - 1));
  const float qmax = kind == ElementKind::int_sym    ? top - 1
                     : kind == ElementKind::int_full ? top - 0.5f
                                                     : 2 * top - 1;
  return {name, kind, bits, {}, bits - 2, qmax, floor_log2(qmax)};
}
}  // namespace element_detail

inline constexpr Element kE2M1 = element_detail::minifloat("e2m1", 4, {1, 1, 7});
inline constexpr Element kInt4 = element_detail::integer("int4", ElementKind::int_sym, 4);
static_assert(kE2M1.scale_max == 6 && kE2M1.emax == 2 && kInt4.scale_max == 7 && kInt4.emax == 2);

/// Every element, in the order the docs show them.
inline constexpr Element kElements[] = {
    kE2M1,
    element_detail::minifloat("e2m3", 6, {3, 1, 31}),
    element_detail::minifloat("e3m2", 6, {2, 3, 31}),
    element_detail::minifloat("e4m3", 8, {3, 7, 0x7e}),   // 0x7f is NaN
    element_detail::minifloat("e5m2", 8, {2, 15, 0x7b}),  // 0x7c is Inf, above it NaN
    {"nf4", ElementKind::table, 4, {}, -1, 1.0f, 0},
    element_detail::integer("int2", ElementKind::int_sym, 2),
    element_detail::integer("int3", ElementKind::int_sym, 3),
    kInt4,
    element_detail::integer("int5", ElementKind::int_sym, 5),
    element_detail::integer("int6", ElementKind::int_sym, 6),
    element_detail::integer("int7", ElementKind::int_sym, 7),
    element_detail::integer("int8", ElementKind::int_sym, 8),
    element_detail::integer("int2-full", ElementKind::int_full, 2),
    element_detail::integer("int3-full", ElementKind::int_full, 3),
    element_detail::integer("int4-full", ElementKind::int_full, 4),
    element_detail::integer("int5-full", ElementKind::int_full, 5),
    element_detail::integer("int6-full", ElementKind::int_full, 6),
    element_detail::integer("int7-full", ElementKind::int_full, 7),
    element_detail::integer("int8-full", ElementKind::int_full, 8),
    element_detail::integer("int2-asym", ElementKind::int_asym, 2),
    element_detail::integer("int3-asym", ElementKind::int_asym, 3),
    element_detail::integer("int4-asym", ElementKind::int_asym, 4),
    element_detail::integer("int5-asym", ElementKind::int_asym, 5),
    element_detail::integer("int6-asym", ElementKind::int_asym, 6),
    element_detail::integer("int7-asym", ElementKind::int_asym, 7),
    element_detail::integer("int8-asym", ElementKind::int_asym, 8),
};

/// What Minifloat::encode asks of its numbers: the parity of the kept bits is the code's.
constexpr bool ties_are_even(const Minifloat& m) { return m.man_bits > 0 || m.bias % 2 != 0; }
static_assert([] {
  for (const Element& e : kElements)
    if (e.kind == ElementKind::minifloat && !ties_are_even(e.mini)) return false;
  return true;
}());

/// The element of that name, or null.
constexpr const Element* find_element(std::string_view name) { return find_named(kElements, name); }
/// The element of a name known at compile time; a typo does not compile.
consteval Element element(std::string_view name) { return *find_element(name); }
inline std::vector<std::string> element_names() { return names_of(kElements); }

/// The 16 NormalFloat levels and, for codes 1..15, the smallest float that rounds to that code (exact
/// midpoints go to the even code).
inline constexpr float kNf4[16] = {-1.0f,
                                   -0.6961928009986877f,
                                   -0.5250730514526367f,
                                   -0.39491748809814453f,
                                   -0.28444138169288635f,
                                   -0.18477343022823334f,
                                   -0.09105003625154495f,
                                   0.0f,
                                   0.07958029955625534f,
                                   0.16093020141124725f,
                                   0.24611230194568634f,
                                   0.33791524171829224f,
                                   0.44070982933044434f,
                                   0.5626170039176941f,
                                   0.7229568362236023f,
                                   1.0f};

namespace element_detail {
struct Nf4Thresholds {
  float at[15];
};
struct Nf4Levels {
  float at[16];
};
constexpr Nf4Levels nf4_levels() {
  Nf4Levels l{};
  for (int i = 0; i < 16; ++i) l.at[i] = kNf4[i];
  return l;
}
constexpr float next_up(float x) {
  if (x == 0) return bits_float(1);
  return bits_float(x > 0 ? float_bits(x) + 1 : float_bits(x) - 1);
}
constexpr Nf4Thresholds nf4_thresholds() {
  Nf4Thresholds t{};
  for (int i = 0; i < 15; ++i) {
    const double mid = (double(kNf4[i]) + double(kNf4[i + 1])) / 2;  // exact: 25 bits
    const float near = float(mid);
    const bool upper_is_even = (i + 1) % 2 == 0;
    if (double(near) == mid)
      t.at[i] = upper_is_even ? near : next_up(near);
    else
      t.at[i] = double(near) > mid ? near : next_up(near);
  }
  return t;
}
}  // namespace element_detail
inline constexpr element_detail::Nf4Levels kNf4Levels = element_detail::nf4_levels();
inline constexpr element_detail::Nf4Thresholds kNf4Thresholds = element_detail::nf4_thresholds();

// The codecs, one small policy per kind, so that a loop over one kind has no branch on it. v is x / scale; F
// is float, or a vector of floats.
struct MinifloatCodec {
  Minifloat m;
  uint32_t sign_shift;  // bits - 1
  template <class F>
  FP4LAB_HD typename Lanes<F>::Bits encode(F v) const {
    const typename Lanes<F>::Bits b = Lanes<F>::bits(v);
    return m.encode<F>(Lanes<F>::value(b & 0x7fffffffu)) | ((b >> 31) << sign_shift);
  }
  template <class F = float>
  FP4LAB_HD F decode(typename Lanes<F>::Bits code) const {
    const typename Lanes<F>::Bits sign = code >> sign_shift;
    return Lanes<F>::value(Lanes<F>::bits(m.decode<F>(code & ((1u << sign_shift) - 1u))) | (sign << 31));
  }
};
struct E2M1Codec {  // MinifloatCodec with its numbers known to the compiler, and a shorter way to the same
                    // codes
  /// The code grows in steps of 2a below 2, a below 4, a/2 from there on, each rounded once to an integer
  /// (ties to even) by adding C with ulp(C) = 1; the least of the three is the one of a's own binade, and 7
  /// is the largest code.
  template <class F>
  FP4LAB_HD typename Lanes<F>::Bits encode(F v) const {
    using L = Lanes<F>;
    const typename L::Bits b = L::bits(v);
    const F a = L::value(b & 0x7fffffffu);
    constexpr float c = 0x1.8p23f;
    const F low = a + a + c, middle = a + (c + 2.0f), high = a * 0.5f + (c + 4.0f);
    F least = low < middle ? low : middle;
    least = high < least ? high : least;
    least = least < L::all(c + 7.0f) ? least : L::all(c + 7.0f);
    return (L::bits(least) & 7u) | ((b >> 31) << 3);
  }
  template <class F = float>
  FP4LAB_HD F decode(typename Lanes<F>::Bits code) const {
    return MinifloatCodec{kE2M1.mini, 3}.decode<F>(code);
  }
};
struct IntCodec {  // int_sym, int_full
  float low, high;
  uint32_t mask, sign;
  template <class F>
  FP4LAB_HD typename Lanes<F>::Bits encode(F v) const {
    using L = Lanes<F>;
    v = v < L::all(low) ? L::all(low) : v;
    v = v > L::all(high) ? L::all(high) : v;
    return (L::bits(v + 0x1.8p23f) - float_bits(0x1.8p23f)) & mask;  // ulp(2^23) = 1: ties to even
  }
  template <class F = float>
  FP4LAB_HD F decode(typename Lanes<F>::Bits code) const {
    return Lanes<F>::from_int((code ^ sign) - sign);
  }
};
struct Nf4Codec {
  template <class F>
  FP4LAB_HD typename Lanes<F>::Bits encode(F v) const {
    using L = Lanes<F>;
    typename L::Bits code = L::all_bits(0);
    constexpr element_detail::Nf4Thresholds thresholds = kNf4Thresholds;  // device code cannot name a global
    for (int i = 0; i < 15; ++i) code += v >= L::all(thresholds.at[i]) ? L::all_bits(1) : L::all_bits(0);
    return code;
  }
  template <class F = float>
  FP4LAB_HD F decode(typename Lanes<F>::Bits code) const {
    using L = Lanes<F>;
    constexpr element_detail::Nf4Levels levels = kNf4Levels;
    F value = L::all(levels.at[0]);
    for (uint32_t i = 1; i < 16; ++i) value = code >= L::all_bits(i) ? L::all(levels.at[i]) : value;
    return value;
  }
};
struct AsymCodec {  // unsigned with zero point: code = clamp(rint(x/s) + z), value = (code - z) s
  float high;
  template <class F>
  FP4LAB_HD typename Lanes<F>::Bits encode(F v, F zero) const {
    using L = Lanes<F>;
    v = v < L::all(-1024.0f) ? L::all(-1024.0f) : v;
    v = v > L::all(1024.0f) ? L::all(1024.0f) : v;
    F q = ((v + 0x1.8p23f) - 0x1.8p23f) + zero;
    q = q < L::all(0.0f) ? L::all(0.0f) : q;
    q = q > L::all(high) ? L::all(high) : q;
    return L::bits(q + 0x1p23f) - float_bits(0x1p23f);
  }
  template <class F = float>
  FP4LAB_HD F decode(typename Lanes<F>::Bits code, F zero) const {
    return Lanes<F>::from_int(code) - zero;
  }
};

FP4LAB_HD MinifloatCodec minifloat_codec(const Element& e) { return {e.mini, uint32_t(e.bits - 1)}; }
FP4LAB_HD IntCodec int_codec(const Element& e) {
  return {float(e.lowest()), float(e.highest()), (1u << e.bits) - 1u, 1u << (e.bits - 1)};
}
FP4LAB_HD AsymCodec asym_codec(const Element& e) { return {float(e.highest())}; }

/// Nearest code of v = x / scale, one element at a time (asym: zero point `zero`). v is not NaN.
FP4LAB_HD uint32_t encode_element(const Element& e, float v, float zero = 0) {
  switch (e.kind) {
    case ElementKind::minifloat: return minifloat_codec(e).encode(v);
    case ElementKind::int_sym:
    case ElementKind::int_full: return int_codec(e).encode(v);
    case ElementKind::int_asym: return asym_codec(e).encode(v, zero);
    case ElementKind::table: return Nf4Codec{}.encode(v);
  }
  return 0;
}
/// The value of a code in units of the scale.
FP4LAB_HD float decode_element(const Element& e, uint32_t code, float zero = 0) {
  switch (e.kind) {
    case ElementKind::minifloat: return minifloat_codec(e).decode(code);
    case ElementKind::int_sym:
    case ElementKind::int_full: return int_codec(e).decode(code);
    case ElementKind::int_asym: return asym_codec(e).decode(code, zero);
    case ElementKind::table: return Nf4Codec{}.decode(code);
  }
  return 0;
}

}  // namespace fp4lab
