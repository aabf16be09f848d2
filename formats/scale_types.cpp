#include "formats/scale_types.h"

namespace fp4lab {

std::vector<std::string> scale_type_names() {
  std::vector<std::string> names;
  for (const ScaleType& t : kScaleTypes) names.emplace_back(t.name);
  return names;
}

}  // namespace fp4lab
