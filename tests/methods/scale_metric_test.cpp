// Weighted scale searches against a plain search in double over candidates written out here.
#include "methods/scales/scale_metric.h"

#include <omp.h>

#include "tests/catch.h"
#include "tests/formats/reference.h"
#include "tests/methods/gptq_cases.h"

using namespace fp4lab;
using namespace fp4lab::gptq_cases;

namespace {

constexpr WeightScales kLocal{.kind = WeightScales::local_hessian};

WeightScales diagonal_search(ScaleRule rule) {
  return {.kind = WeightScales::replace, .replacement = rule, .metric = WeightScales::hessian_diagonal};
}

/// The codes that a search tries for a group of this amax, by the words of SPEC section 2.
std::vector<int> tried(const FormatSpec& f, const WeightScales& search, float amax, float s_t) {
  const spec::Grid e = spec::grid(f.element.name);
  std::vector<int> codes;
  if (f.scale == kUE8M0) {
    const int k = search.kind == WeightScales::local_hessian ? 4 : search.replacement.k;
    const int floor = spec::e8m0_byte({ScaleRule::floor}, e, amax);
    for (int j = 0; j < k; ++j) codes.push_back(std::clamp(floor + (j % 2 ? (j + 1) / 2 : -j / 2), 0, 254));
  } else if (search.kind == WeightScales::local_hessian) {
    for (int code = 1; code <= 126; ++code) codes.push_back(code);
  } else if (search.replacement.kind == ScaleRule::sweep) {
    const int middle = int(spec::stored(f.scale.name).encode(double(amax / (float(e.qmax) * s_t))));
    for (int j = search.replacement.lo; j <= search.replacement.hi; ++j)
      codes.push_back(std::clamp(middle + j, 1, 126));
  } else if (search.replacement.kind == ScaleRule::four_over_six) {
    for (const float top : {6.0f, 4.0f})
      codes.push_back(int(spec::stored("e4m3").encode(double(amax / (top * s_t)))));
  } else {  // grid: 16 shares from 0.6 to 1
    for (int j = 0; j < 16; ++j)
      codes.push_back(int(spec::stored(f.scale.name)
                              .encode(double(amax * float(0.6 + 0.4 * j / 15) / (float(e.qmax) * s_t)))));
  }
  std::sort(codes.begin(), codes.end());
  return codes;
}

struct Outcome {
  int groups = 0, equal = 0, ties = 0, wrong = 0;  // wrong: neither the best code nor within 1e-5 of it
  int plain = 0;                                   // what the search without weights would have agreed on
};

Outcome compare(const FormatSpec& f, const WeightScales& search, const Matrix& W, const MatrixD& H) {
  const Scales got = choose_weighted_scales(f, search, W, H);
  const WeightScales unweighted = search.kind == WeightScales::local_hessian
                                      ? weight_scales_for({.kind = WeightScales::nearby}, f)
                                      : WeightScales{search.kind, search.replacement};
  const Scales plain = choose_scales(f, W, unweighted);
  const int64_t g = f.group_size, groups = W.cols() / g;
  const spec::Grid e = spec::grid(f.element.name);
  const MatrixD A = damped(H, 0);
  const float s_t = got.factors.empty() ? 1.0f : got.factors[0];
  Outcome out;
  for (int64_t r = 0; r < W.rows(); ++r)
    for (int64_t k = 0; k < groups; ++k) {
      const float* x = W.row(r) + k * g;
      const float amax = spec::amax_of(x, g);
      const auto loss = [&](int code) {
        const double s = f.scale == kUE8M0
                             ? double(spec::e8m0_value(code))
                             : double(s_t * float(spec::stored(f.scale.name).decode(uint32_t(code))));
        std::vector<double> d;
        for (int64_t i = 0; i < g; ++i)
          d.push_back(double(x[i]) - (s > 0 ? s * e.decode(e.encode(float(double(x[i]) / s))) : 0));
        double sum = 0;
        for (int64_t i = 0; i < g; ++i)
          for (int64_t j = 0; j < g; ++j)
            if (i == j || search.kind == WeightScales::local_hessian)
              sum += d[size_t(i)] * A(k * g + i, k * g + j) * d[size_t(j)];
        return sum;
      };
      int best = -1;
      double least = INFINITY;
      if (amax == 0)
        best = 0, least = 0;
      else
        for (const int code : tried(f, search, amax, s_t))  // ascending: ties keep the smaller scale
          if (const double l = loss(code); l < least) best = code, least = l;
      int code = 0, other = 0;
      std::memcpy(&code, &got.bytes[size_t((r * groups + k) * f.scale.bytes)], size_t(f.scale.bytes));
      std::memcpy(&other, &plain.bytes[size_t((r * groups + k) * f.scale.bytes)], size_t(f.scale.bytes));
      ++out.groups, out.equal += code == best, out.plain += other == best;
      if (code != best) loss(code) <= least*(1 + 1e-5) ? ++out.ties : ++out.wrong;
    }
  return out;
}

}  // namespace

TEST_CASE("weighted searches: the least loss among all candidates", "[methods][scale_metric]") {
  Matrix W = sites::normal(70, 320, 31, 0.05f);
  for (int64_t c = 64; c < 96; ++c) W(3, c) = 0;  // whole groups of zeros
  const sites::Site site = sites::make_site(1, 320, 500, {2, 70, 200}, 8, 32);
  const ScaleRule sweep{.kind = ScaleRule::sweep}, wide{.kind = ScaleRule::sweep, .lo = -8, .hi = 7};
  const ScaleRule search{.kind = ScaleRule::search, .k = 4}, grid{.kind = ScaleRule::grid};
  struct Row {
    const char* format;
    WeightScales search;
  };
  const Row rows[] = {{"nvfp4", diagonal_search(sweep)},
                      {"nvfp4", diagonal_search(wide)},
                      {"nvfp4", kLocal},
                      {"nvint4", kLocal},
                      {"e2m1-e4m3", kLocal},
                      {"nvfp4", diagonal_search({ScaleRule::four_over_six})},
                      {"mxfp4", diagonal_search(search)},
                      {"mxfp4", kLocal},
                      {"mxfp4-even", kLocal},
                      {"int4", diagonal_search(grid)},
                      {"e2m1-fp16", diagonal_search(grid)},
                      {"nf4", diagonal_search(grid)},
                      {"mxint8", kLocal}};
  for (const Row& row : rows) {
    const FormatSpec& f = sites::format(row.format);
    const std::string problem = weight_scales_problem(row.search, f);
    REQUIRE(problem == "");
    const Outcome o = compare(f, row.search, W, site.stats.H);
    CAPTURE(row.format, int(row.search.kind), int(row.search.replacement.kind), o.groups, o.equal, o.ties,
            o.plain);
    CHECK(o.wrong == 0);
    CHECK(o.ties <= o.groups / 500);
    CHECK(o.plain < o.equal);  // the weights matter
  }
}

TEST_CASE("weighted searches: with H = I they minimise the squared error", "[methods][scale_metric]") {
  const Matrix W = sites::normal(64, 320, 33);
  MatrixD H = MatrixD::zeros(320, 320);
  for (int64_t i = 0; i < 320; ++i) H(i, i) = 17;
  for (const char* name : {"nvfp4", "mxfp4", "int4"}) {
    const FormatSpec& f = sites::format(name);
    const WeightScales plain = weight_scales_for({.kind = WeightScales::nearby}, f);
    WeightScales weighted = plain;
    weighted.metric = WeightScales::hessian_diagonal;
    const Scales want = choose_scales(f, W, plain), got = choose_weighted_scales(f, weighted, W, H);
    const GptqResult in_loop =
        run(f, rounding(Rounding::gptq, Rounding::natural, Rounding::in_loop), W, H, plain);
    int different = 0, differ_in_loop = 0;
    for (size_t i = 0; i < want.bytes.size(); ++i) {
      different += want.bytes[i] != got.bytes[i];
      differ_in_loop += want.bytes[i] != in_loop.q.scales.bytes[i];
    }
    CAPTURE(name, different, differ_in_loop, want.bytes.size());
    CHECK(different <= int(want.bytes.size() / 500));  // near ties: sums in another order
    CHECK(differ_in_loop <= int(want.bytes.size() / 500));
  }
}

TEST_CASE("weighted searches: groups of dead channels, equal losses, threads", "[methods][scale_metric]") {
  const Matrix W = sites::normal(130, 64, 34);
  sites::Site site = sites::make_site(1, 64, 200, {}, 30, 35);
  for (int64_t i = 0; i < 64; ++i)
    for (int64_t j = i; j < 64; ++j)
      if ((i >= 16 && i < 32) || (j >= 16 && j < 32)) site.stats.H(i, j) = 0;
  // Every scale costs nothing there: the smallest of the candidates.
  const Scales local = choose_weighted_scales(kNvfp4, kLocal, W, site.stats.H);
  for (int64_t r = 0; r < 130; ++r) CHECK(int(local.bytes[size_t(4 * r + 1)]) == 1);
  // An exact group: 2 everywhere is exact under powers of two from 1/2 (code 4) on; 1/4 clips.
  Matrix twos(1, 64);
  std::fill_n(twos.data(), 64, 2.0f);
  const FormatSpec mx{kE2M1, 32, kUE8M0, {.kind = ScaleRule::floor}};
  const Scales exact = choose_weighted_scales(mx, kLocal, twos, sites::make_site(1, 64, 200).stats.H);
  CHECK(int(exact.bytes.at(0)) == 126);
  CHECK(int(exact.bytes.at(1)) == 126);
  const int before = omp_get_max_threads();
  for (const int threads : {1, 2, 5}) {
    omp_set_num_threads(threads);
    CHECK(choose_weighted_scales(kNvfp4, kLocal, W, site.stats.H).bytes == local.bytes);
  }
  omp_set_num_threads(before);
}

TEST_CASE("weighted searches: NaN and Inf are named", "[methods][scale_metric]") {
  const sites::Site site = sites::make_site(70, 64, 200);
  const auto message = [](const Matrix& W, const MatrixD& H, const WeightScales& search) -> std::string {
    try {
      choose_weighted_scales(kMxfp4, search, W, H);
    } catch (const DataError& e) {
      return e.what();
    }
    return "";
  };
  for (const WeightScales& search : {kLocal, diagonal_search({.kind = ScaleRule::search, .k = 3})}) {
    Matrix W = site.W.clone();
    W(68, 40) = INFINITY;
    CHECK(message(W, site.stats.H, search) == "row 68, column 40 is Inf");
    W(2, 63) = NAN;
    CHECK(message(W, site.stats.H, search) == "row 2, column 63 is NaN");
    MatrixD H = site.stats.H.clone();
    H(5, 6) = NAN;
    CHECK(message(site.W, H, search) == "the Hessian of the inputs is NaN at row 5, column 6");
  }
}

TEST_CASE("the loop's metric: what a group's errors cost once later columns made up for them",
          "[methods][scale_metric]") {
  // d^T S d with S the Schur complement of the later columns in the damped H: S^-1 is the group's block of
  // the inverse of what is left when the earlier columns are gone.
  const int64_t K = 96, g = 16;
  const sites::Site site = sites::make_site(1, K, 300, {}, 30, 36);
  const HessianFactor factor = factor_hessian(site.stats.H, kGptq);
  const ScaleMetric metric = ScaleMetric::in_loop(factor, g);
  const MatrixD A = damped(site.stats.H, 0.01);
  for (int64_t group = 0; group < K / g; ++group) {
    const int64_t begin = group * g, left = K - begin;
    MatrixD rest(left, left);
    for (int64_t i = 0; i < left; ++i)
      for (int64_t j = 0; j < left; ++j) rest(i, j) = A(begin + i, begin + j);
    const MatrixD inverted = inverse(rest);
    MatrixD block(g, g);
    for (int64_t i = 0; i < g; ++i)
      for (int64_t j = 0; j < g; ++j) block(i, j) = inverted(i, j);
    const MatrixD S = inverse(block);
    // A scale of 0 rounds everything to 0: the errors are the values.
    const Matrix v = sites::normal(g, 16, unsigned(37 + group));
    const std::vector<float> scale(16, 0.0f);
    std::vector<float> loss(16);
    GroupLoss p;
    p.n = 16, p.stride = 16, p.value = v.data(), p.scale = scale.data();
    metric.apply(group, p);
    CHECK(p.g == g);
    CHECK(p.compensated);
    column_kernels().group_loss(kE2M1, p, loss.data());
    for (int64_t r = 0; r < 16; ++r) {
      double want = 0;
      for (int64_t i = 0; i < g; ++i)
        for (int64_t j = 0; j < g; ++j) want += double(v(i, r)) * S(i, j) * double(v(j, r));
      CHECK(double(loss[size_t(r)]) * factor.weight_unit == Approx(want).epsilon(1e-5));
    }
  }
}
