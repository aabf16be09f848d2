// GPTQ, GPTAQ and Qronos against their papers' recursions, and the bits that nothing may change.
#include "methods/rounding/gptq.h"

#include <omp.h>

#include "tests/catch.h"
#include "tests/methods/gptq_cases.h"

using namespace fp4lab;
using namespace fp4lab::gptq_cases;

namespace {

constexpr WeightScales kNearby{.kind = WeightScales::nearby};

struct Threads {
  int before = omp_get_max_threads();
  explicit Threads(int count) { omp_set_num_threads(count); }
  ~Threads() { omp_set_num_threads(before); }
};

std::string message_of(const Rounding& r, const Matrix& W, const MatrixD& H, const WeightScales& search = {},
                       const MatrixD& D = {}) {
  try {
    run(kNvfp4, r, W, H, search, D);
  } catch (const DataError& e) {
    return e.what();
  }
  return "";
}

}  // namespace

TEST_CASE("gptq: the codes of the paper's recursion with U", "[methods][gptq]") {
  struct Row {
    const char* format;
    int64_t N, K;
    Rounding::Order order;
  };
  const Row rows[] = {
      {"nvfp4", 40, 352, Rounding::natural},     {"nvfp4", 33, 96, Rounding::static_activation},
      {"mxfp4", 21, 352, Rounding::natural},     {"int4", 21, 352, Rounding::static_activation},
      {"int8", 17, 288, Rounding::natural},      {"int4-asym", 21, 288, Rounding::natural},
      {"nf4", 21, 320, Rounding::natural},       {"mxfp8-e4m3", 21, 96, Rounding::natural},
      {"mxfp4-paper", 5, 352, Rounding::natural}};
  for (const Row& row : rows) DYNAMIC_SECTION(row.format << " K " << row.K << " order " << int(row.order)) {
      const sites::Site site = sites::make_site(row.N, row.K, 2 * row.K, {3, 40}, 5, 7);
      const Rounding r = rounding(Rounding::gptq, row.order);
      const HessianFactor factor = factor_hessian(site.stats.H, r);
      const GptqResult got = gptq(sites::format(row.format), {}, r, site.W, site.stats.H, {}, factor);
      const MatrixD U = paper_factor(reordered(damped(site.stats.H, 0.01), factor.order));
      const auto want = recursion(as_double(site.W), factor.order, U, {}, Rounder(got.q));
      CHECK(share_equal(codes_of(got.q), want) >= 0.999);
      // The loop did something: rounding alone gives other codes.
      CHECK(share_equal(codes_of(quantize(sites::format(row.format), site.W)), want) < 0.99);
    }
}

TEST_CASE("gptq: bits do not depend on threads", "[methods][gptq]") {
  for (const char* name : {"nvfp4", "int4-asym", "mxfp4", "int8"})
    for (const int64_t N : {5, 130})
      for (const Rounding::Kind kind : {Rounding::gptq, Rounding::gptaq, Rounding::qronos})
        for (const Rounding& r : {rounding(kind), rounding(kind, Rounding::static_activation),
                                  rounding(kind, Rounding::natural, Rounding::at_group_start),
                                  rounding(kind, Rounding::natural, Rounding::in_loop)}) {
          const FormatSpec& format = sites::format(name);
          const bool in_loop = r.scales == Rounding::in_loop;
          const WeightScales search = in_loop ? weight_scales_for(kNearby, format) : WeightScales{};
          if (!rounding_problem(r, search, format).empty() || !weight_scales_problem(search, format).empty())
            continue;
          const CrossSite c = cross_site(N, 352, 128, 0.2f, 3);
          CAPTURE(name, N, int(kind), int(r.order), int(r.scales));
          std::vector<std::string> digests;
          std::vector<double> losses;
          for (const int threads : {1, 2, 5}) {
            const Threads here(threads);
            const GptqResult got = run(format, r, c.site.W, c.site.stats.H, search, c.D);
            digests.push_back(got.q.digest()), losses.push_back(got.loss);
          }
          CHECK(digests == std::vector<std::string>(3, digests[0]));
          CHECK(losses == std::vector<double>(3, losses[0]));
        }
}

TEST_CASE("gptq: a row's codes do not depend on the other rows", "[methods][gptq]") {
  const sites::Site site = sites::make_site(150, 640, 300, {}, 30, 4);
  for (const Rounding& r : {kGptq, rounding(Rounding::gptq, Rounding::static_activation),
                            rounding(Rounding::gptq, Rounding::natural, Rounding::in_loop)}) {
    const WeightScales search{.kind = WeightScales::nearby};
    const FormatSpec& int4 = sites::format("int4-g128");  // no tensor scale, which all rows share
    const auto all = codes_of(run(int4, r, site.W, site.stats.H, weight_scales_for(search, int4)).q);
    Matrix one(1, 640);
    for (const int64_t row : {0, 63, 64, 149}) {
      std::copy_n(site.W.row(row), 640, one.data());
      const auto alone = codes_of(run(int4, r, one, site.stats.H, weight_scales_for(search, int4)).q);
      CHECK(std::equal(alone.begin(), alone.end(), all.begin() + row * 640));
    }
  }
}

TEST_CASE("gptaq, qronos: with equal inputs they are GPTQ", "[methods][gptq]") {
  const sites::Site site = sites::make_site(21, 352, 200, {7}, 10, 5);
  const MatrixD none = MatrixD::zeros(352, 352);
  for (const char* name : {"nvfp4", "int4-asym", "mxfp4-paper", "int8"})
    for (const Rounding::Order order : {Rounding::natural, Rounding::static_activation})
      for (const Rounding::Scales scales :
           {Rounding::up_front, Rounding::at_group_start, Rounding::in_loop}) {
        const FormatSpec& format = sites::format(name);
        const Rounding r = rounding(Rounding::gptq, order, scales);
        const WeightScales search =
            scales == Rounding::in_loop ? weight_scales_for(kNearby, format) : WeightScales{};
        if ((scales != Rounding::up_front && order != Rounding::natural) ||
            !weight_scales_problem(search, format).empty() || !rounding_problem(r, search, format).empty())
          continue;
        CAPTURE(name, int(order), int(scales));
        const GptqResult want = run(format, r, site.W, site.stats.H, search);
        for (const Rounding::Kind kind : {Rounding::gptaq, Rounding::qronos}) {
          const GptqResult got =
              run(format, rounding(kind, order, scales), site.W, site.stats.H, search, none);
          CHECK(got.q.digest() == want.q.digest());
          CHECK(got.loss == want.loss);
        }
      }
}

TEST_CASE("gptaq: the codes of the paper's recursion with U and P", "[methods][gptq]") {
  for (const char* name : {"nvfp4", "int4", "int4-asym"})
    for (const Rounding::Order order : {Rounding::natural, Rounding::static_activation})
      for (const double alpha : {0.25, 1.0}) {
        const CrossSite c = cross_site(32, 288, 600, 0.3f, 6);
        Rounding r = rounding(Rounding::gptaq, order);
        r.alpha = alpha;
        const HessianFactor factor = factor_hessian(c.site.stats.H, r);
        const GptqResult got = gptq(sites::format(name), {}, r, c.site.W, c.site.stats.H, c.D, factor);
        const MatrixD U = paper_factor(reordered(damped(c.site.stats.H, 0.01), factor.order));
        const MatrixD P = gptaq_factor(reordered(c.D, factor.order), U, alpha);
        const auto want = recursion(as_double(c.site.W), factor.order, U, P, Rounder(got.q));
        const auto plain =
            codes_of(run(sites::format(name), rounding(Rounding::gptq, order), c.site.W, c.site.stats.H).q);
        CAPTURE(name, int(order), alpha);
        CHECK(share_equal(codes_of(got.q), want) >= 0.995);
        CHECK(share_equal(plain, want) < 0.99);
      }
}

TEST_CASE("qronos: its first column, the exact re-solve, then GPTQ", "[methods][gptq]") {
  for (const char* name : {"nvfp4", "int4", "int4-asym"})
    for (const Rounding::Order order : {Rounding::natural, Rounding::static_activation}) {
      const int64_t N = 32, K = 288;
      const CrossSite c = cross_site(N, K, 600, 0.3f, 8);
      const Rounding r = rounding(Rounding::qronos, order);
      const HessianFactor factor = factor_hessian(c.site.stats.H, r);
      const GptqResult got = gptq(sites::format(name), {}, r, c.site.W, c.site.stats.H, c.D, factor);
      const Rounder round(got.q);
      const MatrixD H = reordered(damped(c.site.stats.H, 0.01), factor.order),
                    D = reordered(c.D, factor.order);
      // G = X^T X_fp, damped as H is: G w = H w + D^T w.
      MatrixD H22(K - 1, K - 1);
      for (int64_t i = 1; i < K; ++i)
        for (int64_t j = 1; j < K; ++j) H22(i - 1, j - 1) = H(i, j);
      const MatrixD solve = inverse(H22);
      MatrixD W(N, K);  // by loop position: column 0 as rounded from, the others re-solved
      for (int64_t n = 0; n < N; ++n) {
        std::vector<double> w, g(static_cast<size_t>(K));
        for (int64_t i = 0; i < K; ++i) w.push_back(double(c.site.W(n, factor.order[size_t(i)])));
        for (int64_t i = 0; i < K; ++i)
          for (int64_t j = 0; j < K; ++j) g[size_t(i)] += (H(i, j) + D(j, i)) * w[size_t(j)];
        double first = g[0];
        for (int64_t j = 1; j < K; ++j) first -= H(0, j) * w[size_t(j)];
        W(n, 0) = first / H(0, 0);
        uint8_t code;
        const double q = round(n, factor.order[0], W(n, 0), code);
        for (int64_t i = 1; i < K; ++i) {
          W(n, i) = 0;
          for (int64_t j = 1; j < K; ++j) W(n, i) += solve(i - 1, j - 1) * (g[size_t(j)] - H(j, 0) * q);
        }
      }
      // GPTQ over columns 2.. alone: the factor of H22; column 1 keeps what it was rounded from.
      const MatrixD U22 = paper_factor(H22);
      MatrixD U = MatrixD::zeros(K, K), by_channel(N, K);
      U(0, 0) = 1;
      for (int64_t i = 1; i < K; ++i)
        for (int64_t j = 1; j < K; ++j) U(i, j) = U22(i - 1, j - 1);
      for (int64_t n = 0; n < N; ++n)
        for (int64_t i = 0; i < K; ++i) by_channel(n, factor.order[size_t(i)]) = W(n, i);
      const auto want = recursion(by_channel, factor.order, U, {}, round);
      CAPTURE(name, int(order));
      CHECK(share_equal(codes_of(got.q), want) >= 0.995);
      CHECK(
          share_equal(
              codes_of(run(sites::format(name), rounding(Rounding::gptq, order), c.site.W, c.site.stats.H).q),
              want) < 0.97);
      // The reported loss is that of the targets W + W D H^-1.
      const MatrixD DHi = product(D, inverse(H));
      Matrix T(N, K);
      for (int64_t n = 0; n < N; ++n)
        for (int64_t i = 0; i < K; ++i) {
          double t = double(c.site.W(n, factor.order[size_t(i)]));
          for (int64_t j = 0; j < K; ++j) t += double(c.site.W(n, factor.order[size_t(j)])) * DHi(j, i);
          T(n, factor.order[size_t(i)]) = float(t);
        }
      CHECK(got.loss == Approx(loss_of(T, dequantized(got.q), c.site.stats.H)).epsilon(1e-4));
    }
}

TEST_CASE("gptaq, qronos: closer to the full-precision outputs than GPTQ", "[methods][gptq]") {
  for (const char* name : {"nvfp4", "int4", "mxfp4"}) {
    const CrossSite c = cross_site(64, 128, 768, 0.4f, 9);
    const auto error = [&](Rounding::Kind kind) {
      const GptqResult got = run(sites::format(name), rounding(kind), c.site.W, c.site.stats.H, {}, c.D);
      return sites::output_error(c.fp, c.site.W, c.site.X, dequantized(got.q));
    };
    const double plain = error(Rounding::gptq), gptaq = error(Rounding::gptaq), q = error(Rounding::qronos);
    CAPTURE(name, plain, gptaq, q);
    CHECK(gptaq < 0.99 * plain);
    CHECK(q < 0.95 * plain);
  }
}

TEST_CASE("gptq: dead channels have zero codes, whatever their weights", "[methods][gptq]") {
  CrossSite c = cross_site(21, 96, 64, 0.2f, 10);
  const std::vector<int64_t> dead = {0,  5,  16, 17, 18, 19, 20, 21, 22, 23,
                                     24, 25, 26, 27, 28, 29, 30, 31, 95};
  for (const int64_t d : dead) {
    for (int64_t i = 0; i < 96; ++i)
      c.site.stats.H(std::min(i, d), std::max(i, d)) = 0, c.D(i, d) = 0;  // row d of D is X_fp's: not 0
  }
  Matrix zeroed = c.site.W.clone();
  for (const int64_t d : dead)
    for (int64_t r = 0; r < 21; ++r) zeroed(r, d) = 0, c.site.W(r, d) = r % 2 ? 100.0f : -1e-3f;
  for (const char* name : {"nvfp4", "int4-asym", "nf4", "mxint4"})
    for (const Rounding::Kind kind : {Rounding::gptq, Rounding::gptaq, Rounding::qronos})
      for (const Rounding& r : {rounding(kind), rounding(kind, Rounding::static_activation),
                                rounding(kind, Rounding::natural, Rounding::at_group_start)}) {
        FormatSpec format = sites::format(name);
        format.group_size = std::min(format.group_size, 32);
        CAPTURE(name, int(kind), int(r.order), int(r.scales));
        const HessianFactor factor = factor_hessian(c.site.stats.H, r);
        CHECK(factor.dead_channels == int64_t(dead.size()));
        const GptqResult got = gptq(format, {}, r, c.site.W, c.site.stats.H, c.D, factor);
        const Matrix values = dequantized(got.q);
        int alive = 0;
        for (const int64_t d : dead)
          for (int64_t row = 0; row < 21; ++row) alive += values(row, d) != 0;
        CHECK(alive == 0);
        CHECK(run(format, r, zeroed, c.site.stats.H, {}, c.D).q.digest() == got.q.digest());
      }
  // All dead: nothing is left to damp.
  const GptqResult none = run(kNvfp4, kGptq, c.site.W, MatrixD::zeros(96, 96));
  CHECK(none.loss == 0);
  CHECK(codes_of(none.q) == std::vector<uint8_t>(21 * 96, 0));
}

TEST_CASE("gptq: NaN and Inf are named", "[methods][gptq]") {
  const CrossSite c = cross_site(70, 64, 128, 0.2f, 11);
  MatrixD H = c.site.stats.H.clone();
  for (int64_t i = 0; i < 64; ++i) H(std::min<int64_t>(i, 9), std::max<int64_t>(i, 9)) = 0;
  const WeightScales weighted{.kind = WeightScales::local_hessian};
  for (const Rounding& r : {kGptq, rounding(Rounding::gptq, Rounding::static_activation),
                            rounding(Rounding::gptq, Rounding::natural, Rounding::at_group_start),
                            rounding(Rounding::gptq, Rounding::natural, Rounding::in_loop)})
    for (const int64_t column : {9, 33})
      for (const float bad : {NAN, -INFINITY}) {
        Matrix W = c.site.W.clone();
        W(66, column) = bad;
        const std::string message = message_of(r, W, H, weighted);
        CAPTURE(column, bad, message, int(r.scales));
        CHECK(message.find(str("row 66, column ", column)) != std::string::npos);
        CHECK(message.find(std::isnan(bad) ? "NaN" : "-Inf") != std::string::npos);
      }
  for (const double bad : {double(NAN), double(INFINITY)}) {
    const char* what = std::isnan(bad) ? "NaN" : "infinite";
    MatrixD broken = c.site.stats.H.clone();
    broken(3, 40) = bad;
    CHECK(message_of(kGptq, c.site.W, broken) ==
          str("the Hessian of the inputs is ", what, " at row 3, column 40"));
    MatrixD D = c.D.clone();
    D(41, 2) = bad;
    for (const Rounding::Kind kind : {Rounding::gptaq, Rounding::qronos})
      CHECK(message_of(rounding(kind), c.site.W, c.site.stats.H, {}, D) ==
            str("the cross moment D of the inputs is ", what, " at row 41, column 2"));
  }
  MatrixD diagonal = c.site.stats.H.clone();
  diagonal(63, 63) = -INFINITY;  // which is no dead channel
  CHECK(message_of(kGptq, c.site.W, diagonal) ==
        "the Hessian of the inputs is infinite at row 63, column 63");
}
