#include "formats/elements.h"

#include <limits>

#include "tests/catch.h"
#include "tests/formats/helpers.h"

using namespace fp4lab;

namespace {

/// The minifloats' positive values, typed from OCP Microscaling Formats (MX) v1.0, tables 3 to 5.
const std::vector<double> kE2M1Table = {0, 0.5, 1, 1.5, 2, 3, 4, 6};
const std::vector<double> kE2M3Table = {
    0, 0.125, 0.25, 0.375, 0.5, 0.625, 0.75, 0.875, 1, 1.125, 1.25, 1.375, 1.5, 1.625, 1.75, 1.875,
    2, 2.25,  2.5,  2.75,  3,   3.25,  3.5,  3.75,  4, 4.5,   5,    5.5,   6,   6.5,   7,    7.5};
const std::vector<double> kE3M2Table = {
    0, 0.0625, 0.125, 0.1875, 0.25, 0.3125, 0.375, 0.4375, 0.5, 0.625, 0.75, 0.875, 1,  1.25, 1.5, 1.75,
    2, 2.5,    3,     3.5,    4,    5,      6,     7,      8,   10,    12,   14,    16, 20,   24,  28};

/// All values of an element, ascending, each with its code; -0 is left out.
std::vector<std::pair<double, uint32_t>> ascending(const spec::Grid& g) {
  std::vector<std::pair<double, uint32_t>> out;
  for (uint32_t code = 0; code < (1u << g.bits); ++code) {
    if (g.kind == spec::Grid::minifloat && (code & ((1u << (g.bits - 1)) - 1)) >= g.values.size())
      continue;                                                                   // NaN, Inf
    if (g.kind == spec::Grid::minifloat && code == 1u << (g.bits - 1)) continue;  // -0
    if (g.kind == spec::Grid::sym && code == 1u << (g.bits - 1)) continue;        // the one below -max
    out.emplace_back(g.decode(code), code);
  }
  std::sort(out.begin(), out.end());
  return out;
}

/// Brute force, apart from the sign of zero: the nearest of all values, ties to the even code.
double nearest_value(const std::vector<std::pair<double, uint32_t>>& all, float v) {
  // The distance of a huge v to every value rounds alike; the ends are taken first.
  if (double(v) >= all.back().first) return all.back().first;
  if (double(v) <= all.front().first) return all.front().first;
  size_t best = 0;
  for (size_t i = 1; i < all.size(); ++i) {
    // |v - a| < |v - b|, a > b, as v > (a + b)/2: exact for any v
    const double middle = (all[i].first + all[best].first) / 2;
    if (double(v) > middle || (double(v) == middle && all[i].second % 2 == 0)) best = i;
  }
  return all[best].first;
}

/// Floats worth trying: every value, every midpoint, their neighbours, and the ends of float.
std::vector<float> probes(const std::vector<std::pair<double, uint32_t>>& all) {
  const float inf = std::numeric_limits<float>::infinity();
  std::vector<float> out = {0.0f,
                            -0.0f,
                            -0.1f,
                            0.1f,
                            0x1p-149f,
                            -0x1p-149f,
                            0x1p-126f,
                            -0x1p-127f,
                            0x1.fffffep127f,
                            -0x1.fffffep127f,
                            inf,
                            -inf,
                            1e30f,
                            -1e30f};
  auto around = [&](double x) {
    float f = float(x);
    for (float y : {f, std::nextafter(f, inf), std::nextafter(f, -inf)}) out.push_back(y);
  };
  for (size_t i = 0; i < all.size(); ++i) {
    around(all[i].first);
    if (i) around((all[i - 1].first + all[i].first) / 2);
  }
  around(all.back().first * 1.25), around(all.front().first * 1.25);
  const Stream stream(1, "probes");
  for (uint64_t i = 0; i < 2000; ++i) {
    const auto b = stream.block(i);
    out.push_back(float(uniform_open(b[0], b[1]) * 2.2 - 1.1) * float(all.back().first));
  }
  return out;
}

}  // namespace

TEST_CASE("elements: every code of the small minifloats against the OCP tables", "[formats][elements]") {
  const std::pair<const char*, const std::vector<double>*> tables[] = {
      {"e2m1", &kE2M1Table}, {"e2m3", &kE2M3Table}, {"e3m2", &kE3M2Table}};
  for (const auto& [name, table] : tables) DYNAMIC_SECTION(name) {
      const Element& e = *find_element(name);
      REQUIRE(int(table->size()) == 1 << (e.bits - 1));
      CHECK(*table == spec::grid(name).values);  // the closed formula that other tests use
      for (uint32_t m = 0; m < table->size(); ++m) {
        const uint32_t sign = 1u << (e.bits - 1);
        CHECK(double(decode_element(e, m)) == (*table)[m]);
        CHECK(double(decode_element(e, sign | m)) == -(*table)[m]);
      }
      CHECK(std::signbit(decode_element(e, 1u << (e.bits - 1))));  // -0
      CHECK_FALSE(std::signbit(decode_element(e, 0)));
    }
}

TEST_CASE("elements: every code of e4m3 and e5m2 against the closed formula and typed anchors",
          "[formats][elements]") {
  struct Anchor {
    const char* name;
    uint32_t code;
    double value;
  };
  const Anchor anchors[] = {{"e4m3", 0x7e, 448},     {"e4m3", 0x08, 0x1p-6},  {"e4m3", 0x01, 0x1p-9},
                            {"e4m3", 0x07, 0x7p-9},  {"e4m3", 0x38, 1},       {"e4m3", 0xc0, -2},
                            {"e4m3", 0xfe, -448},    {"e5m2", 0x7b, 57344},   {"e5m2", 0x04, 0x1p-14},
                            {"e5m2", 0x01, 0x1p-16}, {"e5m2", 0x03, 0x3p-16}, {"e5m2", 0x3c, 1},
                            {"e5m2", 0xc1, -2.5},    {"e5m2", 0xfb, -57344}};
  for (const Anchor& a : anchors) {
    CAPTURE(a.name, a.code);
    CHECK(double(decode_element(*find_element(a.name), a.code)) == a.value);
  }
  for (const char* name : {"e4m3", "e5m2"}) {
    const Element& e = *find_element(name);
    const int m_bits = e.bits == 8 && std::string(name) == "e4m3" ? 3 : 2, bias = m_bits == 3 ? 7 : 15;
    const uint32_t last = m_bits == 3 ? 0x7e : 0x7b;
    for (uint32_t code = 0; code < 256; ++code) {
      if ((code & 127) > last) continue;  // NaN or Inf: never written
      const int exponent = int(code & 127) >> m_bits, mantissa = int(code) & ((1 << m_bits) - 1);
      const double magnitude = exponent ? (1 + std::ldexp(mantissa, -m_bits)) * std::pow(2.0, exponent - bias)
                                        : mantissa * std::pow(2.0, 1 - bias - m_bits);
      CAPTURE(name, code);
      CHECK(double(decode_element(e, code)) == (code < 128 ? magnitude : -magnitude));
      CHECK(spec::grid(name).decode(code) == (code < 128 ? magnitude : -magnitude));
    }
  }
}

TEST_CASE("elements: integer ranges", "[formats][elements]") {
  for (int n = 2; n <= 8; ++n) {
    const int top = 1 << (n - 1);
    const std::string name = "int" + std::to_string(n);
    CAPTURE(n);
    const Element &sym = *find_element(name), &full = *find_element(name + "-full"),
                  &asym = *find_element(name + "-asym");
    CHECK(decode_element(sym, encode_element(sym, 1e9f)) == float(top - 1));
    CHECK(decode_element(sym, encode_element(sym, -1e9f)) == float(1 - top));
    CHECK(decode_element(full, encode_element(full, 1e9f)) == float(top - 1));
    CHECK(decode_element(full, encode_element(full, -1e9f)) == float(-top));
    CHECK(sym.scale_max == float(top - 1));
    CHECK(full.scale_max == float(top) - 0.5f);
    CHECK(asym.scale_max == float(2 * top - 1));
    for (int q = -top; q < top; ++q) {
      const uint32_t code = uint32_t(q) & uint32_t(2 * top - 1);  // two's complement
      CHECK(decode_element(full, code) == float(q));
      CHECK(encode_element(full, float(q)) == code);
      if (q > -top) CHECK(encode_element(sym, float(q)) == code);
    }
    for (int zero = 0; zero < 2 * top; ++zero)
      for (int code = 0; code < 2 * top; ++code) {
        CHECK(decode_element(asym, uint32_t(code), float(zero)) == float(code - zero));
        CHECK(encode_element(asym, float(code - zero), float(zero)) == uint32_t(code));
      }
    CHECK(encode_element(asym, 1e9f, 1.0f) == uint32_t(2 * top - 1));
    CHECK(encode_element(asym, -1e9f, 1.0f) == 0);
    CHECK(encode_element(asym, 0.5f, 1.0f) ==
          1);  // x/s is rounded first, to even; then the zero point is added
    CHECK(encode_element(asym, 1.5f, 1.0f) == 3);
  }
}

TEST_CASE("elements: nf4 is the sixteen levels of QLoRA", "[formats][elements]") {
  const Element& e = *find_element("nf4");
  const spec::Grid g = spec::grid("nf4");
  for (uint32_t code = 0; code < 16; ++code) CHECK(double(decode_element(e, code)) == g.values[code]);
  CHECK(e.zero_code() == 7);
  CHECK(encode_element(e, 0.0f) == 7);
  CHECK(encode_element(e, -0.0f) == 7);
}

TEST_CASE("elements: encode is the nearest value, ties to the even code, saturating", "[formats][elements]") {
  for (const Element& e : kElements) {
    if (e.kind == ElementKind::int_asym) continue;  // above, with every zero point
    DYNAMIC_SECTION(e.name) {
      const spec::Grid g = spec::grid(e.name);
      const auto all = ascending(g);
      int wrong = 0;
      for (float v : probes(all)) {
        const uint32_t code = encode_element(e, v);
        const double got = double(decode_element(e, code)), want = nearest_value(all, v);
        const bool sign_kept =
            e.kind != ElementKind::minifloat || (code >> (e.bits - 1)) == uint32_t(std::signbit(v));
        if (got != want || !sign_kept || code != g.encode(v) || code >= (1u << e.bits)) {
          if (++wrong < 5)
            UNSCOPED_INFO("v = " << v << ": code " << code << " is " << got << ", nearest is " << want);
        }
      }
      CHECK(wrong == 0);
    }
  }
}

TEST_CASE("elements: encode gives back every code", "[formats][elements]") {
  for (const Element& e : kElements) {
    const spec::Grid g = spec::grid(e.name);
    for (uint32_t code = 0; code < (1u << e.bits); ++code) {
      if (g.kind == spec::Grid::minifloat && (code & ((1u << (g.bits - 1)) - 1)) >= g.values.size()) continue;
      if (g.kind == spec::Grid::sym && code == 1u << (g.bits - 1)) continue;
      CAPTURE(e.name, code);
      CHECK(encode_element(e, decode_element(e, code, 1.0f), 1.0f) == code);
    }
  }
}

TEST_CASE("elements: -0 and -0.1 give e2m1 code 8, as hardware does", "[formats][elements]") {
  CHECK(encode_element(kE2M1, -0.0f) == 8);
  CHECK(encode_element(kE2M1, -0.1f) == 8);
  CHECK(encode_element(kE2M1, 0.1f) == 0);
  CHECK(encode_element(kE2M1, -0.25f) == 8);  // the tie goes to 0
  CHECK(encode_element(kE2M1, 5.0f) == 6);    // 4, even, not 6
  CHECK(encode_element(kE2M1, 2.5f) == 4);
  CHECK(encode_element(kE2M1, 3.5f) == 6);
}

TEST_CASE("elements: the largest values and their exponents", "[formats][elements]") {
  struct Row {
    const char* name;
    int bits, man_bits, emax;
    float qmax;
  };
  const Row rows[] = {
      {"e2m1", 4, 1, 2, 6},       {"e2m3", 6, 3, 2, 7.5f},      {"e3m2", 6, 2, 4, 28},
      {"e4m3", 8, 3, 8, 448},     {"e5m2", 8, 2, 15, 57344},    {"int4", 4, 2, 2, 7},
      {"int8", 8, 6, 6, 127},     {"int4-full", 4, 2, 2, 7.5f}, {"int8-full", 8, 6, 6, 127.5f},
      {"int4-asym", 4, 2, 3, 15}, {"nf4", 4, -1, 0, 1},         {"int2", 2, 0, 0, 1}};
  for (const Row& r : rows) {
    CAPTURE(r.name);
    const Element* e = find_element(r.name);
    REQUIRE(e);
    CHECK(e->bits == r.bits);
    CHECK(e->man_bits == r.man_bits);
    CHECK(e->emax == r.emax);
    CHECK(e->scale_max == r.qmax);
  }
  CHECK(find_element("e2m2") == nullptr);
  CHECK(element_names().size() == std::size(kElements));
  CHECK(std::size(kElements) == 27);
}
