#include "experiments/store.h"

#include <cmath>
#include <filesystem>

#include "core/io/files.h"
#include "core/io/hdf5.h"
#include "tests/catch.h"
#include "tests/core/io/temp_folder.h"
#include "tests/experiments/store_cells.h"

using namespace fp4lab;
using namespace fp4lab::test;

namespace {

using Texts = std::vector<std::string>;

/// Equal, NaN being equal to NaN.
bool same(const std::vector<double>& a, const std::vector<double>& b) {
  return std::equal(a.begin(), a.end(), b.begin(), b.end(),
                    [](double x, double y) { return x == y || (std::isnan(x) && std::isnan(y)); });
}

}  // namespace

TEST_CASE("store: a cell's life: absent, failed, done, forgotten", "[experiments][store]") {
  const TempFolder folder;
  Store store(folder / "deep/results", "s");
  CHECK(store.file() == folder / "deep/results/s.h5");
  CHECK(store.parts_dir() == folder / "deep/results/s/parts");
  const StoredCell cell = cell_of(1);
  CHECK(store.state(cell.key) == CellState::absent);
  store.put_error(cell, "NaN in w", 1, host("a"));
  CHECK(store.state(cell.key) == CellState::failed);
  CHECK(Store(folder / "deep/results", "s").state(cell.key) == CellState::failed);  // it is on disk
  CHECK(store.state(cell_of(2).key) == CellState::absent);
  store.put(cell, record_of(1), 1, host("a"));
  CHECK(store.state(cell.key) == CellState::done);
  CHECK(Store(folder / "deep/results", "s").state(cell.key) == CellState::done);
  CHECK_FALSE(std::filesystem::exists(store.parts_dir() + "/" + cell.key + ".error.h5"));
  store.put_error(cell, "a slower process failed", 1, host("b"));
  CHECK(store.state(cell.key) == CellState::done);  // the finished part wins
  const std::string stamp = store.stamp(cell.key);
  CHECK(stamp == store.stamp(cell.key));
  store.put(cell, record_of(1), 1, host("c"));  // the same result again is another one
  CHECK(store.stamp(cell.key) != stamp);
  CHECK(store.stamp(cell_of(2).key).empty());
  CHECK_THROWS_AS(store.state("../../etc/passwd"), Fault);
  CHECK_THROWS_AS(store.put({"abc", "", {}}, {}, 0, {}), Fault);
}

TEST_CASE("store: the consolidated file says everything, row by row", "[experiments][store]") {
  const TempFolder folder;
  Store store(folder.path().string(), "s");
  const std::vector<StoredCell> cells = cells_of(5);
  // 0 done, 1 failed, 2 done by another process, 3 absent, 4 done with other columns
  store.put(cells[2], record_of(2), 2.5, host("b"));
  store.put(cells[0], record_of(0), 0.5, host("a"));
  store.put_error(cells[1], "layer 3: H holds NaN \u2264", 1.5, host("a"));
  Record other;
  other.scalars = {{"extra", 4, {"dB", "eq. 9"}}};
  other.texts = {{"note", "only here"}};
  store.put(cells[4], other, 4.5, {{"host", "a"}, {"cpu", "one"}, {"gpu", "two"}});
  store.put(cell_of(77), record_of(77), 1, host("z"));  // a part of another sweep

  const Store::Summary summary = store.consolidate(header_of("s"), cells);
  CHECK(summary.cells == 5);
  CHECK(summary.done == 3);
  CHECK(summary.failed == 1);
  const h5::File f = h5::File::open_readonly(store.file());

  CHECK(f.children("/") == Texts{"cells", "errors", "experiment", "provenance", "table"});
  CHECK(f.attribute_names("/") == Texts{"cells", "cells_done", "created_utc", "fp4lab_version", "git_commit",
                                        "git_dirty", "name", "schema_version"});
  CHECK(f.attribute_number("/", "cells") == 5);
  CHECK(f.attribute_number("/", "cells_done") == 3);
  CHECK(f.attribute_number("/", "schema_version") == 1);
  CHECK(f.attribute_number("/", "git_dirty") == 1);
  CHECK(f.attribute_text("/", "name") == "s");
  CHECK(f.attribute_text("/", "git_commit") == "abc");
  CHECK(f.attribute_text("/", "fp4lab_version") == "0.1.0");
  CHECK(f.attribute_text("/", "created_utc") == "2025-01-02T03:04:05Z");
  CHECK(f.read_strings("/experiment/written") == Texts{"{ // as written\n}"});
  CHECK(f.read_strings("/experiment/resolved") == Texts{"{\"task\": \"none\"}"});

  CHECK(f.children("/table") == Texts{"digest", "extra", "format", "key", "mse", "note", "provenance",
                                      "seconds", "seed", "status", "time"});
  CHECK(f.read_strings("/table/key") ==
        Texts{cells[0].key, cells[1].key, cells[2].key, cells[3].key, cells[4].key});
  CHECK(f.read_strings("/table/status") == Texts{"done", "failed", "done", "absent", "done"});
  CHECK(f.read_strings("/table/format") == Texts{"nvfp4", "mxfp4", "nvfp4", "mxfp4", "nvfp4"});
  CHECK(same(f.read_doubles("/table/seed"), {0, 1, 2, 3, 4}));
  CHECK(same(f.read_doubles("/table/mse"), {0.5, kNaN, 2.5, kNaN, kNaN}));
  CHECK(same(f.read_doubles("/table/time"), {0, kNaN, 4, kNaN, kNaN}));
  CHECK(same(f.read_doubles("/table/extra"), {kNaN, kNaN, kNaN, kNaN, 4}));
  CHECK(same(f.read_doubles("/table/seconds"), {0.5, 1.5, 2.5, kNaN, 4.5}));
  CHECK(f.read_strings("/table/digest") == Texts{"digest 0", "", "digest 2", "", ""});
  CHECK(f.read_strings("/table/note") == Texts{"", "", "", "", "only here"});
  // Rows of /provenance: a, b, and a with a GPU, in the order of the first cell.
  CHECK(same(f.read_doubles("/table/provenance"), {0, 0, 1, kNaN, 2}));
  CHECK(f.children("/provenance") == Texts{"cpu", "gpu", "host"});
  CHECK(f.read_strings("/provenance/host") == Texts{"a", "b", "a"});
  CHECK(f.read_strings("/provenance/cpu") == Texts{"one", "one", "one"});
  CHECK(f.read_strings("/provenance/gpu") == Texts{"", "", "two"});

  CHECK(f.attribute_text("/table/extra", "units") == "dB");
  CHECK(f.attribute_text("/table/extra", "source_equation") == "eq. 9");
  CHECK(f.attribute_text("/table/seconds", "units") == "s");
  for (const std::string& column : f.children("/table")) {
    CAPTURE(column);
    CHECK(f.shape("/table/" + column) == std::vector<int64_t>{5});
    CHECK(f.attribute_text("/table/" + column, "shape_of") == "(cells)");
    CHECK(f.has_attribute("/table/" + column, "units"));
    CHECK(f.has_attribute("/table/" + column, "source_equation"));
  }
  Texts by_position(11);
  for (const std::string& column : f.children("/table"))
    by_position.at(size_t(f.attribute_number("/table/" + column, "position"))) =
        column + ":" + f.attribute_text("/table/" + column, "role");
  CHECK(by_position == Texts{"key:cell", "status:cell", "seconds:cell", "provenance:cell", "format:axis",
                             "seed:axis", "mse:metric", "time:metric", "extra:metric", "digest:text",
                             "note:text"});

  Texts done = {cells[0].key, cells[2].key, cells[4].key};
  std::sort(done.begin(), done.end());
  CHECK(f.children("/cells") == done);
  const std::string c2 = "/cells/" + cells[2].key;
  CHECK(f.attribute_names(c2) == Texts{"format", "seed"});
  CHECK(f.attribute_text(c2, "format") == "nvfp4");
  CHECK(f.attribute_number(c2, "seed") == 2);
  CHECK(f.children(c2) == Texts{"codes", "error", "tensor"});
  CHECK(f.read_doubles(c2 + "/error") == record_of(2).arrays[0].values);
  CHECK(f.shape(c2 + "/error") == std::vector<int64_t>{2, 3});
  CHECK(f.attribute_text(c2 + "/error", "units") == "1");
  CHECK(f.attribute_text(c2 + "/error", "shape_of") == "(tensors, bins)");
  CHECK(f.attribute_text(c2 + "/error", "source_equation") == "eq. 3");
  CHECK(f.read_strings(c2 + "/tensor") == Texts{"q", "k"});
  CHECK(f.attribute_text(c2 + "/tensor", "shape_of") == "(tensors)");
  CHECK(f.read_bytes(c2 + "/codes") == std::vector<uint8_t>{1, 2, 3, 250, 0, 2});
  CHECK(f.shape(c2 + "/codes") == std::vector<int64_t>{2, 3});
  CHECK(f.children("/cells/" + cells[4].key).empty());

  CHECK(f.children("/errors") == Texts{"format", "key", "message", "seed"});
  CHECK(f.read_strings("/errors/key") == Texts{cells[1].key});
  CHECK(f.read_strings("/errors/message") == Texts{"layer 3: H holds NaN \u2264"});
  CHECK(f.read_strings("/errors/format") == Texts{"mxfp4"});
  CHECK(same(f.read_doubles("/errors/seed"), {1}));
}

TEST_CASE("store: nothing computed yet is a table too", "[experiments][store]") {
  const TempFolder folder;
  Store store(folder.path().string(), "s");
  for (int n : {0, 3}) {
    CAPTURE(n);
    CHECK(store.consolidate(header_of("s"), cells_of(n)).done == 0);
    const h5::File f = h5::File::open_readonly(store.file());
    CHECK(f.read_strings("/table/status") == Texts(size_t(n), "absent"));
    CHECK(f.shape("/table/seconds") == std::vector<int64_t>{n});
    CHECK(f.children("/cells").empty());
    CHECK(f.children("/provenance").empty());
    CHECK(f.read_strings("/errors/message").empty());
    CHECK(f.exists("/errors/format") == (n > 0));
  }
}

TEST_CASE("store: columns whose names meet, or are paths", "[experiments][store]") {
  const TempFolder folder;
  Store store(folder.path().string(), "s");
  std::vector<StoredCell> cells = {
      {sha256_hex("a"), "{}", {{"seed", "1", 1.0}, {"calibration.windows", "8", 8.0}, {"key", "k", {}}}},
      {sha256_hex("b"), "{}", {{"seed", "2", 2.0}, {"calibration.windows", "all", {}}, {"key", "k", {}}}}};
  Record r;
  r.scalars = {{"seed", 7, {}}, {"status", 8, {}}, {"mse/x", 9, {}}, {"both", 1, {}}};
  r.texts = {{"both", "t"}};
  r.arrays = {{"a/b", {1}, {1}, "(x)", {}}};
  store.put(cells[0], r, 0, {});
  store.put_error(cells[1], "m", 0, {});
  store.consolidate(header_of("s"), cells);
  const h5::File f = h5::File::open_readonly(store.file());
  CHECK(f.children("/table") == Texts{"both", "both_text", "calibration.windows", "key", "key_axis", "mse.x",
                                      "provenance", "seconds", "seed", "seed_measured", "status",
                                      "status_measured"});
  CHECK(same(f.read_doubles("/table/seed"), {1, 2}));  // the axis keeps its name
  CHECK(same(f.read_doubles("/table/seed_measured"), {7, kNaN}));
  CHECK(same(f.read_doubles("/table/status_measured"), {8, kNaN}));
  CHECK(same(f.read_doubles("/table/both"), {1, kNaN}));
  CHECK(f.read_strings("/table/both_text") == Texts{"t", ""});
  CHECK(f.read_strings("/table/calibration.windows") == Texts{"8", "all"});  // one value is no number
  CHECK(f.read_strings("/errors/calibration.windows") == Texts{"all"});
  CHECK(f.children("/cells/" + cells[0].key) == Texts{"a.b"});
  CHECK(f.attribute_text("/cells/" + cells[0].key, "calibration.windows") == "8");
}

TEST_CASE("store: a part holds the whole cell by itself", "[experiments][store]") {
  const TempFolder folder;
  Store store(folder.path().string(), "s");
  store.put(cell_of(3), record_of(3), 1.25, host("a"));
  const h5::File f = h5::File::open_readonly(store.parts_dir() + "/" + cell_of(3).key + ".h5");
  CHECK(f.attribute_number("/", "schema_version") == 1);
  CHECK(f.attribute_text("/", "key") == cell_of(3).key);
  CHECK(f.attribute_text("/", "status") == "done");
  CHECK(f.attribute_number("/", "seconds") == 1.25);
  CHECK(f.attribute_text("/", "created_utc").size() == std::string("2025-01-02T03:04:05Z").size());
  CHECK(f.read_strings("/resolved") == Texts{"{\"cell\": 3}"});
  CHECK(f.read_strings("/message") == Texts{""});
  CHECK(f.read_strings("/axes/name") == Texts{"format", "seed"});
  CHECK(f.read_strings("/axes/text") == Texts{"mxfp4", "3"});
  CHECK(same(f.read_doubles("/axes/number"), {kNaN, 3}));
  CHECK(f.read_strings("/scalars/units") == Texts{"1", "s"});
  CHECK(f.read_strings("/scalars/source_equation") == Texts{"mean (x-x^)^2", ""});
}

TEST_CASE("store: many cells consolidate alike in any order of arrival, and again", "[experiments][store]") {
  const TempFolder folder;
  const std::vector<StoredCell> cells = cells_of(40);
  std::string images[2];
  for (int run : {0, 1}) {
    Store store(folder / str("run", run), "s");
    for (int i = 0; i < 40; ++i) {
      const int at = run == 0 ? i : i * 7 % 40;
      store.put(cells[size_t(at)], record_of(at), at, host("a"));
    }
    if (run == 1) store.consolidate(header_of("s"), cells);
    store.consolidate(header_of("s"), cells);
    images[run] = get(store.file());
  }
  CHECK(images[0] == images[1]);
}
