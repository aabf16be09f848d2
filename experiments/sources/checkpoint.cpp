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
  const std::string& path = model->checkpoint.path();
  TensorFile file = TensorFile::open(path);
  const auto chosen = matched_tensors(file, path, patterns, p, "weights");
  p.drop_resolved("weights");
  return chosen_source(p, std::move(file), chosen, model->hash);
}

}  // namespace fp4lab
