// Roundings as values, the factor of the Hessian, and what quantize_site makes of both.
#include "methods/rounding/rounding.h"

#include <numeric>

#include "methods/scales/scale_metric.h"
#include "methods/site.h"
#include "tests/catch.h"
#include "tests/methods/gptq_cases.h"

using namespace fp4lab;
using namespace fp4lab::gptq_cases;

namespace {

const SitePlace kPlace{};

MethodSpec method_of(const std::string& text) {
  return parse_method(parse_json(text, "test"), {"s.json", "/method", nullptr}).spec;
}

/// Pairs of channels (i, i + 1) with 1 on the diagonal and `off` between them: eigenvalues 1 + off, 1 - off.
MatrixD pairs(int64_t K, double off) {
  MatrixD H = MatrixD::zeros(K, K);
  for (int64_t i = 0; i < K; ++i) H(i, i) = 1;
  for (int64_t i = 0; i < K; i += 2) H(i, i + 1) = off;
  return H;
}

SiteStats stats_with(MatrixD H) {
  SiteStats stats;
  stats.tokens = 10;
  stats.H = std::move(H);
  return stats;
}

}  // namespace

TEST_CASE("rounding: the list", "[methods][rounding]") {
  CHECK(rounding_names() == std::vector<std::string>{"rtn", "gptq", "gptaq", "qronos"});
  CHECK_FALSE(entry_of(Rounding::rtn).needs.any());
  CHECK(entry_of(Rounding::gptq).needs == StatsNeeds{.hessian = true});
  for (const Rounding::Kind kind : {Rounding::gptaq, Rounding::qronos})
    CHECK(entry_of(kind).needs == StatsNeeds{.hessian = true, .cross = true});
  for (const RoundingEntry& r : roundings()) CHECK_FALSE(r.description.empty());
}

TEST_CASE("rounding: what does not go together", "[methods][rounding]") {
  const auto problem = [](Rounding::Scales scales, WeightScales search, const char* format) {
    return rounding_problem(rounding(Rounding::gptq, Rounding::natural, scales),
                            weight_scales_for(search, sites::format(format)), sites::format(format));
  };
  const WeightScales nearby{.kind = WeightScales::nearby}, local{.kind = WeightScales::local_hessian};
  for (const FormatEntry& f : formats()) {
    CHECK(rounding_problem(kGptq, {}, f.spec) == "");
    CHECK(rounding_problem({}, {}, f.spec) == "");
  }
  CHECK(problem(Rounding::at_group_start, {}, "nvfp4") == "");
  CHECK(problem(Rounding::at_group_start, {}, "int4-asym") == "");
  CHECK(problem(Rounding::at_group_start, {}, "int8") ==
        "scales at_group_start needs groups of columns, not whole rows");
  CHECK(problem(Rounding::in_loop, nearby, "int8") ==
        "scales in_loop needs groups of columns, not whole rows");
  for (const char* name : {"nvfp4", "mxfp4", "int4", "nf4", "mxint8"})
    CHECK(problem(Rounding::in_loop, nearby, name) == "");
  CHECK(problem(Rounding::in_loop, local, "nvfp4") == "");
  CHECK(problem(Rounding::in_loop, {}, "nvfp4-4over6") == "");  // the rule itself has candidates
  for (const char* name : {"nvfp4", "mxfp4", "int4"})
    CHECK(problem(Rounding::in_loop, {}, name) ==
          "in_loop needs candidates: weight_scales sweep, four_over_six, search, grid or local_hessian");
  for (const WeightScales::Kind kind : {WeightScales::alternate, WeightScales::mse_shrink})
    CHECK(problem(Rounding::in_loop, {.kind = kind}, "nvfp4")
              .find("in_loop compares candidates by its own loss: weight_scales sweep") == 0);
  // The same through a site.
  const MethodSpec in_loop = method_of(R"({"base": "gptq", "scales": "in_loop"})");
  CHECK(site_problem(in_loop, kPlace, &kNvfp4, nullptr, 64).find("in_loop needs candidates") == 0);
  const MethodSpec near = method_of(R"({"base": "gptq", "scales": "in_loop", "weight_scales": "nearby"})");
  CHECK(site_problem(near, kPlace, &kNvfp4, nullptr, 64) == "");
  CHECK(site_problem(near, kPlace, &sites::format("int4-asym"), nullptr, 64) ==
        "element int4-asym takes its scale from the range: only rule \"absmax\"");
}

TEST_CASE("factor: R R^T is the damped H, coefficients R_ik / R_kk, weights R_kk^2", "[methods][rounding]") {
  const int64_t K = 96;
  sites::Site site = sites::make_site(1, K, 200, {4, 50}, 7, 40);
  for (int64_t i = 0; i < K; ++i) site.stats.H(std::min<int64_t>(i, 33), std::max<int64_t>(i, 33)) = 0;
  for (const Rounding::Order order : {Rounding::natural, Rounding::static_activation}) {
    const HessianFactor f = factor_hessian(site.stats.H, rounding(Rounding::gptaq, order));
    REQUIRE(f.ok);
    CHECK(f.damping == 0.01);
    CHECK(f.dead_channels == 1);
    CHECK(int(f.dead[33]) == 1);
    std::vector<int32_t> want(static_cast<size_t>(K));
    std::iota(want.begin(), want.end(), 0);
    if (order == Rounding::static_activation) {
      CHECK(f.order == descending_diagonal(site.stats.H));
      CHECK(f.order.back() == 33);
      for (size_t i = 1; i < want.size(); ++i)
        CHECK(site.stats.H(f.order[i - 1], f.order[i - 1]) >= site.stats.H(f.order[i], f.order[i]));
    } else {
      CHECK(f.order == want);
    }
    const MatrixD A = reordered(damped(site.stats.H, 0.01), f.order);
    double worst = 0, largest = 0, mean = 0;
    for (int64_t i = 0; i < K; ++i)
      for (int64_t j = 0; j < K; ++j) {
        if (i == j && f.dead[size_t(f.order[size_t(i)])]) continue;  // of no consequence: its errors are 0
        double sum = 0;
        for (int64_t k = std::max(i, j); k < K; ++k) sum += f.R(k, i) * f.R(k, j);
        worst = std::max(worst, std::fabs(sum - A(i, j))), largest = std::max(largest, std::fabs(A(i, j)));
      }
    CHECK(worst <= 1e-12 * largest);
    for (int64_t k = 0; k < K; ++k) {
      mean += f.R(k, k) * f.R(k, k) / double(K);
      CHECK(double(f.weight[size_t(k)]) * f.weight_unit == Approx(f.R(k, k) * f.R(k, k)).epsilon(1e-6));
      for (int64_t i = 0; i < K; ++i)
        CHECK(f.coefficients(k, i) == (i < k ? float(f.R(k, i) / f.R(k, k)) : 0.0f));
    }
    CHECK(f.weight_unit == Approx(mean).epsilon(1e-12));
  }
}

TEST_CASE("factor: equal diagonals keep their order; the scale of H does not matter", "[methods][rounding]") {
  MatrixD H = pairs(8, 0);
  H(5, 5) = 2, H(2, 2) = 0.5;
  CHECK(descending_diagonal(H) == std::vector<int32_t>{5, 0, 1, 3, 4, 6, 7, 2});
  const sites::Site site = sites::make_site(16, 64, 128, {}, 30, 41);
  for (const double scale : {0x1p-80, 0x1p80}) {
    MatrixD scaled = site.stats.H.clone();
    for (int64_t i = 0; i < scaled.size(); ++i) scaled.data()[i] *= scale;
    const GptqResult a = run(kNvfp4, kGptq, site.W, site.stats.H), b = run(kNvfp4, kGptq, site.W, scaled);
    CHECK(a.q.digest() == b.q.digest());
    CHECK(b.loss == Approx(a.loss * scale));
  }
}

TEST_CASE("factor: the damping rises tenfold, three times at most", "[methods][rounding]") {
  struct Row {
    double off, asked, used;
    bool ok;
  };
  const Row rows[] = {{0.5, 0.01, 0.01, true}, {1.05, 0.01, 0.1, true},    {1.5, 0.01, 1, true},
                      {10.5, 0.01, 10, true},  {12, 0.01, 10, false},      {1.0005, 0, 0.001, true},
                      {1.005, 0, 0.01, true},  {1.05, 0, 0.1, true},       {1.5, 0, 0.1, false},
                      {0.5, 0, 0, true},       {1 - 1e-16, 0, 0.001, true}};
  for (const Row& row : rows) {
    Rounding r = kGptq;
    r.damping = row.asked;
    const HessianFactor f = factor_hessian(pairs(32, row.off), r);
    CAPTURE(row.off, row.asked);
    CHECK(f.ok == row.ok);
    CHECK(f.damping == Approx(row.used).epsilon(1e-12));
    CHECK(f.added == f.damping);  // the mean of the diagonal is 1
    // 1-norm condition: the largest column sum over the smallest eigenvalue's reciprocal.
    if (row.ok) {
      const double sum = 1 + row.used + row.off, inverse = 1 / std::fabs(1 + row.used - row.off);
      CHECK(f.condition == Approx(sum * inverse).epsilon(1e-6));
    } else {
      CHECK(std::isinf(f.condition));
    }
  }
}

TEST_CASE("site: the damping used and the fall back to nearest are reported", "[methods][rounding]") {
  const Matrix W = sites::normal(21, 32, 42, 0.05f);
  const auto quantized = [&](const std::string& method, MatrixD H) {
    SiteStats stats = stats_with(std::move(H));
    stats.D = MatrixD::zeros(32, 32);
    return quantize_site(*make_cpu_ops(), method_of(method), kPlace, &kNvfp4, nullptr,
                         make_cpu_ops()->adopt(W.clone()), &stats);
  };
  for (const char* method :
       {R"("gptq")", R"("gptaq")", R"("qronos")", R"({"base": "gptq", "order": "static_activation"})",
        R"({"base": "gptq", "scales": "in_loop", "weight_scales": "nearby"})"}) {
    CAPTURE(method);
    const QuantizedWeights fine = quantized(method, pairs(32, 0.9));
    CHECK_FALSE(fine.report.fell_back);
    CHECK(fine.report.damping == 0.01);
    CHECK(fine.report.loss > 0);
    const QuantizedWeights raised = quantized(method, pairs(32, 1.05));
    CHECK_FALSE(raised.report.fell_back);
    CHECK(raised.report.damping == Approx(0.1));
    const QuantizedWeights fell = quantized(method, pairs(32, 50));
    CHECK(fell.report.fell_back);
    CHECK(fell.report.damping == Approx(10));
    CHECK(std::isinf(fell.report.condition));
    const WeightScales search = method_of(method).weight_scales;
    CHECK(fell.digest == quantize(kNvfp4, W, search).digest());
    CHECK(fell.report.loss == Approx(loss_of(W, sites::matrix_of(fell.W), pairs(32, 50)) / 10).epsilon(1e-5));
    CHECK(fine.digest != fell.digest);
  }
  // Fewer tokens than channels: without damping no factor, with the first rise there is one.
  const SiteStats few = sites::stats_of(sites::normal(8, 32, 43));
  const QuantizedWeights got = quantized(R"({"base": "gptq", "damping": 0})", few.H.clone());
  CHECK(got.report.damping == 0.001);
  CHECK_FALSE(got.report.fell_back);
  // Dead channels are counted; their weights are 0.
  MatrixD H = pairs(32, 0.5);
  for (const int64_t i : {4, 5, 6, 7, 30, 31}) H(i, i) = 0, H(i / 2 * 2, i / 2 * 2 + 1) = 0;
  const QuantizedWeights dead = quantized(R"("gptq")", std::move(H));
  CHECK(dead.report.dead_channels == 6);
  for (int64_t r = 0; r < 21; ++r)
    for (const int64_t i : {4, 5, 6, 7, 30, 31}) CHECK(dead.W.view()(r, i) == 0);
  CHECK_THROWS_AS(quantized(R"("gptq")", pairs(32, NAN)), DataError);
  CHECK_THROWS_AS(quantized(R"({"weight_scales": "local_hessian"})", pairs(32, INFINITY)), DataError);
}

TEST_CASE("site: rtn on scales weighted by the Hessian", "[methods][rounding]") {
  sites::Site site = sites::make_site(21, 64, 200, {3, 40}, 10, 44);
  const QuantizedWeights got =
      quantize_site(*make_cpu_ops(), method_of(R"({"weight_scales": "local_hessian"})"), kPlace, &kNvfp4,
                    nullptr, make_cpu_ops()->adopt(site.W.clone()), &site.stats);
  const WeightScales local{.kind = WeightScales::local_hessian};
  const QuantizedMatrix want =
      round(kNvfp4, site.W, choose_weighted_scales(kNvfp4, local, site.W, site.stats.H));
  CHECK(got.digest == want.digest());
  CHECK(loss_of(site.W, sites::matrix_of(got.W), site.stats.H) <
        loss_of(site.W, dequantized(quantize(kNvfp4, site.W)), site.stats.H));
  CHECK(got.report.damping == 0);
}

TEST_CASE("site: the dynamic order is a permutation in the map", "[methods][rounding]") {
  sites::Site site = sites::make_site(21, 96, 200, {3, 40, 95}, 10, 45);
  const MatrixD H = site.stats.H.clone();
  const FormatSpec fine{*find_element("int8"), 16, kFP32};
  for (const char* rounding : {"gptq", "gptaq"}) {
    SiteStats stats = site.stats.clone();
    stats.D = MatrixD::zeros(96, 96);
    const MethodSpec method =
        method_of(str(R"({"rounding": ")", rounding, R"(", "order": "dynamic_activation"})"));
    const QuantizedWeights got = quantize_site(*make_cpu_ops(), method, kPlace, &fine, nullptr,
                                               make_cpu_ops()->adopt(site.W.clone()), &stats);
    REQUIRE(got.map.factors.size() == 1);
    const std::vector<int32_t> from = std::get<PermutationFactor>(got.map.factors[0]).from;
    CHECK(from == descending_diagonal(H));
    CHECK((from[0] == 3 || from[0] == 40 || from[0] == 95));
    Matrix moved = site.X.clone(), W = site.W.clone();
    map_activations(got.map, moved);
    map_weights(got.map, W);
    // The codes are those of plain GPTQ on the permuted problem.
    MatrixD permuted = MatrixD::zeros(96, 96);
    for (int64_t i = 0; i < 96; ++i)
      for (int64_t j = i; j < 96; ++j)
        permuted(i, j) =
            H(std::min(from[size_t(i)], from[size_t(j)]), std::max(from[size_t(i)], from[size_t(j)]));
    CHECK(got.digest == run(fine, kGptq, W, permuted).q.digest());
    const Matrix zero = Matrix::zeros(21, 96);
    const double error = sites::output_error(site.X, site.W, moved, sites::matrix_of(got.W)),
                 whole = sites::output_error(site.X, site.W, site.X, zero);
    CHECK(error < 1e-4 * whole);
    CHECK(error > 0);
  }
}
