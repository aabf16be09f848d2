// methods/site.h - quantizes the weights of one site: linears that read the same input, stacked.
#pragma once
#include <optional>
#include <string>

#include "core/linear_map.h"
#include "formats/quantize.h"
#include "kernels/ops.h"
#include "methods/method.h"

namespace fp4lab {

/// What happened on the way, for the results; all 0 for rtn.
struct SiteReport {
  double damping = 0;         // fraction of mean(diag H) that was used in the end
  double condition = 0;       // estimate for the damped H, 1-norm
  bool fell_back = false;     // H was not positive definite after every rise of the damping: RTN
  int64_t dead_channels = 0;  // inputs that were always 0
  std::string on_cpu;         // why the weights were quantized on the CPU though the cell runs on a GPU
  double loss = 0;            // tr((T - Q) H (T - Q)^T) per token, undamped H, T the loop's targets (GPTQ: W)
};

/// Weights in the coordinates of `map`: the layer is Y = Q(X T^-T) W^T with what this holds.
struct QuantizedWeights {
  Array W;             // (out, in), dequantized; the weights themselves when only activations are quantized
  LinearMap map;       // T
  std::string digest;  // of the stored bytes; "" when the weights are not quantized
  SiteReport report;
  std::optional<QuantizedMatrix> q;  // what W is the value of; none when the weights are not quantized
};

/// Where a site is, and what draws its random numbers.
struct SitePlace {
  SiteKind kind = SiteKind::qkv;
  int64_t head_dim = 0;          // of the model
  uint64_t seed = 1, index = 0;  // index: layer * kSites + site
};

/// W in the memory of `ops`; it is used up. `weights` null: the weights stay in full precision; `activations`
/// null: its inputs do. Both null: W as it is, no map. The transform's group is that of the weights' format,
/// without one that of the activations'. `stats` are what `needs_of` says; null when it says nothing. They
/// are used up. A step that `ops` has no version of is the CPU's, and the report says so.
QuantizedWeights quantize_site(Ops& ops, const MethodSpec& method, const SitePlace& place,
                               const FormatSpec* weights, const FormatSpec* activations, Array W,
                               SiteStats* stats);

/// The transform's map where it needs no data, otherwise the identity: what a site's inputs are quantized in
/// before its statistics are known.
LinearMap map_without_data(const MethodSpec& method, const SitePlace& place, const FormatSpec* weights,
                           const FormatSpec* activations, int64_t inputs);

/// Why this method cannot serve a site of these formats and `inputs` channels, or "".
std::string site_problem(const MethodSpec& method, const SitePlace& place, const FormatSpec* weights,
                         const FormatSpec* activations, int64_t inputs);

}  // namespace fp4lab
