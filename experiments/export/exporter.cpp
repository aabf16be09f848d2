#include "experiments/export/exporter.h"

#include <algorithm>
#include <cmath>
#include <cstring>
#include <filesystem>
#include <nlohmann/json.hpp>
#include <numeric>

#include "core/half.h"
#include "experiments/export/read_back.h"
#include "experiments/task.h"
#include "kernels/cpu/linear_map.h"
#include "methods/rotation/rotated_model.h"

namespace fp4lab {

namespace {

using Tensor = CheckpointFolder::Tensor;

std::string prefix_of(int64_t layer, Linear l) { return "model." + linear_name(layer, l); }

Bytes bytes_of_floats(std::span<const float> values) {
  Bytes bytes(values.size_bytes());
  std::memcpy(bytes.data(), values.data(), bytes.size());
  return bytes;
}
Tensor f32(std::string name, std::vector<int64_t> shape, std::span<const float> values) {
  return {std::move(name), DType::F32, std::move(shape), bytes_of_floats(values)};
}
Tensor f32(std::string name, const Matrix& m) {
  return f32(std::move(name), {m.rows(), m.cols()}, {m.data(), size_t(m.size())});
}
Tensor copy_of(const TensorFile& file, const TensorInfo& t) {
  return {t.name, t.dtype, t.shape, {}, file.bytes(t)};
}

/// (k, k) in BF16: H_k / sqrt(k), or the identity.
Tensor matrix_tensor(std::string name, const Scheme& s) {
  const int64_t k = matrix_width(s);
  std::vector<float> m(size_t(k * k));
  if (s.hadamard > 1) {
    const std::vector<int8_t> signs = hadamard_matrix(k);
    for (size_t i = 0; i < m.size(); ++i) m[i] = float(signs[i]) / std::sqrt(float(k));
  } else {
    for (int64_t i = 0; i < k; ++i) m[size_t(i * k + i)] = 1;
  }
  Bytes bytes(m.size() * 2);
  for (size_t i = 0; i < m.size(); ++i) {
    const uint16_t bits = bf16_from_float(m[i]).bits;
    std::memcpy(bytes.data() + 2 * i, &bits, 2);
  }
  return {std::move(name), DType::BF16, {k, k}, std::move(bytes)};
}

/// As the layout stores it: a divisor, or ModelOpt's factor.
float stored_input_scale(Layout layout, const FormatSpec& activations, const std::string& prefix) {
  if (layout == Layout::fp_quant && activations.rule.kind == ScaleRule::fpq) return 3.0f;
  const float s = activations.tensor_scale.value, stored = global_scale_multiplies(layout) ? s : 1.0f / s;
  if (!std::isfinite(stored) || !(stored > 0))
    throw DataError(
        str(prefix, ": the inputs' tensor scale ", s, " cannot be stored as its inverse in FP32"));
  return stored;
}

/// What kScalesFile says of a linear: tensor scales that the inverse of their inverse is not.
void note_exact(Json& exact, Layout layout, const std::string& prefix, const char* key, float s) {
  if (!global_scale_multiplies(layout) && 1.0f / (1.0f / s) != s) exact[prefix][key] = double(s);
}

/// Rows of `q` as one linear: its tensors, and what read_back compares them with.
void add_linear(CheckpointFolder& folder, ReadBack& check, const Scheme& s, const std::string& prefix,
                const std::shared_ptr<const QuantizedMatrix>& q, int64_t begin, int64_t count,
                std::optional<float> global, std::optional<float> input, Json& exact) {
  if (q->format.tensor_scale.mode != TensorScale::none)
    note_exact(exact, s.layout, prefix, "weight", q->scales.factors.at(0));
  std::vector<Tensor> unit;
  for (LayoutTensor& t : to_layout(s.layout, *q, begin, count, global))
    unit.push_back({str(prefix, ".", t.suffix), t.dtype, std::move(t.shape), std::move(t.bytes)});
  if (input) unit.push_back(f32(str(prefix, ".", input_scale_suffix(s.layout)), {1}, {&*input, 1}));
  // Not backward_hadamard_matrix, which training alone reads: newer readers stop at the unknown name.
  if (s.layout == Layout::fp_quant) unit.push_back(matrix_tensor(str(prefix, ".forward_hadamard_matrix"), s));
  folder.add(std::move(unit));  // may close the shard before this linear
  check.expect({prefix, q, begin, count});
}

/// Linears that stay in full precision, as `model` has them.
void add_plain_linear(CheckpointFolder& folder, const ModelWeights& model, int64_t layer, Linear l) {
  const std::string tensor = prefix_of(layer, l) + ".weight";
  const auto* stored = dynamic_cast<const StoredModel*>(&model);
  const auto* files = stored ? &stored->rest() : dynamic_cast<const Checkpoint*>(&model);
  if (files && !(stored && stored->is_stored(layer, l)))
    folder.add({copy_of(files->file(), files->file().at(tensor))});
  else
    folder.add({f32(tensor, model.load(layer, l))});
}

bool is_of_a_linear(const ModelConfig& config, std::string_view tensor) {
  for (int64_t layer = 0; layer < config.layers; ++layer)
    for (int l = 0; l < kLinears; ++l)
      if (tensor.starts_with(prefix_of(layer, Linear(l)) + ".")) return true;
  return false;
}

/// Embedding, norms and head: the files' bytes, or, of a rotated model, its numbers.
void add_rest(CheckpointFolder& folder, const ModelWeights& model) {
  const auto* stored = dynamic_cast<const StoredModel*>(&model);
  if (const auto* files = stored ? &stored->rest() : dynamic_cast<const Checkpoint*>(&model)) {
    for (const TensorInfo& t : files->file().tensors())
      if (!is_of_a_linear(model.config(), t.name)) folder.add({copy_of(files->file(), t)});
    return;
  }
  const ModelConfig& c = model.config();
  std::vector<int32_t> ids(static_cast<size_t>(c.vocab_size));
  std::iota(ids.begin(), ids.end(), 0);
  {
    Matrix table(c.vocab_size, c.hidden_size);
    model.embed(ids, table);
    folder.add({f32("model.embed_tokens.weight", table)});
  }
  const auto norm = [&](const std::string& name, const std::vector<float>& w) {
    folder.add({f32(name + ".weight", {int64_t(w.size())}, w)});
  };
  using Norm = ModelWeights::Norm;
  for (int64_t layer = 0; layer < c.layers; ++layer) {
    const std::string block = str("model.layers.", layer, ".");
    norm(block + "input_layernorm", model.load_norm(layer, Norm::input));
    norm(block + "post_attention_layernorm", model.load_norm(layer, Norm::post_attention));
    if (!c.qk_norms) continue;
    norm(block + "self_attn.q_norm", model.load_norm(layer, Norm::q));
    norm(block + "self_attn.k_norm", model.load_norm(layer, Norm::k));
  }
  norm("model.norm", model.load_final_norm());
  if (!c.tied_head) folder.add({f32("lm_head.weight", model.load_head(0, c.vocab_size))});
}

/// config.json of the original with what has changed; `scheme` null: in full precision.
void write_config(CheckpointFolder& folder, const std::string& from, const ModelConfig& config,
                  const Scheme* scheme) {
  Json json = parse_json_file((std::filesystem::path(from) / "config.json").string());
  json.erase("quantization_config");
  json.erase("compression_config");
  json["tie_word_embeddings"] = config.tied_head;
  if (scheme) json["quantization_config"] = quantization_config(*scheme);
  folder.write_text("config.json", json.dump(2) + "\n");
  if (scheme && scheme->layout == Layout::modelopt_nvfp4)
    folder.write_text("hf_quant_config.json", hf_quant_config(*scheme).dump(2) + "\n");
}

Written finish(CheckpointFolder& folder, const std::string& from, const ModelConfig& config,
               const Scheme* scheme, Json about, const Json& exact, Written done) {
  folder.finish_tensors();
  if (!exact.empty()) folder.write_text(kScalesFile, exact.dump(2) + "\n");
  write_config(folder, from, config, scheme);
  folder.copy_companions(from);
  done.shards = folder.shards(), done.bytes = folder.bytes();
  about["linears"] = done.linears;
  if (!done.digest.empty()) about["digest"] = done.digest;
  folder.write_text("fp4lab.json", about.dump(2) + "\n");
  const auto read = open_model(folder.folder());  // complete, and as the config says
  const auto* stored = dynamic_cast<const StoredModel*>(read.get());
  if (scheme && (!stored || stored->stored_linears() != done.linears))
    throw DataError(str(folder.folder(), ": reads back with other linears than were written"));
  return done;
}

}  // namespace

Written export_cell(ModelCell& cell, const Scheme& scheme, CheckpointFolder& folder, Json about) {
  const ModelWeights& original = *cell.model().weights;
  std::optional<RotatedModel> rotated;
  if (cell.plan().method.rotation.kind != RotationSpec::none)
    rotated.emplace(original, cell.plan().method.rotation, cell.plan().seed);
  const ModelWeights& model = rotated ? *rotated : original;
  ReadBack check(scheme);
  Json exact = Json::object();
  folder.written = [&](const std::string& file) { check.compare(file); };
  Written done;
  add_rest(folder, model);
  done.digest = cell.make([&](int64_t layer, std::vector<MadePart> parts) {
    for (MadePart& part : parts) {
      int64_t row = 0;
      const auto q = part.q ? std::make_shared<const QuantizedMatrix>(std::move(*part.q)) : nullptr;
      for (const Linear l : part.linears) {
        const std::string prefix = prefix_of(layer, l);
        if (!q) {
          add_plain_linear(folder, model, layer, l);
          continue;
        }
        std::optional<float> input;
        if (part.activations && !input_scale_suffix(scheme.layout).empty()) {
          input = stored_input_scale(scheme.layout, *part.activations, prefix);
          if (part.activations->tensor_scale.mode == TensorScale::fixed)
            note_exact(exact, scheme.layout, prefix, "input", part.activations->tensor_scale.value);
        }
        const int64_t count = model.shape(l)[0];
        add_linear(folder, check, scheme, prefix, q, row, count, {}, input, exact);
        row += count, ++done.linears;
      }
    }
  });
  done = finish(folder, original.path(), model.config(), &scheme, std::move(about), exact, done);
  check.all_compared();
  return done;
}

Scheme converted_scheme(const StoredModel& model, Layout layout) {
  Scheme scheme = model.scheme();
  scheme.layout = layout;
  std::string problem = scheme_problem(scheme);
  for (int l = 0; l < kLinears && problem.empty(); ++l) {
    const int64_t in = model.shape(Linear(l))[1];
    problem = layout_problem(layout, scheme.weights, in);
    if (problem.empty() && layout == Layout::fp_quant && in % matrix_width(scheme) != 0)
      problem = str("K = ", in, " is not a multiple of ", matrix_width(scheme));
  }
  if (!problem.empty())
    throw ConfigError(
        str(model.path(), " (", name(model.scheme().layout), ") cannot be ", name(layout), ": ", problem));
  return scheme;
}

Written convert_checkpoint(const StoredModel& model, Layout layout, CheckpointFolder& folder, Json about) {
  const Scheme scheme = converted_scheme(model, layout);
  const bool same_direction =
      global_scale_multiplies(model.scheme().layout) == global_scale_multiplies(layout);
  ReadBack check(scheme);
  Json exact = Json::object();
  folder.written = [&](const std::string& file) { check.compare(file); };
  Written done;
  add_rest(folder, model);
  for (int64_t layer = 0; layer < model.config().layers; ++layer)
    for (int i = 0; i < kLinears; ++i) {
      check_interrupt();
      const auto l = Linear(i);
      if (!model.is_stored(layer, l)) {
        add_plain_linear(folder, model, layer, l);
        continue;
      }
      const auto q = std::make_shared<const QuantizedMatrix>(model.quantized(layer, {&l, 1}));
      std::optional<float> global, input = model.stored_input(layer, l);
      if (same_direction && q->format.tensor_scale.mode != TensorScale::none)
        global = model.stored_global(layer, l);
      if (input && !same_direction)
        input = stored_input_scale(layout, *model.activations(layer, l), prefix_of(layer, l));
      if (const auto a = model.activations(layer, l); input && a->tensor_scale.mode == TensorScale::fixed)
        note_exact(exact, layout, prefix_of(layer, l), "input", a->tensor_scale.value);
      add_linear(folder, check, scheme, prefix_of(layer, l), q, 0, q->rows(), global, input, exact);
      ++done.linears;
    }
  done = finish(folder, model.path(), model.config(), &scheme, std::move(about), exact, done);
  check.all_compared();
  return done;
}

Written write_plain(const StoredModel& model, CheckpointFolder& folder, Json about) {
  Written done;
  add_rest(folder, model);
  for (int64_t layer = 0; layer < model.config().layers; ++layer)
    for (int i = 0; i < kLinears; ++i) {
      check_interrupt();
      const auto l = Linear(i);
      if (model.is_stored(layer, l)) {
        folder.add({f32(prefix_of(layer, l) + ".weight", model.decoded(layer, l))});
        ++done.linears;
      } else {
        add_plain_linear(folder, model, layer, l);
      }
    }
  return finish(folder, model.path(), model.config(), nullptr, std::move(about), Json::object(), done);
}

}  // namespace fp4lab
