#include "core/model/rope.h"

#include <cmath>

#include "core/model/checkpoint.h"
#include "tests/catch.h"
#include "tests/core/model/models.h"

using namespace fp4lab;
using namespace fp4lab::test;

namespace {
ModelConfig with_rope(int64_t head_dim, Rope rope) {
  ModelConfig c{};
  c.head_dim = head_dim;
  c.rope = rope;
  return c;
}
/// The frequency of a column, from the sine of position 1: exact to a few ulp for small angles.
double frequency(const Matrix& table, int64_t i) { return std::asin(double(table(1, table.cols() / 2 + i))); }
}  // namespace

TEST_CASE("rope table: a head of 8 at theta 10000 turns by 1, 0.1, 0.01, 0.001", "[core][model][rope]") {
  const Matrix table = rope_table(with_rope(8, {}), 3);
  REQUIRE(table.rows() == 3);
  REQUIRE(table.cols() == 8);
  for (int64_t i = 0; i < 4; ++i) {
    CHECK(table(0, i) == 1);
    CHECK(table(0, 4 + i) == 0);
  }
  // Cosine and sine of 1, 0.1, 0.01, 0.001 and of twice these, from tables.
  const double expected[2][8] = {
      {0.540302305868140, 0.995004165278026, 0.999950000416665, 0.999999500000042,  //
       0.841470984807897, 0.099833416646828, 0.009999833334167, 0.000999999833333},
      {-0.416146836547142, 0.980066577841242, 0.999800006666578, 0.999998000000667, 0.909297426825682,
       0.198669330795061, 0.019998666693333, 0.001999998666667}};
  for (int64_t t = 1; t <= 2; ++t)
    for (int64_t i = 0; i < 8; ++i) {
      CAPTURE(t, i);
      CHECK(std::fabs(table(t, i) - expected[t - 1][i]) < 1.2e-7);  // the angle's rounding and the result's
    }
}

TEST_CASE("rope table: angles are rounded to float before the cosine", "[core][model][rope]") {
  // Computed with NumPy in the same order of float32 operations.
  const Matrix table = rope_table(with_rope(64, {}), 2048);
  struct {
    int64_t position, i;
    float cosine, sine;
  } const expected[] = {{1, 0, 0x1.14a28p-1f, 0x1.aed548p-1f},
                        {3, 1, -0x1.417f9cp-1f, 0x1.8e79bcp-1f},
                        {127, 5, 0x1.126e4cp-2f, -0x1.ed4548p-1f},
                        {1000, 31, 0x1.fb745p-1f, 0x1.104be6p-3f},
                        {2047, 31, 0x1.ed0aecp-1f, 0x1.14109p-2f}};
  for (const auto& e : expected) {
    CAPTURE(e.position, e.i);
    CHECK(table(e.position, e.i) == e.cosine);
    CHECK(table(e.position, 32 + e.i) == e.sine);
  }
  // 127 * frequency 5 as a float is 30.1164455...; in double it would be another number. Every row is on the
  // unit circle whatever the rounding.
  for (int64_t t = 0; t < 2048; ++t)
    for (int64_t i = 0; i < 32; ++i) {
      const double norm = double(table(t, i)) * table(t, i) + double(table(t, 32 + i)) * table(t, 32 + i);
      if (std::fabs(norm - 1) > 2e-7) FAIL("position " << t << ", column " << i << ": " << norm);
    }
}

TEST_CASE("rope table: Llama 3.1 keeps short waves, blends, and stretches long ones", "[core][model][rope]") {
  const Rope rope{Rope::llama3, 500000, 8, 1, 4, 64};
  const Matrix table = rope_table(with_rope(32, rope), 2),
               plain = rope_table(with_rope(32, {Rope::standard, 500000}), 2);
  // Wavelengths 2 pi 500000^(i/16): 6.3, 14.3 (both below 64/4: kept), 32.4 (between), 73.6 and longer
  // (above 64/1: stretched by 8). The blended one is (64/32.4 - 1)/(4 - 1) of the way; NumPy in float32 gives
  // these frequencies.
  const float expected[16] = {0x1.000000p+0f,  0x1.c2ef78p-2f,  0x1.453c18p-4f,  0x1.5dc95ap-7f,
                              0x1.341190p-8f,  0x1.0f5386p-9f,  0x1.ddee9ep-11f, 0x1.a4ee40p-12f,
                              0x1.72ba42p-13f, 0x1.46831ap-14f, 0x1.1f91f0p-15f, 0x1.fa8b86p-17f,
                              0x1.be2188p-18f, 0x1.88ec20p-19f, 0x1.5a0f4ep-20f, 0x1.30c94ep-21f};
  for (int64_t i = 0; i < 16; ++i) {
    CAPTURE(i);
    CHECK(table(1, i) == float(std::cos(double(expected[i]))));
    CHECK(table(1, 16 + i) == float(std::sin(double(expected[i]))));
    if (i < 2)
      CHECK(frequency(table, i) == frequency(plain, i));
    else if (i > 2)
      CHECK(frequency(table, i) == Approx(frequency(plain, i) / 8).epsilon(1e-6));
  }
  const double wave = 6.283185307179586 / frequency(plain, 2), smooth = (64 / wave - 1) / 3;
  CHECK(wave == Approx(32.4).epsilon(1e-3));
  CHECK(frequency(table, 2) == Approx(((1 - smooth) / 8 + smooth) * frequency(plain, 2)).epsilon(1e-6));
}

TEST_CASE("rope table: Llama 3.1's own numbers", "[core][model][rope]") {
  // Meta-Llama-3.1: factor 8, 1, 4, 8192 at head_dim 128. Waves up to 2048 positions are kept, from 8192 on
  // stretched: i < 64 log(2048 / 2 pi) / log(500000) = 28.2 and i > 64 log(8192 / 2 pi) / log(500000)
  // = 34.99.
  const Matrix table = rope_table(with_rope(128, {Rope::llama3, 500000, 8, 1, 4, 8192}), 2);
  for (int64_t i = 0; i < 64; ++i) {
    const double plain = std::pow(500000.0, -double(i) / 64), ratio = frequency(table, i) / plain;
    CAPTURE(i, ratio);
    if (i <= 28)
      CHECK(ratio == Approx(1).epsilon(1e-5));
    else if (i >= 35)
      CHECK(ratio == Approx(0.125).epsilon(1e-5));
    else
      CHECK((ratio < 0.99999 && ratio > 0.12501));
  }
}

TEST_CASE("rope table: sizes", "[core][model][rope]") {
  CHECK(rope_table(with_rope(2, {}), 0).rows() == 0);
  CHECK(rope_table(with_rope(2, {}), 5).cols() == 2);
  CHECK_THROWS_AS(rope_table(with_rope(3, {}), 1), Fault);
  CHECK_THROWS_AS(rope_table(with_rope(0, {}), 1), Fault);
  CHECK_THROWS_AS(rope_table(with_rope(2, {}), -1), Fault);
}
