// Scale searches against brute force written out here.
#include <omp.h>

#include "formats/quantize.h"
#include "formats/registry.h"
#include "formats/row_kernels.h"
#include "tests/catch.h"
#include "tests/formats/reference.h"

using namespace fp4lab;

namespace {

const FormatSpec kSweep = find_format("nvfp4-sweep")->spec;

Matrix dequantized(const QuantizedMatrix& q) {
  Matrix out(q.rows(), q.cols());
  dequantize(q, out);
  return out;
}

double squared_error(const Matrix& X, const Matrix& Y) {
  double sum = 0;
  for (int64_t i = 0; i < X.size(); ++i) {
    const double d = double(X.data()[i]) - double(Y.data()[i]);
    sum += d * d;
  }
  return sum;
}

/// The best of codes 1..126, the smaller among equals, and the absmax code.
struct Exhaustive {
  int best, absmax;
};
Exhaustive exhaustive(const float* x, float s_t) {
  const spec::Grid e = spec::grid("e2m1");
  const spec::Stored type = spec::stored("e4m3");
  std::vector<spec::Candidate> candidates;
  for (int code = 1; code <= 126; ++code)
    candidates.push_back({code, s_t * float(type.decode(uint32_t(code)))});
  return {spec::best_of(candidates, e, x, 16).code,
          int(type.encode(double(spec::amax_of(x, 16) / (6 * s_t))))};
}

}  // namespace

TEST_CASE("sweep: a wide one finds the best of all E4M3 codes", "[formats][searches]") {
  FormatSpec wide = kSweep;
  wide.rule.lo = -63, wide.rule.hi = 64;  // the widest that is accepted; the optimum is never that far off
  int wrong = 0;
  for (const char* kind : {"normal", "heavy"}) {
    const Matrix X = spec::sample(kind, 40, 256, 41);
    const Scales scales = choose_scales(wide, X);
    for (int64_t k = 0; k < X.size() / 16; ++k) {
      const Exhaustive want = exhaustive(X.data() + 16 * k, scales.factors.at(0));
      wrong += scales.bytes[size_t(k)] != want.best;
    }
  }
  CHECK(wrong == 0);
}

TEST_CASE("sweep: [-3, +7] holds the optimum when the absmax code is 8 or more", "[formats][searches]") {
  const Matrix X = spec::sample("normal", 100, 512, 42);
  const Scales scales = choose_scales(kSweep, X);
  int exceptions = 0, groups = 0, lowest = 0, highest = 0;
  for (int64_t k = 0; k < X.size() / 16; ++k) {
    const Exhaustive want = exhaustive(X.data() + 16 * k, scales.factors.at(0));
    if (want.absmax < 8) continue;
    ++groups;
    exceptions += scales.bytes[size_t(k)] != want.best;
    lowest = std::min(lowest, want.best - want.absmax), highest = std::max(highest, want.best - want.absmax);
  }
  CHECK(groups == 3200);
  CHECK(exceptions == 0);
  CHECK(lowest >= -3);
  CHECK(highest <= 7);
  CHECK(highest >= 5);  // it does leave the absmax code, far
}

TEST_CASE("sweep, four_over_six, search: never worse than what they start from", "[formats][searches]") {
  const Matrix X = spec::sample("heavy", 30, 320, 43);
  const FormatSpec floor{kE2M1, 16, kUE8M0, {.kind = ScaleRule::floor}};
  auto error = [&](const FormatSpec& f) { return squared_error(X, dequantized(quantize(f, X))); };
  CHECK(error(kSweep) < error(kNvfp4));
  double before = error(floor);
  for (int k = 1; k <= 5; ++k) {
    FormatSpec f = floor;
    f.rule = {.kind = ScaleRule::search, .k = k};
    const double now = error(f);
    CHECK(now <= before * (1 + 1e-6));
    if (k == 1) CHECK(now == before);
    before = now;
  }
}

TEST_CASE("four_over_six: both candidates are used, and s_T is amax / 1536", "[formats][searches]") {
  const FormatSpec f = find_format("nvfp4-4over6")->spec;
  const Matrix X = spec::sample("normal", 20, 256, 44);
  const Scales scales = choose_scales(f, X);
  CHECK(scales.factors.at(0) == spec::amax_of(X.data(), X.size()) / 1536.0f);
  const spec::Stored type = spec::stored("e4m3");
  const spec::Grid e = spec::grid("e2m1");
  int four = 0, wrong = 0;
  for (int64_t k = 0; k < X.size() / 16; ++k) {
    const float* x = X.data() + 16 * k;
    const float s_t = scales.factors[0], m = spec::amax_of(x, 16);
    const uint32_t at6 = type.encode(double(m / (6 * s_t))), at4 = type.encode(double(m / (4 * s_t)));
    const float e6 = spec::group_error(e, x, 16, s_t * float(type.decode(at6)));
    const float e4 = spec::group_error(e, x, 16, s_t * float(type.decode(at4)));
    wrong += scales.bytes[size_t(k)] != (e4 < e6 ? at4 : at6);
    four += e4 < e6;
  }
  CHECK(wrong == 0);
  CHECK(four > 60);
  CHECK(four < 260);
}

TEST_CASE("searches: equal errors take the smaller scale", "[formats][searches]") {
  // 2 everywhere is exact under scales 1/2 (code 4), 2/3 (3), 1 (2), 4/3 (1.5), 2 (1) and 4 (0.5).
  Matrix X(1, 16);
  std::fill(X.data(), X.data() + 16, 2.0f);
  const float scales[] = {0.25f, 1.0f, 2.0f, 4.0f, 3.0f};
  int32_t best = -1;
  float error = -1;
  row_kernels().best_candidate(kE2M1, X.data(), 1, 16, scales, 5, &best, &error);
  CHECK(best == 1);
  CHECK(error == 0);
  const FormatSpec f{kE2M1, 16, kUE8M0, {.kind = ScaleRule::search, .k = 3}};
  CHECK(int(quantize(f, X).scales.bytes.at(0)) == 126);  // floor: 1/2; 1/4 clips, 1 is no better
  const float rising[] = {1.0f, 0.5f};
  row_kernels().best_candidate(kE2M1, X.data(), 1, 16, rising, 2, &best, &error);
  CHECK(best == 0);  // the earlier index: it is the caller who lists smaller scales first
}

TEST_CASE("searches as weight scales: `replace` is the rule itself", "[formats][searches]") {
  const Matrix X = spec::sample("normal", 8, 64, 45);
  for (const char* name : {"nvfp4-4over6", "nvfp4-sweep"}) {
    const FormatSpec f = find_format(name)->spec;
    const WeightScales search{WeightScales::replace, f.rule};
    const QuantizedMatrix q = quantize(kNvfp4, X, search);
    CHECK(q.digest() == quantize(f, X).digest());
    CHECK(q.format == f);
    CHECK(round(kNvfp4, X, choose_scales(kNvfp4, X, search)).digest() == q.digest());
    Matrix fake(8, 64);
    fake_quantize(kNvfp4, X, fake, search);
    CHECK(spec::difference(fake, dequantized(q)) == "");
  }
}

TEST_CASE("best_shrink: the power to 1e-6, the choice as with std::pow but for near ties",
          "[formats][searches]") {
  for (const char* name : {"e2m1", "int4", "nf4", "e4m3"}) {
    const Element& element = *find_element(name);
    const spec::Grid e = spec::grid(name);
    int different = 0, wrong = 0, groups = 0, shrunk = 0;
    for (const char* kind : {"normal", "heavy"})
      for (int64_t g : {16, 24, 32}) {
        const Matrix X = spec::sample(kind, 80, g * 8, 46);
        for (int64_t r = 0; r < X.rows(); ++r)
          for (int64_t k = 0; k < 8; ++k) {
            const float* x = X.row(r) + k * g;
            const float scale = spec::amax_of(x, g) / float(e.qmax);
            auto loss = [&](int i) {
              const float s = scale * float(1 - 0.008 * i);
              double sum = 0;
              for (int64_t c = 0; c < g; ++c)
                sum += std::pow(std::fabs(double(x[c] - s * float(e.decode(e.encode(x[c] / s))))), 2.4);
              return sum;
            };
            int want = 0;
            double least = loss(0);
            for (int i = 1; i < 100; ++i)
              if (const double l = loss(i); l < least) want = i, least = l;
            int32_t got = -1;
            row_kernels().best_shrink(element, x, 1, g, &scale, &got);
            ++groups, shrunk += want > 0, different += got != want;
            wrong += !(loss(got) <= least * (1 + 3e-6));
          }
      }
    CAPTURE(name, different, groups);
    CHECK(wrong == 0);
    CHECK(different <= groups / 1000);
    CHECK(shrunk > groups / 3);
  }
}

TEST_CASE("mse_shrink: amax shrinks, then the format's rule rounds", "[formats][searches]") {
  const WeightScales search{WeightScales::mse_shrink, {}};
  const Matrix X = spec::sample("normal", 16, 128, 47);
  for (const char* name : {"mxfp4", "mxfp4-even", "mxfp4-paper", "nvfp4", "int4", "nf4", "e2m1-fp32"}) {
    FormatSpec f = find_format(name)->spec;
    f.group_size = 32;
    const spec::Grid e = spec::grid(f.element.name);
    const QuantizedMatrix q = quantize(f, X, search), plain = quantize(f, X);
    CHECK(q.scales.factors == plain.scales.factors);  // s_T from the whole amax
    int wrong = 0;
    for (int64_t k = 0; k < X.size() / 32; ++k) {
      const float* x = X.data() + 32 * k;
      const float m = spec::amax_of(x, 32), scale = m / float(e.qmax);
      int32_t i = -1;
      row_kernels().best_shrink(f.element, x, 1, 32, &scale, &i);
      const float shrunk = m * float(1 - 0.008 * i);
      uint32_t want = 0, got = 0;
      std::memcpy(&got, q.scales.bytes.data() + k * f.scale.bytes, size_t(f.scale.bytes));
      if (f.scale == kUE8M0)
        want = uint32_t(spec::e8m0_byte(f.rule, e, shrunk));
      else
        want = spec::stored(f.scale.name)
                   .encode(
                       double(shrunk / (float(e.qmax) * (f.scale.two_level() ? q.scales.factors[0] : 1.0f))));
      wrong += got != want;
    }
    CAPTURE(name);
    CHECK(wrong == 0);
    CHECK(round(f, X, q.scales).digest() == q.digest());
  }
}

TEST_CASE("alternate: never worse than the sweep, deterministic, and settled", "[formats][searches]") {
  const WeightScales alternate{WeightScales::alternate, {}};
  int better = 0;
  for (const char* kind : {"normal", "heavy", "mixed"})
    for (uint64_t seed = 50; seed < 54; ++seed) {
      const Matrix X = spec::sample(kind, 24, 128, seed);
      const QuantizedMatrix q = quantize(kNvfp4, X, alternate);
      const double sweep = squared_error(X, dequantized(quantize(kSweep, X))),
                   now = squared_error(X, dequantized(q));
      CAPTURE(kind, seed, sweep, now);
      CHECK(now <= sweep);
      better += now < sweep * 0.9999;
      CHECK(quantize(kNvfp4, X, alternate).digest() == q.digest());
      CHECK(q.scales.factors.size() == 1);
      CHECK(q.format == kNvfp4);
      // Its s_G are the sweep's under its own s_T.
      FormatSpec fixed = kSweep;
      fixed.tensor_scale = {TensorScale::fixed, q.scales.factors[0]};
      CHECK(quantize(fixed, X).scales.bytes == q.scales.bytes);
      // The rounds written out: best s_G under s_T, then s_T = sum x u / sum u^2 with u = s_G q, until the
      // error changes by less than 1e-3. Sums are in another order here, so s_T may differ in its last bits.
      double least = INFINITY;
      fixed.tensor_scale.value = spec::amax_of(X.data(), X.size()) / 2688;
      for (int round = 0; round < 15; ++round) {
        const Matrix Y = dequantized(quantize(fixed, X));
        const double error = squared_error(X, Y), previous = least;
        least = std::min(least, error);
        if (previous - error < 1e-3 * error) break;
        double xu = 0, uu = 0;
        for (int64_t i = 0; i < X.size(); ++i) {
          const double u = double(Y.data()[i]) / double(fixed.tensor_scale.value);
          xu += double(X.data()[i]) * u, uu += u * u;
        }
        fixed.tensor_scale.value = float(xu / uu);
      }
      CHECK(now == Approx(least).epsilon(1e-4));
    }
  CHECK(better >= 6);
}

TEST_CASE("alternate: zeros and exact tensors", "[formats][searches]") {
  const WeightScales alternate{WeightScales::alternate, {}};
  const Matrix zeros = Matrix::zeros(2, 32);
  const QuantizedMatrix q = quantize(kNvfp4, zeros, alternate);
  CHECK(q.scales.factors == std::vector<float>{1.0f});
  CHECK(spec::difference(dequantized(q), zeros) == "");
  // Powers of two: representable under the absmax s_T only if that is one; an exact start stays.
  Matrix exact(1, 16);
  for (int i = 0; i < 16; ++i) exact(0, i) = float(i % 2 ? 6 : -3) * 448 / 64;
  CHECK(spec::difference(dequantized(quantize(kNvfp4, exact, alternate)), exact) == "");
}
