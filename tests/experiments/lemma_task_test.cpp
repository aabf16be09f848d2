// The task `lemma`: what its cells read and refuse, and what its records hold.
#include <omp.h>

#include <cmath>
#include <nlohmann/json.hpp>

#include "experiments/sweep.h"
#include "experiments/tasks/tasks.h"
#include "tests/catch.h"

using namespace fp4lab;

namespace {

struct Made {
  std::unique_ptr<CellTask> task;
  Json resolved;
};
Made make(const Json& cell) {
  Params p(cell, {"e.json", "", {}}, "task lemma");
  SourceCache sources;
  std::unique_ptr<CellTask> task = lemma_task().make(p, TaskContext{"", {}, &sources, nullptr, "", {}});
  return {std::move(task), p.resolved()};
}
std::string refusal(const Json& cell) {
  try {
    make(cell);
  } catch (const ConfigError& e) {
    return e.what();
  }
  return "accepted";
}
bool contains(const std::string& text, const std::string& part) {
  return text.find(part) != std::string::npos;
}

double scalar(const Record& r, const std::string& name) {
  for (const Record::Scalar& s : r.scalars)
    if (s.name == name) return s.value;
  FAIL("no scalar " << name);
  return 0;
}
std::string text(const Record& r, const std::string& name) {
  for (const Record::Text& t : r.texts)
    if (t.name == name) return t.value;
  FAIL("no text " << name);
  return "";
}
const Record::Array& array(const Record& r, const std::string& name) {
  for (const Record::Array& a : r.arrays)
    if (a.name == name) return a;
  FAIL("no array " << name);
  return r.arrays.front();
}

const Json kQuick[] = {
    {{"lemma", "lemma1"}, {"format", "nvfp4"}, {"group_size", 16}, {"blocks", 4000}},
    {{"lemma", "lemma1_unbiased"}, {"format", "e2m1-fp32"}, {"group_size", 32}, {"blocks", 4000}},
    {{"lemma", "remark1"}, {"format", "mxfp4"}, {"distribution", "laplace"}, {"blocks", 4000}},
    {{"lemma", "remark2"}, {"format", "mxfp4"}, {"group_size", 40}, {"blocks", 4000}},
    {{"lemma", "lemma2_value"}, {"format", "nvfp4"}, {"samples", 1000000}},
    {{"lemma", "lemma2_rate"}, {"format", "e2m1-fp32"}, {"distribution", "laplace"}},
    {{"lemma", "lemma2_crossover"}, {"format", "e2m1-fp32"}, {"samples", 1000000}},
    {{"lemma", "lemma3"}, {"format", "nvfp4"}, {"group_size", 32}, {"hadamard", 16}, {"blocks", 4000}},
    {{"lemma", "lemma4"}, {"format", "mxfp4-paper"}, {"group_size", 8}, {"blocks", 4000}},
};

}  // namespace

TEST_CASE("lemma: every record keeps the contract, for any number of threads", "[experiments][lemma]") {
  const int threads = omp_get_max_threads();
  const std::vector<std::string> columns = lemma_task().metrics();
  for (const Json& cell : kQuick) {
    DYNAMIC_SECTION(cell["lemma"].get<std::string>()) {
      Record records[2];
      for (const int n : {1, 3}) {
        omp_set_num_threads(n);
        records[n == 3] = make(cell).task->run();
      }
      omp_set_num_threads(threads);
      const Record &r = records[0], &other = records[1];
      for (size_t i = 0; i < r.scalars.size(); ++i) {
        const Record::Scalar& s = r.scalars[i];
        CAPTURE(s.name);
        CHECK((s.value == other.scalars.at(i).value ||
               (std::isnan(s.value) && std::isnan(other.scalars[i].value))));
        CHECK(std::find(columns.begin(), columns.end(), s.name) != columns.end());
        CHECK(!s.meaning.units.empty());
        CHECK(!s.meaning.source_equation.empty());
      }
      const double estimate = scalar(r, "estimate"), low = scalar(r, "ci_low"), high = scalar(r, "ci_high");
      const double prediction = scalar(r, "prediction"), tolerance = scalar(r, "tolerance");
      CHECK((low <= estimate && estimate <= high));
      CHECK(tolerance > 0);
      if (prediction == 0)
        CHECK(std::isnan(scalar(r, "deviation_percent")));
      else
        CHECK(scalar(r, "deviation_percent") == Approx(100 * (estimate / prediction - 1)));
      const bool within = low >= prediction - tolerance && high <= prediction + tolerance;
      const bool outside = high < prediction - tolerance || low > prediction + tolerance;
      CHECK(text(r, "verdict") == (within ? "holds" : outside ? "differs" : "undecided"));
      CHECK(text(r, "note") == text(other, "note"));
      CHECK((text(r, "verdict") == "holds" || !text(r, "note").empty()));
      const std::string statement = text(r, "statement");
      CHECK((contains(statement, "Lemma ") || contains(statement, "Remark ")));
      CHECK(statement.back() == '.');
      for (const Record::Array& a : r.arrays) {
        CAPTURE(a.name);
        CHECK(a.shape == std::vector<int64_t>{int64_t(a.values.size())});
        for (const double v : a.values) CHECK(std::isfinite(v));
      }
    }
  }
}

TEST_CASE("lemma: curves to plot", "[experiments][lemma]") {
  const Record rate = make(kQuick[5]).task->run();
  const std::vector<double>& G = array(rate, "curve.group_size").values;
  CHECK(G.front() == Approx(2));
  CHECK(G.back() > 1e290);
  const std::vector<double>&found = array(rate, "curve.estimate").values,
        &form = array(rate, "curve.prediction").values;
  REQUIRE((found.size() == G.size() && form.size() == G.size()));
  // R = 1 - MSE at G = 2, and ever nearer to the predicted form: e2m1's dead zone ends at m/24, log G >> 24.
  CHECK(found.front() == Approx(1 - .00163297).epsilon(1e-6));
  CHECK(found.back() / form.back() == Approx(1).epsilon(.02));
  CHECK(std::fabs(found.back() / form.back() - 1) < std::fabs(found[30] / form[30] - 1));
  CHECK(scalar(rate, "samples") == 0);

  const Record crossover = make(kQuick[6]).task->run();
  const std::vector<double>&size = array(crossover, "curve.group_size").values,
        &laplace = array(crossover, "curve.laplace").values,
        &normal = array(crossover, "curve.normal").values;
  REQUIRE((laplace.size() == size.size() && normal.size() == size.size()));
  CHECK(size.back() == Approx(4096));
  for (size_t i = 0; i < size.size(); ++i) {
    CAPTURE(size[i]);
    CHECK((laplace[i] < normal[i]) == (size[i] < scalar(crossover, "prediction")));
  }
  CHECK(array(crossover, "sampled.group_size").values.size() == 7);
}

TEST_CASE("lemma: one way to write a cell, one key", "[experiments][lemma]") {
  const Json plain = {{"lemma", "lemma1"}, {"format", "e2m1-fp32"}, {"group_size", 16}};
  Json full = plain;
  full["format"] = {{"base", "e2m1-fp32"}, {"group_size", 16}, {"label", "some"}};
  full.erase("group_size");
  full["blocks"] = 1 << 20, full["seed"] = 1, full["confidence"] = .99, full["distribution"] = "normal";
  CHECK(make(plain).resolved == make(full).resolved);
  full["tolerance"] = .005;  // the lemma's own, but written: an answer to another question
  CHECK(make(plain).resolved != make(full).resolved);
  // Nothing that a lemma does not look at makes another cell.
  const Json rate = {{"lemma", "lemma2_rate"}, {"format", "e2m1-fp32"}};
  CHECK_FALSE(make(rate).resolved.contains("seed"));
  CHECK(make({{"lemma", "lemma2_rate"}, {"format", {{"base", "e2m1-fp32"}, {"group_size", 64}}}}).resolved ==
        make(rate).resolved);
  CHECK(make({{"lemma", "lemma4"}, {"format", "mxfp4"}}).resolved.at("log_normal_sigma") == .5);
  CHECK(make({{"lemma", "lemma2_value"}, {"format", "mxfp4"}}).resolved.at("log_normal_sigma") == 0);
}

TEST_CASE("lemma: what it refuses", "[experiments][lemma]") {
  const auto cell = [](const char* lemma, Json more = Json::object()) {
    Json j = {{"lemma", lemma}, {"format", "e2m1-fp32"}};
    j.update(more);
    return refusal(j);
  };
  CHECK(contains(cell("lemma5"), "e.json at /lemma: unknown lemma \"lemma5\"; did you mean \"lemma"));
  CHECK(contains(refusal({{"format", "mxfp4"}}), "missing key \"lemma\""));
  CHECK(contains(refusal({{"lemma", "lemma1"}}), "missing key \"format\""));
  CHECK(contains(
      cell("lemma1", {{"outlier_share", .1}}),
      "e.json at /outlier_share: lemma \"lemma1\" does not read \"outlier_share\"; it reads: lemma, format, "
      "group_size, distribution, blocks, seed, confidence, tolerance, device"));
  CHECK(contains(cell("lemma2_rate", {{"seed", 1}}), "does not read \"seed\"; it reads: "));
  CHECK(contains(cell("lemma2_crossover", {{"group_size", 16}}), "does not read \"group_size\""));
  CHECK(contains(cell("lemma1", {{"grup_size", 16}}),
                 "unknown key \"grup_size\"; did you mean \"group_size\"?"));
  CHECK(contains(cell("lemma1", {{"group_size", 24}}),
                 "at /format: lemma \"lemma1\": the rotation is a Hadamard matrix"));
  CHECK(contains(cell("lemma1", {{"group_size", 1}}), "expected 0 or an integer in [2, 4096], found 1"));
  CHECK(contains(cell("lemma1", {{"group_size", 8192}}),
                 "at /group_size: expected an integer in [0, 4096], found 8192"));
  CHECK(
      contains(cell("lemma1", {{"confidence", 1}}), "at /confidence: expected a number in [0.5, 0.999999]"));
  CHECK(contains(cell("lemma1", {{"tolerance", -1}}), "at /tolerance: "));
  CHECK(contains(cell("lemma1", {{"distribution", "uniform"}}),
                 "unknown distribution \"uniform\"; known: normal, laplace"));
  CHECK(contains(refusal({{"lemma", "lemma1"}, {"format", "int8"}}), "a group is a whole row here"));
  CHECK(contains(cell("lemma4"), "has no error (remark2)"));
  CHECK(contains(refusal({{"lemma", "lemma4"}, {"format", "nvfp4-sweep"}}),
                 "no prediction for the rule sweep"));
  CHECK(contains(refusal({{"lemma", "lemma2_rate"}, {"format", "nvfp4"}}), "scales that are not rounded"));
  CHECK(contains(cell("lemma3"), "leaves outliers no error to compare"));
  CHECK(contains(cell("lemma3", {{"hadamard", 64}, {"group_size", 32}}),
                 "divides the group size 32; found hadamard 64"));
  CHECK(contains(
      refusal({{"lemma", "lemma2_crossover"}, {"format", {{"base", "e2m1-fp32"}, {"element", "int4"}}}}),
      "no crossover"));
}

TEST_CASE("lemma: a tolerance of one's own decides", "[experiments][lemma]") {
  Json cell = {{"lemma", "lemma4"},
               {"format", "mxfp4"},
               {"group_size", 32},
               {"blocks", 20000},
               {"log_normal_sigma", 0}};
  CHECK(text(make(cell).task->run(), "verdict") == "differs");  // .0184 against .017164
  cell["tolerance"] = .003;
  CHECK(text(make(cell).task->run(), "verdict") == "holds");
  cell["tolerance"] = .0012;
  CHECK(text(make(cell).task->run(), "verdict") == "undecided");
}

TEST_CASE("lemma: the shipped sweeps ask about every lemma and remark", "[experiments][lemma]") {
  const std::vector<Sweep> sweeps = load_sweeps(FP4LAB_SOURCE_DIR "/experiments/sweeps/lemmas.json", {}, "");
  std::string all;
  double seconds = 0;
  for (const Sweep& s : sweeps) {
    for (const Cell& c : s.cells) {
      all += c.stored.resolved;
      const Estimate e = c.task->estimate();
      CHECK((e.seconds > 0 && e.bytes < 1e9));
      seconds += e.seconds;
    }
  }
  CHECK(seconds < 250);  // on one core
  for (const char* lemma : {"lemma1", "lemma1_unbiased", "remark1", "remark2", "lemma2_value", "lemma2_rate",
                            "lemma2_crossover", "lemma3", "lemma4"})
    CHECK(contains(all, std::string("\"lemma\":\"") + lemma + "\""));
}
