// The worked example of methods/README.md: what lies between the marks is its code block, to the letter.
#include <fstream>
#include <nlohmann/json.hpp>
#include <sstream>

#include "methods/rounding/gptq.h"
#include "methods/site.h"
#include "tests/catch.h"
#include "tests/methods/sites.h"

using namespace fp4lab;
using namespace fp4lab::sites;

namespace {

// Kinds that the enums do not have: a test cannot add a name to them.
constexpr auto kBalance = TransformSpec::Kind(200);
SiteTransforms everywhere(const TransformSpec& spec) {
  SiteTransforms all;
  all.fill({spec});
  return all;
}

// README begins
// methods/transforms/balance.h, .cpp - each channel as strong in the weights as in the inputs: s_j =
// rms(x_j)^alpha / rms(w_j)^(1 - alpha), W -> W diag(s), X -> X diag(s)^-1 (`smooth`, by strength, not
// range).
TransformSpec read_balance(Params& p) {
  TransformSpec spec{kBalance};  // TransformSpec::balance, a new kind
  spec.alpha = p.number("alpha", 0.5, {"share of the inputs' strength that the weights take over", 0, 1});
  return spec;
}
void write_balance(const TransformSpec& spec, Json& object) { object["alpha"] = spec.alpha; }
std::string balance_problem(const TransformSpec&, const TransformFit&) { return ""; }
void fit_balance(const TransformSpec& spec, const TransformInput& input, LinearMap& map) {
  DiagonalFactor factor;
  for (int64_t j = 0; j < input.W.cols; ++j) {
    double w = 0;
    for (int64_t n = 0; n < input.W.rows; ++n) w += double(input.W(n, j)) * double(input.W(n, j));
    w = std::sqrt(w / double(input.W.rows));
    const double x = std::sqrt(input.stats->H(j, j) / double(input.stats->tokens));
    const bool dead = w == 0 || x == 0;  // nothing to share out
    factor.scale.push_back(dead ? 1 : float(std::pow(x, spec.alpha) / std::pow(w, 1 - spec.alpha)));
  }
  map.factors.emplace_back(std::move(factor));
}
// Its row in methods/transforms/registry.cpp:
const TransformEntry kBalanceRow = {
    kBalance,          "balance",     "a diagonal that shares each channel's strength out",
    {.hessian = true}, &read_balance, &write_balance,
    &balance_problem,  &fit_balance};

// methods/rounding/pairs.h, .cpp - GPTQ on pairs of channels: the even ones are rounded, each moves its error
// onto its odd neighbour (exact where H couples nothing else), then those are rounded on the same scales.
QuantizedMatrix round_pairs(const FormatSpec& format, const WeightScales& search, Matrix W,
                            const MatrixD& H) {
  QuantizedMatrix q = round(format, W, choose_scales(format, W, search));
  Matrix rounded(W.rows(), W.cols());
  dequantize(q, rounded);
  for (int64_t n = 0; n < W.rows(); ++n)
    for (int64_t j = 0; j + 1 < W.cols(); j += 2)
      if (H(j + 1, j + 1) > 0)
        W(n, j + 1) += (W(n, j) - rounded(n, j)) * float(H(j, j + 1) / H(j + 1, j + 1));
  return round(format, W, std::move(q.scales));
}

// A method that combines known parts, a row in methods/registry.cpp:
const MethodEntry kBalancedGptq = {
    "gptq+balance",
    "gptq after a diagonal that shares each channel's strength out",
    {.transform = everywhere({.kind = kBalance, .alpha = 0.5}), .rounding = {.kind = Rounding::gptq}}};
// README ends

std::string text_of(const std::string& path) {
  std::ifstream in(path);
  std::stringstream text;
  text << in.rdbuf();
  return text.str();
}
std::string between(const std::string& text, const std::string& begin, const std::string& end) {
  const size_t from = text.find(begin), to = text.find(end, from);
  if (from == text.npos || to == text.npos) return "";
  return text.substr(from + begin.size(), to - from - begin.size());
}

/// sum over rows of d H d^T, d = W - W^, H by its upper triangle.
double loss(const Matrix& W, const Matrix& W_hat, const MatrixD& H) {
  double sum = 0;
  for (int64_t n = 0; n < W.rows(); ++n)
    for (int64_t i = 0; i < W.cols(); ++i)
      for (int64_t j = i; j < W.cols(); ++j)
        sum += (i == j ? 1 : 2) * double(W(n, i) - W_hat(n, i)) * H(i, j) * double(W(n, j) - W_hat(n, j));
  return sum;
}
Matrix value_of(const QuantizedMatrix& q) {
  Matrix W(q.rows(), q.cols());
  dequantize(q, W);
  return W;
}

}  // namespace

TEST_CASE("worked example: the README shows what is compiled here", "[methods][example]") {
  const std::string root = FP4LAB_SOURCE_DIR;
  // The marks are put together here, so that this line is not one of them.
  const std::string mark = "// README ";
  const std::string code =
      between(text_of(root + "/tests/methods/worked_example_test.cpp"), mark + "begins\n", mark + "ends\n");
  REQUIRE(code.size() > 1000);
  CHECK(std::count(code.begin(), code.end(), '\n') < 60);
  CHECK(between(text_of(root + "/methods/README.md"), "```cpp\n", "```\n") == code);
}

TEST_CASE("worked example: the transform balances and keeps X W^T", "[methods][example]") {
  const Site site = make_site(48, 64, 256, {3, 40}, 20);
  const Json object = Json::parse(R"({"alpha": 0.5})");
  Params p(object, {}, "balance");
  const TransformSpec spec = kBalanceRow.read(p);
  p.done();
  CHECK(kBalanceRow.problem(spec, fit_for(64, nullptr)).empty());
  Json written = Json::object();
  kBalanceRow.write(spec, written);
  CHECK(written == object);

  LinearMap map;
  kBalanceRow.fit(spec, {fit_for(64, nullptr), 0, site.W, &site.stats}, map);
  Matrix w = site.W.clone(), x = site.X.clone();
  map_weights(map, w), map_activations(map, x);
  for (int64_t j = 0; j < 64; ++j) {
    double in_w = 0, in_x = 0;
    for (int64_t n = 0; n < w.rows(); ++n) in_w += double(w(n, j)) * double(w(n, j)) / double(w.rows());
    for (int64_t t = 0; t < x.rows(); ++t) in_x += double(x(t, j)) * double(x(t, j)) / double(x.rows());
    CHECK(in_w == Approx(in_x).epsilon(1e-4));
  }
  const Matrix nothing = Matrix::zeros(48, 64);
  CHECK(output_error(site.X, site.W, x, w) < 1e-11 * output_error(site.X, site.W, site.X, nothing));

  // A channel that nothing flows through stays as it is.
  Site dead = make_site(8, 16, 32);
  for (int64_t t = 0; t < 32; ++t) dead.X(t, 5) = 0;
  dead.stats = stats_of(dead.X);
  LinearMap other;
  kBalanceRow.fit(spec, {fit_for(16, nullptr), 0, dead.W, &dead.stats}, other);
  CHECK(scale_of(other)[5] == 1);
}

TEST_CASE("worked example: the method, as quantize_site would run it", "[methods][example]") {
  const Site site = make_site(64, 96, 512, {3, 40}, 20);
  const FormatSpec& nvfp4 = format("nvfp4");
  // quantize_site finds transforms in the registry: what it does with this one is done by hand here.
  const TransformSpec spec = kBalancedGptq.spec.transform[0].at(0);
  REQUIRE(spec.kind == kBalanceRow.kind);
  LinearMap map;
  kBalanceRow.fit(spec, {fit_for(96, &nvfp4), 0, site.W, &site.stats}, map);
  const auto run = [&](MethodSpec method, const FormatSpec* weights) {
    method.transform = {};
    Matrix W = site.W.clone();
    SiteStats stats = site.stats.clone();
    map_weights(map, W), map_hessian(map, stats.H);
    return quantize_site(*make_cpu_ops(), method, {}, weights, nullptr, make_cpu_ops()->adopt(std::move(W)),
                         &stats);
  };
  Matrix X = site.X.clone();
  map_activations(map, X);
  const Matrix nothing = Matrix::zeros(64, 96);
  const double energy = output_error(site.X, site.W, site.X, nothing);
  // In full precision the product is kept; quantized, GPTQ is nearer to it than RTN in the same coordinates.
  CHECK(output_error(site.X, site.W, X, sites::matrix_of(run({}, nullptr).W)) < 1e-11 * energy);
  const QuantizedWeights q = run(kBalancedGptq.spec, &nvfp4);
  const double gptq_error = output_error(site.X, site.W, X, sites::matrix_of(q.W));
  CHECK(gptq_error < 0.8 * output_error(site.X, site.W, X, sites::matrix_of(run({}, &nvfp4).W)));
  CHECK(gptq_error < 0.02 * energy);
  CHECK(q.report.loss * 512 == Approx(gptq_error).epsilon(1e-3));
}

TEST_CASE("worked example: pairs is between rtn and gptq, and gptq where only pairs are coupled",
          "[methods][example]") {
  const Site site = make_site(64, 96, 512);
  const Rounding rounding{.kind = Rounding::gptq, .damping = 0};
  for (const char* name : {"nvfp4", "mxfp4", "int4"}) {
    CAPTURE(name);
    const FormatSpec& f = format(name);
    MatrixD H = site.stats.H.clone();
    for (int64_t i = 0; i < 96; ++i)
      for (int64_t j = i + 1; j < 96; ++j)
        if (i % 2 == 1 || j != i + 1) H(i, j) = 0;
    const HessianFactor factor = factor_hessian(H, rounding);
    const Matrix gptq_pairs = value_of(gptq(f, {}, rounding, site.W, H, {}, factor).q),
                 pairs = value_of(round_pairs(f, {}, site.W.clone(), H)), rtn = value_of(quantize(f, site.W));
    int64_t same = 0;
    for (int64_t i = 0; i < pairs.size(); ++i) same += pairs.data()[i] == gptq_pairs.data()[i];
    CHECK(same >= pairs.size() * 999 / 1000);  // the coefficient is rounded by another route
    CHECK(loss(site.W, pairs, H) < 0.999 * loss(site.W, rtn, H));
    // With the whole H, the full loop does more.
    const MatrixD& whole = site.stats.H;
    const Matrix all = value_of(gptq(f, {}, rounding, site.W, whole, {}, factor_hessian(whole, rounding)).q);
    CHECK(loss(site.W, all, whole) <
          loss(site.W, value_of(round_pairs(f, {}, site.W.clone(), whole)), whole));
  }
}
