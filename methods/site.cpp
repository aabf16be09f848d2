#include "methods/site.h"

#include <cmath>

#include "kernels/cpu/gemm.h"
#include "kernels/cpu/linear_map.h"
#include "methods/rounding/gptq.h"
#include "methods/scales/scale_metric.h"

namespace fp4lab {

namespace {

TransformFit fit_for(const SitePlace& place, const FormatSpec* weights, const FormatSpec* activations,
                     int64_t inputs) {
  TransformFit fit;
  fit.channels = inputs;
  // What a transform's default block size follows.
  if (const FormatSpec* grouping = weights ? weights : activations) fit.group_size = grouping->group_size;
  fit.head_dim = place.kind == SiteKind::o ? place.head_dim : 0;
  fit.seed = place.seed, fit.index = place.index;
  fit.weights = weights, fit.activations = activations;
  return fit;
}

/// The classic act-order: channels move to descending diag(H), weights and activations alike.
void order_by_diagonal(MatrixView<float> W, SiteStats& stats, LinearMap& map) {
  const LinearMap step{{PermutationFactor{descending_diagonal(stats.H)}}};
  map_weights(step, W);
  map_hessian(step, stats.H);
  if (stats.D.size()) map_cross(step, stats.D);
  map.factors.push_back(step.factors[0]);
}

QuantizedMatrix round_to_nearest(const FormatSpec& format, const WeightScales& search,
                                 MatrixView<const float> W, const SiteStats* stats) {
  if (!search.needs_hessian()) return quantize(format, W, search);
  QuantizedMatrix q = round(format, W, choose_weighted_scales(format, search, W, stats->H));
  q.format.rule = search.rule_for(format);
  return q;
}

/// tr((W - Q) H (W - Q)^T).
double quadratic_loss(MatrixView<const float> W, const QuantizedMatrix& q, const MatrixD& H) {
  Matrix D(W.rows, W.cols), DH(W.rows, W.cols), whole(H.rows(), H.cols());
  double trace = 0, sum = 0;
  for (int64_t i = 0; i < H.rows(); ++i) trace += H(i, i);
  const double unit = trace > 0 ? trace / double(H.rows()) : 1;
  for (int64_t i = 0; i < H.rows(); ++i)
    for (int64_t j = i; j < H.rows(); ++j) whole(i, j) = whole(j, i) = float(H(i, j) / unit);
  dequantize(q, D);
  for (int64_t r = 0; r < W.rows; ++r)
    for (int64_t c = 0; c < W.cols; ++c) D(r, c) -= W(r, c);
  gemm(D, whole, DH);
  for (int64_t i = 0; i < D.size(); ++i) sum += double(D.data()[i]) * double(DH.data()[i]);
  return sum * unit;
}

QuantizedMatrix quantize_weights(const MethodSpec& method, const FormatSpec& format,
                                 MatrixView<const float> W, const SiteStats* stats, SiteReport& report) {
  const WeightScales search = weight_scales_for(method.weight_scales, format);
  if (method.rounding.kind == Rounding::rtn) return round_to_nearest(format, search, W, stats);
  const HessianFactor factor = factor_hessian(stats->H, method.rounding);
  report.damping = factor.damping, report.condition = factor.condition;
  report.dead_channels = factor.dead_channels;
  report.fell_back = !factor.ok;
  if (!factor.ok) {
    QuantizedMatrix q = round_to_nearest(format, search, W, stats);
    report.loss = quadratic_loss(W, q, stats->H) / double(stats->tokens);
    return q;
  }
  GptqResult result = gptq(format, search, method.rounding, W, stats->H, stats->D, factor);
  report.loss = result.loss / double(stats->tokens);
  return std::move(result.q);
}

}  // namespace

std::string site_problem(const MethodSpec& method, const SitePlace& place, const FormatSpec* weights,
                         const FormatSpec* activations, int64_t inputs) {
  for (const FormatSpec* f : {weights, activations})
    if (f)
      if (std::string problem = shape_problem(*f, inputs); !problem.empty()) return problem;
  if (weights) {
    if (std::string problem = weight_scales_problem(method.weight_scales, *weights); !problem.empty())
      return problem;
    if (std::string problem =
            rounding_problem(method.rounding, weight_scales_for(method.weight_scales, *weights), *weights);
        !problem.empty())
      return problem;
  }
  if (weights || activations)
    for (const TransformSpec& t : method.transform[size_t(place.kind)])
      if (std::string problem = transform_problem(t, fit_for(place, weights, activations, inputs));
          !problem.empty())
        return problem;
  return "";
}

LinearMap map_without_data(const MethodSpec& method, const SitePlace& place, const FormatSpec* weights,
                           const FormatSpec* activations, int64_t inputs) {
  const std::vector<TransformSpec>& transforms = method.transform[size_t(place.kind)];
  if ((!weights && !activations) || needs_of(transforms).any()) return {};
  return fit_transforms(transforms, fit_for(place, weights, activations, inputs));
}

namespace {

/// Why a GPU leaves the weights of such a site to the CPU, or "".
std::string left_to_cpu(const MethodSpec& method, const std::vector<TransformSpec>& transforms,
                        const FormatSpec& weights) {
  const Rounding& r = method.rounding;
  if (needs_of(transforms).any()) return "a transform that is fitted on data";
  if (weight_scales_for(method.weight_scales, weights).needs_hessian())
    return "a scale search that looks at the Hessian";
  if (r.kind == Rounding::rtn) return "";
  if (r.kind != Rounding::gptq) return str("rounding ", entry_of(r.kind).name);
  if (r.scales != Rounding::up_front) return "scales that are chosen in the loop";
  if (r.order == Rounding::dynamic_activation) return "order dynamic_activation";
  return "";
}

Matrix host_copy(Ops& ops, const Array& a) {
  Matrix out(a.rows(), a.cols());
  ops.download(a.view(), out);
  return out;
}

/// The GPU's way: out.W becomes what it is quantized to.
void quantize_on_gpu(Ops& ops, const MethodSpec& method, const std::vector<TransformSpec>& transforms,
                     const TransformFit& fit, SiteStats* stats, QuantizedWeights& out) {
  out.map = fit_transforms(transforms, fit);
  ops.map_weights(out.map, out.W.view());
  if (!fit.weights) return;
  const WeightScales search = weight_scales_for(method.weight_scales, *fit.weights);
  if (method.rounding.kind == Rounding::rtn) {
    out.q = ops.quantize(*fit.weights, out.W.view(), search);
  } else {
    ArrayD H = stats->take_on_gpu(ops);
    ops.map_hessian(out.map, H.view());
    const bool by_activation = method.rounding.order == Rounding::static_activation;
    std::optional<GptqAnswer> gptq =
        ops.gptq({*fit.weights, search, by_activation, method.rounding.damping}, out.W.view(), H.view());
    if (gptq && gptq->ok) {
      out.report.damping = gptq->damping, out.report.condition = gptq->condition;
      out.report.dead_channels = gptq->dead_channels;
      out.report.loss = gptq->loss / double(stats->tokens);
      out.q = std::move(gptq->q);
    } else {
      out.report.on_cpu = "a Hessian that is not positive definite";
      stats->H_on_gpu = std::move(H);
      stats->to_host(ops);
      out.q = quantize_weights(method, *fit.weights, host_copy(ops, out.W), stats, out.report);
    }
  }
  ops.dequantize(*out.q, out.W.view());
}

/// The CPU's way: W (N, K) on the host becomes what it is quantized to, in the coordinates of out.map.
void quantize_on_host(const MethodSpec& method, const std::vector<TransformSpec>& transforms,
                      const TransformFit& fit, MatrixView<float> W, SiteStats* stats, QuantizedWeights& out) {
  out.map = fit_transforms(transforms, fit, W, stats);
  if (!fit.weights) return;
  if (method.rounding.kind != Rounding::rtn && method.rounding.order == Rounding::dynamic_activation)
    order_by_diagonal(W, *stats, out.map);
  out.q = quantize_weights(method, *fit.weights, W, stats, out.report);
  dequantize(*out.q, W);
}

}  // namespace

QuantizedWeights quantize_site(Ops& ops, const MethodSpec& method, const SitePlace& place,
                               const FormatSpec* weights, const FormatSpec* activations, Array W,
                               SiteStats* stats) {
  QuantizedWeights out;
  FP4LAB_CHECK(stats || !needs_of(method, place.kind, weights).any(), "no statistics");
  out.W = std::move(W);
  if (!weights && !activations) return out;
  const std::vector<TransformSpec>& transforms = method.transform[size_t(place.kind)];
  const TransformFit fit = fit_for(place, weights, activations, out.W.cols());
  const bool fitted = needs_of(transforms).any();
  if (!ops.on_host() && weights) out.report.on_cpu = left_to_cpu(method, transforms, *weights);
  if (ops.on_host()) {
    if (stats) stats->to_host(ops);
    quantize_on_host(method, transforms, fit, out.W.view(), stats, out);
  } else if (fitted || !out.report.on_cpu.empty()) {
    if (stats) stats->to_host(ops);
    Matrix host = host_copy(ops, out.W);
    quantize_on_host(method, transforms, fit, host, stats, out);
    ops.upload(host, out.W.view());
  } else {
    quantize_on_gpu(ops, method, transforms, fit, stats, out);
  }
  if (out.q) out.digest = out.q->digest();
  return out;
}

}  // namespace fp4lab
