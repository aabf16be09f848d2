// formats/codec_lanes.h - codecs on vectors of lanes, for the kernel files that are compiled once per
// instruction set (FP4LAB_VECTOR, FP4LAB_ISA_NAMESPACE). Nothing here may call an out-of-line inline
// function: the linker keeps one copy of those, possibly compiled for the other instruction set.
#pragma once
#include "formats/elements.h"
#include "formats/vector_lanes.h"

#define FP4LAB_INLINE_LAMBDA __attribute__((always_inline))

namespace fp4lab::FP4LAB_ISA_NAMESPACE {
namespace {

using F = FloatLanes;
using U = BitLanes;
using L = Lanes<F>;

/// A codec of at most 16 codes whose decode is one table lookup; the table is what the codec itself decodes.
template <class Codec>
struct Lookup16 {
  Codec codec;
  Table16 table;
  FP4LAB_HD explicit Lookup16(const Codec& c) : codec(c) {
    float values[16];
    for (uint32_t i = 0; i < 16; i += kLanes) store(values + i, c.template decode<F>(first_lanes(i)));
    table = load_table(values);
  }
  template <class>
  FP4LAB_HD U encode(F v) const {
    return codec.template encode<F>(v);
  }
  template <class>
  FP4LAB_HD F decode(U code) const {
    return lookup(table, code);
  }
};

/// Calls body(codec) with the codec policy of the element (not int_asym, which has loops of its own).
template <class Body>
FP4LAB_HD void with_codec(const Element& e, Body body) {
  switch (e.kind) {
    case ElementKind::minifloat:
      if (e.mini.man_bits == 1 && e.mini.bias == 1 && e.bits == 4)
        body(Lookup16<E2M1Codec>(E2M1Codec{}));
      else
        body(minifloat_codec(e));
      break;
    case ElementKind::int_sym:
    case ElementKind::int_full:
      if (e.bits == 4)
        body(Lookup16<IntCodec>(int_codec(e)));
      else
        body(int_codec(e));
      break;
    case ElementKind::table: body(Lookup16<Nf4Codec>(Nf4Codec{})); break;
    case ElementKind::int_asym: break;
  }
}

/// Calls body(size) with the group size as a constant for the common ones: their loops then unroll fully.
template <int64_t N>
struct Size {
  static constexpr int64_t value = N;
};
template <class Body>
FP4LAB_HD void with_group(int64_t g, Body body) {
  if (g == 16)
    body(Size<16>{});
  else if (g == 32)
    body(Size<32>{});
  else
    body(Size<0>{});
}

}  // namespace
}  // namespace fp4lab::FP4LAB_ISA_NAMESPACE
