#include "core/half.h"

#include "tests/catch.h"

using namespace fp4lab;

// The hardware's own conversions (F16C) are the independent answer.
#include <immintrin.h>

TEST_CASE("f16: all 65536 codes decode as the hardware does", "[core][half]") {
  for (uint32_t b = 0; b < 65536; ++b) {
    const float expect = _cvtsh_ss(uint16_t(b)), got = to_float(f16{uint16_t(b)});
    if (expect != expect) {
      CHECK(got != got);
    } else if (float_bits(expect) != float_bits(got)) {
      FAIL(b);
    }
  }
}

TEST_CASE("f16: floats around every code and midpoint encode as the hardware does", "[core][half]") {
  auto check = [](uint32_t bits) {
    const float x = bits_float(bits);
    if (x != x) return;
    const uint16_t expect = uint16_t(_cvtss_sh(x, _MM_FROUND_TO_NEAREST_INT));
    if (f16_from_float(x).bits != expect)
      FAIL(x << " gives " << f16_from_float(x).bits << ", not " << expect);
  };
  for (uint32_t b = 0; b < 65536; ++b) {
    const uint32_t centre = float_bits(_cvtsh_ss(uint16_t(b)));
    for (int d = -2; d <= 2; ++d) check(centre + uint32_t(d)), check(centre + 0x1000u + uint32_t(d));
  }
  for (uint64_t b = 0; b < (1ull << 32); b += 65521) check(uint32_t(b));
  SUCCEED();
}

TEST_CASE("bf16: ties go to even, NaN stays NaN", "[core][half]") {
  CHECK(bf16_from_float(1.0f).bits == 0x3f80);
  CHECK(bf16_from_float(bits_float(0x3f808000)).bits == 0x3f80);  // tie, down to even
  CHECK(bf16_from_float(bits_float(0x3f818000)).bits == 0x3f82);  // tie, up to even
  CHECK(bf16_from_float(bits_float(0x3f808001)).bits == 0x3f81);
  CHECK(bf16_from_float(bits_float(0x7f7fffff)).bits == 0x7f80);  // rounds to Inf
  CHECK(bf16_from_float(bits_float(0x7f800001)).bits == 0x7fc0);
  for (uint32_t b = 0; b < 65536; ++b) {
    const float x = to_float(bf16{uint16_t(b)});
    if (x == x && bf16_from_float(x).bits != b) FAIL(b);
  }
}
