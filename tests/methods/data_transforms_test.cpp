// smooth and awq: formulas typed by hand, laws, and what cannot be served; and what holds for every transform
// that looks at data.
#include <omp.h>

#include "tests/catch.h"
#include "tests/methods/sites.h"

using namespace fp4lab;
using namespace fp4lab::sites;

namespace {

const Place kPlace{"s.json", "/method/transform", nullptr};

std::string error_of(const std::string& text) {
  try {
    spec_of(text);
  } catch (const ConfigError& e) {
    return e.what();
  }
  return "";
}
SiteStats with_amax(const std::vector<float>& amax) {
  SiteStats stats;
  stats.amax = amax;
  return stats;
}

}  // namespace

TEST_CASE("data transforms: keys, defaults, canonical JSON, needs", "[methods][transforms]") {
  struct Row {
    const char *text, *canonical;
    StatsNeeds needs;
  };
  const Row rows[] = {
      {R"("smooth")", R"([{"alpha":0.6,"type":"smooth"}])", {.columns = true}},
      {R"({"type": "smooth", "alpha": 0.5})", R"([{"alpha":0.5,"type":"smooth"}])", {.columns = true}},
      {R"("awq")", R"([{"steps":20,"type":"awq"}])", {.columns = true, .hessian = true}},
      {R"({"type": "awq", "steps": 5})", R"([{"steps":5,"type":"awq"}])", {.columns = true, .hessian = true}},
      {R"("wush")", R"([{"damping":0.01,"k":0,"type":"wush"}])", {.hessian = true}},
      {R"({"type": "wush", "k": 64})", R"([{"damping":0.01,"k":64,"type":"wush"}])", {.hessian = true}},
      {R"("osfp4")", R"([{"damping":0.01,"steps":80,"type":"osfp4"}])", {.hessian = true, .sample = true}},
  };
  for (const Row& row : rows) {
    CAPTURE(row.text);
    const TransformSpec spec = spec_of(row.text);
    CHECK(transforms_json({spec}).dump() == row.canonical);
    CHECK(parse_transforms(transforms_json({spec}), kPlace) == std::vector{spec});
    CHECK(entry_of(spec.kind).needs == row.needs);
  }
  const std::pair<const char*, std::vector<const char*>> wrong[] = {
      {R"({"type": "smooth", "alpha": 1.5})", {"/alpha", "1.5", "[0, 1]"}},
      {R"({"type": "awq", "steps": 0})", {"/steps", "[1, 1000]"}},
      {R"({"type": "wush", "k": 48})", {"/k: 48 is not a power of two"}},
      {R"({"type": "wush", "k": 512})", {"/k: 512 is above 256; its dense blocks are fitted up to 256"}},
      {R"({"type": "wush", "damping": 0})", {"/damping", "found 0"}},
      {R"({"type": "osfp4", "steps": -1})", {"/steps"}},
      {R"({"type": "osfp4", "lr": 0.1})", {"unknown key \"lr\""}},
  };
  for (const auto& [text, parts] : wrong)
    for (const char* part : parts) {
      const std::string message = error_of(text);
      CAPTURE(text, message);
      CHECK(message.find(part) != std::string::npos);
    }
}

TEST_CASE("data transforms: sites that they cannot serve", "[methods][transforms]") {
  const auto problem = [](const char* text, int64_t channels, const char* weights) {
    return transform_problem(spec_of(text), fit_for(channels, weights ? &format(weights) : nullptr));
  };
  CHECK(problem(R"("smooth")", 33, nullptr) == "");
  CHECK(problem(R"("awq")", 64, "mxfp4") == "");
  CHECK(problem(R"("awq")", 64, nullptr) ==
        "awq: it searches the scales that quantize the weights best, and these stay in full precision; "
        "\"smooth\" helps activations");
  CHECK(problem(R"("awq")", 48, "mxfp4").rfind("awq: K = 48 is not a multiple of the group size 32; 16", 0) ==
        0);
  CHECK(problem(R"("wush")", 64, "nvfp4") == "");
  CHECK(problem(R"({"type": "wush", "k": 32})", 64, "int8") == "");
  CHECK(problem(R"("wush")", 96, "int8") == "");  // the whole row: the largest power of two, 32
  CHECK(problem(R"("wush")", 1024, "int8") ==
        "wush: blocks of 1024 channels; its dense blocks are fitted up to 256: give a smaller \"k\"");
  CHECK(problem(R"({"type": "wush", "k": 64})", 96, "mxfp4") ==
        "wush: k = 64 does not divide 96 channels; powers of two that do: 2, 4, 8, 16, 32");
  FormatSpec odd = format("nvfp4");
  odd.group_size = 24;
  CHECK(transform_problem(spec_of(R"("wush")"), fit_for(48, &odd)) ==
        "wush: the format's group size 24 is not a power of two; those that divide 48 channels as \"k\": "
        "2, 4, 8, 16");
}

TEST_CASE("smooth: the formula on small sites", "[methods][transforms]") {
  // max|X| = 4, 1; max|W| = 1, 4, over the stacked rows.
  const Matrix W = filled(2, 2, {1, -4, -0.5f, 2});
  const SiteStats stats = with_amax({4, 1});
  const auto s = [&](double alpha) {
    TransformSpec spec{TransformSpec::smooth};
    spec.alpha = alpha;
    return scale_of(fit_one(spec, W, stats, nullptr));
  };
  CHECK(s(0.5) == std::vector<float>{2, 0.5f});  // sqrt 4 / sqrt 1, sqrt 1 / sqrt 4: both ranges become 2
  CHECK(s(1) == std::vector<float>{4, 1});       // the weights take all of it
  CHECK(s(0) == std::vector<float>{1, 0.25f});   // the activations do
  CHECK(s(0.6)[0] == Approx(2.29739671));        // 4^0.6
  CHECK(s(0.6)[1] == Approx(0.57434918));        // 4^-0.4

  // Channels that are 0 on either side stay, and what a float or a format could not take is clamped.
  const Matrix V = filled(1, 5, {0, 1, 1e-20f, 1e20f, 1e-40f});
  CHECK(scale_of(fit_one(spec_of(R"("smooth")"), V, with_amax({3, 0, 1e6f, 1e-6f, 0}), nullptr)) ==
        std::vector<float>{1, 1, 1e5f, 1e-5f, 1});
}

TEST_CASE("awq: the exponent of the least output error, computed again from X", "[methods][transforms]") {
  Site site = make_site(24, 64, 40, {3, 20, 41}, 30);
  for (int64_t t = 0; t < site.X.rows(); ++t) site.X(t, 7) = 0;  // a dead channel
  site.stats = stats_of(site.X);
  for (const char* name : {"mxfp4", "nvfp4", "int4"}) DYNAMIC_SECTION(name) {
      // The error ||X W^T - (X / s) Q(W s)^T||^2 of every a, with scales by AWQ's formula.
      std::vector<double> errors;
      std::vector<std::vector<double>> scales;
      for (int i = 0; i < 20; ++i) {
        std::vector<double> s(64);
        double least = 1e300, largest = 0;
        for (size_t j = 0; j < 64; ++j) {
          double mean = 0;
          for (int64_t t = 0; t < 40; ++t) mean += double(std::fabs(site.X(t, int64_t(j)))) / 40;
          s[j] = std::pow(mean, i / 20.0);
          if (j != 7) least = std::min(least, s[j]), largest = std::max(largest, s[j]);
        }
        Matrix w = site.W.clone();
        for (size_t j = 0; j < 64; ++j) {
          s[j] = j == 7 ? 1 : s[j] / std::sqrt(least * largest);
          for (int64_t n = 0; n < 24; ++n) w(n, int64_t(j)) *= float(s[j]);
        }
        fake_quantize(format(name), w, w);
        for (size_t j = 0; j < 64; ++j)
          for (int64_t n = 0; n < 24; ++n) w(n, int64_t(j)) /= float(s[j]);
        errors.push_back(output_error(site.X, site.W, site.X, w));
        scales.push_back(s);
      }
      const size_t best = size_t(std::min_element(errors.begin(), errors.end()) - errors.begin());
      CAPTURE(best, errors[best], errors[0]);
      // Large channels want finer weights. Under a power-of-two scale a larger s moves a weight by whole
      // octaves of
      // the same relative error, or clips it: there the search may well keep a = 0.
      if (format(name).scale.kind != ScaleKind::exponent) {
        CHECK(best > 0);
        CHECK(errors[best] < 0.3 * errors[0]);
      }
      const std::vector<float> found =
          scale_of(fit_one(spec_of(R"("awq")"), site.W, site.stats, &format(name)));
      for (size_t j = 0; j < 64; ++j) CHECK(double(found[j]) == Approx(scales[best][j]).epsilon(1e-6));
      CHECK(scale_of(fit_one(spec_of(R"({"type": "awq", "steps": 1})"), site.W, site.stats, &format(name))) ==
            std::vector<float>(64, 1.0f));
    }
}

TEST_CASE("awq: sites without a choice", "[methods][transforms]") {
  const FormatSpec& mxfp4 = format("mxfp4");
  const Matrix W = normal(4, 32, 5);
  SiteStats dead = stats_of(filled(1, 32, std::vector<float>(32, 0.0f)));
  CHECK(scale_of(fit_one(spec_of(R"("awq")"), W, dead, &mxfp4)) == std::vector<float>(32, 1.0f));
  // One live channel is its own largest and smallest.
  std::vector<float> x(32, 0.0f);
  x[9] = 17;
  SiteStats one = stats_of(filled(1, 32, x));
  CHECK(scale_of(fit_one(spec_of(R"("awq")"), W, one, &mxfp4)) == std::vector<float>(32, 1.0f));
  // Weights of 0: no error to lessen.
  SiteStats some = stats_of(normal(3, 32, 6));
  CHECK(scale_of(fit_one(spec_of(R"("awq")"), filled(4, 32, std::vector<float>(128, 0.0f)), some, &mxfp4)) ==
        std::vector<float>(32, 1.0f));
}

TEST_CASE("data transforms: keep X W^T, the same bits for any number of threads", "[methods][transforms]") {
  const Site site = make_site(40, 128, 70, {3, 40, 41}, 30);
  const FormatSpec &w4 = format("mxfp4"), &a4 = format("mxfp4");
  const int threads = omp_get_max_threads();
  for (const char* name : {"smooth", "awq", "wush", "osfp4"}) DYNAMIC_SECTION(name) {
      const TransformSpec spec = spec_of("\"" + std::string(name) + "\"");
      omp_set_num_threads(1);
      const LinearMap map = fit_one(spec, site.W, site.stats, &w4, &a4);
      for (const int n : {2, 5}) {
        omp_set_num_threads(n);
        CHECK(fit_one(spec, site.W, site.stats, &w4, &a4) == map);
      }
      omp_set_num_threads(threads);
      Matrix w = site.W.clone(), x = site.X.clone();
      map_weights(map, w);
      map_activations(map, x);
      const Matrix nothing = filled(70, 128, std::vector<float>(70 * 128, 0.0f));
      CHECK(output_error(site.X, site.W, x, w) < 1e-9 * output_error(site.X, site.W, nothing, site.W));
    }
}
