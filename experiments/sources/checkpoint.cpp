// The `checkpoint` source: tensors of a model, by default the weights of its linears.
#include <nlohmann/json.hpp>

#include "experiments/sources/file_source.h"

namespace fp4lab {

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
  std::vector<std::string> names;
  for (const TensorInfo* t : chosen) names.push_back(t->name);
  p.set_resolved("checkpoint", context.content_hash(path));
  p.set_resolved("tensors", names);
  return make_tensor_file_source(std::move(file), chosen);
}

}  // namespace fp4lab
