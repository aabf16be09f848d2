// The task `distribution`: which distribution the values of a source's tensors follow, native or under a
// transform. One cell is one transform: its scalars are about the values of all tensors together, its arrays
// tensor.* about each.
//   normalize  "tensor" (default): each tensor is divided by its rms first, so that a pooled fit sees shapes,
//              not scales; "none": as they are
//   fits       of greatest likelihood in every parameter, the location too (the Laplace's is the median).
//              Families are compared by log-likelihood per value and by AIC, which counts 2 parameters for
//              normal, laplace and logistic, 3 for student_t and generalized_gaussian
//   ks, ks_p   the distance of all values; a p-value needs fewer, since with millions no family survives:
//              it is of ks_subsample values drawn by the seed. They were part of what was fitted, so it errs
//              to the large side, noticeably only when they are most of the values
//   histogram  `bins` equal bins over mean +- range std; densities are shares of all values per width, so
//              what lies outside is missing from their integral
// A tensor whose values are all the same (all zero, say), or within 1/256 of their mean, fails the cell with
// a DataError that names it. Where one value makes up a quarter of the values or more (sparse tensors),
// student_t and generalized_gaussian have no fit: their numbers are NaN, and best_fit is one of the others.
#include <cmath>
#include <limits>
#include <nlohmann/json.hpp>

#include "analysis/distribution_fits.h"
#include "experiments/tasks/tasks.h"
#include "experiments/tasks/tensor_input.h"

namespace fp4lab {

namespace {

/// A number that a record has of all values and, some of them, of each tensor.
struct Summary {
  std::string_view name, units, source_equation;  // units "x": those of the values
  double (*value)(const Moments& m, const CrestSum& crest);
  bool per_tensor;
};
const std::vector<Summary>& summaries() {
  static const std::vector<Summary> all = {
      {"samples", "1", "n", [](const Moments& m, const CrestSum&) { return m.n; }, false},
      {"mean", "x", "mean(x)", [](const Moments& m, const CrestSum&) { return m.mean; }, false},
      {"std", "x", "sqrt(mean((x-mean)^2))", [](const Moments& m, const CrestSum&) { return m.std(); },
       false},
      {"skewness", "1", "mean((x-mean)^3) / std^3",
       [](const Moments& m, const CrestSum&) { return m.skewness(); }, false},
      {"excess_kurtosis", "1", "mean((x-mean)^4) / std^4 - 3",
       [](const Moments& m, const CrestSum&) { return m.excess_kurtosis(); }, true},
      {"crest_factor", "1", "mean_g max|x| / rms(x)",
       [](const Moments&, const CrestSum& c) { return c.mean(); }, true}};
  return all;
}

constexpr double kNone = std::numeric_limits<double>::quiet_NaN();
constexpr std::string_view kLogLikelihood = "mean ln p(x) at the parameters of greatest likelihood";

std::string column(const Family& f, std::string_view what) { return str(f.name, "_", what); }

class Distribution : public CellTask {
 public:
  Distribution(Params& p, const TaskContext& context) : input_(p) {
    const Json& transform =
        p.raw("transform", {"change of coordinates that needs no data: null, a name, an object with \"type\" "
                            "(fp4lab list transforms), a list, or an object by site"});
    group_size_ = p.integer("group_size", 32,
                            {"elements of a group: of the crest factor, and the k of a transform", 2, 4096});
    const std::string normalize = p.choice("normalize", "tensor", {"tensor", "none"},
                                           {"what each tensor is divided by: its rms, or nothing"});
    subsample_ =
        p.integer("ks_subsample", 2000, {"values that a p-value is of, drawn by the seed", 10, 1000000});
    bins_ = p.integer("bins", 200, {"of the histogram", 1, 100000});
    range_ = p.number("range", 8,
                      {"of the histogram, to either side of the mean, in standard deviations", 0.1, 1e6});
    p.choice("device", "cpu", {"cpu"}, {"where it runs"});
    if (p.is_declaring()) return;
    p.done();
    normalized_ = normalize == "tensor";
    input_.require(p);
    input_.open(p, context);
    transforms_ = read_transform(p, transform);
    bool draws = false;
    for (size_t i = 0; i < input_.tensors().size(); ++i) {
      const SourceTensor& t = input_.tensors()[i];
      if (t.cols % group_size_ != 0)
        p.fail("group_size", str("tensor ", t.name, " is (", t.rows, ", ", t.cols, "): ", group_size_,
                                 " does not divide its columns"));
      check_tensor_transforms(p, "transform", transforms_, t, fit_of(i));
      for (const TransformSpec& spec : transforms_of(transforms_, t))
        draws = draws || draws_random_numbers(spec);
      values_ += t.rows * t.cols;
    }
    input_.resolve(p, draws || subsample_ < values_);
  }

  Record run() override;

  Estimate estimate() const override {
    double largest = 0;
    for (const SourceTensor& t : input_.tensors())
      largest = std::max(largest, double(t.rows) * double(t.cols));
    // Measured on one core: 25 ns per value, and 40 ms for the fits of a tensor, which do not grow with it.
    const Source::Cost source = input_.source().cost();
    return {source.seconds + double(values_) * 25e-9 + double(input_.tensors().size() + 1) * 40e-3,
            std::max(source.bytes, largest * 4 + 64e6)};
  }

 private:
  /// Of one tensor, or of all.
  struct Gathered {
    BinnedSample sample;
    Moments moments;
    CrestSum crest;
  };
  struct PerTensor {
    Moments moments;
    CrestSum crest;
    FamilyFits fits;
  };

  TransformFit fit_of(size_t i) const {
    return fit_of_tensor(input_.tensors()[i], i, input_.seed(), int(group_size_), nullptr);
  }
  /// Normalizes the values of tensor i in place.
  Gathered gather(size_t i, std::span<float> values, int64_t cols) const;
  void add_fits(Record& record, const Gathered& all, const std::vector<float>& subsample) const;
  void add_tensors(Record& record, const std::vector<PerTensor>& each) const;

  std::string units(std::string_view own) const {
    return own == "x" && normalized_ ? "rms of the tensor" : std::string(own);
  }
  Meaning meaning(const auto& of) const { return {units(of.units), std::string(of.source_equation)}; }

  TensorInput input_;
  SiteTransforms transforms_;
  int64_t group_size_ = 32, subsample_ = 2000, bins_ = 200, values_ = 0;
  double range_ = 8;
  bool normalized_ = true;
};

Distribution::Gathered Distribution::gather(size_t i, std::span<float> values, int64_t cols) const {
  Gathered g;
  g.crest = crest_factors({values.data(), int64_t(values.size()) / cols, cols, cols}, group_size_);
  double energy = 0;
  for (const float v : values) energy += double(v) * double(v);
  if (normalized_ && energy > 0) {
    const double inverse = 1 / std::sqrt(energy / double(values.size()));
    for (float& v : values) v = float(double(v) * inverse);
  }
  g.moments = moments_of(values);
  if (const auto problem = fit_problem(g.moments))
    throw DataError(str("tensor ", input_.tensors()[i].name, " has no distribution to fit: ", *problem));
  g.sample.add(values);
  return g;
}

Record Distribution::run() {
  // Tensors are fitted some at a time, so that threads share the work and few are held.
  constexpr size_t kTogether = 16;
  const std::vector<int64_t> positions = draw_positions(input_.seed(), values_, subsample_);
  std::vector<float> subsample;
  Gathered all;
  std::vector<PerTensor> each;
  std::vector<SampleToFit> waiting;
  int64_t first = 0;  // the tensor's first value among all
  const size_t n = input_.tensors().size();
  for (size_t i = 0; i < n; ++i) {
    check_interrupt();
    Matrix x =
        load_transformed(input_.source(), i, transforms_of(transforms_, input_.tensors()[i]), fit_of(i));
    const Gathered g = gather(i, {x.data(), size_t(x.size())}, x.cols());
    for (; subsample.size() < positions.size() && positions[subsample.size()] < first + x.size();)
      subsample.push_back(x.data()[positions[subsample.size()] - first]);
    first += x.size();
    all.sample.add(g.sample), all.moments += g.moments, all.crest += g.crest;
    each.push_back({g.moments, g.crest, {}});
    waiting.push_back({g.sample.bins(), g.moments});
    if (waiting.size() < kTogether && i + 1 < n) continue;
    std::vector<FamilyFits> fits = fit_families(waiting);
    for (size_t k = 0; k < fits.size(); ++k) each[i + 1 - fits.size() + k].fits = std::move(fits[k]);
    waiting.clear();
  }
  Record record;
  for (const Summary& s : summaries())
    record.scalars.push_back({std::string(s.name), s.value(all.moments, all.crest), meaning(s)});
  add_fits(record, all, subsample);
  add_tensors(record, each);
  return record;
}

void Distribution::add_fits(Record& record, const Gathered& all, const std::vector<float>& subsample) const {
  const std::vector<SampleToFit> pooled = {{all.sample.bins(), all.moments}};
  const std::vector<BinnedSample::Bin>& bins = pooled[0].bins;
  const FamilyFits fits = fit_families(pooled)[0];
  const double low = all.moments.mean - range_ * all.moments.std();
  const double high = all.moments.mean + range_ * all.moments.std(), width = (high - low) / double(bins_);
  const Meaning density{str("1 / (", units("x"), ")"), "count / (n width)"};

  std::vector<double> edges, counts = histogram(bins, low, high, bins_);
  for (int64_t b = 0; b <= bins_; ++b) edges.push_back(low + (high - low) * double(b) / double(bins_));
  for (double& c : counts) c /= all.moments.n * width;
  record.arrays.push_back(
      {"histogram.edges", edges, {bins_ + 1}, "(bins + 1)", {units("x"), "mean + range std"}});
  record.arrays.push_back({"histogram.density", std::move(counts), {bins_}, "(bins)", density});

  for (size_t f = 0; f < fits.size(); ++f) {
    const Family& family = families()[f];
    const FitParameters& p = fits[f].parameters;
    double distance = kNone, p_value = kNone;
    std::vector<double> fitted(static_cast<size_t>(bins_), kNone);
    if (!std::isnan(p[0])) {
      const auto cdf = family.cdf(p);
      distance = ks_distance(bins, cdf);
      p_value = ks_p_value(ks_distance(subsample, cdf), double(subsample.size()));
      const auto log_density = family.log_density(p);
      for (size_t b = 0; b < fitted.size(); ++b)
        fitted[b] = std::exp(log_density((edges[b] + edges[b + 1]) / 2));
    }
    record.scalars.push_back(
        {column(family, "loglik"), fits[f].log_likelihood, {"nats", std::string(kLogLikelihood)}});
    record.scalars.push_back({column(family, "aic"), fits[f].aic, {"nats", "2 parameters - 2 n loglik"}});
    record.scalars.push_back({column(family, "ks"), distance, {"1", "sup |F_n - F|"}});
    record.scalars.push_back(
        {column(family, "ks_p"), p_value, {"1", "P(D >= sup |F_m - F|), m values drawn by the seed"}});
    for (size_t k = 0; k < family.parameters.size(); ++k)
      record.scalars.push_back(
          {column(family, family.parameters[k].name), p[k], meaning(family.parameters[k])});
    record.arrays.push_back({str("fit.", family.name),
                             std::move(fitted),
                             {bins_},
                             "(bins)",
                             {density.units, std::string(family.density)}});
  }
  record.texts.push_back({"best_fit", std::string(families()[best_family(fits)].name)});
}

void Distribution::add_tensors(Record& record, const std::vector<PerTensor>& each) const {
  const int64_t n = int64_t(each.size());
  const auto add = [&](const std::string& name, const Meaning& what, const auto& value) {
    std::vector<double> values;
    for (const PerTensor& t : each) values.push_back(value(t));
    record.arrays.push_back({"tensor." + name, std::move(values), {n}, "(tensors)", what});
  };
  std::vector<std::string> names, best;
  for (const SourceTensor& t : input_.tensors()) names.push_back(t.name);
  for (const PerTensor& t : each) best.emplace_back(families()[best_family(t.fits)].name);
  record.text_arrays.push_back({"tensor.name", std::move(names), "(tensors)"});
  record.text_arrays.push_back({"tensor.best_fit", std::move(best), "(tensors)"});
  for (const Summary& s : summaries())
    if (s.per_tensor)
      add(std::string(s.name), meaning(s), [&](const PerTensor& t) { return s.value(t.moments, t.crest); });
  for (size_t f = 0; f < families().size(); ++f) {
    const Family& family = families()[f];
    add(column(family, "loglik"), {"nats", std::string(kLogLikelihood)},
        [&](const PerTensor& t) { return t.fits[f].log_likelihood; });
    for (size_t k = 0; k < family.parameters.size(); ++k)
      add(column(family, family.parameters[k].name), meaning(family.parameters[k]),
          [&](const PerTensor& t) { return t.fits[f].parameters[k]; });
  }
}

std::vector<std::string> distribution_metrics() {
  std::vector<std::string> names;
  for (const Summary& s : summaries()) names.emplace_back(s.name);
  for (const Family& f : families()) {
    for (const char* what : {"loglik", "aic", "ks", "ks_p"}) names.push_back(column(f, what));
    for (const FitParameter& parameter : f.parameters) names.push_back(column(f, parameter.name));
  }
  return names;
}

}  // namespace

TaskKind distribution_task() {
  return {"distribution",
          "which distribution values follow: moments, fits of five families",
          [](Params& p, const TaskContext& c) -> std::unique_ptr<CellTask> {
            return std::make_unique<Distribution>(p, c);
          },
          &distribution_metrics,
          {"excess_kurtosis", "crest_factor", "normal_ks", "laplace_ks", "student_t_nu", "student_t_ks",
           "generalized_gaussian_beta", "generalized_gaussian_ks", "logistic_ks"}};
}

}  // namespace fp4lab
