#include "experiments/model/statistics_store.h"

#include <filesystem>

#include "core/io/files.h"
#include "experiments/export/stored_model.h"
#include "tests/catch.h"
#include "tests/core/model/models.h"

using namespace fp4lab;
using namespace fp4lab::test;
namespace fs = std::filesystem;

namespace {

ChosenWindows windows(int64_t count, int64_t length) {
  ChosenWindows w;
  w.tokens.windows = count, w.tokens.length = length;
  for (int64_t i = 0; i < count * length; ++i) w.tokens.ids.push_back(int32_t(i * 37 % 8192));
  w.resolved = str("{\"windows\":", count, "}");
  return w;
}

std::vector<fs::path> files_in(const fs::path& dir) {
  std::vector<fs::path> files;
  for (const auto& f : fs::directory_iterator(dir))
    if (f.path().extension() == ".safetensors") files.push_back(f.path());
  std::sort(files.begin(), files.end());
  return files;
}

}  // namespace

TEST_CASE("statistics store: what is gathered is what is loaded, once", "[experiments][statistics]") {
  const TempFolder folder;
  const std::string dir = (fs::path(folder.path()) / "cache").string();
  const auto model =
      std::make_shared<const SharedModel>(SharedModel{open_model(shipped_model()), nullptr, "hash"});
  const std::vector<StatisticsStore::Site> sites = {{0, SiteKind::qkv}, {1, SiteKind::down}};
  const StatisticsStore store(dir, model, windows(2, 24), true, true, 16, 4);
  CHECK(store.sample_rows() == 16);
  int64_t steps = 0;
  const auto step = [&] { ++steps; };
  store.gather(*make_cpu_ops(), sites, step);
  CHECK(steps > 0);
  REQUIRE(files_in(dir).size() == 2);

  // The same, gathered without a file between.
  StatsRequest request;
  request.wanted = [](int64_t, SiteKind) { return true; };
  request.hessians = request.sample = true, request.rows = 16, request.seed = 4;
  int64_t compared = 0;
  collect_statistics(
      *make_cpu_ops(), *model->weights, windows(2, 24).tokens.ids, 24, request, [] {},
      [&](int64_t layer, SiteKind kind, SiteStats&& s) {
        const StatisticsStore::Site site{layer, kind};
        if (std::find(sites.begin(), sites.end(), site) == sites.end()) return;
        const SiteStats loaded = store.load(site);
        CHECK(loaded.tokens == 48);
        CHECK(loaded.amax == s.amax);
        CHECK(loaded.mean_abs == s.mean_abs);
        REQUIRE(loaded.H.size() == s.H.size());
        CHECK(std::equal(s.H.data(), s.H.data() + s.H.size(), loaded.H.data()));
        REQUIRE(loaded.sample.size() == s.sample.size());
        CHECK(std::equal(s.sample.data(), s.sample.data() + s.sample.size(), loaded.sample.data()));
        ++compared;
      });
  CHECK(compared == 2);

  steps = 0;
  store.gather(*make_cpu_ops(), sites, step);
  CHECK(steps == 0);  // all there: no walk

  // Other rows, another seed, no Hessians, other text or another model: other files.
  const auto other =
      std::make_shared<const SharedModel>(SharedModel{open_model(shipped_model()), nullptr, "other"});
  const StatisticsStore variants[] = {{dir, model, windows(2, 24), true, true, 8, 4},
                                      {dir, model, windows(2, 24), true, true, 16, 5},
                                      {dir, model, windows(2, 24), false, true, 16, 4},
                                      {dir, model, windows(1, 24), true, true, 16, 4},
                                      {dir, other, windows(2, 24), true, true, 16, 4}};
  size_t expected = 2;
  for (const StatisticsStore& v : variants) {
    v.gather(*make_cpu_ops(), {{0, SiteKind::qkv}}, step);
    CHECK(files_in(dir).size() == ++expected);
  }
  // A sample of all rows is the same for every seed.
  const StatisticsStore all(dir, model, windows(2, 24), true, true, 0, 4),
      again(dir, model, windows(2, 24), true, true, 48, 9);
  all.gather(*make_cpu_ops(), {{0, SiteKind::qkv}}, step);
  steps = 0;
  again.gather(*make_cpu_ops(), {{0, SiteKind::qkv}}, step);
  CHECK(steps == 0);
}

TEST_CASE("statistics store: a damaged file is gathered again", "[experiments][statistics]") {
  const TempFolder folder;
  const std::string dir = folder.path().string();
  const auto model =
      std::make_shared<const SharedModel>(SharedModel{open_model(shipped_model()), nullptr, "hash"});
  const StatisticsStore store(dir, model, windows(1, 16), false, true, 0, 1);
  const StatisticsStore::Site site{0, SiteKind::o};
  store.gather(*make_cpu_ops(), {site}, [] {});
  const fs::path file = files_in(dir).at(0);
  const std::string whole = read_file(file.string());
  for (const std::string& damaged : {std::string(), whole.substr(0, 7), whole.substr(0, whole.size() / 2),
                                     whole.substr(0, whole.size() - 1), std::string(whole.size(), 'x')}) {
    write_file_atomic(file.string(), damaged);
    store.gather(*make_cpu_ops(), {site}, [] {});
    CHECK(read_file(file.string()) == whole);
  }
}
