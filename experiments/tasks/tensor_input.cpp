#include "experiments/tasks/tensor_input.h"

#include <cmath>
#include <nlohmann/json.hpp>

#include "kernels/cpu/linear_map.h"

namespace fp4lab {

TensorInput::TensorInput(Params& p) {
  seed_ = uint64_t(p.integer("seed", 1, {"of synthetic tensors and random signs", 0, 0x1p53}));
  source_ = &p.raw(
      "source",
      {"where the tensors come from: {\"checkpoint\": ...}, {\"weights\": ...}, {\"activations\": ...}, "
       "{\"file\": ...} or {\"synthetic\": ...}"});
  model_ = &p.raw("model", {"{\"path\": checkpoint folder}: whose weights or activations"});
  calibration_ = &p.raw("calibration", {"{\"corpus\": token file, ...}: on what text they are captured"});
}

void TensorInput::require(const Params& p) const {
  if (source_->is_null()) p.fail("source", "missing key \"source\": where the tensors come from");
}

void TensorInput::open(Params& p, const TaskContext& context) {
  const bool captured = source_->is_object() && source_->contains("activations");
  const bool of_model = captured || (source_->is_object() && source_->contains("weights"));
  if (!of_model && p.has("model")) p.fail("model", "only a source of activations or weights reads \"model\"");
  if (!captured && p.has("calibration"))
    p.fail("calibration", "only a source of activations reads \"calibration\"");
  SourceContext around{context.base_dir, seed_, context.content_hash};
  if (!model_->is_null()) around.model = model_;
  if (!calibration_->is_null()) around.calibration = calibration_;
  around.model_place = p.place("model"), around.calibration_place = p.place("calibration");
  around.models = context.models, around.cache_dir = context.cache_dir;
  around.spill = context.spill;
  opened_ = context.sources->open(*source_, p.place("source"), around);
}

void TensorInput::resolve(Params& p, bool draws) const {
  const Json& source = *opened_.resolved;
  p.set_resolved("source", source);
  for (const char* key : {"model", "calibration"}) p.drop_resolved(key);  // in the source
  if (!source.contains("synthetic") && !source.contains("seed") && !draws) p.drop_resolved("seed");
}

const std::vector<TransformSpec>& transforms_of(const SiteTransforms& transforms, const SourceTensor& t) {
  return transforms[size_t(site_of_tensor(t.name).value_or(SiteKind::qkv))];
}

TransformFit fit_of_tensor(const SourceTensor& t, size_t index, uint64_t seed, int group_size,
                           const FormatSpec* weights) {
  TransformFit fit;
  fit.channels = t.cols;
  fit.group_size = group_size;
  fit.seed = seed, fit.index = uint64_t(index);
  fit.weights = weights;
  return fit;
}

void check_tensor_transforms(const Params& p, std::string_view key, const SiteTransforms& transforms,
                             const SourceTensor& t, const TransformFit& fit) {
  if (!same_at_every_site(transforms) && !site_of_tensor(t.name))
    p.fail(key, str("the transforms differ by site, and tensor ", t.name,
                    " does not tell its own; names that do end in q_proj, k_proj, v_proj, o_proj, "
                    "gate_proj, up_proj or down_proj, with or without .weight"));
  for (const TransformSpec& transform : transforms_of(transforms, t))
    if (const std::string problem = transform_problem(transform, fit); !problem.empty())
      p.fail(key, str("tensor ", t.name, " is (", t.rows, ", ", t.cols, "): ", problem));
}

SiteTransforms read_transform(Params& p, const Json& value) {
  SiteTransforms transforms;
  if (!value.is_null()) {
    Json unlabelled = value;
    if (value.is_object() && value.contains("type")) unlabelled.erase("label");
    transforms = parse_site_transforms(unlabelled, p.place("transform"));
  }
  for (const std::vector<TransformSpec>& list : transforms)
    if (needs_of(list).any())
      p.fail("transform", "it looks at a model's inputs, which tensors alone do not have");
  p.set_resolved("transform", site_transforms_json(transforms));
  return transforms;
}

Matrix load_transformed(const Source& source, size_t index, const std::vector<TransformSpec>& transforms,
                        const TransformFit& fit) {
  Matrix x = source.load(index);
  const LinearMap map = fit_transforms(transforms, fit);
  if (map.identity()) return x;
  map_weights(map, x);
  // The source is finite, but sums of huge elements need not be.
  for (int64_t r = 0; r < x.rows(); ++r)
    for (int64_t c = 0; c < x.cols(); ++c)
      if (!std::isfinite(x(r, c)))
        throw DataError(str("tensor ", source.tensors()[index].name, " after its transform: element (", r,
                            ", ", c, ") is ", x(r, c)));
  return x;
}

}  // namespace fp4lab
