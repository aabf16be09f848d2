#include "experiments/export/scheme.h"

#include <nlohmann/json.hpp>

#include "core/errors.h"
#include "experiments/provenance.h"

namespace fp4lab {

namespace {

bool same_grid(const FormatSpec& f, const FormatSpec& g) {
  return f.element == g.element && f.group_size == g.group_size && f.scale == g.scale && f.rule == g.rule &&
         f.scale_floor == g.scale_floor;
}
bool static_nvfp4(const FormatSpec& f) {
  return same_grid(f, kNvfp4) && f.tensor_scale.mode == TensorScale::fixed;
}
std::string activations_problem(const Scheme& s) {
  constexpr const char* kNvfp4Inputs =
      "its readers quantize inputs to nvfp4 by absmax with one tensor scale from a calibration: "
      "\"activations\": \"nvfp4\", \"activation_scale\": \"static\"";
  const std::optional<FormatSpec>& a = s.activations;
  switch (s.layout) {
    case Layout::nvfp4_pack_quantized:
    case Layout::modelopt_nvfp4:
      if (a && !static_nvfp4(*a)) return str(kNvfp4Inputs, "; or \"activations\": null");
      return "";
    case Layout::mxfp4_pack_quantized:
      if (a && !same_grid(*a, mxfp4_with(ScaleRule::even)))
        return "its readers quantize inputs to mxfp4-even: \"activations\": \"mxfp4-even\", or null";
      return "";
    case Layout::pack_quantized:
      if (a && (a->element.bits != 4 || a->element.kind != ElementKind::int_full ||
                a->tensor_scale.mode != TensorScale::none || a->rule != ScaleRule{}))
        return "its readers quantize inputs to -8..7 by amax/7.5: \"activations\": \"int4-peer\", or null";
      if (a && a->scale != s.weights.scale)
        return str("its readers' scales of inputs have the type of the weights' scales, ",
                   s.weights.scale.name, ": \"activations\": {\"base\": \"int4-peer\", \"scale\": \"",
                   s.weights.scale.name, "\"}");
      return "";
    case Layout::fp_quant:
      if (s.weights.scale == kE4M3) {
        if (!a || !static_nvfp4(*a))
          return str(kNvfp4Inputs, a ? "" : "; weights alone are stored by nvfp4-pack-quantized");
      } else if (!a || !same_grid(*a, mxfp4_with(ScaleRule::fpq))) {
        return "its readers quantize inputs to mxfp4-paper: \"activations\": \"mxfp4-paper\"";
      }
      return "";
  }
  return "";
}

/// vLLM's kernels have these.
bool has_kernel(const Scheme& s) {
  const int64_t k = matrix_width(s);
  return k == 32 || k == 64 || k == 128 || (k == 16 && s.weights.scale == kE4M3);
}

// compressed-tensors

Json ct_args(const FormatSpec& f) {
  if (f.element.kind != ElementKind::minifloat) {
    Json args = {{"num_bits", 4}, {"type", "int"}, {"symmetric", true}};
    if (f.group_size == kWholeRow)
      args["strategy"] = "token";
    else
      args["strategy"] = "group", args["group_size"] = f.group_size;
    return args;
  }
  const bool nv = f.scale == kE4M3;
  return {{"num_bits", 4},
          {"type", "float"},
          {"symmetric", true},
          {"strategy", nv ? "tensor_group" : "group"},
          {"group_size", f.group_size},
          {"scale_dtype", nv ? "torch.float8_e4m3fn" : "torch.uint8"}};
}

Json ct_config(const Scheme& s) {
  Json weights = ct_args(s.weights), inputs;
  weights["dynamic"] = false;
  if (s.activations) {
    inputs = ct_args(*s.activations);
    if (s.layout == Layout::nvfp4_pack_quantized)
      inputs["dynamic"] = "local", inputs["observer"] = "static_minmax";
    else
      inputs["dynamic"] = true;
  }
  const std::string format(name(s.layout));
  return {{"quant_method", "compressed-tensors"},
          {"format", format},
          {"quantization_status", "compressed"},
          {"ignore", s.in_full_precision},
          {"kv_cache_scheme", nullptr},
          {"global_compression_ratio", nullptr},
          {"config_groups",
           {{"group_0",
             {{"targets", {"Linear"}},
              {"format", format},
              {"weights", weights},
              {"input_activations", inputs},
              {"output_activations", nullptr}}}}},
          {"sparsity_config", Json::object()},
          {"transform_config", Json::object()},
          {"version", "0.15.0"}};
}

constexpr const char* kWeightOnly = "W4A16_NVFP4";

Json producer() { return {{"name", "fp4lab"}, {"version", version_text()}}; }

}  // namespace

FormatSpec mxfp4_with(ScaleRule::Kind rule) {
  FormatSpec f = kMxfp4;
  f.rule = {.kind = rule};
  return f;
}

int64_t matrix_width(const Scheme& s) { return s.hadamard > 1 ? s.hadamard : s.weights.group_size; }

std::string scheme_problem(const Scheme& s) {
  if (std::string problem = layout_problem(s.layout, s.weights); !problem.empty()) return problem;
  if (s.hadamard > 1 && s.layout != Layout::fp_quant)
    return "its readers apply no rotation to the inputs; fp_quant stores one with every linear, or take a "
           "method without a transform";
  if (std::string problem = activations_problem(s); !problem.empty()) return problem;
  if (s.layout == Layout::fp_quant && !has_kernel(s))
    return str("its kernels have Hadamard matrices of ", s.weights.scale == kE4M3 ? "16, " : "",
               "32, 64 and 128, not ", s.hadamard);
  return "";
}

Json quantization_config(const Scheme& s) {
  switch (s.layout) {
    case Layout::nvfp4_pack_quantized:
    case Layout::mxfp4_pack_quantized:
    case Layout::pack_quantized: return ct_config(s);
    case Layout::fp_quant:
      return {{"quant_method", "fp_quant"},
              {"forward_dtype", s.weights.scale == kE4M3 ? "nvfp4" : "mxfp4"},
              {"forward_method", "abs_max"},
              {"backward_dtype", "bf16"},
              {"store_master_weights", false},
              {"pseudoquantization", false},
              {"transform_init", s.hadamard > 1 ? "hadamard" : "identity"},
              {"hadamard_group_size", matrix_width(s)},
              {"modules_to_not_convert", s.in_full_precision}};
    case Layout::modelopt_nvfp4: {
      const Json args = {{"num_bits", 4}, {"type", "float"}, {"group_size", 16}, {"dynamic", false}};
      return {{"quant_method", "modelopt"},
              {"quant_algo", s.activations ? "NVFP4" : kWeightOnly},
              {"config_groups",
               {{"group_0",
                 {{"targets", {"Linear"}},
                  {"weights", args},
                  {"input_activations", s.activations ? args : Json()}}}}},
              {"ignore", s.in_full_precision},
              {"producer", producer()}};
    }
  }
  return {};
}

Json hf_quant_config(const Scheme& s) {
  if (s.layout != Layout::modelopt_nvfp4) return {};
  return {{"producer", producer()},
          {"quantization",
           {{"quant_algo", s.activations ? "NVFP4" : kWeightOnly},
            {"kv_cache_quant_algo", nullptr},
            {"group_size", 16},
            {"exclude_modules", s.in_full_precision}}}};
}

}  // namespace fp4lab
