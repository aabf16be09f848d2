#include <cmath>
#include <numeric>

#include "experiments/tasks/tasks.h"
#include "tests/catch.h"
#include "tests/experiments/run_cell.h"

using namespace fp4lab;
using test::CellRun;
using test::message_of;
using test::npy_source;
using test::resolved_cell;
using test::TempFolder;

namespace {

const TaskKind kTask = scale_range_task();

Json synthetic(const Json& format) {
  return {{"source", {{"synthetic", {{"distribution", "normal"}, {"shape", {256, 128}}}}}},
          {"format", format}};
}
CellRun run(const Json& keys) { return test::run_cell(kTask, keys); }
std::string refused(const Json& keys) {
  return message_of<ConfigError>([&] { resolved_cell(kTask, keys); });
}

}  // namespace

TEST_CASE("scale_range: by hand", "[experiments][scale_range]") {
  const TempFolder folder;
  // Groups of 2, e2m1: scales 2^-20, 1, none, 1024.
  const Json keys = {{"source", npy_source(folder / "x.npy", 2, 4, {6 * 0x1p-20f, 0, 3, -6, 0, 0, 6144, 1})},
                     {"format", {{"base", "mxfp4"}, {"group_size", 2}}}};
  const CellRun cell = run(keys);
  CHECK(test::record_problem(kTask, cell.record) == "");
  CHECK(cell.scalar("log2_scale_min") == -20);
  CHECK(cell.scalar("log2_scale_p001") == -20);
  CHECK(cell.scalar("log2_scale_median") == 0);
  CHECK(cell.scalar("log2_scale_p999") == 10);
  CHECK(cell.scalar("log2_scale_max") == 10);
  CHECK(cell.scalar("zero_groups_share") == 0.25);
  CHECK(cell.scalar("groups") == 4);
  const auto share = [&](const char* name) { return cell.scalar(name) * 3; };
  CHECK(share("e8m0_clipped_share") + share("e8m0_underflow_share") == 0);
  CHECK(share("e4m3_clipped_share") == Approx(1));
  CHECK(share("e4m3_underflow_share") == Approx(1));
  CHECK(share("e5m2_clipped_share") == 0);
  CHECK(share("e5m2_underflow_share") == Approx(1));
  CHECK(share("e3m4_clipped_share") == Approx(1));
  CHECK(share("e2m5_underflow_share") == Approx(1));
  CHECK(share("e5m3_underflow_share") == Approx(1));
  // With s_T = 1024 / 448 the others are 448 2^-10 and 448 2^-30.
  CHECK(share("e4m3_two_level_clipped_share") == 0);
  CHECK(share("e4m3_two_level_underflow_share") == Approx(1));
  CHECK(share("e2m5_two_level_underflow_share") == Approx(2));
  CHECK(share("e8m0_two_level_underflow_share") == 0);

  CHECK(cell.array("histogram.edges").front() == -20);
  CHECK(cell.array("histogram.edges").back() == 10.125);
  CHECK(cell.array("histogram.counts").front() == 1);
  CHECK(cell.array("histogram.counts").back() == 1);
  CHECK(cell.array("histogram.counts")[160] == 1);
  CHECK(cell.texts("tensor.name") == std::vector<std::string>{"x"});
  CHECK(cell.array("tensor.log2_scale_min") == std::vector<double>{-20});
  CHECK(cell.array("tensor.log2_scale_max") == std::vector<double>{10});
  CHECK(cell.array("tensor.log2_scale_median") == std::vector<double>{0});
  const std::vector<std::string>& types = cell.texts("scale_type.name");
  REQUIRE(types.size() == cell.array("scale_type.log2_min").size());
  CHECK(types[0] == "e8m0");
  CHECK(cell.array("scale_type.log2_min")[0] == -127);
  CHECK(types[1] == "e4m3");
  CHECK(cell.array("scale_type.log2_max")[1] == Approx(std::log2(448.0)));

  // A whole row is a group; all rows without energy have no scales.
  Json row = keys;
  row["format"]["group_size"] = "row";
  CHECK(run(row).scalar("groups") == 2);
  const CellRun none =
      run({{"source", npy_source(folder / "z.npy", 1, 4, {0, 0, -0.0f, 0})}, {"format", row["format"]}});
  CHECK(none.scalar("zero_groups_share") == 1);
  for (const char* name :
       {"log2_scale_min", "log2_scale_median", "e4m3_clipped_share", "e8m0_two_level_underflow_share"})
    CHECK(std::isnan(none.scalar(name)));
  CHECK(std::isnan(none.array("tensor.log2_scale_max")[0]));
}

TEST_CASE("scale_range: a rotation narrows the spread of scales", "[experiments][scale_range]") {
  Json keys = synthetic("mxfp4");
  keys["source"]["synthetic"]["distribution"] = "student_t";
  keys["source"]["synthetic"]["nu"] = 3;
  const CellRun native = run(keys);
  keys["transform"] = {{"type", "hadamard"}, {"k", 128}};
  const CellRun rotated = run(keys);
  CHECK(rotated.scalar("groups") == 1024);
  CHECK(rotated.scalar("log2_scale_max") < native.scalar("log2_scale_max"));
  const std::vector<double>& counts = rotated.array("histogram.counts");
  CHECK(std::accumulate(counts.begin(), counts.end(), 0.0) == 1024);
}

TEST_CASE("scale_range: keys", "[experiments][scale_range]") {
  const Json plain = resolved_cell(kTask, synthetic("nvfp4"));
  CHECK(plain.at("format") == Json{{"element", "e2m1"}, {"group_size", 16}});
  CHECK(plain.at("transform") == Json::array());
  // The rule and the type of the scale change nothing.
  CHECK(resolved_cell(kTask, synthetic("nvfp4-4over6")) == plain);
  CHECK(resolved_cell(kTask, synthetic("mxfp4")) != plain);
  const TempFolder folder;
  const Json file = {{"source", npy_source(folder / "x.npy", 1, 16, std::vector<float>(16, 1))},
                     {"format", "nvfp4"}};
  CHECK_FALSE(resolved_cell(kTask, file).contains("seed"));

  CHECK(refused(Json::object()) == "e.json at /source: missing key \"source\": where the tensors come from");
  Json keys = synthetic("nvfp4");
  keys.erase("format");
  CHECK(refused(keys) == "e.json at /format: missing key \"format\"");
  CHECK(test::has(
      refused(synthetic({{"base", "mxfp4"}, {"group_size", 48}})),
      "e.json at /format: tensor normal is (256, 128): K = 128 is not a multiple of the group size 48"));
  CHECK(test::has(refused(synthetic({{"element", "int4-asym"}, {"scale", "fp16"}, {"group_size", 32}})),
                  "has zero points: its scale is not max|x| / Qmax"));
  keys = synthetic("nvfp4");
  keys["transform"] = "smooth";
  CHECK(refused(keys) ==
        "e.json at /transform: it looks at a model's inputs, which tensors alone do not have");
}
