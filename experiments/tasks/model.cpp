// The task `model`: replaces the linears of a language model by quantized ones and says what that did:
// perplexity, KL to the full-precision model, agreement of the most likely token.
#include <algorithm>
#include <cmath>
#include <nlohmann/json.hpp>

#include "analysis/language_model.h"
#include "experiments/model/method_cost.h"
#include "experiments/model/model_cell.h"
#include "experiments/model/quantized_model.h"
#include "experiments/model/statistics_store.h"
#include "experiments/tasks/machine.h"
#include "experiments/tasks/site_reports.h"
#include "experiments/tasks/tasks.h"

namespace fp4lab {

namespace {

struct Column {
  const char *name, *units, *equation;
  double (*value)(const CorpusScore&);
};
// clang-format off
const Column kColumns[] = {
    {"perplexity", "1", "exp(mean over predictions of -log p(token))", [](const CorpusScore& s) { return s.perplexity; }},
    {"perplexity_se", "1", "perplexity * sd(window means of -log p) / sqrt(windows)", [](const CorpusScore& s) { return s.perplexity_se; }},
    {"perplexity_full", "1", "perplexity of the model in full precision", [](const CorpusScore& s) { return s.perplexity_full; }},
    {"recovery_percent", "%", "100 perplexity_full / perplexity", [](const CorpusScore& s) { return s.recovery_percent; }},
    {"kl", "nats per token", "mean of sum p log(p / p'), p full precision", [](const CorpusScore& s) { return s.kl; }},
    {"kl_se", "nats per token", "sd(window means of kl) / sqrt(windows)", [](const CorpusScore& s) { return s.kl_se; }},
    {"kl_p99", "nats per token", "99th percentile of the tokens' kl, nearest rank", [](const CorpusScore& s) { return s.kl_p99; }},
    {"top1_agreement", "1", "share of predictions with argmax p = argmax p'", [](const CorpusScore& s) { return s.top1_agreement; }},
    {"top1_agreement_se", "1", "sd(window means of top1_agreement) / sqrt(windows)", [](const CorpusScore& s) { return s.top1_agreement_se; }},
};
struct WindowColumn {
  const char *name, *units, *equation;
  double (*value)(const WindowScore&);
};
const WindowColumn kWindowColumns[] = {
    {"nll_full", "nats per token", "mean of -log p(token) in full precision", [](const WindowScore& w) { return w.nll_full; }},
    {"nll", "nats per token", "mean of -log p(token)", [](const WindowScore& w) { return w.nll; }},
    {"kl", "nats per token", "mean of sum p log(p / p')", [](const WindowScore& w) { return w.kl; }},
    {"top1_agreement", "1", "share of predictions with equal argmax", [](const WindowScore& w) { return w.top1_agreement; }},
};
// clang-format on

/// Bits of all quantized weights over their number.
double weight_bits(const ModelPlan& plan, const ModelWeights& checkpoint) {
  double bits = 0, elements = 0;
  for (const auto& layer : plan.layers)
    for (int l = 0; l < kLinears; ++l) {
      const auto [out, in] = checkpoint.shape(Linear(l));
      const std::optional<FormatSpec>& f = layer[size_t(l)].weights;
      elements += double(out) * double(in);
      bits += double(out) * double(in) * (f ? bits_per_element(*f, in) : 16);
    }
  return bits / elements;
}

class ModelTask : public CellTask, public ModelCell {
 public:
  ModelTask(Params& p, const TaskContext& context) {
    const auto seed = uint64_t(p.integer("seed", 1, {"of calibration windows and random signs", 0, 0x1p53}));
    const Json& model = p.raw("model", {"{\"path\": checkpoint folder}"});
    const Json& evaluate =
        p.raw("evaluate", {"{\"corpora\": token files, \"windows\": n, \"length\": L, \"offset\": n}"});
    const Json& calibration =
        p.raw("calibration",
              {"{\"corpus\": token file, \"windows\": n, \"length\": L, \"sample\": random or first}: "
               "for what needs one, as GPTQ and static activation scales do"});
    machine_ = read_machine(p);
    if (p.is_declaring()) {
      read_model_plan(p, nullptr, 0);
      return;
    }
    if (model.is_null()) p.fail("model", "missing key \"model\": {\"path\": checkpoint folder}");
    if (evaluate.is_null()) p.fail("evaluate", "missing key \"evaluate\": {\"corpora\": token files}");
    const SourceContext where{context.base_dir, seed, context.content_hash};
    Json resolved_model;
    model_ = context.models->model(model, p.place("model"), where, resolved_model);
    const ModelConfig& config = model_->weights->config();
    plan_ = read_model_plan(p, &config, seed, model_->stored);
    p.done();

    for (ChosenWindows& w : read_evaluation(evaluate, p.place("evaluate"), where, *context.models, config))
      evaluation_.push_back(std::move(w));
    const StatsNeeds needs = needs_of(plan_);
    // A sample's rows are drawn too.
    bool random = plan_.draws_random_numbers() || needs.sample;
    if (!calibration.is_null()) {
      ChosenWindows chosen =
          read_calibration(calibration, p.place("calibration"), where, *context.models, config);
      if (plan_.static_activations || needs.any()) use_calibration(p, std::move(chosen), random);
    } else if (plan_.static_activations) {
      p.fail("activation_scale", "static scales need a \"calibration\": {\"corpus\": token file, ...}");
    } else if (needs.any()) {
      p.fail("method",
             "this method looks at the inputs of the linears and needs a \"calibration\": "
             "{\"corpus\": token file, ...}");
    }
    if (needs.any() && plan_.method.hessian_inputs == HessianInputs::full_precision) {
      if (plan_.method.rotation.kind != RotationSpec::none)
        p.fail("method", "a rotated model's inputs are not the original's: hessian_inputs quantized");
      const bool more = needs.hessian || needs.sample;
      statistics_.emplace(context.cache_dir, model_, *calibration_, more, more, more ? kMethodSample : 0,
                          seed, context.spill, arithmetic(machine_));
    }
    spill_ = context.spill;
    hidden_ = context.models->hidden();

    Json list = Json::array();
    for (const ChosenWindows& w : evaluation_) {
      list.push_back(Json::parse(w.resolved));
      if (evaluation_.size() > 1) list.back()["name"] = w.name;  // its columns carry it
    }
    p.set_resolved("model", resolved_model);
    p.set_resolved("evaluate", list);
    if (calibration_)
      p.set_resolved("calibration", Json::parse(calibration_->resolved));
    else
      p.drop_resolved("calibration");
    if (!random) p.drop_resolved("seed");
  }

  Record run() override;

  const SharedModel& model() const override { return *model_; }
  const ModelPlan& plan() const override { return plan_; }
  std::string make(const BlockMade& see) override {
    const std::unique_ptr<Ops> ops = make_ops(machine_);
    QuantizedModel model(*ops, *model_->weights, plan_, check_interrupt);
    model.on_block(see);
    model.run({}, evaluation_[0].tokens.length, calibration(*ops));
    return model.digest();
  }

  std::vector<std::string> extra_columns() const override {
    std::vector<std::string> names;
    if (evaluation_.size() > 1)
      for (const ChosenWindows& w : evaluation_)
        for (const Column& c : kColumns) names.push_back(str(c.name, "@", w.name));
    return names;
  }

  Estimate estimate() const override {
    const ModelConfig& c = model_->weights->config();
    const double length = double(evaluation_[0].tokens.length), tokens = double(token_count());
    const double head = double(c.vocab_size) * double(c.hidden_size);
    const WalkCost full = walk_cost(c, tokens, length);
    WalkCost cost = full;
    if (plan_.quantizes()) cost.seconds += full.seconds, cost.states += full.states;
    cost.seconds += 2 * 2 * tokens * head / kNominalRate;
    const MethodCost method = method_cost(plan_, c, calibration_ ? &calibration_->tokens : nullptr, spill_);
    // The walk goes on beside the evaluation; gathering from the original model is over before a block
    // begins.
    const Source::Cost gather = statistics_ ? statistics_->gather_cost(sites_of_interest()) : Source::Cost{};
    cost.seconds += method.seconds + gather.seconds;
    cost.states += method.states, cost.workspace += method.workspace;
    if (hidden_->holds(hidden_key())) cost.states -= full.states;  // it is not free memory any more
    // A quantized head or embedding is whole once in float32; otherwise the head comes in tiles.
    const double tables =
        plan_.head.weights || plan_.embedding ? head * 5 : 4096.0 * 4 * double(c.hidden_size);
    // A block of the original model is run beside the one that is watched, and gone when that is quantized.
    const double block = std::max(cost.block * (needs_of(plan_).cross ? 2 : 1.7) + method.site, gather.bytes);
    return {cost.seconds, cost.states + cost.workspace + std::max(block, tables) + 4096.0 * 4 * 2048};
  }

 private:
  int64_t token_count() const {
    int64_t n = 0;
    for (const ChosenWindows& w : evaluation_) n += int64_t(w.tokens.ids.size());
    return n;
  }

  /// What the full-precision hidden states are kept under.
  std::string hidden_key() const {
    Json windows = Json::array();
    for (const ChosenWindows& w : evaluation_) windows.push_back(w.resolved);
    return model_->hash + windows.dump() + arithmetic(machine_);
  }

  void use_calibration(const Params& p, ChosenWindows chosen, bool& random) {
    for (const ChosenWindows& w : evaluation_)
      if (w.hash == chosen.hash && overlap(w.tokens, chosen.tokens))
        p.fail("calibration",
               str("windows of the calibration and of the evaluation on \"", w.name, "\" overlap"));
    random = random || chosen.seeded;
    calibration_ = std::move(chosen);
  }

  /// Every site whose inputs the method looks at.
  std::vector<StatisticsStore::Site> sites_of_interest() const {
    std::vector<StatisticsStore::Site> sites;
    for (size_t layer = 0; layer < plan_.layers.size(); ++layer)
      for (int s = 0; s < kSites; ++s)
        if (needs_of(plan_, int64_t(layer), SiteKind(s)).any())
          sites.push_back({int64_t(layer), SiteKind(s)});
    return sites;
  }

  void add_corpus(Record& record, const ChosenWindows& corpus, const CorpusScore& score, bool first) const;

  Calibration calibration(Ops& ops) {
    Calibration out{calibration_ ? &calibration_->tokens : nullptr, {}, spill_};
    if (statistics_)
      out.full_precision = [&](int64_t layer, SiteKind site) {
        return statistics_->gathered(ops, sites_of_interest(), {layer, site}, check_interrupt);
      };
    return out;
  }

  Machine machine_;
  std::shared_ptr<const SharedModel> model_;
  ModelPlan plan_;
  std::vector<ChosenWindows> evaluation_;
  std::optional<ChosenWindows> calibration_;
  std::optional<StatisticsStore> statistics_;  // of the original model, where the method asks for them
  SpillPolicy spill_;
  std::shared_ptr<MatrixCache> hidden_;
};

void ModelTask::add_corpus(Record& record, const ChosenWindows& corpus, const CorpusScore& score,
                           bool first) const {
  // The first corpus has the plain names; with several, each has its own too.
  for (const Column& c : kColumns) {
    const Meaning meaning{c.units, c.equation};
    if (first) record.scalars.push_back({c.name, c.value(score), meaning});
    if (evaluation_.size() > 1)
      record.scalars.push_back({str(c.name, "@", corpus.name), c.value(score), meaning});
  }
  const auto windows = int64_t(score.windows.size());
  for (const WindowColumn& c : kWindowColumns) {
    std::vector<double> values;
    for (const WindowScore& w : score.windows) values.push_back(c.value(w));
    record.arrays.push_back({str("windows/", corpus.name, "/", c.name),
                             std::move(values),
                             {windows},
                             "(windows)",
                             {c.units, c.equation}});
  }
  record.arrays.push_back({str("windows/", corpus.name, "/start"),
                           std::vector<double>(corpus.tokens.starts.begin(), corpus.tokens.starts.end()),
                           {windows},
                           "(windows)",
                           {"tokens", "first token of the window in its file"}});
}

Record ModelTask::run() {
  const std::unique_ptr<Ops> ops = make_ops(machine_);
  const ModelWeights& checkpoint = *model_->weights;
  const int64_t length = evaluation_[0].tokens.length;
  std::vector<int32_t> ids, labels;
  for (const ChosenWindows& w : evaluation_) ids.insert(ids.end(), w.tokens.ids.begin(), w.tokens.ids.end());
  for (size_t t = 0; t < ids.size(); ++t) labels.push_back((t + 1) % size_t(length) ? ids[t + 1] : -1);

  const bool quantized = plan_.quantizes();
  const auto named = [&](const char* which, const auto& compute) {
    try {
      return compute();
    } catch (const DataError& e) {
      throw DataError(str(checkpoint.path(), ", ", which, ": ", e.what()));
    }
  };
  const std::shared_ptr<const Matrix> full = named("in full precision", [&] {
    return hidden_->get(
        hidden_key(), [&] { return full_precision_hidden(*ops, checkpoint, ids, length, check_interrupt); });
  });
  QuantizedModel model(*ops, checkpoint, plan_, check_interrupt);
  Matrix states;
  if (quantized) states = named("quantized", [&] { return model.run(ids, length, calibration(*ops)); });
  const Head head = quantized ? model.head() : full_precision_head(*ops, checkpoint);
  std::vector<TokenScores> scores(ids.size());
  named("scoring", [&] {
    score_tokens(*ops, checkpoint.config(), head, length, *full,
                 quantized ? states.view() : MatrixView<const float>{}, labels, scores, check_interrupt);
    return 0;
  });

  Record record;
  size_t begin = 0;
  for (const ChosenWindows& w : evaluation_) {
    const std::span<const TokenScores> own{scores.data() + begin, w.tokens.ids.size()};
    add_corpus(record, w, score_corpus(own, length, quantized), begin == 0);
    begin += own.size();
  }
  record.scalars.push_back(
      {"bits_per_weight",
       weight_bits(plan_, checkpoint),
       {"bits", "bits of the blocks' linears / their weights; 16 for those in full precision"}});
  record.scalars.push_back({"predictions",
                            double(evaluation_[0].tokens.windows * (length - 1)),
                            {"1", "windows (length - 1), first corpus"}});
  record.scalars.push_back(
      {"activation_saturated_share",
       model.inputs_seen() ? double(model.inputs_saturated()) / double(model.inputs_seen()) : std::nan(""),
       {"1", "share of evaluated inputs above what their static scale reaches"}});
  add_site_reports(record, model.reports());
  record.texts.push_back({"digest", quantized ? model.digest() : ""});
  return record;
}

std::vector<std::string> model_metrics() {
  std::vector<std::string> names;
  for (const Column& c : kColumns) names.emplace_back(c.name);
  names.insert(names.end(), {"bits_per_weight", "predictions", "activation_saturated_share"});
  for (const std::string& name : site_report_metrics()) names.push_back(name);
  return names;
}

}  // namespace

TaskKind model_task() {
  return {"model",
          "what quantized linears do to a language model: perplexity, KL, agreement",
          [](Params& p, const TaskContext& c) -> std::unique_ptr<CellTask> {
            return std::make_unique<ModelTask>(p, c);
          },
          &model_metrics,
          {"bits_per_weight", "perplexity", "perplexity_se", "recovery_percent", "kl", "top1_agreement"}};
}

}  // namespace fp4lab
