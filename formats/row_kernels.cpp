#include "formats/row_kernels.h"

#include <cstdlib>
#include <string_view>

namespace fp4lab {

namespace v3 {
extern const RowKernels kKernels;
}
namespace v4 {
extern const RowKernels kKernels;
}

const RowKernels& row_kernels_v3() { return v3::kKernels; }

const RowKernels* row_kernels_v4() {
  static const bool runs = __builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512bw") &&
                           __builtin_cpu_supports("avx512cd") && __builtin_cpu_supports("avx512dq") &&
                           __builtin_cpu_supports("avx512vl");
  return runs ? &v4::kKernels : nullptr;
}

const RowKernels& row_kernels() {
  static const RowKernels* const chosen = [] {
    const char* asked = std::getenv("FP4LAB_ISA");
    const RowKernels* wide = row_kernels_v4();
    return wide && !(asked && std::string_view(asked) == "x86-64-v3") ? wide : &v3::kKernels;
  }();
  return *chosen;
}

}  // namespace fp4lab
