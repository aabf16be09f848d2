// exp_lanes, as the attention kernels of both instruction sets were compiled with it.
#include <cmath>
#include <cstring>
#include <limits>
#include <vector>

#include "kernels/cpu/attention_kernels.h"
#include "tests/catch.h"

using namespace fp4lab;

namespace {

constexpr float kInf = std::numeric_limits<float>::infinity();

std::vector<const AttentionKernels*> sets() {
  std::vector<const AttentionKernels*> out = {&attention_kernels_v3()};
  if (attention_kernels_v4()) out.push_back(attention_kernels_v4());
  return out;
}

}  // namespace

TEST_CASE("vector math: exp is within 1 ulp and the same for both instruction sets",
          "[kernels][vector_math]") {
  // One float in 127 of those whose result is a normal float. Of all of them with |x| >= 2^-10, tried once,
  // the worst is off by 0.94 ulp (at 26.6889).
  std::vector<float> x;
  double worst = 0;
  float worst_at = 0;
  const auto check = [&] {
    std::vector<float> got(x.size()), other(x.size());
    attention_kernels_v3().exp(x.data(), int64_t(x.size()), got.data());
    if (attention_kernels_v4()) {
      attention_kernels_v4()->exp(x.data(), int64_t(x.size()), other.data());
      CHECK(std::memcmp(got.data(), other.data(), x.size() * sizeof(float)) == 0);
    }
    for (size_t i = 0; i < x.size(); ++i) {
      const double exact = std::exp(double(x[i]));
      const double ulp = std::ldexp(1.0, std::ilogb(exact) - 23);
      if (const double off = std::fabs(double(got[i]) - exact) / ulp; !(off <= worst))
        worst = off, worst_at = x[i];
    }
    x.clear();
  };
  for (const auto& [sign, end] : {std::pair{0u, 0x42b17217u}, std::pair{0x80000000u, 0x42aeac4fu}})
    for (uint32_t bits = 0; bits <= end; bits += 127) {
      x.push_back(bits_float(sign | bits));
      if (x.size() == 1 << 16) check();
    }
  check();
  CAPTURE(worst, worst_at);
  CHECK(worst < 1.0);
  CHECK(worst > 0.4);  // a test that measured nothing would find less
}

TEST_CASE("vector math: exp at its ends", "[kernels][vector_math]") {
  struct Row {
    float x, want;
  };
  const float max = std::numeric_limits<float>::max();
  const Row rows[] = {{0.0f, 1},       {-0.0f, 1},  {1e-45f, 1}, {-1e-45f, 1},      {-kInf, 0},
                      {kInf, kInf},    {max, kInf}, {-max, 0},   {88.72284f, kInf}, {1e4f, kInf},
                      {-87.33655f, 0}, {-88, 0},    {-1e4f, 0},  {1, 2.71828183f}};
  for (const AttentionKernels* k : sets())
    for (const Row& r : rows) {
      CAPTURE(k->name, r.x);
      for (int64_t n : {1, 7, 8, 9, 16, 33}) {
        const std::vector<float> x(static_cast<size_t>(n), r.x);
        std::vector<float> out(size_t(n) + 1, 55);
        k->exp(x.data(), n, out.data());
        for (int64_t i = 0; i < n; ++i) CHECK(out[size_t(i)] == r.want);
        CHECK(out.back() == 55);
      }
      for (uint32_t nan : {0x7fc00000u, 0xffc00000u, 0x7f800001u, 0x7fffffffu, 0xff80abcdu, 0x7fc001ffu}) {
        const float x = bits_float(nan);
        float y = 0;
        k->exp(&x, 1, &y);
        CHECK(y != y);
      }
      float ends[2] = {88.722831726f, -87.33654f};  // the last with a finite and with a normal result
      k->exp(ends, 2, ends);
      CHECK((ends[0] > 3.4e38f && ends[0] <= max));
      CHECK((ends[1] >= std::numeric_limits<float>::min() && ends[1] < 1.18e-38f));
    }
}
