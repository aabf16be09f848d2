// core/errors.h - what goes wrong, and the exit code that says so.
//   ConfigError   the sweep or the command line is wrong                  exit 2
//   DataError     a file or a tensor is wrong                             exit 3
//   (some cells failed)                                                   exit 4
//   FP4LAB_CHECK  an invariant of ours is broken: stops at once, loudly   exit 1
// A message says where, what was expected, what was found, what would be accepted.
#pragma once
#include <sstream>
#include <stdexcept>
#include <string>

namespace fp4lab {

enum ExitCode : int {
  kExitOk = 0,
  kExitFault = 1,
  kExitConfig = 2,
  kExitData = 3,
  kExitCellsFailed = 4,
  kExitInterrupted = 130
};

struct Error : std::runtime_error {
  using std::runtime_error::runtime_error;
};
struct ConfigError : Error {
  using Error::Error;
};
struct DataError : Error {
  using Error::Error;
};

/// Joins its arguments as text: `str("rows ", 3)`. Floats keep six significant digits.
template <class... Ts>
std::string str(const Ts&... parts) {
  std::ostringstream out;
  (out << ... << parts);
  return out.str();
}

/// Thrown by FP4LAB_CHECK; nobody catches it but `main`.
struct Fault : std::logic_error {
  using std::logic_error::logic_error;
};

[[noreturn]] void fail_check(const char* file, int line, const char* expression, const std::string& detail);

}  // namespace fp4lab

/// Invariants of ours; for input use ConfigError or DataError. `FP4LAB_CHECK(a == b, a, " against ", b)`.
#define FP4LAB_CHECK(condition, ...)                                                                      \
  do {                                                                                                    \
    if (!(condition))                                                                                     \
      ::fp4lab::fail_check(__FILE__, __LINE__, #condition, ::fp4lab::str("" __VA_OPT__(, ) __VA_ARGS__)); \
  } while (0)
