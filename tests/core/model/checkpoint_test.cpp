#include "core/model/checkpoint.h"

#include <limits>

#include "tests/catch.h"
#include "tests/core/model/models.h"

using namespace fp4lab;
using namespace fp4lab::test;
namespace fs = std::filesystem;
using Norm = Checkpoint::Norm;

namespace {
std::string open_error(const std::string& path) {
  return message_of<DataError>([&] { Checkpoint::open(path); });
}
std::string open_error(const Json& config, const SmallTensors& tensors) {
  const TempFolder folder;
  return open_error(put_model(folder, config, tensors));
}
SmallTensors changed(const std::string& name, const SmallTensor& t) {
  SmallTensors all = small_tensors();
  all[name] = t;
  return all;
}
/// Elements count from `first`.
void check_counts(const Matrix& m, int64_t rows, int64_t cols, float first) {
  REQUIRE(m.rows() == rows);
  REQUIRE(m.cols() == cols);
  for (int64_t i = 0; i < m.size(); ++i) CHECK(m.data()[i] == first + float(i));
}
/// Stacked sites are their linears one above the other, bit for bit.
void check_sites(const Checkpoint& model) {
  for (int64_t layer = 0; layer < model.config().layers; ++layer)
    for (int s = 0; s < kSites; ++s) {
      const Matrix site = model.load(layer, linears_of(SiteKind(s)));
      int64_t row = 0;
      for (const Linear l : linears_of(SiteKind(s))) {
        const Matrix linear = model.load(layer, l);
        CHECK(linear.rows() == model.shape(l)[0]);
        CHECK(linear.cols() == model.shape(l)[1]);
        REQUIRE(linear.cols() == site.cols());
        REQUIRE(row + linear.rows() <= site.rows());
        CHECK(std::memcmp(linear.data(), site.row(row), size_t(linear.size()) * sizeof(float)) == 0);
        row += linear.rows();
      }
      CHECK(row == site.rows());
    }
}
/// Overwrites one element of a stored tensor.
void poke(const std::string& path, const std::string& tensor, int64_t index, const std::string& bytes) {
  const TensorFile file = TensorFile::open(path);
  const TensorInfo& t = file.at(tensor);
  std::string whole = get(file.path_of(t));
  whole.replace(size_t(t.offset + index * bytes_per_element(t.dtype)), bytes.size(), bytes);
  const std::string renamed = file.path_of(t) + ".new";
  put(renamed, whole);
  fs::rename(renamed, file.path_of(t));
}
const std::string kBf16Nan = "\xc0\x7f", kBf16Inf = "\x80\x7f";
}  // namespace

TEST_CASE("checkpoint: names of linears and sites", "[core][model][checkpoint]") {
  const struct {
    Linear l;
    std::string name;
    SiteKind site;
  } expected[kLinears] = {{Linear::q, "layers.3.self_attn.q_proj", SiteKind::qkv},
                          {Linear::k, "layers.3.self_attn.k_proj", SiteKind::qkv},
                          {Linear::v, "layers.3.self_attn.v_proj", SiteKind::qkv},
                          {Linear::o, "layers.3.self_attn.o_proj", SiteKind::o},
                          {Linear::gate, "layers.3.mlp.gate_proj", SiteKind::gate_up},
                          {Linear::up, "layers.3.mlp.up_proj", SiteKind::gate_up},
                          {Linear::down, "layers.3.mlp.down_proj", SiteKind::down}};
  for (const auto& e : expected) {
    CHECK(linear_name(3, e.l) == e.name);
    CHECK(site_of(e.l) == e.site);
  }
  const std::string sites[kSites] = {"qkv", "o", "gate_up", "down"};
  std::vector<Linear> stacked;
  for (int s = 0; s < kSites; ++s) {
    CHECK(name(SiteKind(s)) == sites[s]);
    CHECK(site_name(12, SiteKind(s)) == "layers.12." + sites[s]);
    for (const Linear l : linears_of(SiteKind(s))) stacked.push_back(l);
  }
  CHECK(stacked == std::vector<Linear>{Linear::q, Linear::k, Linear::v, Linear::o, Linear::gate, Linear::up,
                                       Linear::down});
}

TEST_CASE("checkpoint: every tensor of a small one", "[core][model][checkpoint]") {
  const TempFolder folder;
  const Checkpoint model = Checkpoint::open(put_model(folder, small_config(), small_tensors()));
  CHECK(model.path() == folder.path().string());
  CHECK(model.config().layers == 2);
  for (int64_t layer = 0; layer < 2; ++layer) {
    const float n = layer == 0 ? 0 : 100;
    check_counts(model.load(layer, Linear::q), 8, 4, n + 3);
    check_counts(model.load(layer, Linear::k), 4, 4, n + 4);
    check_counts(model.load(layer, Linear::v), 4, 4, n + 5);
    check_counts(model.load(layer, Linear::o), 4, 8, n + 6);
    check_counts(model.load(layer, Linear::gate), 6, 4, n + 7);
    check_counts(model.load(layer, Linear::up), 6, 4, n + 8);
    check_counts(model.load(layer, Linear::down), 4, 6, n + 9);
    CHECK(model.load_norm(layer, Norm::input) == std::vector<float>{n + 1, n + 2, n + 3, n + 4});
    CHECK(model.load_norm(layer, Norm::post_attention) == std::vector<float>{n + 2, n + 3, n + 4, n + 5});
  }
  check_sites(model);
  CHECK(model.load(0, linears_of(SiteKind::qkv)).rows() == 16);
  CHECK(model.load(0, linears_of(SiteKind::gate_up)).rows() == 12);
  CHECK(model.load_final_norm() == std::vector<float>{20, 21, 22, 23});

  check_counts(model.load_head(0, 5), 5, 4, 30);
  check_counts(model.load_head(2, 3), 3, 4, 38);
  CHECK(model.load_head(5, 0).rows() == 0);

  // Rows in any order, more than once, into a matrix with a stride of its own.
  Matrix out(4, 7);
  std::fill(out.data(), out.data() + out.size(), -1.0f);
  const int32_t ids[] = {4, 0, 4, 2};
  model.embed(ids, {out.data(), 4, 4, 7});
  for (int64_t i = 0; i < 4; ++i)
    for (int64_t c = 0; c < 7; ++c) CHECK(out(i, c) == (c < 4 ? 10 + 4 * float(ids[i]) + float(c) : -1));
  model.embed({}, {nullptr, 0, 4, 4});
}

TEST_CASE("checkpoint: a wrong question is a fault of ours", "[core][model][checkpoint]") {
  const TempFolder folder;
  const Checkpoint model = Checkpoint::open(put_model(folder, small_config(), small_tensors()));
  Matrix out(1, 4);
  for (const int32_t id : {-1, 5, INT32_MAX}) {
    const int32_t ids[] = {id};
    CHECK(has(message_of<Fault>([&] { model.embed(ids, out); }), str("id ", id, " of 5")));
  }
  const int32_t two[] = {0, 1};
  CHECK_THROWS_AS(model.embed(two, out), Fault);
  CHECK_THROWS_AS(model.load(2, Linear::q), Fault);
  CHECK_THROWS_AS(model.load(-1, linears_of(SiteKind::qkv)), Fault);
  const Linear mixed[] = {Linear::q, Linear::gate}, reversed[] = {Linear::up, Linear::gate};
  CHECK_THROWS_AS(model.load(0, std::span<const Linear>{}), Fault);
  CHECK(has(message_of<Fault>([&] { model.load(1, mixed); }),
            "layers.1.mlp.gate_proj reads another input than layers.1.self_attn.q_proj"));
  CHECK(model.load(0, reversed)(6, 0) == 7);  // gate after up
  CHECK_THROWS_AS(model.load_norm(2, Norm::input), Fault);
  CHECK_THROWS_AS(model.load_norm(0, Norm::q), Fault);
  for (const auto& [begin, count] : {std::pair(-1, 1), std::pair(0, 6), std::pair(5, 1), std::pair(6, 0)})
    CHECK_THROWS_AS(model.load_head(begin, count), Fault);
}

TEST_CASE("checkpoint: norms of q and k", "[core][model][checkpoint]") {
  Json config = small_config();
  config["architectures"] = {"Qwen3ForCausalLM"};
  config["model_type"] = "qwen3";
  SmallTensors tensors = small_tensors();
  const TempFolder folder;
  CHECK(has(open_error(put_model(folder, config, tensors)),
            ": no tensor \"model.layers.0.self_attn.q_norm.weight\", nor 3 more that config.json asks for"));
  for (const std::string layer : {"model.layers.0.", "model.layers.1."}) {
    tensors[layer + "self_attn.q_norm.weight"] = {DType::BF16, {4}, 50};
    tensors[layer + "self_attn.k_norm.weight"] = {DType::BF16, {4}, 60};
  }
  const Checkpoint model = Checkpoint::open(put_model(folder, config, tensors));
  CHECK(model.load_norm(1, Norm::q) == std::vector<float>{50, 51, 52, 53});
  CHECK(model.load_norm(1, Norm::k) == std::vector<float>{60, 61, 62, 63});
  // A Llama has none.
  CHECK(has(open_error(put_model(folder, small_config(), tensors)),
            "tensor \"model.layers.0.self_attn.k_norm.weight\" is not part of the LlamaForCausalLM"));
}

TEST_CASE("checkpoint: a tied head is the embedding", "[core][model][checkpoint]") {
  Json config = small_config();
  config["tie_word_embeddings"] = true;
  SmallTensors tensors = small_tensors();
  tensors.erase("lm_head.weight");
  const TempFolder folder;
  check_counts(Checkpoint::open(put_model(folder, config, tensors)).load_head(1, 4), 4, 4, 14);
  // A stored copy is passed over.
  tensors["lm_head.weight"] = {DType::BF16, {5, 4}, 70};
  check_counts(Checkpoint::open(put_model(folder, config, tensors)).load_head(0, 5), 5, 4, 10);
  tensors["lm_head.weight"] = {DType::BF16, {6, 4}};
  CHECK(has(open_error(put_model(folder, config, tensors)),
            "tensor \"lm_head.weight\" has shape (6, 4); config.json asks for (5, 4)"));
}

TEST_CASE("checkpoint: tensors that are missing", "[core][model][checkpoint]") {
  for (const auto& [gone, unused] : small_tensors()) {
    SmallTensors tensors = small_tensors();
    tensors.erase(gone);
    const TempFolder folder;
    CHECK(open_error(put_model(folder, small_config(), tensors)) ==
          folder.path().string() + ": no tensor \"" + gone +
              "\", which config.json asks for; the folder's files hold 20 tensors");
  }
  SmallTensors tensors = small_tensors();
  std::erase_if(tensors, [](const auto& t) { return t.first.starts_with("model.layers.1."); });
  CHECK(has(open_error(small_config(), tensors),
            ": no tensor \"model.layers.1.input_layernorm.weight\", nor 8 more that config.json asks for"));
}

TEST_CASE("checkpoint: tensors of another shape or dtype, or too many", "[core][model][checkpoint]") {
  const std::string q = "model.layers.1.self_attn.q_proj.weight", norm = "model.norm.weight";
  const auto refused = [](const std::string& name, const SmallTensor& t, const std::string& says) {
    const TempFolder folder;
    const std::string path = put_model(folder, small_config(), changed(name, t));
    CHECK(open_error(path) == path + "/model.safetensors: tensor \"" + name + "\" " + says);
  };
  refused(q, {DType::F32, {4, 8}}, "has shape (4, 8); config.json asks for (8, 4)");
  refused(q, {DType::F32, {32}}, "has shape (32); config.json asks for (8, 4)");
  refused(q, {DType::F32, {8, 4, 1}}, "has shape (8, 4, 1); config.json asks for (8, 4)");
  refused(norm, {DType::F32, {1, 4}}, "has shape (1, 4); config.json asks for (4)");
  refused(norm, {DType::F32, {}}, "has shape (); config.json asks for (4)");
  for (const DType dtype : {DType::I32, DType::U8, DType::F8_E4M3, DType::F64, DType::BOOL})
    refused(q, {dtype, {8, 4}}, "is " + std::string(name(dtype)) + "; expected F32, F16 or BF16");
  refused("model.layers.0.self_attn.q_proj.bias", {DType::F32, {8}}, "is a bias; biases are not supported");
  const std::string stranger = "is not part of the LlamaForCausalLM that config.json describes";
  refused("model.layers.2.input_layernorm.weight", {DType::F32, {4}}, stranger);
  refused("model.layers.0.self_attn.q_proj.weight_scale", {DType::F32, {8}}, stranger);
  refused("x", {DType::I32, {1}}, stranger);
  // Buffers that older versions stored.
  CHECK(open_error(small_config(), changed("model.layers.0.self_attn.rotary_emb.inv_freq",
                                           {DType::F32, {2}})) == "(nothing thrown)");
}

TEST_CASE("checkpoint: NaN and Inf are named by file, tensor and place", "[core][model][checkpoint]") {
  const TempFolder folder;
  const std::string path = put_model(folder, small_config(), small_tensors());
  const std::string file = path + "/model.safetensors: tensor ", up = "model.layers.1.mlp.up_proj.weight";
  poke(path, up, 4 * 4 + 3, kBf16Nan);
  poke(path, "model.embed_tokens.weight", 3 * 4 + 1, kBf16Inf);
  poke(path, "model.norm.weight", 2, raw(std::vector<float>{-std::numeric_limits<float>::infinity()}));
  poke(path, "lm_head.weight", 2 * 4 + 2, raw(std::vector<uint16_t>{0x7e00}));
  const Checkpoint model = Checkpoint::open(path);
  const std::string nan = file + "\"" + up + "\" (6, 4): NaN at row 4, column 3; expected finite numbers";
  CHECK(message_of<DataError>([&] { model.load(1, Linear::up); }) == nan);
  CHECK(message_of<DataError>([&] { model.load(1, linears_of(SiteKind::gate_up)); }) == nan);
  check_counts(model.load(0, Linear::up), 6, 4, 8);
  CHECK(message_of<DataError>([&] { model.load_final_norm(); }) ==
        file + "\"model.norm.weight\" (4): -Inf at row 0, column 2; expected finite numbers");
  CHECK(message_of<DataError>([&] { model.load_head(1, 4); }) ==
        file + "\"lm_head.weight\" (5, 4): NaN at row 2, column 2; expected finite numbers");
  check_counts(model.load_head(3, 2), 2, 4, 42);
  Matrix out(2, 4);
  const int32_t bad[] = {0, 3}, good[] = {0, 4};
  CHECK(message_of<DataError>([&] { model.embed(bad, out); }) ==
        file + "\"model.embed_tokens.weight\" (5, 4): Inf at row 3, column 1; expected finite numbers");
  model.embed(good, out);
}

TEST_CASE("checkpoint: shards, and one that is missing", "[core][model][checkpoint]") {
  const TempFolder folder;
  put(folder / "config.json", small_config().dump());
  SmallTensors first, second;
  Json map;
  for (const auto& [name, t] : small_tensors()) {
    const bool in_first = name.find("layers.1") == name.npos;
    (in_first ? first : second)[name] = t;
    map[name] = in_first ? "m-1.safetensors" : "m-2.safetensors";
  }
  put_tensors(folder / "m-1.safetensors", first);
  put(folder / "model.safetensors.index.json",
      Json{{"metadata", Json::object()}, {"weight_map", map}}.dump());
  const std::string path = folder.path().string();
  CHECK(has(open_error(path), "m-2.safetensors: cannot open: No such file or directory"));
  put_tensors(folder / "m-2.safetensors", second);
  check_counts(Checkpoint::open(path).load(1, Linear::down), 4, 6, 109);
  second["model.layers.1.mlp.down_proj.weight"].dtype = DType::I32;
  put_tensors(folder / "m-2.safetensors", second);
  CHECK(has(open_error(path),
            path + "/m-2.safetensors: tensor \"model.layers.1.mlp.down_proj.weight\" is I32"));
}

TEST_CASE("checkpoint: folders that are none", "[core][model][checkpoint]") {
  const TempFolder folder;
  const std::string path = folder.path().string(), none = folder / "none";
  CHECK(open_error(none) ==
        none + ": no such folder; a checkpoint is a folder with config.json and safetensors");
  CHECK(open_error(path) == path + "/config.json: cannot open: No such file or directory");
  put(folder / "config.json", small_config().dump());
  CHECK(has(open_error(folder / "config.json"), "config.json: is not a folder; a checkpoint is a folder"));
  CHECK(has(open_error(path), path + ": the folder has no model.safetensors"));
  put(folder / "model.safetensors", "");
  CHECK(has(open_error(path), "model.safetensors: is empty"));
  Json config = small_config();
  config["architectures"] = {"MistralForCausalLM"};
  CHECK(has(open_error(config, small_tensors()),
            "config.json at /architectures: \"MistralForCausalLM\" is not"));
}

TEST_CASE("checkpoint: the shipped model", "[core][model][checkpoint]") {
  const Checkpoint model = Checkpoint::open(shipped_model());
  check_sites(model);
  CHECK(model.shape(Linear::q) == std::array<int64_t, 2>{256, 256});
  CHECK(model.shape(Linear::v) == std::array<int64_t, 2>{128, 256});
  CHECK(model.shape(Linear::down) == std::array<int64_t, 2>{256, 768});
  Matrix out(2, 256);
  const int32_t ids[] = {8191, 0};
  model.embed(ids, out);
  CHECK(out(0, 255) == 0.107421875f);  // read from the file with Python's struct
  CHECK(out(1, 0) == 0.0150146484375f);
  CHECK(model.load_head(8190, 2)(1, 255) == 0.107421875f);
  CHECK_THROWS_AS(model.load_head(8190, 3), Fault);
}

TEST_CASE("checkpoint: the models of the shared data", "[core][model][checkpoint]") {
  for (const std::string name : {"small", "qwen3-random", "llama31-random"}) {
    const std::string folder = data_model(name);
    if (!fs::exists(folder)) FP4LAB_SKIP("no " + folder + "; set FP4LAB_DATA");
    const Checkpoint model = Checkpoint::open(folder);
    check_sites(model);
    CHECK(model.load_head(0, 1).cols() == model.config().hidden_size);
    if (name == "small") {
      const Matrix down = model.load(0, Linear::down);  // in the second shard
      CHECK(down(0, 0) == -0.048095703125f);
      CHECK(down(0, 1000) == 0.0098876953125f);
    }
    if (name == "qwen3-random") {
      CHECK(model.shape(Linear::o) == std::array<int64_t, 2>{128, 256});
      CHECK(model.load_norm(1, Norm::k).size() == 64);
    }
  }
}
