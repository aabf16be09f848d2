#include "core/errors.h"

namespace fp4lab {

void fail_check(const char* file, int line, const char* expression, const std::string& detail) {
  throw Fault(str(file, ":", line, ": broken invariant: ", expression, detail.empty() ? "" : ": ", detail));
}

}  // namespace fp4lab
