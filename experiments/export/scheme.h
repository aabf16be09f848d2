// experiments/export/scheme.h - what a quantized checkpoint says of itself (`quantization_config`), and what
// the readers of a layout do with a model: written, read back, and checked.
#pragma once
#include <optional>
#include <string>
#include <vector>

#include "core/params.h"
#include "experiments/export/layout.h"

namespace fp4lab {

struct Scheme {
  Layout layout = Layout::nvfp4_pack_quantized;
  FormatSpec weights = kNvfp4;
  /// What readers quantize the linears' inputs to; none: full precision. Mode `fixed`: each linear has its
  /// own s_T, in a tensor; the value here says nothing.
  std::optional<FormatSpec> activations;
  /// Every run of so many inputs is multiplied by the Hadamard matrix of this order, of the fp_quant layout
  /// only; 1: by the identity.
  int64_t hadamard = 1;
  /// Linears in full precision: "lm_head", "model.layers.0.mlp.down_proj".
  std::vector<std::string> in_full_precision = {"lm_head"};
  /// What was read and does not matter here: "kv_cache_scheme".
  std::vector<std::string> passed_over = {};
};

/// Why no reader of the layout computes what the scheme says, with the nearest thing that it does; or "".
std::string scheme_problem(const Scheme& scheme);

/// The width of the matrices that the fp_quant layout stores: the Hadamard's, or the identity's of one group.
int64_t matrix_width(const Scheme& scheme);

/// MXFP4 under another rule.
FormatSpec mxfp4_with(ScaleRule::Kind rule);

/// `quantization_config` of config.json, with the keys its readers know and no other.
Json quantization_config(const Scheme& scheme);
/// hf_quant_config.json, for ModelOpt's layout; null for the others.
Json hf_quant_config(const Scheme& scheme);

/// Whether a checkpoint folder says that it is quantized: config.json has a quantization_config, or there is
/// a hf_quant_config.json. False for what is no folder or has no config.json that can be read.
bool says_quantized(const std::string& folder);
/// What such a folder says. DataError with file and key for a quant_method, format, bit width, strategy or
/// activation scheme that is not one of the layouts', for zero points, act-order by group, online transforms,
/// sparsity, several different groups, and unknown keys.
Scheme read_scheme(const std::string& folder);

}  // namespace fp4lab
