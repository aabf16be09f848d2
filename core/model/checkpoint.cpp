#include "core/model/checkpoint.h"

#include <algorithm>
#include <cmath>
#include <filesystem>
#include <set>

#include "core/io/tensor_header.h"

namespace fp4lab {

namespace {
constexpr std::string_view kNormNames[] = {"input_layernorm", "post_attention_layernorm", "self_attn.q_norm",
                                           "self_attn.k_norm"};
constexpr std::string_view kEmbedding = "model.embed_tokens.weight", kFinalNorm = "model.norm.weight",
                           kHead = "lm_head.weight";

std::string tensor_name(int64_t layer, Linear l) { return "model." + linear_name(layer, l) + ".weight"; }
std::string tensor_name(int64_t layer, Checkpoint::Norm n) {
  return str("model.layers.", layer, ".", kNormNames[size_t(n)], ".weight");
}
bool is_qk(Checkpoint::Norm n) { return n == Checkpoint::Norm::q || n == Checkpoint::Norm::k; }

struct Expected {
  std::string name;
  std::vector<int64_t> shape;
};

/// Every tensor of the model, in the order of its computation.
std::vector<Expected> expected_tensors(const ModelConfig& c) {
  std::vector<Expected> all{{std::string(kEmbedding), {c.vocab_size, c.hidden_size}}};
  for (int64_t layer = 0; layer < c.layers; ++layer) {
    for (const auto n : {Checkpoint::Norm::input, Checkpoint::Norm::post_attention, Checkpoint::Norm::q,
                         Checkpoint::Norm::k})
      if (!is_qk(n) || c.qk_norms)
        all.push_back({tensor_name(layer, n), {is_qk(n) ? c.head_dim : c.hidden_size}});
    for (int l = 0; l < kLinears; ++l) {
      const auto [out, in] = linear_shape(c, Linear(l));
      all.push_back({tensor_name(layer, Linear(l)), {out, in}});
    }
  }
  all.push_back({std::string(kFinalNorm), {c.hidden_size}});
  if (!c.tied_head) all.push_back({std::string(kHead), {c.vocab_size, c.hidden_size}});
  return all;
}

[[noreturn]] void fail_tensor(const TensorFile& file, const TensorInfo& t, const std::string& what) {
  throw DataError(str(file.path_of(t), ": tensor ", quote_name(t.name), " ", what));
}

void check_tensor(const TensorFile& file, const TensorInfo& t, const std::vector<int64_t>& shape) {
  if (t.shape != shape)
    fail_tensor(file, t,
                str("has shape ", shape_text(t.shape), "; config.json asks for ", shape_text(shape)));
  if (t.dtype != DType::F32 && t.dtype != DType::F16 && t.dtype != DType::BF16)
    fail_tensor(file, t, str("is ", name(t.dtype), "; expected F32, F16 or BF16"));
}

/// The file holds what the config asks for, in shapes and dtypes that we read, and nothing that would change
/// what the model computes.
void check_tensors(const std::string& path, const ModelConfig& config, const TensorFile& file,
                   const std::function<bool(std::string_view)>& elsewhere) {
  std::vector<Expected> expected = expected_tensors(config);
  if (elsewhere) std::erase_if(expected, [&](const Expected& e) { return elsewhere(e.name); });
  std::vector<std::string> missing;
  for (const Expected& e : expected)
    if (!file.find(e.name)) missing.push_back(e.name);
  if (!missing.empty())
    throw DataError(str(path, ": no tensor ", quote_name(missing[0]),
                        missing.size() > 1
                            ? str(", nor ", missing.size() - 1, " more that config.json asks for")
                            : ", which config.json asks for",
                        "; the folder's files hold ", file.tensors().size(), " tensors"));
  std::set<std::string_view> known;
  for (const Expected& e : expected) {
    check_tensor(file, file.at(e.name), e.shape);
    known.insert(e.name);
  }
  for (const TensorInfo& t : file.tensors()) {
    if (known.contains(t.name) || t.name.ends_with(".rotary_emb.inv_freq")) continue;
    if (elsewhere && elsewhere(t.name)) continue;
    if (t.name == kHead) {  // tied: a copy of the embedding, which is what is read
      check_tensor(file, t, {config.vocab_size, config.hidden_size});
      continue;
    }
    fail_tensor(file, t,
                t.name.ends_with(".bias")
                    ? "is a bias; biases are not supported"
                    : "is not part of the " + config.architecture + " that config.json describes");
  }
}

/// Rows [begin, begin + count) of a matrix that was checked at open, as float32 at `out`; a vector is one
/// row. The file's pages are released.
void load_rows(const TensorFile& file, const TensorInfo& t, int64_t begin, int64_t count, float* out) {
  const int64_t rows = t.shape.size() == 2 ? t.shape[0] : 1, cols = t.shape.back();
  FP4LAB_CHECK(begin >= 0 && count >= 0 && begin <= rows && count <= rows - begin, t.name, ": ", begin, " + ",
               count, " of ", rows);
  TensorInfo part = t;
  part.elements = count * cols;
  part.bytes = part.elements * bytes_per_element(t.dtype);
  part.offset = t.offset + begin * cols * bytes_per_element(t.dtype);
  load_floats(file, part, {out, size_t(part.elements)});
  uint32_t found = 0;  // no branch inside: it vectorizes
  for (int64_t i = 0; i < part.elements; ++i)
    found |= uint32_t((float_bits(out[i]) & 0x7f800000u) == 0x7f800000u);
  if (found == 0) return;
  const float* const bad =
      std::find_if_not<const float*>(out, out + part.elements, [](float x) { return std::isfinite(x); });
  fail_tensor(file, t,
              str(shape_text(t.shape), ": ",
                  std::isnan(*bad) ? "NaN"
                  : *bad > 0       ? "Inf"
                                   : "-Inf",
                  " at row ", begin + (bad - out) / cols, ", column ", (bad - out) % cols,
                  "; expected finite numbers"));
}
}  // namespace

Checkpoint::Checkpoint(std::string path, ModelConfig config, TensorFile file)
    : path_(std::move(path)), config_(std::move(config)), file_(std::move(file)) {}

Checkpoint Checkpoint::open(const std::string& path, const std::function<bool(std::string_view)>& elsewhere) {
  std::error_code ignored;
  if (!std::filesystem::is_directory(path, ignored))
    throw DataError(path +
                    (std::filesystem::exists(path, ignored) ? ": is not a folder" : ": no such folder") +
                    "; a checkpoint is a folder with config.json and safetensors");
  ModelConfig config = read_model_config(path, bool(elsewhere));
  TensorFile file = TensorFile::open(path);
  check_tensors(path, config, file, elsewhere);
  return Checkpoint(path, std::move(config), std::move(file));
}

Matrix Checkpoint::load(int64_t layer, std::span<const Linear> stacked) const {
  FP4LAB_CHECK(layer >= 0 && layer < config_.layers, layer, " of ", config_.layers);
  FP4LAB_CHECK(!stacked.empty());
  int64_t rows = 0;
  for (const Linear l : stacked) {
    FP4LAB_CHECK(site_of(l) == site_of(stacked[0]), linear_name(layer, l), " reads another input than ",
                 linear_name(layer, stacked[0]));
    rows += shape(l)[0];
  }
  Matrix weights(rows, shape(stacked[0])[1]);
  rows = 0;
  for (const Linear l : stacked) {
    load_rows(file_, file_.at(tensor_name(layer, l)), 0, shape(l)[0], weights.row(rows));
    rows += shape(l)[0];
  }
  return weights;
}

std::vector<ModelWeights::Stored> Checkpoint::stored(int64_t layer, std::span<const Linear> linears) const {
  std::vector<Stored> parts;
  for (const Linear l : linears) {
    const TensorInfo& t = file_.at(tensor_name(layer, l));
    parts.push_back({t.dtype, file_.bytes(t), shape(l)[0]});
  }
  return parts;
}

std::vector<float> Checkpoint::load_norm(int64_t layer, Norm n) const {
  FP4LAB_CHECK(layer >= 0 && layer < config_.layers, layer, " of ", config_.layers);
  FP4LAB_CHECK(!is_qk(n) || config_.qk_norms, config_.architecture, " has no norms of q and k");
  std::vector<float> weights(size_t(is_qk(n) ? config_.head_dim : config_.hidden_size));
  load_rows(file_, file_.at(tensor_name(layer, n)), 0, 1, weights.data());
  return weights;
}

std::vector<float> Checkpoint::load_final_norm() const {
  std::vector<float> weights(size_t(config_.hidden_size));
  load_rows(file_, file_.at(kFinalNorm), 0, 1, weights.data());
  return weights;
}

void Checkpoint::embed(std::span<const int32_t> ids, MatrixView<float> out) const {
  FP4LAB_CHECK(out.rows == int64_t(ids.size()) && out.cols == config_.hidden_size, "out is (", out.rows, ", ",
               out.cols, ") for ", ids.size(), " ids of ", config_.hidden_size);
  const TensorInfo& t = file_.at(kEmbedding);
  for (size_t i = 0; i < ids.size(); ++i) {
    FP4LAB_CHECK(ids[i] >= 0 && ids[i] < config_.vocab_size, "id ", ids[i], " of ", config_.vocab_size);
    load_rows(file_, t, ids[i], 1, out.row(int64_t(i)));
  }
  file_.release(t);  // a row alone releases only the pages that it fills
}

Matrix Checkpoint::load_head(int64_t begin, int64_t count) const {
  Matrix rows(count, config_.hidden_size);
  load_rows(file_, file_.at(config_.tied_head ? kEmbedding : kHead), begin, count, rows.data());
  return rows;
}

}  // namespace fp4lab
