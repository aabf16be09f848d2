// What must hold of GPTQ whatever the problem (SPEC section 5), over the registry of formats.
#include "methods/scales/scale_metric.h"
#include "tests/catch.h"
#include "tests/formats/reference.h"
#include "tests/methods/gptq_cases.h"

using namespace fp4lab;
using namespace fp4lab::gptq_cases;

namespace {

MatrixD diagonal(int64_t K, unsigned seed) {
  MatrixD H = MatrixD::zeros(K, K);
  const Matrix draws = sites::normal(1, K, seed);
  for (int64_t i = 0; i < K; ++i) H(i, i) = std::exp(3 * double(draws(0, i)));  // spans e^-9 to e^9
  return H;
}

const Rounding kStatic = rounding(Rounding::gptq, Rounding::static_activation);
const Rounding kAtGroupStart = rounding(Rounding::gptq, Rounding::natural, Rounding::at_group_start);
const Rounding kInLoop = rounding(Rounding::gptq, Rounding::natural, Rounding::in_loop);

}  // namespace

TEST_CASE("gptq law: with a diagonal H it is quantize()", "[methods][gptq][slow]") {
  for (const FormatEntry& f : formats()) DYNAMIC_SECTION(f.name) {
      for (const int64_t K : {96, 352, 640}) {
        if (!shape_problem(f.spec, K).empty()) continue;
        const Matrix W = sites::normal(19, K, 20, 0.05f);
        const MatrixD H = diagonal(K, 21);
        for (const WeightScales::Kind kind :
             {WeightScales::rule, WeightScales::paper, WeightScales::nearby, WeightScales::mse_shrink}) {
          const WeightScales search = weight_scales_for({.kind = kind}, f.spec);
          if (!weight_scales_problem(search, f.spec).empty()) continue;
          const QuantizedMatrix want = quantize(f.spec, W, search);
          for (const Rounding& r : {kGptq, kStatic, kAtGroupStart}) {
            if (!rounding_problem(r, search, f.spec).empty()) continue;
            const GptqResult got = run(f.spec, r, W, H, search);
            CAPTURE(K, int(kind), int(r.order), int(r.scales));
            CHECK(got.q.digest() == want.digest());
            CHECK(got.q.format == want.format);
          }
        }
      }
    }
}

TEST_CASE("gptq law: the reported loss is that of the result", "[methods][gptq][slow]") {
  for (const FormatEntry& f : formats()) DYNAMIC_SECTION(f.name) {
      const int64_t K = 640;
      if (!shape_problem(f.spec, K).empty()) continue;
      const sites::Site site = sites::make_site(21, K, 700, {5, 300}, 6, 22);
      for (const Rounding& r : {kGptq, kStatic, kAtGroupStart, kInLoop}) {
        const WeightScales search = r.scales == Rounding::in_loop
                                        ? weight_scales_for({.kind = WeightScales::nearby}, f.spec)
                                        : WeightScales{};
        if (!rounding_problem(r, search, f.spec).empty() || !weight_scales_problem(search, f.spec).empty())
          continue;
        const GptqResult got = run(f.spec, r, site.W, site.stats.H, search);
        CAPTURE(int(r.order), int(r.scales));
        CHECK(got.loss == Approx(loss_of(site.W, dequantized(got.q), site.stats.H)).epsilon(1e-5));
      }
    }
}

TEST_CASE("gptq law: without clipping a row's loss is at most sum (R_kk step / 2)^2", "[methods][gptq]") {
  // amax / scale in (32, 64]: the compensated weights stay below 127.
  const FormatSpec format{*find_element("int8"), 32, kUE8M0, {.kind = ScaleRule::ceil_pow2}};
  for (const int64_t K : {96, 352})
    for (const Rounding& r : {kGptq, kStatic}) {
      const sites::Site site = sites::make_site(64, K, 2 * K, {}, 30, 23);
      const HessianFactor factor = factor_hessian(site.stats.H, r);
      const GptqResult got = gptq(format, {}, r, site.W, site.stats.H, {}, factor);
      const Rounder steps(got.q);
      for (const uint8_t code : codes_of(got.q)) REQUIRE(std::abs(int(int8_t(code))) < 127);
      const Matrix values = dequantized(got.q);
      const MatrixD A = damped(site.stats.H, 0.01), U = paper_factor(reordered(A, factor.order));
      double total = 0, most = 0;
      for (int64_t row = 0; row < 64; ++row) {
        double bound = 0;
        for (int64_t k = 0; k < K; ++k) {
          const double step = double(steps.scale(row, factor.order[size_t(k)])) / U(k, k);  // R_kk = 1 / U_kk
          bound += step * step / 4;
        }
        const double loss = row_loss(site.W, values, A, row);
        CAPTURE(K, row, loss, bound);
        CHECK(loss <= bound);
        total += loss, most += bound;
      }
      // Errors that are uniform within a step have a third of its largest square.
      CHECK(total / most == Approx(1.0 / 3).epsilon(0.03));
    }
}

TEST_CASE("gptq law: correlated inputs lose less than by rounding to nearest", "[methods][gptq]") {
  for (const char* name : {"nvfp4", "mxfp4", "mxfp4-paper", "int4", "nf4", "int4-asym"})
    for (const Rounding& r : {kGptq, kStatic}) {
      const sites::Site site = sites::make_site(256, 256, 1024, {9, 77}, 4, 24);
      const MatrixD A = damped(site.stats.H, 0);
      const Matrix mine = dequantized(run(sites::format(name), r, site.W, site.stats.H).q),
                   plain = dequantized(quantize(sites::format(name), site.W));
      double loss = 0, rtn = 0;
      int worse = 0;
      for (int64_t row = 0; row < 256; ++row) {
        const double a = row_loss(site.W, mine, A, row), b = row_loss(site.W, plain, A, row);
        loss += a, rtn += b, worse += a > b;
      }
      CAPTURE(name, int(r.order), loss / rtn, worse);
      CHECK(loss / rtn > 0.1);
      CHECK(loss / rtn < 0.8);
      CHECK(worse <= 256 * 13 / 100);
    }
}

TEST_CASE("gptq law: independent inputs leave little to gain", "[methods][gptq]") {
  const Matrix X = sites::normal(4096, 128, 25), W = sites::normal(256, 128, 26, 0.05f);
  const SiteStats stats = sites::stats_of(X);
  for (const char* name : {"nvfp4", "mxfp4", "int4"}) {
    const double ratio = run(sites::format(name), kGptq, W, stats.H).loss /
                         loss_of(W, dequantized(quantize(sites::format(name), W)), stats.H);
    CAPTURE(name, ratio);
    CHECK(ratio > 0.9);
    CHECK(ratio < 1.0);
  }
}

TEST_CASE("gptq law: the static order changes no scale", "[methods][gptq]") {
  const sites::Site site = sites::make_site(21, 640, 700, {5, 300, 301}, 20, 27);
  for (const FormatEntry& f : formats()) DYNAMIC_SECTION(f.name) {
      if (!shape_problem(f.spec, 640).empty()) continue;
      const GptqResult stored = run(f.spec, kGptq, site.W, site.stats.H),
                       sorted = run(f.spec, kStatic, site.W, site.stats.H);
      CHECK(stored.q.scales.bytes == sorted.q.scales.bytes);
      CHECK(stored.q.scales.zero_points == sorted.q.scales.zero_points);
      CHECK(stored.q.scales.factors == sorted.q.scales.factors);
      CHECK(stored.q.codes != sorted.q.codes);
      CHECK(stored.q.scales.bytes == choose_scales(f.spec, site.W).bytes);
    }
}

TEST_CASE("gptq law: scales chosen in the loop lose less", "[methods][gptq]") {
  for (const char* name : {"nvfp4", "mxfp4", "int4", "int4-g128"}) {
    const FormatSpec& format = sites::format(name);
    const sites::Site site = sites::make_site(256, 256, 1024, {}, 30, 28);
    const WeightScales search = weight_scales_for({.kind = WeightScales::nearby}, format);
    const auto loss = [&](const Rounding& r) { return run(format, r, site.W, site.stats.H, search).loss; };
    const double up_front = loss(kGptq), start = loss(kAtGroupStart), in_loop = loss(kInLoop);
    CAPTURE(name, up_front, start, in_loop);
    CHECK(in_loop < up_front);
    CHECK(in_loop <= start);
    CHECK(start < 1.02 * up_front);  // typical: it follows the compensated weights
  }
}

TEST_CASE("gptq: scales chosen on the way are those of the paper's recursion", "[methods][gptq]") {
  // With U: the columns still to come hold all that earlier errors leave to them, so a group is seen as it
  // is.
  const int64_t N = 96, K = 128;
  const sites::Site site = sites::make_site(N, K, 300, {}, 30, 29);
  const MatrixD U = paper_factor(damped(site.stats.H, 0.01));
  const FormatSpec int4{kInt4, 32, kFP16}, mxfp4 = kMxfp4;
  for (const FormatSpec& format : {int4, mxfp4}) {
    const bool powers = format.scale == kUE8M0;
    const spec::Grid grid = spec::grid(format.element.name);
    const spec::Stored fp16 = spec::stored("fp16");
    const auto value = [&](int code) {
      return powers ? std::ldexp(1.0, code - 127) : fp16.decode(uint32_t(code));
    };
    for (const Rounding& r : {kAtGroupStart, kInLoop}) {
      const bool in_loop = r.scales == Rounding::in_loop;
      const WeightScales search =
          in_loop ? weight_scales_for({.kind = WeightScales::nearby}, format) : WeightScales{};
      const GptqResult got = run(format, r, site.W, site.stats.H, search);
      int equal_rows = 0;
      for (int64_t row = 0; row < N; ++row) {
        std::vector<double> w;
        for (int64_t c = 0; c < K; ++c) w.push_back(double(site.W(row, c)));
        // Columns of the group from `begin` on under a scale; the sum of e^2.
        const auto replay = [&](std::vector<double>& v, int64_t begin, double s) {
          double loss = 0;
          for (int64_t i = begin; i < begin + 32; ++i) {
            const double q = s * grid.decode(grid.encode(float(v[size_t(i)] / s)));
            const double e = (v[size_t(i)] - q) / U(i, i);
            for (int64_t j = i; j < K; ++j) v[size_t(j)] -= e * U(i, j);
            loss += e * e;
          }
          return loss;
        };
        bool equal = true;
        for (int64_t group = 0; group < K / 32; ++group) {
          double amax = 0;
          for (int64_t i = 32 * group; i < 32 * group + 32; ++i)
            amax = std::max(amax, std::fabs(w[size_t(i)]));
          const int floor = spec::floor_log2(float(amax)) - 2 + 127;
          std::vector<int> codes;
          if (powers)
            codes =
                in_loop ? std::vector<int>{floor - 1, floor, floor + 1, floor + 2} : std::vector<int>{floor};
          for (int j = in_loop ? 0 : 15; j < 16 && !powers; ++j)
            codes.push_back(int(fp16.encode(amax * (0.6 + 0.4 * j / 15) / 7)));
          int best = codes[0];
          double least = INFINITY;
          for (const int code : codes) {
            std::vector<double> copy = w;
            if (const double loss = replay(copy, 32 * group, value(code)); loss < least)
              best = code, least = loss;
          }
          replay(w, 32 * group, value(best));
          uint32_t stored = 0;
          std::memcpy(&stored, &got.q.scales.bytes[size_t((row * K / 32 + group) * format.scale.bytes)],
                      size_t(format.scale.bytes));
          equal = equal && int(stored) == best;
        }
        equal_rows += equal;
      }
      CAPTURE(format.element.name, in_loop, equal_rows);
      CHECK(equal_rows >= N * 95 / 100);  // the others met a near tie
      CHECK(got.q.scales.bytes != choose_scales(format, site.W, search).bytes);
    }
  }
}
