#include "formats/elements.h"

namespace fp4lab {

std::vector<std::string> element_names() {
  std::vector<std::string> names;
  for (const Element& e : kElements) names.emplace_back(e.name);
  return names;
}

}  // namespace fp4lab
