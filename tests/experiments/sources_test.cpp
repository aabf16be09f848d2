#include "experiments/sources/source.h"

#include <omp.h>

#include <cmath>
#include <cstdlib>
#include <filesystem>
#include <nlohmann/json.hpp>

#include "experiments/model/shared_model.h"
#include "experiments/sources/file_source.h"
#include "experiments/sources/synthetic.h"
#include "tests/catch.h"
#include "tests/core/io/temp_folder.h"

using namespace fp4lab;
using test::has;
using test::message_of;
using test::TempFolder;

namespace {

const std::string kTiny = FP4LAB_SOURCE_DIR "/experiments/data/tiny-llama";
const Place kPlace{"e.json", "/source", {}};

SourceContext context(const std::string& base = FP4LAB_SOURCE_DIR, uint64_t seed = 1) {
  return {base, seed, [](const std::string&) { return std::string("hash"); }};
}
std::unique_ptr<Source> open(const Json& object, Json& resolved, const SourceContext& with = context()) {
  return open_source(object, kPlace, with, resolved);
}
std::unique_ptr<Source> open(const Json& object, const SourceContext& with = context()) {
  Json resolved;
  return open_source(object, kPlace, with, resolved);
}
std::string config_error(const Json& object) {
  return message_of<ConfigError>([&] { open(object); });
}
std::vector<std::string> names(const Source& s) {
  std::vector<std::string> out;
  for (const SourceTensor& t : s.tensors()) out.push_back(t.name);
  return out;
}
using Names = std::vector<std::string>;

/// A safetensors file with one (2, 2) F32 tensor 1 2 3 4 under each name.
std::string write_tensors(const std::string& path, const Names& tensors) {
  const std::vector<float> values = {1, 2, 3, 4};
  std::vector<TensorToWrite> list;
  for (const std::string& name : tensors)
    list.push_back({name, DType::F32, {2, 2}, std::as_bytes(std::span(values))});
  write_safetensors(path, list);
  return path;
}

}  // namespace

TEST_CASE("sources: names sort by their numbers", "[experiments][sources]") {
  const Names sorted = {"",
                        "a",
                        "a.2.x",
                        "a.2.y",
                        "a.02.y",
                        "a.3",
                        "a.10.x",
                        "a.10.x.1",
                        "a.11",
                        "a.a",
                        "b",
                        "layers.2.w",
                        "layers.2.x",
                        "layers.10.w",
                        "layers.99999999999999999999999.w",
                        "layers.100000000000000000000000.w"};
  // "a.02.y" and "a.2.y" have the same numbers: the bytes decide.
  for (size_t i = 0; i < sorted.size(); ++i)
    for (size_t j = 0; j < sorted.size(); ++j) {
      CAPTURE(sorted[i], sorted[j]);
      const bool swapped =
          (sorted[i] == "a.02.y" && sorted[j] == "a.2.y") || (sorted[j] == "a.02.y" && sorted[i] == "a.2.y");
      CHECK(natural_less(sorted[i], sorted[j]) == (swapped ? i > j : i < j));
    }
}

TEST_CASE("sources: a pattern may leave out model. and .weight", "[experiments][sources]") {
  const std::string up = "model.layers.3.mlp.up_proj.weight";
  for (const char* yes :
       {"*", "*_proj.weight", "*_proj", "layers.3.mlp.*", "layers.3.mlp.up_proj", "layers.?.mlp.*",
        "model.layers.3.mlp.up_proj", "model.layers.3.*.weight", "layers.3.mlp.up_proj.weight"}) {
    CAPTURE(yes);
    CHECK(pattern_matches(yes, up));
  }
  for (const char* no :
       {"", "layers.3.mlp", "mlp.up_proj", "layers.1.*", "*.bias", "odel.*", "weight", "model", "*."}) {
    CAPTURE(no);
    CHECK_FALSE(pattern_matches(no, up));
  }
  CHECK(pattern_matches("lm_head", "lm_head.weight"));
  CHECK_FALSE(pattern_matches("*_proj.weight", "model.layers.0.self_attn.q_proj.bias"));
  CHECK_FALSE(pattern_matches("*_proj.weight", "model.layers.0.input_layernorm.weight"));
  CHECK_FALSE(pattern_matches("*_proj.weight", "lm_head.weight"));
  CHECK(pattern_matches("", "model.weight") == false);  // "model." and ".weight" share the dot
  CHECK(pattern_matches("model", "model.weight"));
  CHECK(pattern_matches("weight", "model.weight"));
}

TEST_CASE("sources: the shipped model's linears", "[experiments][sources]") {
  Json resolved;
  const auto source = open({{"checkpoint", "experiments/data/tiny-llama"}}, resolved);
  REQUIRE(source->tensors().size() == 42);  // 6 blocks of 7
  const Names first = {"down_proj", "gate_proj", "up_proj"};
  for (size_t i = 0; i < 3; ++i)
    CHECK(source->tensors()[i].name == "model.layers.0.mlp." + first[i] + ".weight");
  CHECK(source->tensors()[0].rows == 256);
  CHECK(source->tensors()[0].cols == 768);
  CHECK(source->tensors()[41].name == "model.layers.5.self_attn.v_proj.weight");
  const Matrix loaded = source->load(1);
  const TensorFile file = TensorFile::open(kTiny);
  const Matrix expected = load_matrix(file, file.at("model.layers.0.mlp.gate_proj.weight"));
  REQUIRE(loaded.rows() == 768);
  REQUIRE(loaded.cols() == 256);
  CHECK(std::equal(loaded.data(), loaded.data() + loaded.size(), expected.data()));
  CHECK(resolved == Json{{"checkpoint", "hash"}, {"tensors", names(*source)}});

  Json other, mixed;
  open({{"checkpoint", kTiny + "/model.safetensors"}, {"tensors", "layers.*_proj"}}, other);
  CHECK(other == resolved);  // same content, same tensors: same cell
  const auto few = open({{"checkpoint", kTiny},
                         {"tensors", {"layers.3.mlp.*", "layers.1.self_attn.q_proj", "layers.3.*.up_proj"}}},
                        mixed);
  CHECK(names(*few) == Names{"model.layers.1.self_attn.q_proj.weight", "model.layers.3.mlp.down_proj.weight",
                             "model.layers.3.mlp.gate_proj.weight", "model.layers.3.mlp.up_proj.weight"});
  CHECK(mixed.at("tensors") == names(*few));
  const auto norm = open({{"checkpoint", kTiny}, {"tensors", "norm"}});
  CHECK(norm->tensors().at(0).rows == 1);
  CHECK(norm->tensors().at(0).cols == 256);
}

TEST_CASE("sources: files, and what their hash leaves out", "[experiments][sources]") {
  const TempFolder folder;
  write_tensors(folder / "x.safetensors", {"layers.10.w", "layers.2.w", "a"});
  Json resolved;
  const auto source = open({{"file", "x.safetensors"}}, resolved, context(folder.path().string()));
  CHECK(names(*source) == Names{"a", "layers.2.w", "layers.10.w"});
  CHECK(resolved == Json{{"file", "hash"}, {"tensors", {"a", "layers.2.w", "layers.10.w"}}});
  const Matrix m = source->load(2);
  CHECK(m(1, 0) == 3);

  const std::string npy = test::npy_bytes("{'descr': '<f4', 'fortran_order': False, 'shape': (1, 2), }\n",
                                          test::raw(std::vector<float>{5, 6}));
  test::put(folder / "one.npy", npy);
  test::put(folder / "two.npy", npy);
  Json one, two;
  const auto array = open({{"file", folder / "one.npy"}}, one);
  CHECK(names(*array) == Names{"one"});
  CHECK(array->load(0)(0, 1) == 6);
  open({{"file", folder / "two.npy"}, {"tensors", "tw?"}}, two);
  CHECK(one == Json{{"file", "hash"}});
  CHECK(one == two);

  const float bad[4] = {1, 2, NAN, 4};
  const TensorToWrite t{"w", DType::F32, {2, 2}, std::as_bytes(std::span(bad))};
  write_safetensors(folder / "bad.safetensors", std::span(&t, 1));
  const auto broken = open({{"file", folder / "bad.safetensors"}});  // opens: data is read by load
  const std::string message = message_of<DataError>([&] { broken->load(0); });
  CAPTURE(message);
  for (const char* part : {"bad.safetensors", "\"w\"", "NaN at row 1, column 0"}) CHECK(has(message, part));

  const TensorToWrite cube{"cube", DType::F32, {1, 2, 2}, std::as_bytes(std::span(bad))};
  write_safetensors(folder / "cube.safetensors", std::span(&cube, 1));
  const std::string shape = message_of<DataError>([&] { open({{"file", folder / "cube.safetensors"}}); });
  CAPTURE(shape);
  for (const char* part : {"cube.safetensors", "\"cube\" has shape (1, 2, 2)", "\"tensors\" chooses"})
    CHECK(has(shape, part));
}

TEST_CASE("sources: the weights of the sweep's model are those of its checkpoint", "[experiments][sources]") {
  const Json model = {{"path", "experiments/data/tiny-llama"}};
  ModelCache models;
  SourceContext with = context();
  with.model = &model, with.model_place = {"e.json", "/model", {}}, with.models = &models;
  Json mine, theirs;
  const auto weights = open({{"weights", {"*_proj", "layers.0.mlp.*"}}}, mine, with);
  const auto checkpoint = open({{"checkpoint", kTiny}, {"tensors", "*_proj"}}, theirs);
  CHECK(mine == theirs);
  CHECK(names(*weights) == names(*checkpoint));
  const Matrix a = weights->load(3), b = checkpoint->load(3);
  CHECK(std::equal(a.data(), a.data() + a.size(), b.data(), b.data() + b.size()));

  const auto refused = [&](const Json& source) {
    return message_of<ConfigError>([&] { open(source, with); });
  };
  CHECK(has(refused({{"weights", "*_prj"}}), "e.json at /source/weights: no tensor of "));
  CHECK(has(refused({{"weights", Json::array()}}), "e.json at /source/weights: expected a string or a list"));
  CHECK(has(refused({{"weights", "*"}, {"tensors", "*"}}), "unknown key \"tensors\""));
  CHECK(config_error({{"weights", "*"}}) ==
        "e.json at /source/weights: the model's tensors need the key \"model\": {\"path\": folder} in the "
        "sweep");
}

TEST_CASE("sources: errors say where and what would do", "[experiments][sources]") {
  CHECK(config_error(Json{{"chekpoint", "x"}}) ==
        "e.json at /source: a source has one of the keys checkpoint, weights, activations, file, synthetic; "
        "found an "
        "object "
        "{\"chekpoint\":\"x\"}");
  CHECK(config_error(Json{{"checkpoint", "x"}, {"file", "y"}}) ==
        "e.json at /source: a source is one thing, but this one has checkpoint and file");
  CHECK(has(config_error(Json("x")), "e.json at /source: expected an object, found a string \"x\""));
  CHECK(has(config_error({{"checkpoint", kTiny}, {"tensor", "*"}}),
            "unknown key \"tensor\"; did you mean \"tensors\"?"));
  CHECK(has(config_error({{"checkpoint", 3}}), "e.json at /source/checkpoint: expected a string, found 3"));
  CHECK(has(config_error({{"file", kTiny}}), "is a folder; a folder with a model is {\"checkpoint\": path}"));
  CHECK(config_error({{"file", "${FP4LAB_NO_SUCH}/x"}}) ==
        "e.json at /source/file: the environment has no variable \"FP4LAB_NO_SUCH\"");
  CHECK(has(config_error({{"checkpoint", ""}}), "e.json at /source/checkpoint: the path is empty"));

  const std::string none = config_error({{"checkpoint", kTiny}, {"tensors", {"*_proj", "layers.6.*"}}});
  CAPTURE(none);
  CHECK(none == "e.json at /source/tensors: no tensor of " + kTiny +
                    " matches \"layers.6.*\"; it holds model.embed_tokens.weight, "
                    "model.layers.0.input_layernorm.weight, model.layers.0.mlp.down_proj.weight, "
                    "model.layers.0.mlp.gate_proj.weight, model.layers.0.mlp.up_proj.weight, "
                    "model.layers.0.post_attention_layernorm.weight, model.layers.0.self_attn.k_proj.weight, "
                    "model.layers.0.self_attn.o_proj.weight, ... (56 in all)");
  CHECK(has(message_of<DataError>([] { open({{"checkpoint", "no/such"}}); }), FP4LAB_SOURCE_DIR "/no/such"));

  const Json normal = {{"distribution", "normal"}, {"shape", {2, 48}}};
  const auto with = [&](const char* key, Json value) {
    Json object = normal;
    object[key] = std::move(value);
    return config_error({{"synthetic", object}});
  };
  CHECK(has(with("distribution", "norml"),
            "e.json at /source/synthetic/distribution: unknown distribution \"norml\"; did you mean "
            "\"normal\"? known: "
            "normal, laplace, student_t, uniform"));
  CHECK(has(with("nu", 3), "unknown key \"nu\""));  // means nothing here
  CHECK(has(with("shape", {3}), "/source/synthetic/shape: expected [rows, cols], found 1 numbers"));
  CHECK(has(with("shape", {0, 3}), "/source/synthetic/shape"));
  CHECK(has(with("shape", {int64_t{1} << 40, 2}), "at most 2^40 elements, found [1099511627776, 2]"));
  CHECK(has(with("log_normal_sigma", -1), "/source/synthetic/log_normal_sigma"));
  CHECK(has(with("log_normal_sigma", 0.5),
            "/source/synthetic/log_normal_group: 32 does not divide the 48 columns"));
  CHECK(with("log_normal_group", 32) == "(nothing thrown)");  // unused without a sigma
  CHECK(has(config_error({{"synthetic", {{"distribution", "student_t"}, {"shape", {1, 2}}, {"nu", 0}}}}),
            "/source/synthetic/nu: expected a number above 0"));
  CHECK(has(config_error({{"synthetic", {{"shape", {1, 2}}}}}), "distribution"));
  CHECK(has(config_error({{"synthetic", 3}}), "e.json at /source/synthetic: expected an object, found 3"));
  // Values that float32 cannot hold are data errors, with the place.
  const auto heavy = open({{"synthetic", {{"distribution", "student_t"}, {"shape", {4, 64}}, {"nu", 0.01}}}});
  const std::string overflow = message_of<DataError>([&] { heavy->load(0); });
  CAPTURE(overflow);
  for (const char* part : {"synthetic student_t: row 0, column ", "Inf", "raise nu"})
    CHECK(has(overflow, part));
}

TEST_CASE("sources: paths", "[experiments][sources]") {
  CHECK(expand_path("x.npy", "/a/b") == "/a/b/x.npy");
  CHECK(expand_path("../x.npy", "/a/b") == "/a/x.npy");
  CHECK(expand_path("/x.npy", "/a/b") == "/x.npy");
  CHECK(expand_path("x.npy", "") == "x.npy");
  CHECK(expand_path("a$b{c}", "/d") == "/d/a$b{c}");
  REQUIRE(setenv("FP4LAB_TEST_ROOT", "/root${HOME}", 1) == 0);  // a value is not expanded again
  CHECK(expand_path("${FP4LAB_TEST_ROOT}/x/${FP4LAB_TEST_ROOT}", "/a") == "/root${HOME}/x/root${HOME}");
  unsetenv("FP4LAB_TEST_ROOT");
  CHECK(message_of<ConfigError>([] { expand_path("a/${B", "/"); }) ==
        "path \"a/${B\" has a \"${\" without its \"}\"");
  CHECK(
      has(message_of<ConfigError>([] { expand_path("${FP4LAB_TEST_ROOT}", "/"); }), "\"FP4LAB_TEST_ROOT\""));
  const char* const set = std::getenv("FP4LAB_DATA");
  const std::string before = set ? set : "";
  unsetenv("FP4LAB_DATA");
  CHECK(expand_path("${FP4LAB_DATA}/corpora", "/a") ==
        (std::filesystem::path(FP4LAB_SOURCE_DIR).parent_path() / "shared/data/corpora").string());
  REQUIRE(setenv("FP4LAB_DATA", "/data", 1) == 0);
  CHECK(expand_path("${FP4LAB_DATA}/corpora", "/a") == "/data/corpora");
  set ? setenv("FP4LAB_DATA", before.c_str(), 1) : unsetenv("FP4LAB_DATA");
}

TEST_CASE("sources: every kind declares its keys and opens nothing for it", "[experiments][sources]") {
  for (const SourceKind& kind : source_kinds()) {
    CAPTURE(kind.key);
    const auto keys = declared_keys([&](Params& p) { CHECK(kind.make(p, SourceContext{}) == nullptr); });
    REQUIRE(!keys.empty());
    CHECK(keys[0].key == kind.key);
    // Lists of patterns and objects have no required form.
    const bool given =
        kind.key == "checkpoint" || kind.key == "file";  // the others begin with a list or an object
    CHECK(keys[0].required == given);
    CHECK(!kind.description.empty());
  }
  Names synthetic;
  for (const KeyInfo& k : declared_keys([](Params& p) { read_synthetic(p); })) synthetic.push_back(k.key);
  CHECK(synthetic == Names{"distribution", "nu", "shape", "log_normal_sigma", "log_normal_group"});
}
