#include "formats/scale_types.h"

#include <limits>

#include "tests/catch.h"
#include "tests/formats/helpers.h"

using namespace fp4lab;

namespace {
struct Row {
  const char* name;
  int exponent_bits, man_bits, bias, codes;
  double max;
};
/// Bias 2^(X-1) - 1 and every code finite, but for the OCP types and ue5m3 (bias of E5, top code NaN).
const Row kRows[] = {{"e4m3", 4, 3, 7, 127, 448},       {"e5m2", 5, 2, 15, 124, 57344},
                     {"ue5m3", 5, 3, 15, 255, 114688},  {"e1m6", 1, 6, 0, 128, 3.96875},
                     {"e2m5", 2, 5, 1, 128, 7.875},     {"e3m4", 3, 4, 3, 128, 31},
                     {"e6m1", 6, 1, 31, 128, 0x1.8p32}, {"e7m0", 7, 0, 63, 128, 0x1p64}};
}  // namespace

TEST_CASE("scale types: every code against the closed formula", "[formats][scale_types]") {
  for (const Row& r : kRows) DYNAMIC_SECTION(r.name) {
      const ScaleType& t = *find_scale_type(r.name);
      CHECK(t.bytes == 1);
      CHECK(t.two_level());
      CHECK(double(t.max) == r.max);
      if (std::string(r.name) != "e5m2" && std::string(r.name) != "e4m3" && std::string(r.name) != "ue5m3")
        CHECK(r.bias == (1 << (r.exponent_bits - 1)) - 1);
      double previous = -1;
      for (int code = 0; code < r.codes; ++code) {
        const int e = code >> r.man_bits;
        const double fraction = double(code & ((1 << r.man_bits) - 1)) / double(1 << r.man_bits);
        const double value =
            e == 0 ? fraction * std::pow(2.0, 1 - r.bias) : (1 + fraction) * std::pow(2.0, e - r.bias);
        CAPTURE(code);
        CHECK(double(decode_scale(t, uint32_t(code))) == value);
        CHECK(encode_scale(t, float(value)) == uint32_t(code));
        CHECK(value > previous);
        previous = value;
      }
      CHECK(previous == r.max);
    }
}

TEST_CASE("scale types: anchors of the OCP types", "[formats][scale_types]") {
  CHECK(decode_scale(kE4M3, 0x7e) == 448);
  CHECK(decode_scale(kE4M3, 0x08) == 0x1p-6f);
  CHECK(decode_scale(kE4M3, 0x01) == 0x1p-9f);
  CHECK(decode_scale(scale_type("e5m2"), 0x01) == 0x1p-16f);
  CHECK(decode_scale(scale_type("ue5m3"), 0x01) == 0x1p-17f);
  CHECK(decode_scale(scale_type("ue5m3"), 0xfe) == 114688);
  CHECK(decode_scale(scale_type("int8"), 100) == 100);
}

TEST_CASE("scale types: ue8m0 is 2^(b - 127)", "[formats][scale_types]") {
  for (int b = 0; b <= 254; ++b) {
    CAPTURE(b);
    CHECK(double(e8m0_decode(uint32_t(b))) == std::ldexp(1.0, b - 127));
    CHECK(double(decode_scale(kUE8M0, uint32_t(b))) == std::ldexp(1.0, b - 127));
  }
}

TEST_CASE("scale types: nearest, ties to the even code; saturating; no NaN code", "[formats][scale_types]") {
  for (const ScaleType& t : kScaleTypes) {
    if (t.kind == ScaleKind::exponent) continue;
    DYNAMIC_SECTION(t.name) {
      const spec::Stored s = spec::stored(t.name);
      REQUIRE(t.bytes == s.bytes);
      REQUIRE(double(t.max) == s.max);
      const uint32_t last = s.values.empty() ? s.encode(s.max) : uint32_t(s.values.size() - 1);
      const float inf = std::numeric_limits<float>::infinity(), largest = 0x1.fffffep127f;
      CHECK(encode_scale(t, 0.0f) == 0);
      CHECK(encode_scale(t, inf) == last);
      CHECK(encode_scale(t, largest) == last);
      CHECK(decode_scale(t, last) == t.max);
      std::vector<float> probes = {0x1p-149f,
                                   0x1p-126f,
                                   0x1.fffffcp-127f,
                                   t.max,
                                   std::nextafter(t.max, inf),
                                   std::nextafter(t.max, 0.0f),
                                   65519.0f,
                                   65520.0f,
                                   65535.0f};
      for (size_t i = 1; i < s.values.size(); ++i) {
        const float middle = float((s.values[i - 1] + s.values[i]) / 2);  // exact
        for (float f : {middle, std::nextafter(middle, 0.0f), std::nextafter(middle, inf)})
          probes.push_back(f);
      }
      const Stream stream(2, t.name);
      for (uint64_t i = 0; i < 20000; ++i) {
        const auto b = stream.block(i);
        probes.push_back(bits_float(b[0] % 0x7f800000u));             // every exponent of float
        probes.push_back(bits_float(b[1] % 0x7f800000u & ~0xfffu));   // fp16's ties
        probes.push_back(bits_float(b[2] % 0x7f800000u & ~0x7fffu));  // bf16's ties
        probes.push_back(float(std::ldexp(double(b[3]), -49)));       // fp16's subnormals, about
        probes.push_back(float(std::ldexp(double(b[3] >> 24) + 0.5, -25)));
      }
      int wrong = 0;
      for (float v : probes) {
        const uint32_t code = encode_scale(t, v), want = s.encode(double(v));
        if (code != want || code > last || double(decode_scale(t, code)) != s.decode(code)) {
          if (++wrong < 5) UNSCOPED_INFO("v = " << v << ": code " << code << ", nearest is " << want);
        }
      }
      CHECK(wrong == 0);
    }
  }
}

TEST_CASE("scale types: names and aliases", "[formats][scale_types]") {
  const std::vector<std::string> names = {"ue8m0", "e4m3", "e5m2", "ue5m3", "e1m6", "e2m5", "e3m4",
                                          "e6m1",  "e7m0", "int8", "fp16",  "bf16", "fp32"};
  CHECK(scale_type_names() == names);
  REQUIRE(find_scale_type("ue4m3"));
  CHECK(*find_scale_type("ue4m3") == kE4M3);
  CHECK(*find_scale_type("e8m0") == kUE8M0);
  CHECK(find_scale_type("e5m3") == nullptr);
  for (const char* one : {"fp16", "bf16", "fp32", "ue8m0"}) CHECK_FALSE(find_scale_type(one)->two_level());
  CHECK(find_scale_type("int8")->two_level());
}
