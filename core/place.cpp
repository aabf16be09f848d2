#include "core/params.h"

namespace fp4lab {

Place Place::child(std::string_view key) const {
  Place out = *this;
  out.pointer += '/';
  for (char c : key) {
    if (c == '~' || c == '/')
      out.pointer += c == '~' ? "~0" : "~1";
    else
      out.pointer += c;
  }
  return out;
}

Place Place::child(size_t index) const { return child(std::to_string(index)); }

std::string Place::text() const {
  std::string where = pointer;
  if (moved) {
    // From the whole pointer to the empty one, a segment shorter each time.
    for (size_t end = pointer.size();; end = pointer.rfind('/', end - 1)) {
      if (const auto it = moved->find(pointer.substr(0, end)); it != moved->end()) {
        where = it->second + pointer.substr(end);
        break;
      }
      if (end == 0) break;
    }
  }
  return where.empty() ? file : file + " at " + where;
}

}  // namespace fp4lab
