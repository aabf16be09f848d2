// Searches for weights' scales that follow the format or look at the Hessian, and the grid for wide scales.
#include "formats/quantize.h"
#include "formats/registry.h"
#include "tests/catch.h"
#include "tests/formats/reference.h"

using namespace fp4lab;

namespace {

/// Of X quantized and back.
double squared_error(const FormatSpec& f, const Matrix& X, const WeightScales& search = {}) {
  Matrix Y(X.rows(), X.cols());
  fake_quantize(f, X, Y, search);
  double sum = 0;
  for (int64_t i = 0; i < X.size(); ++i) {
    const double d = double(X.data()[i]) - double(Y.data()[i]);
    sum += d * d;
  }
  return sum;
}

}  // namespace

TEST_CASE("grid: the best of its steps, ties to the smaller scale", "[formats][searches]") {
  struct Row {
    const char* format;
    int steps;
    double lowest;
  };
  for (const Row& row : {Row{"int4", 16, 0.6}, Row{"e2m1-fp16", 16, 0.6}, Row{"e2m1-fp32", 5, 0.3},
                         Row{"nf4", 128, 0.5}, Row{"e2m1-bf16", 2, 0.9}, Row{"nvfp4", 16, 0.6}}) {
    const FormatSpec f = find_format(row.format)->spec;
    const WeightScales search{WeightScales::replace,
                              {.kind = ScaleRule::grid, .steps = row.steps, .lowest = row.lowest}};
    const Matrix X = spec::sample("normal", 20, 320, 60);
    const Scales scales = choose_scales(f, X, search);
    const spec::Grid e = spec::grid(f.element.name);
    const spec::Stored type = spec::stored(f.scale.name);
    const float s_t = scales.factors.empty() ? 1.0f : scales.factors[0];
    int wrong = 0, shrunk = 0;
    for (int64_t k = 0; k < X.size() / f.group_size; ++k) {
      const float* x = X.data() + k * f.group_size;
      const float amax = spec::amax_of(x, f.group_size);
      std::vector<spec::Candidate> candidates;
      int absmax = 0;
      for (int j = 0; j < row.steps; ++j) {
        const float share = float(row.lowest + (1 - row.lowest) * j / (row.steps - 1));
        const uint32_t code = type.encode(double(amax * share / (float(e.qmax) * s_t)));
        candidates.push_back({int(code), s_t * float(type.decode(code))});
        absmax = int(code);  // the last one's share is 1
      }
      const spec::Candidate want = spec::best_of(candidates, e, x, f.group_size);
      uint32_t got = 0;
      std::memcpy(&got, scales.bytes.data() + k * f.scale.bytes, size_t(f.scale.bytes));
      wrong += int(got) != want.code, shrunk += int(got) != absmax;
    }
    CAPTURE(row.format, row.steps);
    CHECK(wrong == 0);
    CHECK(shrunk > 0);
    CHECK(squared_error(f, X, search) < squared_error(f, X));
  }
}

TEST_CASE("paper and nearby: what they are follows the format", "[formats][searches]") {
  const WeightScales shrink{WeightScales::mse_shrink, {}}, alternate{WeightScales::alternate, {}}, none{};
  const auto replace = [](ScaleRule rule) { return WeightScales{WeightScales::replace, rule}; };
  const WeightScales powers = replace({.kind = ScaleRule::search, .k = 4}),
                     codes = replace({.kind = ScaleRule::sweep, .lo = -8, .hi = 7}),
                     grid = replace({.kind = ScaleRule::grid});
  struct Row {
    const char* format;
    WeightScales paper, nearby;
  };
  const Row rows[] = {{"nvfp4", alternate, codes},     {"nvint4", alternate, codes},
                      {"e2m1-int8", alternate, codes}, {"e2m1-ue5m3", alternate, codes},
                      {"mxfp4", none, powers},         {"mxfp4-paper", none, powers},
                      {"mxint8", none, powers},        {"int4", shrink, grid},
                      {"int4-peer", shrink, grid},     {"nf4", shrink, grid},
                      {"int8", shrink, grid},          {"e2m1-bf16", shrink, grid}};
  const Matrix X = spec::sample("heavy", 12, 128, 61);
  for (const Row& row : rows) {
    const FormatSpec f = find_format(row.format)->spec;
    CAPTURE(row.format);
    const WeightScales paper{WeightScales::paper, {}}, nearby{WeightScales::nearby, {}};
    CHECK(weight_scales_for(paper, f) == row.paper);
    CHECK(weight_scales_for(nearby, f) == row.nearby);
    for (const auto& [asked, meant] : {std::pair{paper, row.paper}, std::pair{nearby, row.nearby}}) {
      const QuantizedMatrix q = quantize(f, X, asked), want = quantize(f, X, meant);
      CHECK(q.digest() == want.digest());
      CHECK(q.format == want.format);
      CHECK(choose_scales(f, X, asked).bytes == want.scales.bytes);
    }
  }
  // Zero points: MR-GPTQ's choice is the rule, and nothing is near it.
  const FormatSpec asym = find_format("int4-asym")->spec;
  CHECK(quantize(asym, X, {WeightScales::paper, {}}).digest() == quantize(asym, X).digest());
  CHECK_THROWS_AS(quantize(asym, X, {WeightScales::nearby, {}}), ConfigError);
  // The metric goes along.
  CHECK(weight_scales_for({WeightScales::nearby, {}, WeightScales::hessian_diagonal}, kNvfp4).metric ==
        WeightScales::hessian_diagonal);
}

TEST_CASE("searches by the Hessian: not choose_scales', and what they refuse", "[formats][searches]") {
  const Matrix X = spec::sample("normal", 2, 128, 62);
  const WeightScales local{WeightScales::local_hessian, {}};
  const WeightScales diagonal{
      WeightScales::replace, {.kind = ScaleRule::sweep}, WeightScales::hessian_diagonal};
  for (const WeightScales& search : {local, diagonal}) {
    CHECK(search.needs_hessian());
    CHECK_THROWS_AS(choose_scales(kNvfp4, X, search), Fault);
    CHECK_THROWS_AS(quantize(kNvfp4, X, search), Fault);
    CHECK(weight_scales_problem(search, kNvfp4) == "");
    CHECK(weight_scales_problem(search, find_format("int4-asym")->spec) ==
          "zero points have no scale search");
    FormatSpec rows = kNvfp4;
    rows.group_size = kWholeRow;
    CHECK(weight_scales_problem(search, rows) ==
          "a search weighted by the Hessian needs groups of columns, not whole rows");
  }
  CHECK(weight_scales_problem(local, find_format("int4")->spec) ==
        "\"local_hessian\" tries the codes of 8-bit scales, not fp16 scales");
  CHECK(weight_scales_problem(diagonal, kMxfp4).find("rule \"sweep\" does not choose ue8m0 scales") == 0);
  for (const WeightScales::Kind kind :
       {WeightScales::rule, WeightScales::alternate, WeightScales::mse_shrink})
    CHECK(weight_scales_problem({kind, {}, WeightScales::hessian_diagonal}, kNvfp4) ==
          "\"metric\" goes with sweep, four_over_six, search and grid");
  const auto grid = [](int steps, double lowest) {
    return WeightScales{WeightScales::replace, {.kind = ScaleRule::grid, .steps = steps, .lowest = lowest}};
  };
  const FormatSpec int4 = find_format("int4")->spec;
  CHECK(weight_scales_problem(grid(2, 0.01), int4) == "");
  for (const WeightScales& wrong : {grid(1, 0.5), grid(129, 0.5), grid(16, 0), grid(16, 1), grid(16, NAN)})
    CHECK(weight_scales_problem(wrong, int4) == "rule \"grid\" needs 2 to 128 steps and 0 < lowest < 1");
  CHECK(weight_scales_problem(grid(16, 0.6), kMxfp4).find("rule \"grid\" does not choose ue8m0 scales") == 0);
}
