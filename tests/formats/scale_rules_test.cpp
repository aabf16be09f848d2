#include "formats/scale_rules.h"

#include "formats/row_kernels.h"
#include "tests/catch.h"
#include "tests/formats/reference.h"

using namespace fp4lab;

namespace {

const ScaleRule::Kind kOnAmax[] = {ScaleRule::floor,     ScaleRule::even, ScaleRule::ceil,
                                   ScaleRule::ceil_pow2, ScaleRule::map,  ScaleRule::nearest,
                                   ScaleRule::fpq};

/// Group maxima of every exponent, at every mantissa where a rule of this element turns, one ulp beside, and
/// some more; every subnormal size; 0 and the largest float.
std::vector<float> maxima(const Element& e, double c) {
  std::vector<uint32_t> mantissas = {0, 1, 2, 0x7fffff, 0x7ffffe};
  auto around = [&](double m) {
    const double fraction = m / std::exp2(std::floor(std::log2(m))) - 1;
    for (int d = -2; d <= 2; ++d) {
      const double at = std::floor(fraction * 0x1p23) + d;
      if (at >= 0 && at < 0x1p23) mantissas.push_back(uint32_t(at));
    }
  };
  for (double m : {1.5, 1.75, 1.875, 1.9375, 1.96875, 1.984375, double(e.scale_max),
                   double(e.scale_max) / std::sqrt(2), c})
    around(m);
  const Stream stream(3, "mantissas");
  for (uint64_t i = 0; i < 12; ++i) mantissas.push_back(stream.block(i)[0] & 0x7fffff);
  std::vector<float> out = {0.0f, 0x1.fffffep127f};
  for (uint32_t exponent = 0; exponent < 255; ++exponent)
    for (uint32_t m : mantissas) out.push_back(bits_float(exponent << 23 | m));
  for (int bit = 0; bit < 23; ++bit)
    for (uint32_t m : mantissas) out.push_back(bits_float((0x800000u | m) >> (bit + 1)));
  return out;
}

/// Compares a rule on an element with its slow definition, on floats and through the row kernel.
void check_rule(const ScaleRule& rule, const Element& e) {
  CAPTURE(e.name, std::string(entry_of(rule.kind).name), rule.c);
  const spec::Grid g = spec::grid(e.name);
  const PowerOfTwoRule fast = power_of_two_rule(rule, e);
  const std::vector<float> m = maxima(e, rule.c);
  std::vector<uint8_t> bytes(m.size());
  std::vector<float> effective(m.size());
  const float factor = rule.kind == ScaleRule::fpq ? 2.0f / e.scale_max : 1.0f;
  row_kernels().power_of_two_scales(fast.offset, fast.threshold, factor, m.data(), int64_t(m.size()),
                                    bytes.data(), effective.data());
  int wrong = 0;
  for (size_t i = 0; i < m.size(); ++i) {
    const int want = spec::e8m0_byte(rule, g, m[i]);
    const float scale = m[i] == 0 ? 0.0f : spec::e8m0_value(want) * factor;
    if (int(fast.byte(m[i])) != want || bytes[i] != want || effective[i] != scale) {
      if (++wrong < 5)
        UNSCOPED_INFO("m = " << m[i] << ": byte " << fast.byte(m[i]) << ", kernel " << int(bytes[i])
                             << ", want " << want);
    }
  }
  CHECK(wrong == 0);
}

}  // namespace

TEST_CASE("scale rules: each rule on amax against exact arithmetic, for every element",
          "[formats][scale_rules]") {
  for (const Element& e : kElements) {
    if (e.kind == ElementKind::int_asym) continue;
    for (ScaleRule::Kind kind : kOnAmax) {
      if (kind == ScaleRule::even && e.man_bits < 0) continue;
      check_rule({.kind = kind}, e);
    }
  }
}

TEST_CASE("scale rules: map(c) for many c", "[formats][scale_rules]") {
  for (double c : {1.0, 1.5, 2.0, 3.0, 3.5, 3.55, 3.6, 3.65, 4.0, 5.5, 6 / std::sqrt(2.0), 7.9999999, 0x1p-19,
                   1e-3, 0x1.fffffffp0, 0x1p19, 500000.1})
    check_rule({.kind = ScaleRule::map, .c = c}, kE2M1);
}

TEST_CASE("scale rules: typed bytes", "[formats][scale_rules]") {
  struct Row {
    ScaleRule::Kind kind;
    float m;
    int byte;
  };
  const Row rows[] = {{ScaleRule::floor, 4, 127},
                      {ScaleRule::floor, 7.9999995f, 127},
                      {ScaleRule::floor, 8, 128},
                      {ScaleRule::even, 6.9999995f, 127},
                      {ScaleRule::even, 7, 128},
                      {ScaleRule::even, 3.5f, 127},
                      {ScaleRule::ceil, 6, 127},
                      {ScaleRule::ceil, 6.0000005f, 128},
                      {ScaleRule::ceil, 3, 126},
                      {ScaleRule::ceil_pow2, 4, 127},
                      {ScaleRule::ceil_pow2, 4.0000005f, 128},
                      {ScaleRule::ceil_pow2, 2, 126},
                      {ScaleRule::fpq, 1, 127},
                      {ScaleRule::fpq, 1.9999999f, 127},
                      {ScaleRule::fpq, 2, 128},
                      {ScaleRule::nearest, 4.2426405f, 126},
                      {ScaleRule::nearest, 4.242641f, 127},
                      {ScaleRule::nearest, 8.485281f, 127},
                      {ScaleRule::nearest, 8.485282f, 128},
                      // The ends: clamped at 0 and 254, never 255.
                      {ScaleRule::floor, 0x1p-125f, 0},
                      {ScaleRule::floor, 0x1p-124f, 1},
                      {ScaleRule::floor, 0x1p-149f, 0},
                      {ScaleRule::floor, 0x1.fffffep127f, 252},
                      {ScaleRule::even, 0x1.fffffep127f, 253},
                      {ScaleRule::ceil_pow2, 0x1.fffffep127f, 253},
                      {ScaleRule::fpq, 0x1.fffffep127f, 254},
                      {ScaleRule::fpq, 0x1p-127f, 0},
                      {ScaleRule::fpq, 0x1p-126f, 1},
                      {ScaleRule::floor, 0, 0},
                      {ScaleRule::ceil, 0, 0}};
  for (const Row& r : rows) {
    CAPTURE(std::string(entry_of(r.kind).name), r.m);
    CHECK(int(power_of_two_rule({.kind = r.kind}, kE2M1).byte(r.m)) == r.byte);
  }
  const ScaleRule small{.kind = ScaleRule::map, .c = 0x1p-10};  // would ask for 2^137
  CHECK(int(power_of_two_rule(small, kE2M1).byte(0x1p127f)) == 254);
}

TEST_CASE("scale rules: where amax/scale lands for e2m1", "[formats][scale_rules]") {
  struct Row {
    ScaleRule rule;
    double low, high;
    bool closed_above;  // (low, high] instead of [low, high)
  };
  const double root = 6 / std::sqrt(2.0);
  const Row rows[] = {{{.kind = ScaleRule::floor}, 4, 8, false},
                      {{.kind = ScaleRule::even}, 3.5, 7, false},
                      {{.kind = ScaleRule::ceil}, 3, 6, true},
                      {{.kind = ScaleRule::ceil_pow2}, 2, 4, true},
                      {{.kind = ScaleRule::map, .c = 3.6}, 3.6, 7.2, false},
                      {{.kind = ScaleRule::fpq}, 3, 6, false},
                      {{.kind = ScaleRule::nearest}, root, 2 * root, false}};
  for (const Row& r : rows) {
    const PowerOfTwoRule rule = power_of_two_rule(r.rule, kE2M1);
    int outside = 0, seen = 0;
    for (float m : maxima(kE2M1, 3.6)) {
      const int byte = int(rule.byte(m));
      if (m == 0 || byte == 0 || byte == 254) continue;  // clamped, perhaps
      const double scale = std::ldexp(1.0, byte - 127) * (r.rule.kind == ScaleRule::fpq ? 1.0 / 3 : 1);
      const double v = double(m) / scale;
      ++seen;
      outside += r.closed_above ? !(v > r.low && v <= r.high) : !(v >= r.low && v < r.high);
    }
    CAPTURE(std::string(entry_of(r.rule.kind).name));
    CHECK(outside == 0);
    CHECK(seen > 10000);
  }
}

TEST_CASE("scale rules: map(3.5) is even and map(4) is floor for e2m1", "[formats][scale_rules]") {
  const PowerOfTwoRule even = power_of_two_rule({.kind = ScaleRule::even}, kE2M1),
                       map35 = power_of_two_rule({.kind = ScaleRule::map, .c = 3.5}, kE2M1),
                       floor = power_of_two_rule({.kind = ScaleRule::floor}, kE2M1),
                       map4 = power_of_two_rule({.kind = ScaleRule::map, .c = 4}, kE2M1);
  for (float m : maxima(kE2M1, 3.5)) {
    CHECK(even.byte(m) == map35.byte(m));
    CHECK(floor.byte(m) == map4.byte(m));
  }
}

TEST_CASE("scale rules: doubling amax raises the byte by one unless clamped", "[formats][scale_rules]") {
  for (ScaleRule::Kind kind : kOnAmax) {
    const PowerOfTwoRule rule = power_of_two_rule({.kind = kind}, kE2M1);
    for (float m : maxima(kE2M1, 3.6)) {
      const uint32_t byte = rule.byte(m), twice = rule.byte(2 * m);
      if (m > 0 && m < 0x1p126f && byte > 0) CHECK(twice == std::min(byte + 1, 254u));
    }
  }
}

TEST_CASE("scale rules: the list, and which rules go with which scales", "[formats][scale_rules]") {
  const std::vector<std::string> names = {"absmax", "four_over_six", "sweep",  "floor",   "even",
                                          "ceil",   "ceil_pow2",     "map",    "nearest", "fpq",
                                          "fitted", "quest",         "search", "grid"};
  CHECK(scale_rule_names() == names);
  for (const ScaleRuleEntry& r : scale_rules()) {
    CHECK(find_scale_rule(r.name) == &r);
    CHECK(&entry_of(r.kind) == &r);
    const bool other =
        r.name == "absmax" || r.name == "four_over_six" || r.name == "sweep" || r.name == "grid";
    CHECK(r.for_e8m0 == !other);
  }
  CHECK(find_scale_rule("flor") == nullptr);
  CHECK_THROWS_AS(power_of_two_rule({.kind = ScaleRule::absmax}, kE2M1), Fault);
  CHECK_THROWS_AS(power_of_two_rule({.kind = ScaleRule::fitted}, kE2M1), Fault);
}
