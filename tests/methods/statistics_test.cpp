#include "methods/statistics.h"

#include <cmath>
#include <map>

#include "core/model/checkpoint.h"
#include "core/random.h"
#include "kernels/forward/forward.h"
#include "tests/catch.h"
#include "tests/core/io/temp_folder.h"
#include "tests/core/model/models.h"

using namespace fp4lab;
using namespace fp4lab::test;

namespace {

constexpr int64_t kLength = 32;

std::vector<int32_t> some_ids(int64_t windows) {
  std::vector<int32_t> ids;
  const Stream stream(3, "ids");
  for (int64_t i = 0; i < windows * kLength; ++i) ids.push_back(int32_t(stream.below(uint64_t(i), 8192)));
  return ids;
}

using Site = std::pair<int64_t, SiteKind>;
std::map<Site, SiteStats> collect(const Checkpoint& model, const std::vector<int32_t>& ids,
                                  StatsRequest request) {
  std::map<Site, SiteStats> found;
  collect_statistics(
      *make_cpu_ops(), model, ids, kLength, request, [] {},
      [&](int64_t layer, SiteKind site, SiteStats&& s) {
        found[{layer, site}] = std::move(s);
      });
  return found;
}

}  // namespace

TEST_CASE("statistics: Hessian, amax, mean and rows of every site agree with the inputs",
          "[methods][statistics]") {
  const Checkpoint model = Checkpoint::open(shipped_model());
  const std::vector<int32_t> ids = some_ids(3);
  StatsRequest request;
  request.wanted = [](int64_t layer, SiteKind) { return layer == 1; };
  request.hessians = request.sample = true;
  const auto found = collect(model, ids, request);
  REQUIRE(found.size() == kSites);
  for (const auto& [site, stats] : found) {
    CAPTURE(site_name(site.first, site.second));
    const int64_t K = model.shape(linears_of(site.second)[0])[1];
    const Matrix& X = stats.sample;  // all rows were asked for
    REQUIRE(stats.tokens == int64_t(ids.size()));
    REQUIRE(X.rows() == stats.tokens);
    REQUIRE(X.cols() == K);
    REQUIRE(stats.H.rows() == K);
    for (const int64_t i : {int64_t{0}, int64_t{1}, K / 2, K - 1})
      for (int64_t j = 0; j < K; ++j) {
        double h = 0;
        for (int64_t t = 0; t < X.rows(); ++t) h = std::fma(double(X(t, i)), double(X(t, j)), h);
        REQUIRE(stats.H(i, j) == (j >= i ? h : 0.0));
      }
    for (int64_t c = 0; c < K; ++c) {
      float amax = 0;
      double sum = 0;
      for (int64_t t = 0; t < X.rows(); ++t) {
        amax = std::max(amax, std::fabs(X(t, c)));
        sum += double(std::fabs(X(t, c)));
      }
      REQUIRE(stats.amax[size_t(c)] == amax);
      REQUIRE(stats.mean_abs[size_t(c)] == Approx(sum / double(X.rows())).epsilon(1e-12));
    }
  }
  // The inputs of down are what flows into down: silu(gate) * up of the inputs of gate and up.
  const Matrix& X = found.at({1, SiteKind::gate_up}).sample;
  const Matrix gate = model.load(1, Linear::gate), up = model.load(1, Linear::up);
  const Matrix& act = found.at({1, SiteKind::down}).sample;
  for (int64_t t = 0; t < X.rows(); t += 17)
    for (int64_t n = 0; n < gate.rows(); n += 101) {
      double g = 0, u = 0;
      for (int64_t k = 0; k < X.cols(); ++k)
        g += double(X(t, k)) * double(gate(n, k)), u += double(X(t, k)) * double(up(n, k));
      CHECK(act(t, n) == Approx(g / (1 + std::exp(-g)) * u).epsilon(1e-4).margin(1e-6));
    }
}

TEST_CASE("statistics: a sample is rows of the whole, the same for every site", "[methods][statistics]") {
  const Checkpoint model = Checkpoint::open(shipped_model());
  const std::vector<int32_t> ids = some_ids(3);
  StatsRequest all, some;
  all.wanted = some.wanted = [](int64_t layer, SiteKind s) { return layer == 0 && s != SiteKind::o; };
  all.sample = some.sample = true;
  some.rows = 20, some.seed = 5;
  const auto whole = collect(model, ids, all), part = collect(model, ids, some);
  REQUIRE(part.size() == 3);
  std::vector<int64_t> chosen;
  for (const auto& [site, stats] : part) {
    const Matrix& X = whole.at(site).sample;
    REQUIRE(stats.sample.rows() == 20);
    CHECK(stats.H.size() == 0);
    CHECK(stats.amax == whole.at(site).amax);  // statistics are of all tokens
    std::vector<int64_t> rows;
    for (int64_t r = 0; r < 20; ++r)
      for (int64_t t = 0; t < X.rows(); ++t)
        if (std::equal(X.row(t), X.row(t) + X.cols(), stats.sample.row(r))) {
          rows.push_back(t);
          break;
        }
    REQUIRE(rows.size() == 20);
    CHECK(std::is_sorted(rows.begin(), rows.end()));
    if (chosen.empty()) chosen = rows;
    CHECK(rows == chosen);
  }
  some.seed = 6;
  const auto other = collect(model, ids, some);
  const Matrix &a = part.at({0, SiteKind::qkv}).sample, &b = other.at({0, SiteKind::qkv}).sample;
  CHECK(!std::equal(a.data(), a.data() + a.size(), b.data()));
}

TEST_CASE("statistics: the same bits when the hidden states are in a file", "[methods][statistics]") {
  const TempFolder folder;
  const Checkpoint model = Checkpoint::open(shipped_model());
  const std::vector<int32_t> ids = some_ids(3);
  StatsRequest memory, file;
  memory.wanted = file.wanted = [](int64_t, SiteKind) { return true; };
  memory.hessians = file.hessians = memory.sample = file.sample = true;
  file.spill = {0, folder / "cache"};
  const auto expected = collect(model, ids, memory), found = collect(model, ids, file);
  CHECK(std::filesystem::is_empty(folder / "cache"));  // it was used, and left nothing
  REQUIRE(found.size() == expected.size());
  for (const auto& [site, stats] : found) {
    const SiteStats& e = expected.at(site);
    CHECK(stats.amax == e.amax);
    CHECK(stats.mean_abs == e.mean_abs);
    REQUIRE((stats.H.size() == e.H.size() && stats.sample.size() == e.sample.size()));
    CHECK(std::equal(stats.H.data(), stats.H.data() + e.H.size(), e.H.data()));
    CHECK(std::equal(stats.sample.data(), stats.sample.data() + e.sample.size(), e.sample.data()));
  }
  file.spill.folder = put(folder / "occupied", "x");
  CHECK_THROWS_AS(collect(model, ids, file), DataError);
}
