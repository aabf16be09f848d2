// formats/scale_types.h - how a group's scale is stored, and its codec. Scales are never negative.
//   ue8m0           2^(b - 127), b 0..254; 255 is NaN and is never written; there is no zero
//   e4m3            OCP E4M3 without its sign: 0, 2^-9 .. 448 (also written ue4m3)
//   e5m2            OCP E5M2 without its sign: 0, 2^-16 .. 57344
//   ue5m3           bias 15, top code NaN: 0, 2^-17 .. 114688
//   e1m6 .. e7m0    generic eXmY, X + Y = 7, bias 2^(X-1) - 1, every code finite (Appendix C of arXiv
//   2509.23202) int8            0 .. 127 fp16 bf16 fp32  IEEE; a scale too large for its type saturates at
//   the largest finite one
#pragma once
#include <string>
#include <string_view>
#include <vector>

#include "core/half.h"
#include "core/text.h"
#include "formats/minifloat.h"

namespace fp4lab {

enum class ScaleKind : uint8_t { exponent, minifloat, integer, fp16, bf16, fp32 };

struct ScaleType {
  std::string_view name;
  ScaleKind kind;
  int bytes;
  Minifloat mini{};
  float max;  // largest finite value

  constexpr bool operator==(const ScaleType& o) const { return name == o.name; }
  /// Stored with 8 bits next to an FP32 tensor scale that centres its range.
  constexpr bool two_level() const { return kind == ScaleKind::minifloat || kind == ScaleKind::integer; }
};

namespace scale_detail {
constexpr ScaleType mini(std::string_view name, Minifloat m) {
  return {name, ScaleKind::minifloat, 1, m, m.max()};
}
}  // namespace scale_detail

inline constexpr ScaleType kUE8M0{"ue8m0", ScaleKind::exponent, 1, {}, 0x1p127f};
inline constexpr ScaleType kE4M3 = scale_detail::mini("e4m3", {3, 7, 0x7e});
inline constexpr ScaleType kFP16{"fp16", ScaleKind::fp16, 2, {}, 65504.0f};
inline constexpr ScaleType kBF16{"bf16", ScaleKind::bf16, 2, {}, 0x1.fep127f};
inline constexpr ScaleType kFP32{"fp32", ScaleKind::fp32, 4, {}, 0x1.fffffep127f};
static_assert(kE4M3.max == 448);

inline constexpr ScaleType kScaleTypes[] = {
    kUE8M0,
    kE4M3,
    scale_detail::mini("e5m2", {2, 15, 0x7b}),
    scale_detail::mini("ue5m3", {3, 15, 0xfe}),
    scale_detail::mini("e1m6", {6, 0, 127}),
    scale_detail::mini("e2m5", {5, 1, 127}),
    scale_detail::mini("e3m4", {4, 3, 127}),
    scale_detail::mini("e6m1", {1, 31, 127}),
    scale_detail::mini("e7m0", {0, 63, 127}),
    {"int8", ScaleKind::integer, 1, {}, 127.0f},
    kFP16,
    kBF16,
    kFP32,
};

static_assert([] {
  for (const ScaleType& t : kScaleTypes)
    if (t.kind == ScaleKind::minifloat && t.mini.man_bits == 0 && t.mini.bias % 2 == 0)
      return false;  // Minifloat::encode
  return true;
}());

/// By name (aliases: ue4m3 = e4m3, e8m0 = ue8m0), or null.
constexpr const ScaleType* find_scale_type(std::string_view name) {
  if (name == "ue4m3") name = "e4m3";
  if (name == "e8m0") name = "ue8m0";
  return find_named(kScaleTypes, name);
}
/// The scale type of a name known at compile time; a typo does not compile.
consteval ScaleType scale_type(std::string_view name) { return *find_scale_type(name); }
inline std::vector<std::string> scale_type_names() { return names_of(kScaleTypes); }

/// 2^(b - 127) for b 0..254, exact (b = 0 is the subnormal 2^-127).
template <class F = float>
FP4LAB_HD F e8m0_decode(typename Lanes<F>::Bits b) {
  using L = Lanes<F>;
  return L::value(b == L::all_bits(0) ? L::all_bits(0x00400000u) : b << 23);
}

/// The bits stored for a scale value v >= 0 (may be Inf: saturates), nearest even. Not for ue8m0, whose bytes
/// come from a rule.
FP4LAB_HD uint32_t encode_scale(const ScaleType& t, float v) {
  switch (t.kind) {
    case ScaleKind::minifloat: return t.mini.encode(v);
    case ScaleKind::integer: return float_bits((v < 127.0f ? v : 127.0f) + 0x1p23f) - float_bits(0x1p23f);
    case ScaleKind::fp16: return f16_from_float(v < 65504.0f ? v : 65504.0f).bits;
    case ScaleKind::bf16: return bf16_from_float(v < 0x1.fep127f ? v : 0x1.fep127f).bits;
    case ScaleKind::fp32: return float_bits(v < 0x1.fffffep127f ? v : 0x1.fffffep127f);
    case ScaleKind::exponent: break;
  }
  return 0;
}
FP4LAB_HD float decode_scale(const ScaleType& t, uint32_t bits) {
  switch (t.kind) {
    case ScaleKind::exponent: return e8m0_decode(bits);
    case ScaleKind::minifloat: return t.mini.decode(bits);
    case ScaleKind::integer: return float(int32_t(bits));
    case ScaleKind::fp16: return to_float(f16{uint16_t(bits)});
    case ScaleKind::bf16: return to_float(bf16{uint16_t(bits)});
    case ScaleKind::fp32: return bits_float(bits);
  }
  return 0;
}

}  // namespace fp4lab
