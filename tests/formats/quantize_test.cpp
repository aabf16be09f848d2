#include "formats/quantize.h"

#include <limits>
#include <set>

#include "formats/registry.h"
#include "tests/catch.h"
#include "tests/formats/reference.h"

using namespace fp4lab;

namespace {

std::vector<uint8_t> unpacked(const QuantizedMatrix& q) {
  std::vector<uint8_t> codes(size_t(q.rows() * q.cols()));
  for (int64_t r = 0; r < q.rows(); ++r) unpack_codes(q, r, codes.data() + r * q.cols());
  return codes;
}

/// The first thing in which quantize() differs from the reference, or "".
std::string disagreement(const FormatSpec& f, MatrixView<const float> X) {
  const QuantizedMatrix q = quantize(f, X);
  const spec::Quantized want = spec::quantize(f, X);
  if (const auto d = spec::difference(q.scales.factors, want.factors); !d.empty()) return "factors " + d;
  if (const auto d = spec::difference(q.scales.bytes, want.bytes); !d.empty()) return "scale bytes " + d;
  if (const auto d = spec::difference(q.scales.zero_points, want.zero); !d.empty()) return "zero points " + d;
  const std::vector<uint8_t> codes = unpacked(q);
  if (const auto d = spec::difference(codes, want.codes); !d.empty()) return "codes " + d;
  Matrix values(X.rows, X.cols);
  dequantize(q, values);
  if (const auto d = spec::difference(values.data(), want.values.data(), values.size()); !d.empty())
    return "values " + d;
  // The stored bytes: low nibble first, and nothing in the padding.
  const int64_t row_bytes = f.element.bits <= 4 ? (X.cols + 1) / 2 : X.cols;
  if (int64_t(q.codes.size()) != X.rows * row_bytes) return "code bytes";
  for (int64_t r = 0; r < X.rows && f.element.bits <= 4; ++r)
    for (int64_t b = 0; b < row_bytes; ++b) {
      const uint8_t low = want.codes[size_t(r * X.cols + 2 * b)];
      const uint8_t high = 2 * b + 1 < X.cols ? want.codes[size_t(r * X.cols + 2 * b + 1)] : uint8_t(0);
      if (q.codes[size_t(r * row_bytes + b)] != (low | high << 4))
        return str("packing of row ", r, ", byte ", b);
    }
  return "";
}

std::string name_of(const FormatSpec& f) {
  return str(f.element.name, " g", f.group_size, " ", f.scale.name, " ", entry_of(f.rule.kind).name, " T",
             int(f.tensor_scale.mode), " F", int(f.scale_floor));
}

/// Formats composed along each axis in turn; only those that can work.
std::vector<FormatSpec> composed() {
  std::vector<FormatSpec> all;
  auto add = [&](FormatSpec f) {
    if (format_problem(f).empty()) all.push_back(f);
  };
  const TensorScale modes[] = {
      {}, {TensorScale::dynamic, 0}, {TensorScale::per_token, 0}, {TensorScale::fixed, 0.0123f}};
  const Element elements[] = {kE2M1,          kInt4,           element("int4-full"),
                              element("nf4"), element("e3m2"), element("int4-asym")};
  for (int g : {2, 3, 5, 16, 24, 32, 128, 4096, kWholeRow}) {
    for (const Element& e : elements) {
      add({e, g, kUE8M0, {.kind = ScaleRule::even}});
      add({e, g, kE4M3, {}, modes[1]});
      add({e, g, kFP16});
    }
    add({kE2M1, g, kE4M3, {.kind = ScaleRule::sweep}, modes[2]});
    add({kE2M1, g, kE4M3, {.kind = ScaleRule::four_over_six}, modes[2]});
    add({kE2M1, g, kUE8M0, {.kind = ScaleRule::search, .k = 3}});
    add({kE2M1, g, kUE8M0, {.kind = ScaleRule::quest}});
  }
  for (const ScaleType& t : kScaleTypes)
    for (const TensorScale& mode : modes)
      for (const Element& e : elements) {
        add({e, 16, t, {}, mode});
        for (ScaleFloor floor : {ScaleFloor::min_subnormal, ScaleFloor::min_normal}) {
          add({e, 16, t, {}, mode, floor});
          if (e == kE2M1) add({e, 16, t, {.kind = ScaleRule::sweep}, mode, floor});
          if (e == kE2M1) add({e, 16, t, {.kind = ScaleRule::four_over_six}, mode, floor});
        }
      }
  for (const Element& e : kElements) {
    add({e, 32, kUE8M0, {.kind = ScaleRule::floor}});
    add({e, 32, kE4M3, {}, modes[1]});
    add({e, 32, kFP16});
    add({e, 32, kFP32});
    for (const ScaleRuleEntry& r : scale_rules())
      if (r.kind != ScaleRule::fitted) add({e, 16, kUE8M0, {.kind = r.kind}});
    for (int k = 1; k <= 9; ++k) add({e, 16, kUE8M0, {.kind = ScaleRule::search, .k = k}});
  }
  add({kE2M1, 16, kE4M3, {.kind = ScaleRule::sweep, .lo = 0, .hi = 0}, modes[1]});
  add({kE2M1, 16, kE4M3, {.kind = ScaleRule::sweep, .lo = -8, .hi = 7}, modes[1]});
  add({kInt4, 16, scale_type("int8"), {.kind = ScaleRule::sweep, .lo = -30, .hi = 20}, modes[1]});
  return all;
}

/// Three groups to a row; an odd number of columns where the group allows it.
int64_t columns_for(const FormatSpec& f) {
  return f.group_size == kWholeRow ? 75 : f.group_size * (f.group_size > 128 ? 1 : 3);
}

void check_against_reference(const FormatSpec& f) {
  CAPTURE(name_of(f));
  const int64_t cols = columns_for(f);
  for (const std::string& kind : spec::kKinds) {
    CAPTURE(kind);
    CHECK(disagreement(f, spec::sample(kind, cols > 1000 ? 1 : 3, cols, 11)) == "");
  }
  const Matrix edges = spec::edges(cols);
  CHECK(disagreement(f, edges) == "");
  // Each row as its own matrix, so that a tensor scale comes from it alone.
  for (int64_t r = 0; r < edges.rows(); ++r) {
    CAPTURE(r);
    CHECK(disagreement(f, edges.view().middle_rows(r, 1)) == "");
  }
}

}  // namespace

TEST_CASE("quantize: every named format equals the plain reference bit for bit", "[formats][quantize]") {
  for (const FormatEntry& f : formats()) {
    if (f.spec.rule.kind == ScaleRule::fitted) continue;  // below
    DYNAMIC_SECTION(f.name) {
      check_against_reference(f.spec);
      for (const std::string& kind : spec::kKinds)
        CHECK(disagreement(f.spec, spec::sample(kind, 5, 384, 12)) == "");
    }
  }
}

TEST_CASE("quantize: composed formats equal the plain reference bit for bit", "[formats][quantize]") {
  const std::vector<FormatSpec> all = composed();
  CHECK(all.size() > 400);
  for (const FormatSpec& f : all) check_against_reference(f);
}

TEST_CASE("quantize: shapes from one group to rows of many runs, odd ones too", "[formats][quantize]") {
  struct Shape {
    int group;
    int64_t rows, cols;
  };
  for (const Shape& s :
       {Shape{16, 1, 16}, Shape{32, 1, 32}, Shape{16, 200, 32}, Shape{3, 2, 3 * 4095}, Shape{5, 3, 5 * 1639},
        Shape{2, 1, 9000}, Shape{16, 2, 4096 * 3 + 16}, Shape{kWholeRow, 7, 1}, Shape{kWholeRow, 1, 4097},
        Shape{4096, 2, 3 * 4096}, Shape{1001, 2, 9009}, Shape{32, 0, 64}})
    for (FormatSpec f : {kMxfp4, kNvfp4, find_format("int4-asym")->spec, find_format("mxfp8-e4m3")->spec,
                         find_format("nf4")->spec}) {
      f.group_size = s.group;
      CAPTURE(f.element.name, s.group, s.rows, s.cols);
      CHECK(disagreement(f, spec::sample("mixed", s.rows, s.cols, 13)) == "");
    }
}

TEST_CASE("quantize: a view with a stride sees only its own columns", "[formats][quantize]") {
  const Matrix big = spec::sample("normal", 4, 80, 14);
  const MatrixView<const float> part{big.data() + 3, 4, 64, 80};
  for (const FormatEntry& f : formats()) {
    Matrix copy(4, 64);
    for (int64_t r = 0; r < 4; ++r) std::copy(part.row(r), part.row(r) + 64, copy.row(r));
    FormatSpec spec = f.spec;
    if (spec.group_size != kWholeRow) spec.group_size = 16;
    CHECK(quantize(spec, part).digest() == quantize(spec, copy).digest());
  }
}

TEST_CASE("quantize: fitted E8M0 against the formula in long double", "[formats][quantize]") {
  const FormatSpec f = find_format("mxfp4-fitted")->spec;
  const spec::Grid e = spec::grid("e2m1");
  std::vector<Matrix> all;
  for (const std::string& kind : spec::kKinds) all.push_back(spec::sample(kind, 20, 320, 15));
  Matrix flat = spec::sample("normal", 1, 32, 15);
  all.push_back(flat.clone());          // one group: a = 0
  all.push_back(Matrix::zeros(3, 64));  // nothing to fit
  all.push_back(spec::edges(96));       // denormal to largest
  all.push_back(Matrix::zeros(1, 64));
  all.back()(0, 40) = 2.5f;  // one group of zeros, one not
  int64_t near_ties = 0, groups = 0;
  for (size_t n = 0; n < all.size(); ++n) {
    const Matrix& X = all[n];
    CAPTURE(n);
    const QuantizedMatrix q = quantize(f, X);
    const std::vector<uint8_t> codes = unpacked(q);
    long double least = INFINITY, most = 0;
    std::vector<long double> s;
    for (int64_t at = 0; at < X.size(); at += 32) {
      const float m = spec::amax_of(X.data() + at, 32), scale = m / 6.0f;
      s.push_back(m > 0 ? static_cast<long double>(std::max(scale, 0x1p-149f)) : 0.0L);
      if (m > 0) least = std::min(least, s.back()), most = std::max(most, s.back());
    }
    REQUIRE(q.scales.factors.size() == 2);
    const float a = q.scales.factors[0], b = q.scales.factors[1];
    REQUIRE(std::isfinite(a));
    REQUIRE(std::isfinite(b));
    if (most > 0) {
      CHECK(double(b) == Approx(double(std::log2(least))).epsilon(1e-6));
      CHECK(double(a) ==
            Approx(double((std::log2(most) - std::log2(least)) / 255)).epsilon(1e-6).margin(1e-12));
    }
    for (size_t k = 0; k < s.size(); ++k) {
      const int byte = q.scales.bytes[k];
      const long double position = most > least && s[k] > 0 ? 255 * (std::log2(s[k]) - std::log2(least)) /
                                                                  (std::log2(most) - std::log2(least))
                                                            : 0;
      const bool near_tie = std::fabs(position - std::floor(position) - 0.5L) < 1e-3L;
      ++groups, near_ties += near_tie;
      CAPTURE(k, byte, double(position));
      if (near_tie)
        CHECK(std::fabs(double(byte) - double(position)) < 0.51);
      else
        CHECK(byte == int(std::round(position)));
      const float scale = s[k] > 0 ? float(std::exp2(double(a) * byte + double(b))) : 0.0f;
      int wrong = 0;
      for (int64_t i = 0; i < 32; ++i) {
        const float x = X.data()[int64_t(k) * 32 + i];
        wrong += codes[k * 32 + size_t(i)] != (scale > 0 ? e.encode(x / scale) : 0);
      }
      CHECK(wrong == 0);
    }
    Matrix values(X.rows(), X.cols()), fake(X.rows(), X.cols());
    dequantize(q, values), fake_quantize(f, X, fake);
    CHECK(spec::difference(values, fake) == "");
  }
  CHECK(near_ties < groups / 100);
}

TEST_CASE("quantize: quest turns where 2.92247856/6 std + 1e-8 is a power of two", "[formats][quantize]") {
  const FormatSpec f{kE2M1, 16, kUE8M0, {.kind = ScaleRule::quest}};
  for (int exponent : {-25, -20, -10, 0, 3, 60}) {
    // +-d has standard deviation d. At the turn itself a rounding decides; a few ulp beside it none does.
    const double turn = (std::ldexp(1.0, exponent) - 1e-8) * 6 / 2.92247856;
    for (double beside : {1 - 1e-6, 1 + 1e-6}) {
      Matrix X(1, 16);
      for (int i = 0; i < 16; ++i) X(0, i) = float(i % 2 ? turn * beside : -turn * beside);
      CAPTURE(exponent, beside);
      CHECK(int(quantize(f, X).scales.bytes.at(0)) == 127 + exponent - (beside < 1));
    }
  }
  // The mean is taken off, and a constant group has only the 1e-8: 2^-27.
  Matrix X(1, 16);
  for (int i = 0; i < 16; ++i) X(0, i) = i % 2 ? 1025.0f : 1023.0f;
  CHECK(int(quantize(f, X).scales.bytes.at(0)) == 127 - 2);  // std 1: .487
  std::fill(X.data(), X.data() + 16, 5.0f);
  CHECK(int(quantize(f, X).scales.bytes.at(0)) == 127 - 27);
}

TEST_CASE("quantize: zero groups store byte 0 and zero codes, and dequantize to +0", "[formats][quantize]") {
  for (const FormatEntry& f : formats()) DYNAMIC_SECTION(f.name) {
      const int64_t cols = f.spec.group_size == kWholeRow ? 64 : f.spec.group_size * 2;
      Matrix X = spec::sample("normal", 3, cols, 16);
      for (int64_t c = 0; c < cols; ++c) X(1, c) = c % 2 ? 0.0f : -0.0f;
      const QuantizedMatrix q = quantize(f.spec, X);
      const int64_t bytes = f.spec.groups(cols) * f.spec.scale.bytes;
      for (int64_t i = bytes; i < 2 * bytes; ++i) CHECK(int(q.scales.bytes[size_t(i)]) == 0);
      std::vector<uint8_t> codes(static_cast<size_t>(cols));
      unpack_codes(q, 1, codes.data());
      const uint8_t zero_code = f.spec.element.name == "nf4" ? 7 : 0;
      CHECK(codes == std::vector<uint8_t>(size_t(cols), zero_code));
      Matrix values(3, cols);
      dequantize(q, values);
      for (int64_t c = 0; c < cols; ++c) CHECK(float_bits(values(1, c)) == 0);
    }
}

TEST_CASE("quantize: NaN and Inf are named by row and column, by every verb", "[formats][quantize]") {
  const float nan = std::numeric_limits<float>::quiet_NaN(), inf = std::numeric_limits<float>::infinity();
  struct Row {
    int64_t r, c;
    float value;
    const char* message;
  };
  const Row rows[] = {{0, 0, nan, "row 0, column 0 is NaN"},
                      {2, 127, nan, "row 2, column 127 is NaN"},
                      {2, 127, inf, "row 2, column 127 is Inf"},
                      {1, 64, -inf, "row 1, column 64 is -Inf"},
                      {0, 127, -nan, "row 0, column 127 is NaN"}};
  auto message = [](auto verb) -> std::string {
    try {
      verb();
    } catch (const DataError& error) {
      return error.what();
    }
    return "no DataError";
  };
  for (const FormatEntry& f : formats())
    for (const Row& bad : rows) {
      CAPTURE(f.name, bad.message);
      Matrix X = spec::sample("normal", 3, 128, 17), out(3, 128);
      const Scales scales = choose_scales(f.spec, X);
      X(bad.r, bad.c) = bad.value;
      CHECK(message([&] { quantize(f.spec, X); }) == bad.message);
      CHECK(message([&] { choose_scales(f.spec, X); }) == bad.message);
      CHECK(message([&] { round(f.spec, X, scales); }) == bad.message);
      CHECK(message([&] { fake_quantize(f.spec, X, out); }) == bad.message);
      CHECK(message([&] { fake_quantize(f.spec, X, X); }) == bad.message);  // in place
    }
  // Of several the first, also in a later run of a long row.
  for (const char* name : {"mxfp4", "mxfp4-fitted", "nvfp4", "int4-asym", "int8"}) {
    Matrix X = spec::sample("normal", 4, 12288, 17);
    X(3, 1) = nan, X(2, 12287) = inf, X(2, 9000) = nan;
    CHECK(message([&] { quantize(find_format(name)->spec, X); }) == "row 2, column 9000 is NaN");
    CHECK(message([&] { fake_quantize(find_format(name)->spec, X, X); }) == "row 2, column 9000 is NaN");
  }
}

TEST_CASE("quantize: a wrong shape or format is a ConfigError, wrong scales are a fault",
          "[formats][quantize]") {
  const Matrix X = spec::sample("normal", 2, 48, 18);
  Matrix out(2, 48);
  CHECK_THROWS_AS(quantize(kMxfp4, X), ConfigError);
  CHECK_THROWS_AS(choose_scales(kMxfp4, X), ConfigError);
  CHECK_THROWS_AS(round(kMxfp4, X, {}), ConfigError);
  CHECK_THROWS_AS(fake_quantize(kMxfp4, X, out), ConfigError);
  FormatSpec f = kNvfp4;
  f.rule = {.kind = ScaleRule::floor};
  CHECK_THROWS_AS(quantize(f, X), ConfigError);
  CHECK_THROWS_AS(quantize(kMxfp4, X.view().middle_rows(0, 1), {WeightScales::alternate, {}}), ConfigError);
  CHECK_THROWS_AS(round(kNvfp4, X, choose_scales(kNvfp4, X.view().middle_rows(0, 1))), Fault);
  Matrix small(1, 48);
  CHECK_THROWS_AS(dequantize(quantize(kNvfp4, X), small), Fault);
}
