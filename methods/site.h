// methods/site.h - quantizes the weights of one site: linears that read the same input, stacked.
#pragma once
#include <string>

#include "core/linear_map.h"
#include "formats/quantize.h"
#include "methods/method.h"

namespace fp4lab {

/// Weights in the coordinates of `map`: the layer is Y = Q(X T^-T) W^T with what this holds.
struct QuantizedWeights {
  Matrix W;            // (out, in), dequantized; the weights themselves when only activations are quantized
  LinearMap map;       // T
  std::string digest;  // of the stored bytes; "" when the weights are not quantized
};

/// What draws a site's random signs.
struct SiteSeed {
  uint64_t seed = 0, index = 0;  // index: layer * kSites + site
};

/// `weights` null: the weights stay in full precision; `activations` null: its inputs do. Both null: W as it
/// is, no map. The transform's group is that of the weights' format, without one that of the activations'.
QuantizedWeights quantize_site(const MethodSpec& method, SiteKind site, const FormatSpec* weights,
                               const FormatSpec* activations, Matrix W, SiteSeed seed);

/// Why this method cannot serve a site of these formats and `inputs` channels, or "".
std::string site_problem(const MethodSpec& method, SiteKind site, const FormatSpec* weights,
                         const FormatSpec* activations, int64_t inputs);

}  // namespace fp4lab
