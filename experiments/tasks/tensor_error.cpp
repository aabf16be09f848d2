// The task `tensor_error`: quantize every tensor of a source in one format with one method, and say how far
// the result is from the original. One cell is one format over all tensors: its scalars are the metrics of
// all their groups and elements together, its arrays the same per tensor.
//   Under a transform a tensor X is quantized as X T. Errors are taken in the original coordinates, after the
//   way back; what is about the quantizer (dead zone, clipping, crest factor, scales, codes and their digest)
//   in the rotated ones.
#include <nlohmann/json.hpp>

#include "analysis/tensor_errors.h"
#include "core/hash.h"
#include "core/text.h"
#include "experiments/sources/file_source.h"
#include "experiments/tasks/kept_codes.h"
#include "experiments/tasks/machine.h"
#include "experiments/tasks/tasks.h"
#include "experiments/tasks/tensor_input.h"
#include "formats/registry.h"
#include "kernels/ops.h"
#include "methods/method.h"

namespace fp4lab {

namespace {

class TensorError : public CellTask {
 public:
  TensorError(Params& p, const TaskContext& context) : input_(p) {
    const Json& format = p.raw("format", {"a named format, or an object"});
    const Json& method = p.raw("method", {"a named method, or an object; default rtn"});
    const Json& overrides = p.raw("overrides", {"list of {\"match\": pattern, \"format\": format}: other "
                                                "formats for some tensors; the last match counts"});
    outlier_share_ =
        p.number("outlier_share", 0.001, {"share of the largest magnitudes that count as outliers", 1e-9, 1});
    machine_ = read_machine(p, false);
    const std::vector<std::string> keep =
        p.texts("keep", {"metrics"}, {"\"codes\": store codes and scales with the metrics"});
    if (p.is_declaring()) return;
    p.done();
    for (const std::string& k : keep) {
      if (k != "codes" && k != "metrics")
        p.fail("keep", unknown_name("thing to keep", k, std::vector<std::string>{"metrics", "codes"}));
      keep_codes_ = keep_codes_ || k == "codes";
    }
    input_.require(p);
    if (format.is_null()) p.fail("format", "missing key \"format\"");

    input_.open(p, context);
    const FormatSpec base = parse_format(format, p.place("format")).spec;
    if (!method.is_null()) method_ = parse_method(method, p.place("method")).spec;
    formats_.assign(input_.tensors().size(), base);
    p.set_resolved("overrides", read_overrides(overrides, p.place("overrides")));
    for (size_t i = 0; i < formats_.size(); ++i) check_tensor(p, i);

    input_.resolve(p, draws_signs());
    p.set_resolved("format", format_json(base));
    p.set_resolved("method", method_json(method_));
    p.set_resolved("keep", keep_codes_);
  }

  Record run() override;

  Estimate estimate() const override {
    double elements = 0, largest = 0, per_element = 20e-9;  // metrics: about 50 M elements/s on one core
    for (size_t i = 0; i < formats_.size(); ++i) {
      const SourceTensor& t = input_.tensors()[i];
      elements += double(t.rows) * double(t.cols);
      largest = std::max(largest, double(t.rows) * double(t.cols));
    }
    if (method_.weight_scales.kind == WeightScales::mse_shrink) per_element += 300e-9;
    if (method_.weight_scales.kind == WeightScales::alternate) per_element += 100e-9;
    if (transformed()) per_element += 20e-9;  // measured twice; the rotations are quick beside that
    for (const FormatSpec& f : formats_)
      if (f.rule.kind == ScaleRule::sweep || method_.weight_scales.kind == WeightScales::replace) {
        per_element += 15e-9;
        break;
      }
    // One tensor in float32 with its group amax and codes, under a transform also in the other coordinates;
    // kept codes of all tensors stay, and once more in the part's image.
    const Source::Cost source = input_.source().cost();
    const double own = largest * (transformed() ? 10 : 6) + (keep_codes_ ? elements * 2 : 0);
    return {source.seconds + elements * per_element, std::max(source.bytes, own)};
  }

 private:
  Json read_overrides(const Json& list, const Place& place) {
    Json resolved = Json::array();
    if (list.is_null()) return resolved;
    if (!list.is_array())
      throw ConfigError(place.text() + ": expected a list of {\"match\", \"format\"}, found " +
                        describe(list));
    for (size_t k = 0; k < list.size(); ++k) {
      Params p(list[k], place.child(k), "an override");
      const std::string match = p.text("match", {"pattern of tensor names"});
      const Json& value = p.raw("format", {"the format of these tensors"});
      p.done();
      const FormatSpec spec = parse_format(value, p.place("format")).spec;
      bool any = false;
      for (size_t i = 0; i < formats_.size(); ++i)
        if (pattern_matches(match, input_.tensors()[i].name)) formats_[i] = spec, any = true;
      if (!any) p.fail("match", "matches no tensor of the source");
      resolved.push_back({{"match", match}, {"format", format_json(spec)}});
    }
    return resolved;
  }

  void check_tensor(const Params& p, size_t i) const {
    const SourceTensor& t = input_.tensors()[i];
    const SiteKind site = site_of_tensor(t.name).value_or(SiteKind::qkv);
    if (needs_of(method_, site, &formats_[i]).any() || method_.rotation.kind != RotationSpec::none)
      p.fail("method",
             "it looks at a model's inputs or rotates the model; tensors alone have neither: task "
             "layer or model");
    for (const std::string& problem : {weight_scales_problem(method_.weight_scales, formats_[i])})
      if (!problem.empty()) p.fail("method", problem);
    if (const std::string problem = shape_problem(formats_[i], t.cols); !problem.empty())
      p.fail("format", str("tensor ", t.name, " is (", t.rows, ", ", t.cols, "): ", problem));
    check_tensor_transforms(p, "method", method_.transform, t, fit_of(i));
  }

  const std::vector<TransformSpec>& transforms_of(size_t i) const {
    return fp4lab::transforms_of(method_.transform, input_.tensors()[i]);
  }
  TransformFit fit_of(size_t i) const {
    return fit_of_tensor(input_.tensors()[i], i, input_.seed(), formats_[i].group_size, &formats_[i]);
  }
  bool transformed() const {
    for (size_t i = 0; i < formats_.size(); ++i)
      if (!transforms_of(i).empty()) return true;
    return false;
  }
  bool draws_signs() const {
    for (size_t i = 0; i < formats_.size(); ++i)
      for (const TransformSpec& transform : transforms_of(i))
        if (draws_random_numbers(transform)) return true;
    return false;
  }

  struct Measured {
    QuantizedMatrix quantized;  // of X T
    ErrorSums sums;
  };
  Measured measure(Ops& ops, size_t i) const;

  TensorInput input_;
  std::vector<FormatSpec> formats_;  // of each tensor
  MethodSpec method_;
  double outlier_share_ = 0.001;
  bool keep_codes_ = false;
  Machine machine_;
};

TensorError::Measured TensorError::measure(Ops& ops, size_t i) const {
  const FormatSpec& format = formats_[i];
  const Matrix x = input_.source().load(i);
  const LinearMap map = fit_transforms(transforms_of(i), fit_of(i));
  if (map.identity()) {
    QuantizedMatrix q = ops.quantize(format, ops.borrow(x).view(), method_.weight_scales);
    const ErrorSums sums = measure_errors(x, q, outlier_share_);
    return {std::move(q), sums};
  }
  const Array moved = ops.adopt(x.clone());
  ops.map_weights(map, moved.view());
  Matrix y(x.rows(), x.cols());
  ops.download(moved.view(), y);
  QuantizedMatrix q = [&] {
    try {
      return ops.quantize(format, moved.view(), method_.weight_scales);
    } catch (const DataError& e) {  // the source is finite, but sums of huge elements need not be
      throw DataError(str("tensor ", input_.tensors()[i].name, " after its transform: ", e.what()));
    }
  }();
  const ErrorSums rotated = measure_errors(y, q, outlier_share_);
  ops.dequantize(q, moved.view());
  ops.unmap_weights(map, moved.view());
  ops.download(moved.view(), y);
  ErrorSums sums = measure_errors(x, y, format, outlier_share_);
  sums.nonzero = rotated.nonzero, sums.dead = rotated.dead;
  sums.clipped = rotated.clipped, sums.overflowing_groups = rotated.overflowing_groups;
  sums.crest = rotated.crest, sums.crest_groups = rotated.crest_groups;
  sums.scale_histogram = rotated.scale_histogram;
  return {std::move(q), std::move(sums)};
}

Record TensorError::run() {
  const std::unique_ptr<Ops> ops = make_ops(machine_);
  Record record;
  ErrorSums total;
  const std::vector<ErrorMetric>& metrics = error_metrics();
  std::vector<std::vector<double>> per_tensor(metrics.size());
  std::vector<std::string> names;
  std::vector<double> rows, cols;
  Sha256 digest;
  for (size_t i = 0; i < formats_.size(); ++i) {
    check_interrupt();
    const SourceTensor& t = input_.tensors()[i];
    const auto [q, sums] = measure(*ops, i);
    for (size_t m = 0; m < metrics.size(); ++m) per_tensor[m].push_back(metrics[m].value(sums));
    total += sums;
    names.push_back(t.name), rows.push_back(double(t.rows)), cols.push_back(double(t.cols));
    digest.update(t.name).update(q.digest());
    if (keep_codes_) keep_codes(record, t.name, q);
  }
  for (size_t m = 0; m < metrics.size(); ++m) {
    const Meaning meaning{std::string(metrics[m].units), std::string(metrics[m].source_equation)};
    record.scalars.push_back({std::string(metrics[m].name), metrics[m].value(total), meaning});
    record.arrays.push_back({"per_tensor/" + std::string(metrics[m].name),
                             std::move(per_tensor[m]),
                             {int64_t(names.size())},
                             "(tensors)",
                             meaning});
  }
  record.scalars.push_back({"elements", double(total.elements), {"1", "number of elements"}});
  record.scalars.push_back({"tensors", double(names.size()), {"1", "number of tensors"}});
  record.texts.push_back({"digest", digest.hex()});
  record.text_arrays.push_back({"per_tensor/name", std::move(names), "(tensors)"});
  record.arrays.push_back(
      {"per_tensor/rows", std::move(rows), {int64_t(formats_.size())}, "(tensors)", {"1", "rows"}});
  record.arrays.push_back(
      {"per_tensor/cols", std::move(cols), {int64_t(formats_.size())}, "(tensors)", {"1", "columns"}});
  std::vector<double> histogram(total.scale_histogram.begin(), total.scale_histogram.end());
  const int64_t bins = int64_t(histogram.size());
  record.arrays.push_back({"scale_histogram",
                           std::move(histogram),
                           {bins},
                           "(bins): bin b counts floor(log2 s) = b - 160",
                           {"1", "groups by floor(log2 of the effective scale)"}});
  return record;
}

std::vector<std::string> tensor_error_metrics() {
  std::vector<std::string> names;
  for (const ErrorMetric& m : error_metrics()) names.emplace_back(m.name);
  names.insert(names.end(), {"elements", "tensors"});
  return names;
}

}  // namespace

TaskKind tensor_error_task() {
  return {"tensor_error",
          "how far quantized tensors are from the originals",
          [](Params& p, const TaskContext& c) -> std::unique_ptr<CellTask> {
            return std::make_unique<TensorError>(p, c);
          },
          &tensor_error_metrics,
          {"bits_per_element", "mse_rel", "mse_top_rel", "qsnr_db", "dead_zone_share", "clipped_share"}};
}

}  // namespace fp4lab
