// Every finite float through e2m1, by the scalar codec and by the row kernels.
#include <omp.h>

#include "formats/row_kernels.h"
#include "tests/catch.h"

using namespace fp4lab;

namespace {
/// The nearest of the typed grid for a magnitude: its distance to each value, exactly. |x| < 2^128, and below
/// 2^-40 every distance but the first rounds, yet stays above |x|; so the least one is always exact.
uint32_t search(float magnitude) {
  constexpr double grid[] = {0, 0.5, 1, 1.5, 2, 3, 4, 6};
  const double x = double(magnitude) > 8 ? 8 : double(magnitude);  // farther out 6 is nearest just the same
  uint32_t best = 0;
  for (uint32_t code = 1; code < 8; ++code) {
    const double now = grid[code] > x ? grid[code] - x : x - grid[code];
    const double before = grid[best] > x ? grid[best] - x : x - grid[best];
    if (now < before || (now == before && code % 2 == 0)) best = code;
  }
  return best;
}
}  // namespace

TEST_CASE("e2m1: all finite floats against a search over the grid", "[formats][slow]") {
  constexpr int64_t kEnd = 0x7f800000, kRun = 1 << 12;
  static_assert(kEnd % kRun == 0);
  std::vector<const RowKernels*> sets = {&row_kernels_v3()};
  if (row_kernels_v4()) sets.push_back(row_kernels_v4());
  int64_t wrong_scalar = 0, wrong_vector = 0, tried = 0;
  uint32_t example = 0;
#pragma omp parallel for schedule(dynamic, 64) reduction(+ : wrong_scalar, wrong_vector, tried) reduction(max : example)
  for (int64_t begin = 0; begin < kEnd; begin += kRun) {
    float x[kRun];
    uint8_t want[kRun], got[kRun];
    for (uint32_t sign : {0u, 8u}) {
      for (int64_t i = 0; i < kRun; ++i) {
        x[i] = bits_float(uint32_t(begin + i) | sign << 28);
        want[i] = uint8_t(search(bits_float(uint32_t(begin + i))) | sign);
      }
      const float one = 1;
      for (const RowKernels* kernels : sets) {
        kernels->encode(kE2M1, x, &one, nullptr, 1, kRun, got, x);
        if (__builtin_memcmp(got, want, kRun) != 0)
          ++wrong_vector, example = std::max(example, float_bits(x[0]));
      }
      for (int64_t i = 0; i < kRun; ++i) wrong_scalar += encode_element(kE2M1, x[i]) != want[i];
      tried += kRun;
    }
  }
  CAPTURE(example);
  CHECK(wrong_scalar == 0);
  CHECK(wrong_vector == 0);
  CHECK(tried == 2 * kEnd);
}
