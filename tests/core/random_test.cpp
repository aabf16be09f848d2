#include "core/random.h"

#include <cmath>

#include "tests/catch.h"

using namespace fp4lab;

TEST_CASE("philox: known answers of Random123's kat_vectors, philox4x32 10 rounds", "[core][random]") {
  using A4 = std::array<uint32_t, 4>;
  CHECK(philox4x32({0, 0, 0, 0}, {0, 0}) == A4{0x6627e8d5, 0xe169c58d, 0xbc57ac4c, 0x9b00dbd8});
  CHECK(philox4x32({~0u, ~0u, ~0u, ~0u}, {~0u, ~0u}) == A4{0x408f276d, 0x41c83b0e, 0xa20bc7c6, 0x6d5451fd});
  CHECK(philox4x32({0x243f6a88, 0x85a308d3, 0x13198a2e, 0x03707344}, {0xa4093822, 0x299f31d0}) ==
        A4{0xd16cfe09, 0x94fdcceb, 0x5001e420, 0x24126ea1});
}

TEST_CASE("streams: seed, name and index all matter, and an element stands alone", "[core][random]") {
  const Stream a(1, "windows"), b(2, "windows"), c(1, "signs"), d(1, "windows", 1);
  CHECK(a.block(7) == Stream(1, "windows").block(7));
  CHECK(a.block(7) != b.block(7));
  CHECK(a.block(7) != c.block(7));
  CHECK(a.block(7) != d.block(7));
  CHECK(a.block(7) != a.block(8));
}

TEST_CASE("below: in range and even", "[core][random]") {
  const Stream s(3, "below");
  std::array<int, 6> count{};
  for (uint64_t i = 0; i < 60000; ++i) ++count.at(s.below(i, 6));
  for (int n : count) CHECK(std::abs(n - 10000) < 400);  // 4.4 standard deviations
  CHECK(s.below(0, 1) == 0);
}

TEST_CASE("normal pairs: the first four moments", "[core][random]") {
  const Stream s(4, "normal");
  double m1 = 0, m2 = 0, m4 = 0;
  const int n = 200000;
  for (int i = 0; i < n; ++i)
    for (double z : normal_pair(s.block(uint64_t(i)))) m1 += z, m2 += z * z, m4 += z * z * z * z;
  CHECK(std::fabs(m1 / (2 * n)) < 5 / std::sqrt(2.0 * n));
  CHECK(std::fabs(m2 / (2 * n) - 1) < 5 * std::sqrt(2 / (2.0 * n)));
  CHECK(std::fabs(m4 / (2 * n) - 3) < 5 * std::sqrt(96 / (2.0 * n)));
}
