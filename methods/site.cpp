#include "methods/site.h"

#include "kernels/cpu/linear_map.h"
#include "methods/transforms/transform.h"

namespace fp4lab {

namespace {
/// What a transform's default block size follows.
const FormatSpec* grouping(const FormatSpec* weights, const FormatSpec* activations) {
  return weights ? weights : activations;
}
}  // namespace

std::string site_problem(const MethodSpec& method, SiteKind site, const FormatSpec* weights,
                         const FormatSpec* activations, int64_t inputs) {
  for (const FormatSpec* f : {weights, activations})
    if (f)
      if (std::string problem = shape_problem(*f, inputs); !problem.empty()) return problem;
  if (weights)
    if (std::string problem = weight_scales_problem(method.weight_scales, *weights); !problem.empty())
      return problem;
  if (const FormatSpec* f = grouping(weights, activations))
    for (const TransformSpec& t : method.transform[size_t(site)])
      if (std::string problem = transform_problem(t, inputs, f->group_size); !problem.empty()) return problem;
  return "";
}

QuantizedWeights quantize_site(const MethodSpec& method, SiteKind site, const FormatSpec* weights,
                               const FormatSpec* activations, Matrix W, SiteSeed seed) {
  QuantizedWeights out;
  if (const FormatSpec* f = grouping(weights, activations)) {
    out.map = fit_transforms(method.transform[size_t(site)], W.cols(), f->group_size, seed.seed, seed.index);
    if (!out.map.identity()) map_weights(out.map, W);
  }
  if (weights) {
    const QuantizedMatrix q = quantize(*weights, W, method.weight_scales);
    out.digest = q.digest();
    dequantize(q, W);
  }
  out.W = std::move(W);
  return out;
}

}  // namespace fp4lab
