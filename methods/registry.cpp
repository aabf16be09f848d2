// methods/registry.cpp - every method fp4lab knows by name. To add one that combines known parts, add a row.
#include "core/text.h"
#include "methods/method.h"

namespace fp4lab {

namespace {

TransformSpec transform(TransformSpec::Kind kind, int64_t k = kGroupSize) {
  TransformSpec spec = default_transform(kind);
  spec.k = k;
  return spec;
}
SiteTransforms everywhere(TransformSpec spec) {
  SiteTransforms all;
  all.fill({std::move(spec)});
  return all;
}
/// QuaRot's online Hadamards: across the heads before o_proj (each head's own is in the weights), and of the
/// full width before down_proj.
SiteTransforms quarot_online() {
  SiteTransforms sites;
  sites[size_t(SiteKind::o)] = {transform(TransformSpec::hadamard, kHeads)};
  sites[size_t(SiteKind::down)] = {transform(TransformSpec::hadamard, kFullWidth)};
  return sites;
}

constexpr Rounding kGptq{.kind = Rounding::gptq};
constexpr Rounding kInLoop{.kind = Rounding::gptq, .scales = Rounding::in_loop};
constexpr WeightScales kPaper{.kind = WeightScales::paper}, kNearby{.kind = WeightScales::nearby};

std::vector<MethodEntry> make_methods() {
  const auto hadamard = everywhere(transform(TransformSpec::hadamard));
  return {
      {"rtn", "round to nearest on the scales that weight_scales chooses", {}},
      {"rtn+ht", "rtn after a block Hadamard of the format's group size", {.transform = hadamard}},
      {"smoothquant",
       "rtn after moving part of the activations' range into the weights (alpha 0.6)",
       {.transform = everywhere(transform(TransformSpec::smooth)),
        .hessian_inputs = HessianInputs::full_precision}},
      {"awq",
       "rtn after the per-channel scale that hurts the layer's output least; FP-Quant's scale search",
       {.transform = everywhere(transform(TransformSpec::awq)),
        .weight_scales = {.kind = WeightScales::mse_shrink},
        .hessian_inputs = HessianInputs::full_precision}},
      {"quarot",
       "rtn on the model rotated by randomized Hadamards, online ones before o_proj and down_proj",
       {.rotation = {.kind = RotationSpec::hadamard}, .transform = quarot_online()}},
      {"gptq", "GPTQ in the stored order", {.rounding = kGptq}},
      {"mr-gptq",
       "GPTQ in static activation order after a block Hadamard; scales per format as the paper has them",
       {.transform = hadamard,
        .weight_scales = kPaper,
        .rounding = {.kind = Rounding::gptq, .order = Rounding::static_activation}}},
      {"gptaq", "gptq towards the full-precision outputs", {.rounding = {.kind = Rounding::gptaq}}},
      {"qronos",
       "gptq from the weights that best repeat the full-precision outputs",
       {.rounding = {.kind = Rounding::qronos}}},
      {"gptq-wush",
       "gptq with scales chosen in the loop, after the WUSH block transforms",
       {.transform = everywhere(transform(TransformSpec::wush)),
        .weight_scales = kNearby,
        .rounding = kInLoop}},
      {"osfp4",
       "gptq with scales chosen in the loop, after the OSFP4 per-channel scale",
       {.transform = everywhere(transform(TransformSpec::osfp4)),
        .weight_scales = kNearby,
        .rounding = kInLoop}},
  };
}

}  // namespace

std::span<const MethodEntry> methods() {
  static const std::vector<MethodEntry> list = make_methods();
  return list;
}

std::vector<std::string> method_names() { return names_of(methods()); }

}  // namespace fp4lab
