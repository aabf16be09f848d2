#include <omp.h>

#include <cmath>
#include <numeric>

#include "core/io/tensor_file.h"
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

const TaskKind kTask = distribution_task();
const char* const kFamilies[] = {"normal", "laplace", "student_t", "generalized_gaussian", "logistic"};

Json synthetic(const char* distribution, int64_t rows = 512, int64_t cols = 128) {
  return {{"source", {{"synthetic", {{"distribution", distribution}, {"shape", {rows, cols}}}}}}};
}
Json with(Json keys, const Json& more) {
  keys.update(more);
  return keys;
}
CellRun run(const Json& keys) { return test::run_cell(kTask, keys); }
std::string refused(const Json& keys) {
  return message_of<ConfigError>([&] { resolved_cell(kTask, keys); });
}

}  // namespace

TEST_CASE("distribution: a record's parts fit together", "[experiments][distribution]") {
  const CellRun cell = run(with(synthetic("laplace"), {{"bins", 50}, {"range", 6}}));
  CHECK(test::record_problem(kTask, cell.record) == "");
  CHECK(cell.scalar("samples") == 512 * 128);
  CHECK(cell.scalar("excess_kurtosis") == Approx(3).margin(0.5));
  CHECK(std::fabs(cell.scalar("skewness")) < 0.1);
  // Divided by the rms: the square of the mean and the variance are 1 together.
  CHECK(std::pow(cell.scalar("mean"), 2) + std::pow(cell.scalar("std"), 2) == Approx(1).epsilon(1e-6));
  REQUIRE(cell.record.texts.size() == 1);
  CHECK(cell.record.texts[0].name == "best_fit");
  CHECK((cell.record.texts[0].value == "laplace" || cell.record.texts[0].value == "generalized_gaussian"));
  CHECK(cell.scalar("laplace_ks") < 0.01);
  CHECK(cell.scalar("laplace_ks_p") > 1e-3);
  CHECK(cell.scalar("normal_ks_p") < 1e-3);

  const std::vector<double>&edges = cell.array("histogram.edges"), &density = cell.array("histogram.density");
  REQUIRE(edges.size() == 51);
  REQUIRE(density.size() == 50);
  const double std = cell.scalar("std");
  CHECK(edges.front() == Approx(cell.scalar("mean") - 6 * std));
  CHECK(edges.back() == Approx(cell.scalar("mean") + 6 * std));
  const double width = 12 * std / 50;
  CHECK(std::accumulate(density.begin(), density.end(), 0.0) * width == Approx(1).margin(2e-3));
  for (const char* family : kFamilies) {
    CAPTURE(family);
    const std::string f = family;
    const std::vector<double>& fitted = cell.array("fit." + f);
    CHECK(std::accumulate(fitted.begin(), fitted.end(), 0.0) * width == Approx(1).margin(0.03));
    const double k = f == "student_t" || f == "generalized_gaussian" ? 3 : 2;
    CHECK(cell.scalar(f + "_aic") ==
          Approx(2 * k - 2 * 512 * 128 * cell.scalar(f + "_loglik")).epsilon(1e-12));
    CHECK(cell.scalar(f + "_loglik") <= cell.scalar("generalized_gaussian_loglik") + 1e-4);
    // One tensor: its own fits are those of all.
    CHECK(cell.array("tensor." + f + "_loglik") == std::vector<double>{cell.scalar(f + "_loglik")});
  }
  const double b = cell.scalar("laplace_b"), mu = cell.scalar("laplace_mu");
  CHECK(cell.array("fit.laplace")[20] ==
        Approx(std::exp(-std::fabs((edges[20] + edges[21]) / 2 - mu) / b) / (2 * b)).epsilon(1e-12));
  CHECK(cell.array("tensor.student_t_nu")[0] == cell.scalar("student_t_nu"));
  CHECK(cell.texts("tensor.name") == std::vector<std::string>{"laplace"});
  CHECK(cell.texts("tensor.best_fit")[0] == cell.record.texts[0].value);
  CHECK(cell.array("tensor.excess_kurtosis")[0] == cell.scalar("excess_kurtosis"));
  CHECK(cell.array("tensor.crest_factor")[0] == cell.scalar("crest_factor"));
}

TEST_CASE("distribution: tensors are pooled after their rms, or as they are", "[experiments][distribution]") {
  const TempFolder folder;
  // Two tensors of the same shape of distribution, one a thousand times as large.
  std::vector<float> small, large;
  for (int i = 0; i < 4096; ++i) {
    const double u = (i + 0.5) / 4096;
    small.push_back(float(std::log(u / (1 - u)))), large.push_back(1000 * small.back());
  }
  const std::vector<TensorToWrite> list = {{"a", DType::F32, {64, 64}, std::as_bytes(std::span(small))},
                                           {"b", DType::F32, {64, 64}, std::as_bytes(std::span(large))}};
  write_safetensors(folder / "t.safetensors", list);
  const Json keys = {{"source", {{"file", folder / "t.safetensors"}}}};
  const CellRun pooled = run(keys), raw = run(with(keys, {{"normalize", "none"}}));
  CHECK(pooled.scalar("samples") == 8192);
  CHECK(pooled.scalar("std") == Approx(1).epsilon(1e-6));
  CHECK(pooled.record.texts[0].value == "logistic");
  CHECK(pooled.texts("tensor.name") == std::vector<std::string>{"a", "b"});
  for (const char* name : {"tensor.logistic_s", "tensor.logistic_loglik", "tensor.excess_kurtosis"})
    CHECK(pooled.array(name)[0] == Approx(pooled.array(name)[1]).epsilon(1e-6));
  CHECK(raw.array("tensor.logistic_s")[0] == Approx(1).epsilon(1e-3));
  CHECK(raw.array("tensor.logistic_s")[1] == Approx(1000).epsilon(1e-3));
  CHECK(raw.scalar("std") == Approx(std::sqrt((1 + 1e6) / 2) * 1.8138).epsilon(1e-2));
  CHECK(raw.scalar("excess_kurtosis") > pooled.scalar("excess_kurtosis") + 3);
  for (const CellRun* cell : {&pooled, &raw})
    CHECK(cell->scalar("crest_factor") == Approx(pooled.scalar("crest_factor")).epsilon(1e-6));
}

TEST_CASE("distribution: a rotation makes heavy tails Normal", "[experiments][distribution]") {
  const Json keys = with(synthetic("laplace"), {{"group_size", 128}});
  const double native = run(keys).scalar("excess_kurtosis");
  const CellRun rotated = run(with(keys, {{"transform", "hadamard"}}));
  CHECK(native > 2.5);
  CHECK(rotated.scalar("excess_kurtosis") == Approx(native / 128).margin(0.1));
  CHECK(rotated.scalar("samples") == 512 * 128);
  CHECK(rotated.scalar("std") == Approx(1).margin(1e-3));
  CHECK(rotated.scalar("crest_factor") < run(keys).scalar("crest_factor"));
}

TEST_CASE("distribution: the same bits for any number of threads", "[experiments][distribution]") {
  const Json keys = with(synthetic("student_t", 64, 64), {{"transform", "hadamard"}});
  const int threads = omp_get_max_threads();
  omp_set_num_threads(1);
  const CellRun one = run(keys);
  omp_set_num_threads(3);
  const CellRun three = run(keys);
  omp_set_num_threads(threads);
  for (size_t i = 0; i < one.record.scalars.size(); ++i) {
    CAPTURE(one.record.scalars[i].name);
    CHECK(one.record.scalars[i].value == three.record.scalars[i].value);
  }
  for (size_t i = 0; i < one.record.arrays.size(); ++i)
    CHECK(one.record.arrays[i].values == three.record.arrays[i].values);
}

TEST_CASE("distribution: what has none", "[experiments][distribution]") {
  const TempFolder folder;
  const auto failure = [&](const std::vector<float>& values, const Json& more = Json::object()) {
    const int64_t cols = int64_t(values.size());
    const Json keys =
        with({{"source", npy_source(folder / "x.npy", 1, cols, values)}, {"group_size", 2}}, more);
    return message_of<DataError>([&] { run(keys); });
  };
  const std::string same =
      " has no distribution to fit: its values are all the same, or within 1/256 of their mean";
  CHECK(failure({0, 0, 0, 0}) == "tensor x" + same);
  CHECK(failure({3, 3}) == "tensor x" + same);
  CHECK(failure({3, 3}, {{"normalize", "none"}}) == "tensor x" + same);
  CHECK(failure({1, 2}) == "(nothing thrown)");
  CHECK(failure({3e38f, -3e38f, 0, 1e38f}) == "(nothing thrown)");
  CHECK(failure({3e38f, 3e38f}, {{"transform", "hadamard"}}) ==
        "tensor x after its transform: element (0, 0) is inf");

  // Sparse: two families have no fit, the others do.
  std::vector<float> sparse(256, 0.0f);
  for (int i = 0; i < 64; ++i) sparse[size_t(i) * 4] = float(i - 32) + 0.5f;
  const CellRun cell = run({{"source", npy_source(folder / "x.npy", 4, 64, sparse)}});
  for (const char* family : kFamilies) {
    const std::string f = family;
    const bool none = f == "student_t" || f == "generalized_gaussian";
    CAPTURE(family);
    for (const char* what : {"_loglik", "_aic", "_ks", "_ks_p"})
      CHECK(std::isnan(cell.scalar(f + what)) == none);
    CHECK(std::isnan(cell.array("fit." + f)[0]) == none);
    CHECK(std::isnan(cell.array("tensor." + f + "_loglik")[0]) == none);
  }
  CHECK(cell.record.texts[0].value == "laplace");
  CHECK(std::isnan(cell.scalar("student_t_nu")));
  // Of all 256 values, fewer than the subsample.
  CHECK(cell.scalar("laplace_ks") == Approx(0.375).margin(0.01));
  CHECK(cell.scalar("laplace_ks_p") < 1e-9);
}

TEST_CASE("distribution: keys", "[experiments][distribution]") {
  const Json plain = resolved_cell(kTask, synthetic("normal"));
  CHECK(plain.at("transform") == Json::array());
  CHECK(plain.at("group_size") == 32);
  CHECK(plain.at("normalize") == "tensor");
  CHECK(plain.at("ks_subsample") == 2000);
  CHECK(plain.at("bins") == 200);
  CHECK(plain.at("range") == 8);
  CHECK(plain.at("seed") == 1);
  CHECK(resolved_cell(kTask, with(synthetic("normal"), {{"transform", nullptr}})) == plain);
  const Json label = {{"type", "hadamard"}, {"k", 16}, {"label", "H16"}};
  CHECK(resolved_cell(kTask, with(synthetic("normal"), {{"transform", label}})) ==
        resolved_cell(kTask, with(synthetic("normal"), {{"transform", {{"type", "hadamard"}, {"k", 16}}}})));

  // Of a file's tensors the seed draws nothing but the subsample and random signs.
  const TempFolder folder;
  std::vector<float> values(64);
  std::iota(values.begin(), values.end(), 0.0f);
  const Json file = {{"source", npy_source(folder / "x.npy", 1, 64, values)}};
  const Json randomize = {{"transform", {{"type", "hadamard"}, {"randomize", true}}}};
  CHECK_FALSE(resolved_cell(kTask, file).contains("seed"));
  CHECK(resolved_cell(kTask, with(file, {{"ks_subsample", 63}})).contains("seed"));
  CHECK(resolved_cell(kTask, with(file, randomize)).contains("seed"));

  CHECK(refused(Json::object()) == "e.json at /source: missing key \"source\": where the tensors come from");
  CHECK(refused(with(synthetic("normal"), {{"group_size", 48}})) ==
        "e.json at /group_size: tensor normal is (512, 128): 48 does not divide its columns");
  CHECK(test::has(refused(with(synthetic("normal"), {{"transform", "wush"}})),
                  "e.json at /transform: it looks at a model's inputs, which tensors alone do not have"));
  CHECK(test::has(refused(with(synthetic("normal"), {{"transform", {{"type", "hadamard"}, {"k", 256}}}})),
                  "e.json at /transform: tensor normal is (512, 128): hadamard: k = 256 does not divide"));
  CHECK(test::has(refused(with(synthetic("normal"), {{"transform", {{"o", "hadamard"}}}})),
                  "e.json at /transform: the transforms differ by site, and tensor normal does not tell"));
  CHECK(test::has(refused(with(synthetic("normal"), {{"transform", "hadamrd"}})),
                  "did you mean \"hadamard\"?"));
  CHECK(test::has(refused(with(synthetic("normal"), {{"normalize", "group"}})), "known: tensor, none"));
  CHECK(test::has(refused(with(synthetic("normal"), {{"method", "rtn"}})), "unknown key \"method\""));
  CHECK(test::has(refused(with(synthetic("normal"), {{"bins", 0}})),
                  "e.json at /bins: expected an integer in [1, "));
  CHECK(test::has(refused(with(synthetic("normal"), {{"model", {{"path", "m"}}}})),
                  "e.json at /model: only a source of activations or weights reads \"model\""));
}
