#include "analysis/scale_ranges.h"

#include <algorithm>
#include <cmath>
#include <numeric>

#include "tests/catch.h"

using namespace fp4lab;

namespace {

Matrix row(const std::vector<float>& values) {
  Matrix X(1, int64_t(values.size()));
  std::copy(values.begin(), values.end(), X.data());
  return X;
}
size_t index_of(std::string_view name) {
  const auto& all = scale_type_ranges();
  const auto at = std::find_if(all.begin(), all.end(), [&](const auto& t) { return t.name == name; });
  REQUIRE(at != all.end());
  return size_t(at - all.begin());
}

}  // namespace

TEST_CASE("scale ranges: the types and their positive values", "[analysis]") {
  // From SPEC section 2: smallest and largest positive value.
  const struct {
    const char* name;
    double smallest, largest;
  } known[] = {{"e8m0", 0x1p-127, 0x1p127},
               {"e4m3", 0x1p-9, 448},
               {"e5m2", 0x1p-16, 57344},
               {"e5m3", 0x1p-17, 114688},
               {"e3m4", 0x1p-6, 31},
               {"e2m5", 0x1p-5, 7.875},
               {"e1m6", 0x1p-5, 127 * 0x1p-5},
               {"e6m1", 0x1p-31, 1.5 * 0x1p32},
               {"e7m0", 0x1p-62, 0x1p64},
               {"int8", 1, 127},
               {"fp16", 0x1p-24, 65504},
               {"bf16", 0x1p-133, 0x1.fep127},
               {"fp32", 0x1p-149, 0x1.fffffep127}};
  CHECK(std::size(known) == scale_type_ranges().size());
  for (const auto& k : known) {
    CAPTURE(k.name);
    const ScaleTypeRange& t = scale_type_ranges()[index_of(k.name)];
    CHECK(t.log2_min == Approx(std::log2(k.smallest)).epsilon(1e-12));
    CHECK(t.log2_max == Approx(std::log2(k.largest)).epsilon(1e-12));
  }
}

TEST_CASE("scale ranges: lost is what the codecs lose", "[analysis]") {
  // One group at a time with Qmax 1: its scale is the float itself.
  for (size_t k = 0; k < scale_type_ranges().size(); ++k) {
    const ScaleType& t = scale_type_ranges()[k].type;
    CAPTURE(t.name);
    int64_t wrong = 0;
    for (uint32_t e = 0; e < 255; ++e)
      for (const uint32_t mantissa :
           {0u, 1u, 0x100000u, 0x400000u, 0x7fffffu, 0x700000u, 0x700001u, 0x7e0000u}) {
        const float s = bits_float(e << 23 | mantissa);
        if (s == 0) continue;
        const LostScales lost = scale_ranges(row({s, 0}), 2, 1).lost[k];
        const bool to_zero =
            t.kind == ScaleKind::exponent ? s < 0x1p-127f : decode_scale(t, encode_scale(t, s)) == 0;
        wrong += (lost.underflow == 1) != to_zero;
        wrong += (lost.clipped == 1) != (s > t.max);
        // Alone a group is the tensor's largest, which s_T puts in place.
        wrong += lost.two_level_clipped + lost.two_level_underflow != 0;
      }
    CHECK(wrong == 0);
  }
}

TEST_CASE("scale ranges: counts, tensor scales, groups without energy", "[analysis]") {
  // Scales 448 / 2^k for e4m3, whose smallest value is 2^-9 and half of it 2^-10.
  const std::vector<float> amax = {448 * 6, 0, 12, 6 * 0x1p-10f, 6 * 0x1.8p-10f, 448 * 12, 6 * 0x1p-20f, 0};
  std::vector<float> values;
  for (const float m : amax) values.insert(values.end(), {0, -m, m / 2, 0});
  const ScaleRanges r = scale_ranges(row(values), 4, 6);
  CHECK(r.groups == 8);
  CHECK(r.zero_groups == 2);
  CHECK(r.amax.count() == 6);
  const LostScales e4m3 = r.lost[index_of("e4m3")];
  CHECK(e4m3.clipped == 1);    // 896
  CHECK(e4m3.underflow == 2);  // 2^-10 rounds to the even 0, 2^-20; 1.5 2^-10 rounds up
  // s_T = 2: scales 224, 1, 2^-11, 1.5 2^-11, 448, 2^-21.
  CHECK(e4m3.two_level_clipped == 0);
  CHECK(e4m3.two_level_underflow == 3);
  const LostScales int8 = r.lost[index_of("int8")];
  CHECK(int8.clipped == 2);
  CHECK(int8.underflow == 3);
  CHECK(r.lost[index_of("e8m0")].underflow + r.lost[index_of("e8m0")].clipped == 0);

  // Each tensor has its own s_T: apart, the small one loses nothing.
  ScaleRanges sum = scale_ranges(row({448 * 12, 0}), 2, 6);
  sum += scale_ranges(row({6 * 0x1p-20f, 6 * 0x1p-20f}), 2, 6);
  sum += scale_ranges(row({0, 0}), 2, 6);
  CHECK(sum.groups == 3);
  CHECK(sum.zero_groups == 1);
  CHECK(sum.lost[index_of("e4m3")].two_level_underflow == 0);
  CHECK(sum.lost[index_of("e4m3")].underflow == 1);
  CHECK(sum.amax.count() == 2);
  ScaleRanges none;
  none += scale_ranges(row({0, 0}), 2, 6);
  CHECK(none.lost.size() == scale_type_ranges().size());
  CHECK(std::isnan(log2_scale_quantile(none.amax, 6, 0.5)));
}

TEST_CASE("scale ranges: quantiles and eighths of octaves", "[analysis]") {
  std::vector<float> values;
  for (int k = -8; k <= 8; ++k) values.insert(values.end(), {std::exp2(float(k)) * 6, 0});
  const ScaleRanges r = scale_ranges(row(values), 2, 6);
  CHECK(log2_scale_quantile(r.amax, 6, 0) == -8);
  CHECK(log2_scale_quantile(r.amax, 6, 0.5) == 0);
  CHECK(log2_scale_quantile(r.amax, 6, 1) == 8);
  const Log2Histogram h = log2_histogram(r.amax, 6);
  REQUIRE(h.edges.size() == h.counts.size() + 1);
  REQUIRE(h.counts.size() == 16 * 8 + 1);
  CHECK(h.edges.front() == -8);
  CHECK(h.edges.back() == 8.125);
  for (size_t b = 0; b < h.counts.size(); ++b) {
    CHECK(h.edges[b + 1] - h.edges[b] == 0.125);
    CHECK(h.counts[b] == (b % 8 == 0 ? 1 : 0));
  }
  // Inside a bin and below 1.
  const Log2Histogram one = log2_histogram(scale_ranges(row({0.7f, 0}), 2, 1).amax, 1);
  CHECK(one.edges == std::vector<double>{-0.625, -0.5});  // log2 .7 = -.5146
  CHECK(one.counts == std::vector<double>{1});
  const Log2Histogram none = log2_histogram({}, 6);
  CHECK(none.edges == std::vector<double>{0, 0.125});
  CHECK(none.counts == std::vector<double>{0});
}
