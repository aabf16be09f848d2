#include "formats/scale_types.h"

namespace fp4lab {

namespace {
using scale_detail::mini;
constexpr ScaleType kScaleTypes[] = {
    kUE8M0,
    kE4M3,
    mini("e5m2", {2, 15, 0x7b}),
    mini("ue5m3", {3, 15, 0xfe}),
    mini("e1m6", {6, 0, 127}),
    mini("e2m5", {5, 1, 127}),
    mini("e3m4", {4, 3, 127}),
    mini("e6m1", {1, 31, 127}),
    mini("e7m0", {0, 63, 127}),
    {"int8", ScaleKind::integer, 1, {}, 127.0f},
    kFP16,
    kBF16,
    kFP32,
};
}  // namespace

std::span<const ScaleType> scale_types() { return kScaleTypes; }

const ScaleType* find_scale_type(std::string_view name) {
  if (name == "ue4m3") name = "e4m3";
  if (name == "e8m0") name = "ue8m0";
  for (const ScaleType& t : kScaleTypes)
    if (t.name == name) return &t;
  return nullptr;
}

std::vector<std::string> scale_type_names() {
  std::vector<std::string> names;
  for (const ScaleType& t : kScaleTypes) names.emplace_back(t.name);
  return names;
}

}  // namespace fp4lab
