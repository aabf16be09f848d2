#include "formats/elements.h"

namespace fp4lab {

namespace {
using element_detail::integer;
using element_detail::minifloat;
constexpr auto sym = ElementKind::int_sym, full = ElementKind::int_full, asym = ElementKind::int_asym;

constexpr Element kElements[] = {
    kE2M1,
    minifloat("e2m3", 6, {3, 1, 31}),
    minifloat("e3m2", 6, {2, 3, 31}),
    minifloat("e4m3", 8, {3, 7, 0x7e}),   // 0x7f is NaN
    minifloat("e5m2", 8, {2, 15, 0x7b}),  // 0x7c is Inf, above it NaN
    {"nf4", ElementKind::table, 4, {}, -1, 1.0f, 0},
    integer("int2", sym, 2),
    integer("int3", sym, 3),
    kInt4,
    integer("int5", sym, 5),
    integer("int6", sym, 6),
    integer("int7", sym, 7),
    integer("int8", sym, 8),
    integer("int2-full", full, 2),
    integer("int3-full", full, 3),
    integer("int4-full", full, 4),
    integer("int5-full", full, 5),
    integer("int6-full", full, 6),
    integer("int7-full", full, 7),
    integer("int8-full", full, 8),
    integer("int2-asym", asym, 2),
    integer("int3-asym", asym, 3),
    integer("int4-asym", asym, 4),
    integer("int5-asym", asym, 5),
    integer("int6-asym", asym, 6),
    integer("int7-asym", asym, 7),
    integer("int8-asym", asym, 8),
};
}  // namespace

std::span<const Element> elements() { return kElements; }

const Element* find_element(std::string_view name) {
  for (const Element& e : kElements)
    if (e.name == name) return &e;
  return nullptr;
}

std::vector<std::string> element_names() {
  std::vector<std::string> names;
  for (const Element& e : kElements) names.emplace_back(e.name);
  return names;
}

}  // namespace fp4lab
