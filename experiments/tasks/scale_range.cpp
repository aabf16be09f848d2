// The task `scale_range`: where the scales of groups lie, against what each type of scale can hold
// (analysis/scale_ranges.h). One cell is one format and transform over all tensors of a source: of the format
// only the element and the group size count, since the scale of a group is max|x| / Qmax before any rounding.
//   shares     of the groups with energy; NaN without any
//   quantiles  of all tensors together to 2^-12 of the scale; the extremes are exact
//   two_level  a tensor scale per tensor puts its largest group at the type's largest value, as NVFP4's does
#include <cmath>
#include <limits>
#include <nlohmann/json.hpp>

#include "analysis/scale_ranges.h"
#include "experiments/tasks/tasks.h"
#include "experiments/tasks/tensor_input.h"
#include "formats/registry.h"

namespace fp4lab {

namespace {

struct Quantile {
  std::string_view name;
  double q;
  std::string_view equation;
};
constexpr Quantile kQuantiles[] = {{"min", 0, "min_g log2(max|x| / Qmax)"},
                                   {"max", 1, "max_g log2(max|x| / Qmax)"},
                                   {"median", 0.5, "median_g log2(max|x| / Qmax)"},
                                   {"p001", 0.001, "0.001 quantile of log2(max|x| / Qmax)"},
                                   {"p999", 0.999, "0.999 quantile of log2(max|x| / Qmax)"}};
constexpr size_t kPerTensor = 3;  // the first of them are kept for each tensor

struct Share {
  std::string_view name, equation;
  int64_t LostScales::*count;
};
constexpr Share kShares[] = {
    {"clipped_share", "#(s > largest) / #(s > 0)", &LostScales::clipped},
    {"underflow_share", "#(s rounds to 0, or is below a type without 0) / #(s > 0)", &LostScales::underflow},
    {"two_level_clipped_share", "#(s / s_T > largest) / #(s > 0)", &LostScales::two_level_clipped},
    {"two_level_underflow_share", "#(s / s_T rounds to 0, or is below a type without 0) / #(s > 0)",
     &LostScales::two_level_underflow}};

std::string column(const ScaleTypeRange& type, const Share& share) { return str(type.name, "_", share.name); }
std::string column(const Quantile& q) { return str("log2_scale_", q.name); }
Meaning octaves(std::string_view equation) { return {"octaves", std::string(equation)}; }

class ScaleRange : public CellTask {
 public:
  ScaleRange(Params& p, const TaskContext& context) : input_(p) {
    const Json& transform =
        p.raw("transform", {"change of coordinates that needs no data: null, a name, an object with \"type\" "
                            "(fp4lab list transforms), a list, or an object by site"});
    const Json& format = p.raw("format", {"a named format, or an object: its element and group size count"});
    p.choice("device", "cpu", {"cpu"}, {"where it runs"});
    if (p.is_declaring()) return;
    p.done();
    input_.require(p);
    if (format.is_null()) p.fail("format", "missing key \"format\"");
    input_.open(p, context);
    transforms_ = read_transform(p, transform);
    format_ = parse_format(format, p.place("format")).spec;
    if (format_.has_zero_points())
      p.fail("format",
             str("the element ", format_.element.name, " has zero points: its scale is not max|x| / Qmax"));
    bool draws = false;
    for (size_t i = 0; i < input_.tensors().size(); ++i) {
      const SourceTensor& t = input_.tensors()[i];
      if (const std::string problem = shape_problem(format_, t.cols); !problem.empty())
        p.fail("format", str("tensor ", t.name, " is (", t.rows, ", ", t.cols, "): ", problem));
      check_tensor_transforms(p, "transform", transforms_, t, fit_of(i));
      for (const TransformSpec& spec : transforms_of(transforms_, t))
        draws = draws || draws_random_numbers(spec);
    }
    input_.resolve(p, draws);
    // What the scales do not depend on is no part of the cell.
    p.set_resolved("format",
                   {{"element", std::string(format_.element.name)}, {"group_size", format_.group_size}});
  }

  Record run() override;

  Estimate estimate() const override {
    double elements = 0, largest = 0;
    for (const SourceTensor& t : input_.tensors()) {
      elements += double(t.rows) * double(t.cols);
      largest = std::max(largest, double(t.rows) * double(t.cols));
    }
    const Source::Cost source = input_.source().cost();
    return {source.seconds + elements * 10e-9, std::max(source.bytes, largest * 6 + 16e6)};
  }

 private:
  TransformFit fit_of(size_t i) const {
    return fit_of_tensor(input_.tensors()[i], i, input_.seed(), format_.group_size, &format_);
  }

  TensorInput input_;
  SiteTransforms transforms_;
  FormatSpec format_{};
};

Record ScaleRange::run() {
  const double q_max = double(format_.element.scale_max);
  ScaleRanges all;
  std::vector<std::string> names, types;
  std::vector<std::vector<double>> per_tensor(kPerTensor);
  for (size_t i = 0; i < input_.tensors().size(); ++i) {
    check_interrupt();
    const SourceTensor& t = input_.tensors()[i];
    const Matrix x = load_transformed(input_.source(), i, transforms_of(transforms_, t), fit_of(i));
    const ScaleRanges own = scale_ranges(x, format_.group(t.cols), q_max);
    names.push_back(t.name);
    for (size_t k = 0; k < kPerTensor; ++k)
      per_tensor[k].push_back(log2_scale_quantile(own.amax, q_max, kQuantiles[k].q));
    all += own;
  }

  Record record;
  for (const Quantile& q : kQuantiles)
    record.scalars.push_back({column(q), log2_scale_quantile(all.amax, q_max, q.q), octaves(q.equation)});
  record.scalars.push_back({"zero_groups_share",
                            double(all.zero_groups) / double(all.groups),
                            {"1", "#(groups with all x = 0) / #groups"}});
  record.scalars.push_back({"groups", double(all.groups), {"1", "number of groups"}});
  const double scales = double(all.groups - all.zero_groups);
  std::vector<double> log2_min, log2_max;
  for (size_t k = 0; k < scale_type_ranges().size(); ++k) {
    const ScaleTypeRange& type = scale_type_ranges()[k];
    for (const Share& share : kShares)
      record.scalars.push_back({column(type, share),
                                double(all.lost[k].*share.count) / scales,  // NaN: 0 / 0
                                {"1", std::string(share.equation)}});
    types.push_back(type.name), log2_min.push_back(type.log2_min), log2_max.push_back(type.log2_max);
  }

  const int64_t tensors = int64_t(names.size()), known = int64_t(types.size());
  Log2Histogram h = log2_histogram(all.amax, q_max);
  const int64_t bins = int64_t(h.counts.size());
  record.arrays.push_back(
      {"histogram.edges", std::move(h.edges), {bins + 1}, "(bins + 1)", octaves("log2(max|x| / Qmax)")});
  record.arrays.push_back(
      {"histogram.counts", std::move(h.counts), {bins}, "(bins)", {"1", "groups per bin"}});
  record.text_arrays.push_back({"scale_type.name", std::move(types), "(scale types)"});
  record.arrays.push_back({"scale_type.log2_min",
                           std::move(log2_min),
                           {known},
                           "(scale types)",
                           octaves("log2 of the smallest positive value")});
  record.arrays.push_back({"scale_type.log2_max",
                           std::move(log2_max),
                           {known},
                           "(scale types)",
                           octaves("log2 of the largest value")});
  record.text_arrays.push_back({"tensor.name", std::move(names), "(tensors)"});
  for (size_t k = 0; k < kPerTensor; ++k)
    record.arrays.push_back({"tensor." + column(kQuantiles[k]),
                             std::move(per_tensor[k]),
                             {tensors},
                             "(tensors)",
                             octaves(kQuantiles[k].equation)});
  return record;
}

std::vector<std::string> scale_range_metrics() {
  std::vector<std::string> names;
  for (const Quantile& q : kQuantiles) names.push_back(column(q));
  names.insert(names.end(), {"zero_groups_share", "groups"});
  for (const ScaleTypeRange& type : scale_type_ranges())
    for (const Share& share : kShares) names.push_back(column(type, share));
  return names;
}

}  // namespace

TaskKind scale_range_task() {
  return {"scale_range",
          "where group scales lie, against what each type of scale can hold",
          [](Params& p, const TaskContext& c) -> std::unique_ptr<CellTask> {
            return std::make_unique<ScaleRange>(p, c);
          },
          &scale_range_metrics,
          {"log2_scale_min", "log2_scale_median", "log2_scale_max", "e8m0_underflow_share",
           "e4m3_underflow_share", "e4m3_two_level_underflow_share", "e5m2_underflow_share"}};
}

}  // namespace fp4lab
