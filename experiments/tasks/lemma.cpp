// The task `lemma`: one lemma or remark of arXiv 2509.23202 as a numerical experiment. One cell is one
// question (which lemma, format, group size, distribution); its record is an estimate with its confidence
// interval, the prediction with its tolerance, and a verdict. The mathematics is in analysis/lemmas/.
#include <algorithm>
#include <cmath>
#include <nlohmann/json.hpp>

#include "analysis/lemmas/lemmas.h"
#include "analysis/lemmas/sampling.h"
#include "core/text.h"
#include "experiments/tasks/tasks.h"
#include "formats/registry.h"

namespace fp4lab {

namespace {

/// Every key that only some lemmas read.
constexpr std::string_view kSometimes[] = {
    "group_size",    "distribution",     "blocks",         "samples", "seed", "confidence", "hadamard",
    "outlier_share", "log_normal_sigma", "log_group_size", "energy",  "form", "exponent"};

class Lemma : public CellTask {
 public:
  explicit Lemma(Params& p) {
    const std::string name = p.choice("lemma", lemma_names(), {"which statement is tested"});
    entry_ = p.is_declaring() ? nullptr : find_lemma(name);
    const Json& format = p.raw("format", {"a named format, or an object"});
    read_keys(p);
    const bool has_tolerance = p.has("tolerance");
    const double tolerance =
        p.number("tolerance", 0,
                 {"how far estimate and prediction may be apart, absolute; default the lemma's own", 0});
    p.choice("device", "cpu", {"cpu"}, {"where it runs"});
    if (p.is_declaring()) return;
    p.done();
    if (format.is_null()) p.fail("format", "missing key \"format\"");
    if (has_tolerance)
      question_.tolerance = tolerance;
    else
      p.drop_resolved("tolerance");

    question_.format = parse_format(format, p.place("format")).spec;
    if (group_size_ > 0) question_.format.group_size = int(group_size_);
    if (question_.format.group_size == kWholeRow)
      p.fail("format", "a group is a whole row here: give a \"group_size\"");
    if (const std::string problem = format_problem(question_.format); !problem.empty())
      p.fail("format", problem);
    if (const std::string problem = entry_->problem(question_); !problem.empty())
      p.fail("format", str("lemma \"", name, "\": ", problem));
    // One way to write each cell: the group size is the format's.
    p.drop_resolved("group_size");
    FormatSpec resolved = question_.format;
    if (!reads("group_size")) resolved.group_size = find_format("mxfp4")->spec.group_size;  // not looked at
    p.set_resolved("format", format_json(resolved));
  }

  Record run() override;

  Estimate estimate() const override {
    return {entry_->seconds(question_), sampled() ? sampling_bytes(question_.format.group_size) : 1e6};
  }

 private:
  bool reads(std::string_view key) const {
    return entry_ == nullptr ||
           std::find(entry_->reads.begin(), entry_->reads.end(), key) != entry_->reads.end();
  }
  bool sampled() const { return reads("blocks") || reads("samples"); }

  void read_keys(Params& p) {
    if (entry_ != nullptr)
      for (const std::string_view key : kSometimes)
        if (p.has(key) && !reads(key)) {
          std::vector<std::string> known = {"lemma", "format", "tolerance", "device"};
          known.insert(known.end() - 2, entry_->reads.begin(), entry_->reads.end());
          p.fail(key,
                 str("lemma \"", entry_->name, "\" does not read \"", key, "\"; it reads: ", join(known)));
        }
    LemmaQuestion& q = question_;
    if (reads("group_size"))
      group_size_ = p.integer("group_size", 0, {"G, instead of the format's (0)", 0, 4096});
    if (group_size_ == 1) p.fail("group_size", "expected 0 or an integer in [2, 4096], found 1");
    if (reads("distribution"))
      q.shape = p.choice("distribution", "normal", {"normal", "laplace"}, {"of the elements"}) == "laplace"
                    ? Shape::laplace
                    : Shape::normal;
    if (reads("blocks")) q.groups = p.integer("blocks", 1 << 20, {"independent groups drawn", 100, 0x1p40});
    if (reads("samples"))
      q.samples =
          p.integer("samples", 1 << 22, {"elements drawn, per distribution and group size", 1e6, 0x1p40});
    if (reads("seed")) q.seed = uint64_t(p.integer("seed", 1, {"of everything drawn", 0, 0x1p53}));
    if (reads("confidence")) {
      q.confidence = p.number("confidence", 0.99, {"of the interval", 0.5, 0.999999});
    }
    if (reads("hadamard"))
      q.hadamard = p.integer("hadamard", 0, {"size of a rotation within the groups; 0: none", 0, 4096});
    if (reads("outlier_share"))
      q.outlier_share = p.number("outlier_share", 1e-3, {"p: how many elements are outliers", 1e-9, 0.5});
    if (reads("log_normal_sigma"))
      q.log_normal_sigma =
          p.number("log_normal_sigma", entry_ ? entry_->log_normal_sigma : 0,
                   {"each group times exp(sigma N(0, 1)); default .5 for lemma4, otherwise 0", 0, 5});
    if (reads("log_group_size"))
      q.log_group_size = p.number("log_group_size", 1e6, {"ln G where the rate is fitted", 100, 1e7});
    if (reads("energy"))
      q.energy = p.choice("energy", "retained", {"retained", "outside_dead_zone"},
                          {"1 - MSE under nearest rounding, or what the paper's proof counts"}) == "retained"
                     ? Energy::retained
                     : Energy::outside_dead_zone;
    if (reads("form"))
      q.form = p.choice("form", "derived", {"derived", "paper"},
                        {"the rate derived for this energy, or the paper's"}) == "paper"
                   ? Form::paper
                   : Form::derived;
    if (reads("exponent"))
      q.exponent = p.choice("exponent", "log_group_size", {"log_group_size", "group_size"},
                            {"p or kappa of (log G)^p G^-kappa"}) == "group_size"
                       ? Exponent::group_size
                       : Exponent::log_group_size;
  }

  const LemmaEntry* entry_ = nullptr;
  LemmaQuestion question_;
  int64_t group_size_ = 0;
};

Record Lemma::run() {
  check_interrupt();
  const LemmaAnswer a = entry_->answer(question_, [] { check_interrupt(); });
  Record record;
  const std::string confidence = str(100 * question_.confidence, " % confidence");
  const bool drawn = sampled();
  const auto scalar = [&](const char* name, double value, std::string units, std::string equation) {
    record.scalars.push_back({name, value, {std::move(units), std::move(equation)}});
  };
  scalar("estimate", a.interval.estimate, "1", "see the statement");
  scalar("ci_low", a.interval.low, "1", drawn ? "lower end, " + confidence : "lower end, by convergence");
  scalar("ci_high", a.interval.high, "1", drawn ? "upper end, " + confidence : "upper end, by convergence");
  scalar("prediction", a.prediction, "1", "see the statement");
  scalar("tolerance", a.tolerance, "1", "holds: the interval lies within prediction +- tolerance");
  scalar("deviation_percent",
         a.prediction != 0 ? 100 * (a.interval.estimate / a.prediction - 1) : std::nan(""), "%",
         "100 (estimate / prediction - 1)");
  scalar("samples", a.samples, "1", "elements drawn; 0: quadrature");
  for (const LemmaAnswer::Number& n : a.numbers)
    record.scalars.push_back({n.name, n.value, {n.units, n.equation}});
  record.texts = {{"statement", a.statement}, {"verdict", std::string(name_of(a.verdict))}, {"note", a.note}};
  for (const LemmaAnswer::Curve& c : a.curves) {
    const std::string family = c.name.substr(0, c.name.find('.'));
    record.arrays.push_back(
        {c.name, c.values, {int64_t(c.values.size())}, "(" + family + " points)", {c.units, c.equation}});
  }
  return record;
}

std::vector<std::string> lemma_metrics() {
  return {"estimate",
          "ci_low",
          "ci_high",
          "prediction",
          "tolerance",
          "deviation_percent",
          "samples",
          "verdict",
          "note",
          "shrinkage",
          "shrinkage_top",
          "mse_rel_tensor",
          "largest_ulps",
          "mse_top_rel_of_means",
          "kappa",
          "log_power",
          "delta",
          "outlier_mse_rel",
          "mse_top_rel",
          "outliers_per_group",
          "top_is_outlier_share"};
}

}  // namespace

TaskKind lemma_task() {
  return {
      "lemma",
      "a lemma or remark of arXiv 2509.23202: estimate, interval, prediction, verdict",
      [](Params& p, const TaskContext&) -> std::unique_ptr<CellTask> { return std::make_unique<Lemma>(p); },
      &lemma_metrics,
      {"estimate", "ci_low", "ci_high", "prediction", "tolerance", "verdict"}};
}

}  // namespace fp4lab
