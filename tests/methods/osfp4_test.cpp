// osfp4: phi from the literature and from averages over the phase, the loss found again by search, laws,
// faults.
#include <limits>

#include "core/half.h"
#include "methods/transforms/osfp4.h"
#include "tests/catch.h"
#include "tests/methods/sites.h"

using namespace fp4lab;
using namespace fp4lab::sites;

namespace {

/// x^-2 E[(x - 2^U Q(2^-U x))^2] over 20000 values of U.
double phase_average(const Element& e, double x) {
  double sum = 0;
  for (int i = 0; i < 20000; ++i) {
    const double u = std::exp2((i + 0.5) / 20000);
    const double error = x - u * double(decode_element(e, encode_element(e, float(x / u))));
    sum += error * error / (20000 * x * x);
  }
  return sum;
}

/// min over g of sum_r energy_r phi(value_r / g): a line search, 1/32 octave fine, and the g it found.
double best_over_scale(const PhaseError& phi, const std::vector<double>& value,
                       const std::vector<double>& energy, double* g_found = nullptr) {
  double best = std::numeric_limits<double>::infinity(), amax = 0;
  for (const double v : value) amax = std::max(amax, std::fabs(v));
  for (int i = -64; i <= 128; ++i) {
    const double g = amax / 6 * std::exp2(i / 32.0);
    double sum = 0;
    for (size_t r = 0; r < value.size(); ++r) sum += energy[r] * phi.at(value[r] / g);
    if (sum < best) {
      best = sum;
      if (g_found) *g_found = g;
    }
  }
  return best;
}

/// L_W + L_X of a site in groups of k under W scale, X / scale, every group scale the best.
double loss(const Site& site, const std::vector<float>& scale, int64_t k, bool weights, bool activations) {
  const PhaseError phi(kE2M1);
  const std::vector<double> u2 = kept_energies(site.stats, 0.01);
  double total = 0;
  std::vector<double> value(static_cast<size_t>(k)), energy(static_cast<size_t>(k));
  for (int64_t first = 0; first < site.W.cols(); first += k) {
    std::vector<double> squares(size_t(k), 0.0);
    for (int64_t r = 0; r < k; ++r)
      for (int64_t i = 0; i < site.W.rows(); ++i)
        squares[size_t(r)] += double(site.W(i, first + r)) * double(site.W(i, first + r));
    for (int64_t i = 0; weights && i < site.W.rows(); ++i) {
      for (int64_t r = 0; r < k; ++r) {
        const double w = double(site.W(i, first + r));
        value[size_t(r)] = w * double(scale[size_t(first + r)]);
        energy[size_t(r)] = double(site.X.rows()) * u2[size_t(first + r)] * w * w;
      }
      total += best_over_scale(phi, value, energy);
    }
    for (int64_t t = 0; activations && t < site.X.rows(); ++t) {
      for (int64_t r = 0; r < k; ++r) {
        const double x = double(site.X(t, first + r));
        value[size_t(r)] = x / double(scale[size_t(first + r)]);
        energy[size_t(r)] = squares[size_t(r)] * x * x;
      }
      total += best_over_scale(phi, value, energy);
    }
  }
  return total;
}

double median(std::vector<float> v) {
  std::sort(v.begin(), v.end());
  return double(v[v.size() / 2]);
}

const TransformSpec kOsfp4 = spec_of(R"("osfp4")");

}  // namespace

TEST_CASE("osfp4: phi of e2m1 as in the literature", "[methods][transforms][osfp4]") {
  const PhaseError phi(kE2M1);
  const std::pair<double, double> known[] = {{0.5, .27865}, {1, .038203}, {1.5, .022173}, {8, .017164},
                                             {10, .04782},  {12, .0983},  {0, 1},         {0.25, 1},
                                             {0.01, 1},     {1e-30, 1}};
  for (const auto& [x, value] : known) {
    CAPTURE(x);
    CHECK(phi.at(x) == Approx(value).epsilon(2e-4));
    CHECK(phi.at(-x) == phi.at(x));
  }
  for (double x = 1.75; x <= 7; x += 1.0 / 64) CHECK(phi.at(x) == Approx(.010723).margin(5e-7));
  CHECK(phi.at(1.7) > .01073);
  CHECK(phi.at(7.1) > .01073);
  CHECK(phi.at(1e9) == phi.at(256));  // the end of the table
}

TEST_CASE("osfp4: phi of every symmetric element is the average over the phase",
          "[methods][transforms][osfp4]") {
  for (const Element& e : kElements)
    if (e.kind != ElementKind::int_asym) DYNAMIC_SECTION(e.name) {
        const PhaseError phi(e);
        for (const double share : {1e-3, .013, .06, .14, .3, .55, .9, 1.0, 1.2, 3.0}) {
          const double x = share * double(e.scale_max);
          CAPTURE(x);
          const double both = (phase_average(e, x) + phase_average(e, -x)) / 2;
          CHECK(phi.at(x) == Approx(both).epsilon(1e-4).margin(1e-7));
          const double up = x * std::exp2(1.0 / 4096);
          // The slope is that of the table's piece; x may be in the one before.
          CHECK(double(phi.slope(float(std::log2(x)))) ==
                Approx((phi.at(up) - phi.at(x)) * 4096).epsilon(.01).margin(.002));
        }
        CHECK(phi.slope(-200) == 0);
        CHECK(phi.slope(200) == 0);
      }
}

TEST_CASE("osfp4: what GPTQ cannot pass on", "[methods][transforms][osfp4]") {
  // H / tokens = [4 2; 2 2] = R R^T: R_11^2 = 2, R_00^2 = 4 - 2^2 / 2. (The other order would give 4 and 1.)
  SiteStats stats;
  stats.tokens = 3;
  stats.H = MatrixD::zeros(2, 2);
  stats.H(0, 0) = 12, stats.H(0, 1) = 6, stats.H(1, 1) = 6;
  std::vector<double> u2 = kept_energies(stats, 1e-6);
  CHECK(u2[0] == Approx(2).epsilon(1e-5));
  CHECK(u2[1] == Approx(2).epsilon(1e-5));
  u2 = kept_energies(stats, 0.5);  // [5.5 2; 2 3.5]
  CHECK(u2[0] == Approx(5.5 - 4 / 3.5));
  CHECK(u2[1] == Approx(3.5));
  stats.H = MatrixD::zeros(2, 2);
  CHECK(kept_energies(stats, 0.01) == std::vector<double>{1, 1});
  for (const double wrong : {-100.0, std::numeric_limits<double>::quiet_NaN(), double(INFINITY)}) {
    stats.H(0, 0) = 1, stats.H(1, 1) = wrong;
    std::string message;
    try {
      kept_energies(stats, 0.01);
    } catch (const DataError& e) {
      message = e.what();
    }
    CHECK(message == "osfp4: H is not positive definite with damping 0.01");
  }
}

TEST_CASE("osfp4: lowers its loss and the error of the output", "[methods][transforms][osfp4]") {
  const std::vector<int64_t> outliers = {3, 40, 41};
  const Site site = make_site(48, 64, 64, outliers, 20);
  FormatSpec nvfp4 = format("nvfp4");
  nvfp4.rule = {ScaleRule::sweep};
  FormatSpec tokens = nvfp4;
  tokens.tensor_scale.mode = TensorScale::per_token;
  struct Row {
    bool weights, activations;
    double loss_share, error_share;  // of those without the transform, at most
  };
  for (const Row& row : {Row{true, true, .7, .5}, Row{true, false, .98, .8}, Row{false, true, .65, .5}}) {
    const FormatSpec *w = row.weights ? &nvfp4 : nullptr, *a = row.activations ? &tokens : nullptr;
    const std::vector<float> scale = scale_of(fit_one(kOsfp4, site.W, site.stats, w, a));
    const double before = loss(site, std::vector<float>(64, 1.0f), 16, row.weights, row.activations);
    const double after = loss(site, scale, 16, row.weights, row.activations);
    const double error_before = quantized_error(site, {}, w, a);
    const double error_after = quantized_error(site, {{DiagonalFactor{scale}}}, w, a);
    CAPTURE(row.weights, row.activations, before, after, error_before, error_after);
    CHECK(after < row.loss_share * before);
    CHECK(error_after < row.error_share * error_before);
    if (row.activations)
      for (const int64_t c : outliers) {  // planted outliers are made smaller than their group
        const auto group = scale.begin() + c / 16 * 16;
        CHECK(double(scale[size_t(c)]) > 3 * median({group, group + 16}));
      }
  }
}

TEST_CASE("osfp4: a is a BF16 number, and weights land where groups need no tensor scale",
          "[methods][transforms][osfp4]") {
  const Site site = make_site(48, 64, 64, {3, 40}, 20);
  const FormatSpec& nvfp4 = format("nvfp4");
  const std::vector<float> scale = scale_of(fit_one(kOsfp4, site.W, site.stats, &nvfp4, &nvfp4));
  const PhaseError phi(kE2M1);
  const std::vector<double> u2 = kept_energies(site.stats, 0.01);
  for (const float s : scale) {
    const float a = to_float(bf16_from_float(1 / s));
    CHECK(1 / a == s);
  }
  for (int64_t first = 0; first < 64; first += 16) {
    double mean = 0;  // of log2 g, found again
    for (int64_t i = 0; i < 48; ++i) {
      std::vector<double> value, energy;
      for (int64_t c = first; c < first + 16; ++c) {
        value.push_back(double(site.W(i, c)) * double(scale[size_t(c)]));
        energy.push_back(u2[size_t(c)] * double(site.W(i, c)) * double(site.W(i, c)));
      }
      double g = 0;
      best_over_scale(phi, value, energy, &g);
      mean += std::log2(g) / 48;
    }
    CHECK(mean == Approx(0).margin(.35));  // flat optima: the last iterate is not the minimum
  }
}

TEST_CASE("osfp4: without steps only the groups' mean scale is moved", "[methods][transforms][osfp4]") {
  // absmax / 6 of the rows: 6 and 1.5 in the first group, 3 and 48 in the second: means 3 and 12.
  Matrix W = Matrix::zeros(3, 32);
  W(0, 0) = 36, W(1, 5) = -9, W(0, 16) = 18, W(1, 31) = 288;  // row 2 is all 0 and has no say
  const SiteStats stats = stats_of(normal(20, 32, 3));
  const TransformSpec spec = spec_of(R"({"type": "osfp4", "steps": 0})");
  const std::vector<float> scale = scale_of(fit_one(spec, W, stats, &format("nvfp4"), &format("nvfp4")));
  for (size_t c = 0; c < 32; ++c) CHECK(scale[c] == (c < 16 ? 1 / 3.0f : 1 / 12.0f));
  // Full-precision weights: the activations' mean instead, here of one token.
  const std::vector<float> inverse =
      scale_of(fit_one(spec, normal(4, 32, 1), stats_of(filled(1, 32, {12})), nullptr, &format("mxfp4")));
  CHECK(inverse == std::vector<float>(32, 2.0f));
}

TEST_CASE("osfp4: the units of weights and inputs move all scales of a group alike",
          "[methods][transforms][osfp4]") {
  const Site site = make_site(32, 32, 40, {5}, 10);
  Site other{site.W.clone(), site.X.clone(), {}};
  for (int64_t i = 0; i < other.W.size(); ++i) other.W.data()[i] *= 0x1p20f;
  for (int64_t i = 0; i < other.X.size(); ++i) other.X.data()[i] *= 0x1p-30f;
  other.stats = stats_of(other.X);
  const FormatSpec& nvfp4 = format("nvfp4");
  const std::vector<float> a = scale_of(fit_one(kOsfp4, site.W, site.stats, &nvfp4, &nvfp4));
  const std::vector<float> b = scale_of(fit_one(kOsfp4, other.W, other.stats, &nvfp4, &nvfp4));
  // log2 of magnitudes is rounded to float, and slopes have steps: a few BF16 steps over 80 iterations.
  for (size_t c = 0; c < a.size(); ++c) CHECK(double(b[c]) * 0x1p20 == Approx(double(a[c])).epsilon(.05));
}

TEST_CASE("osfp4: zeros", "[methods][transforms][osfp4]") {
  Site site = make_site(16, 64, 24, {3}, 20);
  for (int64_t i = 0; i < 16; ++i) {
    for (int64_t c = 16; c < 32; ++c) site.W(i, c) = 0;  // a group that nobody reads
    site.W(i, 2) = 0;                                    // a channel that nobody reads
  }
  for (int64_t t = 0; t < 24; ++t) {
    for (int64_t c = 32; c < 48; ++c) site.X(t, c) = 0;  // a group without inputs
    site.X(t, 50) = 0;                                   // a channel without
  }
  for (int64_t c = 0; c < 64; ++c) site.W(7, c) = 0, site.X(9, c) = 0;
  site.stats = stats_of(site.X);
  const FormatSpec& nvfp4 = format("nvfp4");
  const std::vector<float> scale = scale_of(fit_one(kOsfp4, site.W, site.stats, &nvfp4, &nvfp4));
  for (size_t c = 0; c < 64; ++c) {
    CAPTURE(c);
    CHECK(std::isfinite(scale[c]));
    CHECK(scale[c] > 0);
    if (c / 16 == 1) CHECK(scale[c] == 1);
  }
  const SiteStats dead = stats_of(filled(4, 64, {0}));
  for (const float s : scale_of(fit_one(kOsfp4, site.W, dead, &nvfp4, &nvfp4)))
    CHECK((s > 0 && std::isfinite(s)));
}

TEST_CASE("osfp4: formats that it cannot serve", "[methods][transforms][osfp4]") {
  const auto problem = [](const FormatSpec* weights, const FormatSpec* activations, int64_t channels = 64) {
    return transform_problem(kOsfp4, fit_for(channels, weights, activations));
  };
  const FormatSpec &nvfp4 = format("nvfp4"), &mxfp4 = format("mxfp4"), &int8 = format("int8"),
                   &asym = format("int4-asym");
  CHECK(problem(&nvfp4, &nvfp4) == "");
  CHECK(problem(&mxfp4, nullptr) == "");
  CHECK(problem(nullptr, &mxfp4) == "");
  CHECK(problem(nullptr, nullptr) == "osfp4: neither weights nor activations are quantized");
  CHECK(problem(&asym, nullptr) ==
        "osfp4: the weights' element int4-asym has zero points; the relative error of a value needs a "
        "symmetric "
        "grid");
  CHECK(problem(&nvfp4, &int8) ==
        "osfp4: the activations' scale is for the whole row; it balances the channels of a group");
  CHECK(problem(&nvfp4, &mxfp4) ==
        "osfp4: weights have groups of 16, activations of 32; it fits both in the same groups");
  CHECK(problem(&mxfp4, nullptr, 48).rfind("osfp4: K = 48 is not a multiple of the group size 32", 0) == 0);
}

TEST_CASE("osfp4: a long sample is thinned evenly", "[methods][transforms][osfp4]") {
  // 1030 rows: every third, 344 of them. What the others hold does not matter.
  Matrix X = normal(1030, 32, 4);
  const Matrix W = normal(8, 32, 5);
  SiteStats stats = stats_of(X);
  const FormatSpec& mxfp4 = format("mxfp4");
  const LinearMap map = fit_one(kOsfp4, W, stats, &mxfp4, &mxfp4);
  for (int64_t t = 0; t < 1030; ++t)
    if (t % 3 != 0)
      for (int64_t c = 0; c < 32; ++c) stats.sample(t, c) = 1e9f;
  CHECK(fit_one(kOsfp4, W, stats, &mxfp4, &mxfp4) == map);
  stats.sample(1029, 0) *= 100;
  CHECK_FALSE(fit_one(kOsfp4, W, stats, &mxfp4, &mxfp4) == map);
}
