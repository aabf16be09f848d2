// The `checkpoint` source: tensors of a folder or file, by default the weights of a model's linears; and the
// `weights` source: tensors of the sweep's own model, so that one key says which model a sweep is about.
#include <nlohmann/json.hpp>

#include "experiments/model/shared_model.h"
#include "experiments/sources/file_source.h"

namespace fp4lab {

namespace {

/// Both sources' canonical form is the same: equal tensors, equal cells.
std::unique_ptr<Source> chosen_source(Params& p, TensorFile file,
                                      const std::vector<const TensorInfo*>& chosen, const std::string& hash) {
  std::vector<std::string> names;
  for (const TensorInfo* t : chosen) names.push_back(t->name);
  p.set_resolved("checkpoint", hash);
  p.set_resolved("tensors", names);
  return make_tensor_file_source(std::move(file), chosen);
}

/// The linears of a quantized checkpoint, dequantized, under the names they have in full precision.
class StoredModelSource : public Source {
 public:
  StoredModelSource(std::shared_ptr<const StoredModel> model, const std::vector<std::string>& patterns,
                    const Params& p, std::string_view key)
      : model_(std::move(model)) {
    std::vector<bool> matched(patterns.size());
    for (int64_t layer = 0; layer < model_->config().layers; ++layer)
      for (int l = 0; l < kLinears; ++l) {
        const std::string tensor = "model." + linear_name(layer, Linear(l)) + ".weight";
        bool wanted = false;
        for (size_t i = 0; i < patterns.size(); ++i)
          if (pattern_matches(patterns[i], tensor)) wanted = matched[i] = true;
        if (!wanted) continue;
        const auto [out, in] = model_->shape(Linear(l));
        tensors_.push_back({tensor, out, in});
        places_.push_back({layer, Linear(l)});
      }
    for (size_t i = 0; i < patterns.size(); ++i)
      if (!matched[i])
        p.fail(key, str("no linear of the quantized checkpoint ", model_->path(), " matches \"", patterns[i],
                        "\"; they are ", linear_name(0, Linear::q), " to ",
                        linear_name(model_->config().layers - 1, Linear::down)));
  }
  const std::vector<SourceTensor>& tensors() const override { return tensors_; }
  Matrix load(size_t i) const override { return model_->load(places_[i].first, places_[i].second); }

 private:
  std::shared_ptr<const StoredModel> model_;
  std::vector<SourceTensor> tensors_;
  std::vector<std::pair<int64_t, Linear>> places_;
};

std::unique_ptr<Source> stored_source(Params& p, std::shared_ptr<const StoredModel> model,
                                      const std::vector<std::string>& patterns, const std::string& hash,
                                      std::string_view key) {
  auto source = std::make_unique<StoredModelSource>(std::move(model), patterns, p, key);
  std::vector<std::string> names;
  for (const SourceTensor& t : source->tensors()) names.push_back(t.name);
  p.set_resolved("checkpoint", hash);
  p.set_resolved("tensors", names);
  return source;
}

}  // namespace

std::unique_ptr<Source> make_checkpoint_source(Params& p, const SourceContext& context) {
  const std::string text =
      p.text("checkpoint", {"a folder with safetensors, or one such file, relative to the sweep's folder"});
  // q, k, v, o, gate, up and down of Llama-like models; embeddings, norms and lm_head are not matched.
  const std::vector<std::string> patterns =
      p.texts("tensors", {"*_proj.weight"},
              {"patterns of tensor names; \"model.\" and \".weight\" may be left out: layers.3.mlp.*"});
  p.done();
  if (p.is_declaring()) return nullptr;
  const std::string path = path_of_key(p, "checkpoint", text, context);
  if (says_quantized(path)) {
    const auto open = [&] {
      try {
        return std::make_shared<const StoredModel>(StoredModel::open(path));
      } catch (const DataError& e) {
        throw DataError(p.place("checkpoint").text() + ": " + e.what());
      }
    };
    return stored_source(p, open(), patterns, context.content_hash(path), "tensors");
  }
  TensorFile file = open_at_key(p, "checkpoint", path);
  const auto chosen = matched_tensors(file, path, patterns, p);
  return chosen_source(p, std::move(file), chosen, context.content_hash(path));
}

std::unique_ptr<Source> make_weights_source(Params& p, const SourceContext& context) {
  const std::vector<std::string> patterns =
      p.texts("weights", {}, {"patterns of the model's tensors, as *_proj or layers.3.mlp.*"});
  p.done();
  if (p.is_declaring()) return nullptr;
  if (!context.model)
    p.fail("weights", "the model's tensors need the key \"model\": {\"path\": folder} in the sweep");
  if (patterns.empty()) p.fail("weights", "expected patterns of tensors, as *_proj");
  FP4LAB_CHECK(context.models);
  Json resolved_model;
  const auto model = context.models->model(*context.model, context.model_place, context, resolved_model);
  if (model->stored && model->weights == model->stored) {
    auto source = stored_source(p, model->stored, patterns, model->hash, "weights");
    p.drop_resolved("weights");
    return source;
  }
  const std::string& path = model->weights->path();
  TensorFile file = TensorFile::open(path);
  const auto chosen = matched_tensors(file, path, patterns, p, "weights");
  p.drop_resolved("weights");
  return chosen_source(p, std::move(file), chosen, model->hash);
}

}  // namespace fp4lab
