// The task `layer`: quantizes sites of a model, each by itself, and says how far their outputs are from those
// in full precision. Statistics and inputs are the original model's, gathered once for all cells.
#include <algorithm>
#include <cmath>
#include <nlohmann/json.hpp>

#include "core/hash.h"
#include "experiments/model/calibration_walk.h"
#include "experiments/model/statistics_store.h"
#include "experiments/sources/file_source.h"
#include "experiments/tasks/kept_codes.h"
#include "experiments/tasks/machine.h"
#include "experiments/tasks/site_reports.h"
#include "experiments/tasks/tasks.h"
#include "formats/quantize.h"
#include "kernels/cpu/gemm.h"

namespace fp4lab {

namespace {

/// Squared norms of errors and of what they are errors of.
struct Ratio {
  double error = 0, energy = 0;
  double value() const { return energy > 0 ? error / energy : std::nan(""); }
  Ratio& operator+=(const Ratio& o) {
    error += o.error, energy += o.energy;
    return *this;
  }
};

/// Rows [begin, begin + count) of W: sum over rows of d H d^T and w H w^T, d = w^ - w, all in the original
/// coordinates. H is given whole, in float32 and in units of its own.
Ratio hessian_error(MatrixView<const float> W, MatrixView<const float> W_hat, const Matrix& H) {
  Matrix D(W.rows, W.cols), DH(W.rows, W.cols), WH(W.rows, W.cols);
  for (int64_t r = 0; r < W.rows; ++r)
    for (int64_t c = 0; c < W.cols; ++c) D(r, c) = W_hat(r, c) - W(r, c);
  gemm(D, H, DH);
  gemm(W, H, WH);
  Ratio sum;
  for (int64_t r = 0; r < W.rows; ++r)
    for (int64_t c = 0; c < W.cols; ++c) {
      sum.error += double(DH(r, c)) * double(D(r, c));
      sum.energy += double(WH(r, c)) * double(W(r, c));
    }
  return sum;
}

Matrix whole_hessian(const MatrixD& H) {
  double trace = 0;
  for (int64_t i = 0; i < H.rows(); ++i) trace += H(i, i);
  const double unit = trace > 0 ? double(H.rows()) / trace : 1;
  Matrix out(H.rows(), H.rows());
  for (int64_t i = 0; i < H.rows(); ++i)
    for (int64_t j = i; j < H.rows(); ++j) out(i, j) = out(j, i) = float(H(i, j) * unit);
  return out;
}

Matrix on_host(Ops& ops, const Array& a) {
  Matrix out(a.rows(), a.cols());
  ops.download(a.view(), out);
  return out;
}

/// X W^T in full precision, and as the quantized layer computes it.
struct Outputs {
  Matrix full, quantized;
};
Outputs outputs_of(Ops& ops, const Matrix& X, const Matrix& W, const QuantizedWeights& q,
                   const std::optional<FormatSpec>& activations) {
  const Array x = ops.adopt(X.clone()), y = ops.allocate(X.rows(), W.rows());
  ops.gemm(x.view(), ops.borrow(W).view(), y.view(), false);
  Outputs out{on_host(ops, y), {}};
  ops.map_activations(q.map, x.view());
  if (activations) ops.fake_quantize(*activations, x.view(), X.rows(), x.view());
  ops.gemm(x.view(), q.W.view(), y.view(), false);
  out.quantized = on_host(ops, y);
  return out;
}

Matrix original_coordinates(Ops& ops, const QuantizedWeights& q) {
  const Array W = ops.allocate(q.W.rows(), q.W.cols());
  ops.copy(q.W.view(), W.view());
  ops.unmap_weights(q.map, W.view());
  return on_host(ops, W);
}

class LayerTask : public CellTask {
 public:
  LayerTask(Params& p, const TaskContext& context) {
    const auto seed = uint64_t(
        p.integer("seed", 1, {"of calibration windows, the sample of inputs and random signs", 0, 0x1p53}));
    const Json& model = p.raw("model", {"{\"path\": checkpoint folder}"});
    const Json& calibration =
        p.raw("calibration", {"{\"corpus\": token file, \"windows\": n, \"length\": L, \"sample\": random or "
                              "first}"});
    const std::vector<std::string> patterns =
        p.texts("sites", {"*"}, {"patterns of sites: layers.3.qkv, layers.*.o, *.gate_up, *.down"});
    const std::vector<std::string> keep =
        p.texts("keep", {}, {"\"codes\": codes and scales of every site are stored too"}, true);
    machine_ = read_machine(p);
    if (p.is_declaring()) {
      read_model_plan(p, nullptr, 0);
      return;
    }
    if (!machine_.cuda)
      p.drop_resolved("device"), p.drop_resolved("compute");  // as keys were before there were GPUs
    for (const std::string& k : keep)
      if (k != "codes") p.fail("keep", str("unknown thing to keep \"", k, "\"; known: codes"));
    keep_codes_ = !keep.empty();
    if (model.is_null()) p.fail("model", "missing key \"model\": {\"path\": checkpoint folder}");
    if (calibration.is_null()) p.fail("calibration", "missing key \"calibration\": {\"corpus\": token file}");
    const SourceContext where{context.base_dir, seed, context.content_hash};
    Json resolved_model;
    model_ = context.models->model(model, p.place("model"), where, resolved_model);
    const ModelConfig& config = model_->weights->config();
    plan_ = read_model_plan(p, &config, seed, model_->stored);
    p.done();
    if (plan_.method.rotation.kind != RotationSpec::none)
      p.fail("method", "it rotates the whole model; a layer alone has no residual stream: task model");
    if (needs_of(plan_).cross)
      p.fail("method",
             "it compares a quantized model's inputs with the original's; a layer alone has only "
             "these: task model");
    plan_.method.hessian_inputs = HessianInputs::full_precision;
    read_sites(p, patterns);
    ChosenWindows windows =
        read_calibration(calibration, p.place("calibration"), where, *context.models, config);

    Json names = Json::array();
    for (const auto& [layer, kind] : sites_) names.push_back(site_name(layer, kind));
    p.set_resolved("sites", names);
    p.set_resolved("keep", keep_codes_);
    p.set_resolved("model", resolved_model);
    p.set_resolved("method", method_json(plan_.method));
    p.set_resolved("calibration", Json::parse(windows.resolved));
    statistics_.emplace(context.cache_dir, model_, std::move(windows), true, true, kMethodSample, seed,
                        context.spill, arithmetic(machine_));
  }

  Record run() override;

  Estimate estimate() const override {
    const ModelConfig& c = model_->weights->config();
    const Source::Cost gather = statistics_->gather_cost(sites_);
    double seconds = gather.seconds, most = 0;
    for (const auto& [layer, kind] : sites_) {
      double N = 0;
      const auto K = double(linear_shape(c, linears_of(kind)[0])[1]);
      for (const Linear l : linears_of(kind)) N += double(linear_shape(c, l)[0]);
      // Rounding, the two quadratic forms, two products with the sample, the Cholesky.
      seconds += (2.5 * N * K * K + 2 * N * K * double(kMethodSample) + 3 * K * K * K) * 2 / kNominalRate;
      most = std::max(most, 24 * N * K + 28 * K * K);
    }
    return {seconds, std::max(gather.bytes, most)};
  }

 private:
  void read_sites(const Params& p, const std::vector<std::string>& patterns) {
    const ModelConfig& config = model_->weights->config();
    std::vector<bool> matched(patterns.size());
    for (int64_t layer = 0; layer < config.layers; ++layer)
      for (int s = 0; s < kSites; ++s) {
        bool wanted = false;
        for (size_t i = 0; i < patterns.size(); ++i)
          if (pattern_matches(patterns[i], site_name(layer, SiteKind(s)))) wanted = matched[i] = true;
        if (wanted) sites_.push_back({layer, SiteKind(s)});
      }
    for (size_t i = 0; i < patterns.size(); ++i)
      if (!matched[i])
        p.fail("sites", str("no site of the model matches \"", patterns[i],
                            "\"; they are layers.0.qkv, "
                            "layers.0.o, layers.0.gate_up, layers.0.down, ..."));
  }

  struct Measured {
    std::vector<std::string> linears;
    std::vector<Ratio> outputs, weights;  // by linear
    std::vector<PartReport> reports;
  };
  Measured measure(Ops& ops, const StatisticsStore::Site& site, Sha256& digest, Record& record);

  std::shared_ptr<const SharedModel> model_;
  ModelPlan plan_;
  std::vector<StatisticsStore::Site> sites_;
  std::optional<StatisticsStore> statistics_;
  bool keep_codes_ = false;
  Machine machine_;
};

LayerTask::Measured LayerTask::measure(Ops& ops, const StatisticsStore::Site& site, Sha256& digest,
                                       Record& record) {
  const auto [layer, kind] = site;
  const ModelWeights& checkpoint = *model_->weights;
  const SiteStats stats = statistics_->gathered(ops, sites_, site, check_interrupt);
  const Matrix H = whole_hessian(stats.H);
  Measured out;
  for (const PartPlan& part : parts_of(plan_, layer, kind)) {
    check_interrupt();
    const Matrix W = checkpoint.load(layer, part.linears);
    SiteStats own = stats.clone();
    const QuantizedWeights q = make_part(ops, plan_, checkpoint, layer, kind, part, &own);
    const std::string first = linear_name(layer, part.linears[0]);
    digest.update(first).update(q.digest);
    if (part.formats.weights) out.reports.push_back({first, q.report});
    if (keep_codes_ && q.q) keep_codes(record, first, *q.q);

    const auto [Y, Y_hat] = outputs_of(ops, stats.sample, W, q, part.formats.activations);
    const Matrix W_hat = original_coordinates(ops, q);
    int64_t row = 0;
    for (const Linear l : part.linears) {
      const int64_t count = checkpoint.shape(l)[0];
      Ratio outputs;
      for (int64_t t = 0; t < Y.rows(); ++t)
        for (int64_t c = row; c < row + count; ++c) {
          const double y = double(Y(t, c)), d = double(Y_hat(t, c)) - y;
          outputs.error += d * d, outputs.energy += y * y;
        }
      out.linears.push_back(linear_name(layer, l));
      out.outputs.push_back(outputs);
      out.weights.push_back(
          hessian_error(W.view().middle_rows(row, count), W_hat.view().middle_rows(row, count), H));
      row += count;
    }
  }
  return out;
}

Record LayerTask::run() {
  const std::unique_ptr<Ops> ops = make_ops(machine_);
  Record record;
  Sha256 digest;
  Ratio outputs, weights;
  std::vector<std::string> names;
  std::vector<double> by_output, by_weight;
  std::vector<PartReport> reports;
  double output_mean = 0;
  for (const StatisticsStore::Site& site : sites_) {
    check_interrupt();
    Measured m = measure(*ops, site, digest, record);
    for (size_t i = 0; i < m.linears.size(); ++i) {
      names.push_back(m.linears[i]);
      by_output.push_back(m.outputs[i].value()), by_weight.push_back(m.weights[i].value());
      outputs += m.outputs[i], weights += m.weights[i];
      output_mean += m.outputs[i].value();
    }
    reports.insert(reports.end(), m.reports.begin(), m.reports.end());
  }
  const Meaning output{"1", "||X W^T - X^ W^^T||^2 / ||X W^T||^2 over a sample of calibration tokens"};
  const Meaning weight{"1", "tr((W - W^) H (W - W^)^T) / tr(W H W^T), original coordinates, undamped H"};
  record.scalars.push_back({"output_mse_rel", outputs.value(), output});
  record.scalars.push_back({"output_mse_rel_mean",
                            output_mean / double(names.size()),
                            {"1", "mean over linears of output_mse_rel"}});
  record.scalars.push_back({"weight_output_mse_rel", weights.value(), weight});
  add_site_reports(record, reports);
  const auto count = int64_t(names.size());
  record.arrays.push_back({"linears/output_mse_rel", std::move(by_output), {count}, "(linears)", output});
  record.arrays.push_back(
      {"linears/weight_output_mse_rel", std::move(by_weight), {count}, "(linears)", weight});
  record.text_arrays.push_back({"linears/name", std::move(names), "(linears)"});
  record.texts.push_back({"digest", digest.hex()});
  return record;
}

std::vector<std::string> layer_metrics() {
  std::vector<std::string> names = {"output_mse_rel", "output_mse_rel_mean", "weight_output_mse_rel"};
  for (const std::string& name : site_report_metrics()) names.push_back(name);
  return names;
}

}  // namespace

TaskKind layer_task() {
  return {"layer",
          "how far the outputs of quantized layers are, one by one, from those in full precision",
          [](Params& p, const TaskContext& c) -> std::unique_ptr<CellTask> {
            return std::make_unique<LayerTask>(p, c);
          },
          &layer_metrics,
          {"output_mse_rel", "output_mse_rel_mean", "weight_output_mse_rel", "condition_max", "fallbacks"}};
}

}  // namespace fp4lab
