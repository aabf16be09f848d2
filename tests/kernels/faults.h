// tests/kernels/faults.h - what a call that breaks a contract says.
#pragma once
#include <functional>
#include <string>

#include "core/errors.h"

namespace fp4lab::test {

inline std::string fault_of(const std::function<void()>& call) {
  try {
    call();
  } catch (const Fault& e) {
    return e.what();
  }
  return "no fault";
}

inline bool contains(const std::string& text, const std::string& part) {
  return text.find(part) != std::string::npos;
}

}  // namespace fp4lab::test
