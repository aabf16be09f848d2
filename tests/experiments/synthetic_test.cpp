#include "experiments/sources/synthetic.h"

#include <omp.h>

#include <cmath>
#include <nlohmann/json.hpp>

#include "tests/catch.h"

using namespace fp4lab;

namespace {

std::unique_ptr<Source> open(const Json& synthetic, uint64_t seed, Json& resolved) {
  return open_source({{"synthetic", synthetic}}, {"e.json", "/source", {}}, {"", seed, {}}, resolved);
}
Matrix sample(const Json& synthetic, uint64_t seed = 1) {
  Json resolved;
  return open(synthetic, seed, resolved)->load(0);
}
bool same(const Matrix& a, const Matrix& b) {
  return a.size() == b.size() && std::equal(a.data(), a.data() + a.size(), b.data());
}

/// What is known of a distribution. `moments`: E x^2 and E x^4 (0: infinite, not tested).
struct Known {
  const char* label;
  Json json;
  double square, fourth;
  std::vector<std::pair<double, double>> below;  // x, P(X <= x)
  double beyond_5_percent;                       // P(|X| > this) = 0.05
};
std::vector<Known> known() {
  const auto t = [](double nu) { return Json{{"distribution", "student_t"}, {"nu", nu}}; };
  return {
      {"normal",
       {{"distribution", "normal"}},
       1,
       3,
       {{1, .8413447461}, {2, .9772498681}, {3.0902323, .999}},
       1.959963985},
      {"laplace", {{"distribution", "laplace"}}, 2, 24, {{1, .8160602794}, {3, .9751064658}}, 2.995732274},
      {"uniform", {{"distribution", "uniform"}}, 1. / 3, 1. / 5, {{.5, .75}, {.999, .9995}, {1, 1}}, .95},
      // nu = 1 is Cauchy; nu = 2 has F(x) = 1/2 + x / (2 sqrt(2 + x^2)); nu = 5 from tables of t.
      {"student_t 1", t(1), 0, 0, {{1, .75}, {3.077683537, .9}, {31.82051595, .99}}, 12.70620474},
      {"student_t 2", t(2), 0, 0, {{1, .7886751346}, {4, .9714045208}}, 4.302652730},
      {"student_t 5",
       {{"distribution", "student_t"}},
       5. / 3,
       0,
       {{2.015048373, .95}, {3.364929999, .99}},
       2.570581836},
      {"student_t 20", t(20), 20. / 18, 3 * 400. / (18 * 16), {{1.724718243, .95}}, 2.085963447},
      {"student_t 0.5", t(0.5), 0, 0, {{0, .5}}, 0},
  };
}

}  // namespace

// All bounds are 5 standard errors of N samples; the seed is fixed, so a pass stays one.
TEST_CASE("synthetic: moments, quantiles and independence of every distribution", "[experiments][sources]") {
  constexpr int64_t kRows = 1024, kCols = 1024;
  constexpr double N = double(kRows * kCols);
  for (const Known& k : known()) {
    DYNAMIC_SECTION(k.label) {
      Json json = k.json;
      json["shape"] = {kRows, kCols};
      const Matrix X = sample(json, 7);
      const auto check_share = [&](double share, double p, double n) {
        CAPTURE(share, p);
        CHECK(std::fabs(share - p) <= 5 * std::sqrt(p * (1 - p) / n));
      };
      if (k.square > 0) {
        double sum = 0, squares = 0, neighbours = 0;
        for (int64_t i = 0; i < X.size(); ++i) {
          const double x = X.data()[i];
          sum += x, squares += x * x;
          if (i % 2) neighbours += x * double(X.data()[i - 1]);
        }
        CHECK(std::fabs(sum / N) <= 5 * std::sqrt(k.square / N));
        CHECK(std::fabs(neighbours / (N / 2)) <= 5 * k.square / std::sqrt(N / 2));
        if (k.fourth > 0)
          CHECK(std::fabs(squares / N - k.square) <= 5 * std::sqrt((k.fourth - k.square * k.square) / N));
      }
      for (const auto& [x, p] : k.below)
        for (const bool mirrored : {false, true}) {
          int64_t count = 0;
          for (int64_t i = 0; i < X.size(); ++i) count += (mirrored ? -X.data()[i] : X.data()[i]) <= x;
          CAPTURE(x, mirrored);
          check_share(double(count) / N, p, N);
        }
      if (k.beyond_5_percent == 0) continue;
      // Large values come independently: within a pair (one block), across pairs, and across rows.
      for (const int64_t step : {int64_t{1}, int64_t{2}, kCols}) {
        int64_t single = 0, both = 0, n = 0;
        for (int64_t i = 0; i + step < X.size(); ++i) {
          if ((i / step) % 2) continue;
          const bool a = std::fabs(X.data()[i]) > k.beyond_5_percent;
          const bool b = std::fabs(X.data()[i + step]) > k.beyond_5_percent;
          n += 1, single += a, both += a && b;
        }
        CAPTURE(step);
        check_share(double(single) / double(n), 0.05, double(n));
        check_share(double(both) / double(n), 0.0025, double(n));
      }
    }
  }
}

TEST_CASE("synthetic: element i is number i of its stream", "[experiments][sources]") {
  const Matrix X = sample({{"distribution", "normal"}, {"shape", {5, 7}}}, 3);
  const Stream stream(3, "synthetic/normal");
  for (uint64_t i = 0; i < 35; ++i) {
    CAPTURE(i);
    CHECK(X.data()[i] == float(normal_pair(stream.block(i / 2))[i % 2]));
  }
  const Matrix L = sample({{"distribution", "laplace"}, {"shape", {1, 4}}}, 3);
  const auto b = Stream(3, "synthetic/laplace").block(1);
  const double u = uniform_open(b[2], b[3]);
  CHECK(L(0, 3) == Approx(u < 0.5 ? std::log(2 * u) : -std::log(2 - 2 * u)).epsilon(1e-6));
  // The shape only cuts the stream into rows.
  CHECK(same(sample({{"distribution", "uniform"}, {"shape", {6, 5}}}),
             sample({{"distribution", "uniform"}, {"shape", {1, 30}}})));
  CHECK_FALSE(same(sample({{"distribution", "uniform"}, {"shape", {1, 30}}}, 1),
                   sample({{"distribution", "uniform"}, {"shape", {1, 30}}}, 2)));
}

TEST_CASE("synthetic: rows alone, in any order, for any number of threads", "[experiments][sources]") {
  const int threads = omp_get_max_threads();
  for (const Distribution& d : distributions()) {
    DYNAMIC_SECTION(d.name) {
      const Json json = {{"distribution", std::string(d.name)},
                         {"shape", {33, 45}},
                         {"log_normal_sigma", 0.3},
                         {"log_normal_group", 15}};
      omp_set_num_threads(1);
      const Matrix one = sample(json);
      omp_set_num_threads(3);
      CHECK(same(sample(json), one));
      omp_set_num_threads(threads);
      Params p(json, {"e.json", "", {}}, "a synthetic source");
      const SyntheticSpec spec = read_synthetic(p);
      std::vector<float> row(45);
      for (int64_t r = 32; r >= 0; --r) {
        synthetic_row(spec, 1, r, row);
        CHECK(std::equal(row.begin(), row.end(), one.row(r)));
      }
      CHECK(find_distribution(d.name) == &d);
    }
  }
  CHECK(find_distribution("cauchy") == nullptr);
}

TEST_CASE("synthetic: the log-normal factor is one per group", "[experiments][sources]") {
  const int64_t rows = 512, cols = 1024, g = 16;
  Json json = {{"distribution", "normal"}, {"shape", {rows, cols}}};
  const Matrix plain = sample(json);
  json["log_normal_sigma"] = 0.5, json["log_normal_group"] = g;
  const Matrix spread = sample(json);
  const Stream factors(1, "synthetic/log_normal");
  double sum = 0, squares = 0;
  int64_t wrong = 0;
  for (int64_t k = 0; k < rows * cols / g; ++k) {
    const double z = normal_pair(factors.block(uint64_t(k / 2)))[size_t(k % 2)];
    sum += z, squares += z * z;
    for (int64_t i = k * g; i < (k + 1) * g; ++i)  // the plain number was rounded once more
      wrong += std::fabs(spread.data()[i] / (std::exp(0.5 * z) * plain.data()[i]) - 1) > 1.5e-7;
  }
  CHECK(wrong == 0);
  const double n = double(rows * cols / g);
  CHECK(std::fabs(sum / n) <= 5 / std::sqrt(n));
  CHECK(std::fabs(squares / n - 1) <= 5 * std::sqrt(2 / n));
}

TEST_CASE("synthetic: the resolved form has what matters and no more", "[experiments][sources]") {
  Json a, b, c, t;
  const auto source = open({{"distribution", "normal"}, {"shape", {2, 48}}}, 1, a);
  CHECK(a == Json{{"synthetic", {{"distribution", "normal"}, {"log_normal_sigma", 0}, {"shape", {2, 48}}}}});
  REQUIRE(source->tensors().size() == 1);
  CHECK(source->tensors()[0].name == "normal");
  CHECK(source->tensors()[0].rows == 2);
  CHECK(source->tensors()[0].cols == 48);
  open({{"distribution", "normal"}, {"shape", {2, 48}}, {"log_normal_group", 7}}, 1, b);
  CHECK(a == b);
  open({{"distribution", "normal"}, {"shape", {2, 48}}, {"log_normal_sigma", 1}, {"log_normal_group", 16}}, 1,
       c);
  CHECK(c.at("synthetic").at("log_normal_group") == 16);
  open({{"distribution", "student_t"}, {"shape", {2, 48}}}, 1, t);
  CHECK(t.at("synthetic").at("nu") == 5);
}
