// What every transform of the registry has to keep, whatever it is fitted on.
#include <algorithm>
#include <cmath>

#include "kernels/cpu/linear_map.h"
#include "tests/catch.h"
#include "tests/methods/sites.h"

using namespace fp4lab;

namespace {

double dot(const float* a, const float* b, int64_t n) {
  double sum = 0;
  for (int64_t i = 0; i < n; ++i) sum += double(a[i]) * double(b[i]);
  return sum;
}

/// The larger of both; infinite once a NaN was seen.
void raise(double& worst, double value) {
  if (!(value <= worst)) worst = std::isnan(value) ? INFINITY : value;
}

}  // namespace

TEST_CASE("every transform keeps X W^T, and orthogonal ones the norm", "[methods][transforms]") {
  REQUIRE(transforms().size() == 10);
  const int64_t K = 192;
  const sites::Site site = sites::make_site(5, K, 250, {3, 77, 150});
  for (const TransformEntry& entry : transforms()) DYNAMIC_SECTION(entry.name) {
      TransformSpec spec = sites::spec_of("\"" + std::string(entry.name) + "\"");
      CHECK(spec.kind == entry.kind);
      for (const char* format : {"mxfp4", "nvfp4", ""}) {
        TransformFit fit = sites::fit_for(K, *format ? &sites::format(format) : nullptr);
        fit.seed = 11, fit.index = 2;
        CAPTURE(format);
        if (const std::string problem = transform_problem(spec, fit); !problem.empty()) {
          CAPTURE(problem);
          CHECK(*format == 0);  // some need groups
          continue;
        }
        Matrix w = site.W.clone(), x = site.X.clone();
        SiteStats stats = sites::stats_of(site.X);
        const LinearMap map = fit_transforms({spec, spec}, fit, w, &stats);
        map_activations(map, x);
        Matrix moved = site.W.clone();
        map_weights(map, moved);
        CHECK(std::equal(w.data(), w.data() + w.size(), moved.data()));
        CHECK(std::equal(x.data(), x.data() + x.size(), stats.sample.data()));

        bool orthogonal = true;
        for (const Factor& f : map.factors) {
          if (std::holds_alternative<DiagonalFactor>(f)) orthogonal = false;
          if (const auto* blocks = std::get_if<BlocksFactor>(&f)) orthogonal &= blocks->activations.empty();
        }
        const auto length = [](const Matrix& m, int64_t r) {
          return std::sqrt(dot(m.row(r), m.row(r), m.cols()));
        };
        double output = 0, norms = 0;
        for (int64_t t = 0; t < x.rows(); ++t) {
          for (int64_t n = 0; n < w.rows(); ++n)
            raise(output, std::fabs(dot(x.row(t), w.row(n), K) - dot(site.X.row(t), site.W.row(n), K)) /
                              (length(x, t) * length(w, n) + length(site.X, t) * length(site.W, n)));
          raise(norms, std::fabs(length(x, t) / length(site.X, t) - 1));
        }
        // Tens of roundings of 2^-24 = 6e-8 of each number, independent; sums of K of them grow with the root
        // of K like the lengths that they are compared with. Measured: 5e-8, 4e-7.
        CHECK(output < 2e-7);
        if (orthogonal) CHECK(norms < 1e-6);

        // The Hessian that moved with the list is that of the inputs that moved.
        const SiteStats after = sites::stats_of(x);
        double hessian = 0;
        for (int64_t i = 0; i < K; ++i)
          for (int64_t j = i; j < K; ++j)
            raise(hessian,
                  std::fabs(stats.H(i, j) - after.H(i, j)) / std::sqrt(after.H(i, i) * after.H(j, j)));
        CHECK(hessian < 1e-6);
        CHECK(stats.amax == after.amax);

        unmap_weights(map, w);
        unmap_activations(map, x);
        double back = 0;
        const auto compare = [&](const Matrix& a, const Matrix& b) {
          for (int64_t r = 0; r < a.rows(); ++r) {
            Matrix difference(1, K);
            for (int64_t c = 0; c < K; ++c) difference(0, c) = a(r, c) - b(r, c);
            raise(back, length(difference, 0) / length(b, r));
          }
        };
        compare(x, site.X), compare(w, site.W);
        CHECK(back < 2e-6);

        // Seeds matter where random numbers are drawn, and nowhere else.
        for (const bool randomize : {false, true}) {
          if (randomize && spec.kind != TransformSpec::hadamard) continue;
          TransformSpec drawn = spec;
          drawn.randomize = randomize;
          const auto map_of_seed = [&](uint64_t seed) {
            Matrix own = site.W.clone();
            SiteStats own_stats = sites::stats_of(site.X);
            fit.seed = seed;
            return fit_transforms({drawn}, fit, own, &own_stats);
          };
          CHECK((map_of_seed(1) == map_of_seed(2)) == !draws_random_numbers(drawn));
          CHECK(map_of_seed(1) == map_of_seed(1));
        }
      }
    }
}
