// The `activations` source: what flows into a model's linears, in full precision.
#include <algorithm>
#include <nlohmann/json.hpp>

#include "experiments/model/statistics_store.h"
#include "experiments/sources/file_source.h"
#include "experiments/task.h"

namespace fp4lab {

namespace {

class ActivationSource : public Source {
 public:
  ActivationSource(StatisticsStore store, std::vector<StatisticsStore::Site> sites,
                   std::vector<SourceTensor> tensors)
      : store_(std::move(store)), sites_(std::move(sites)), tensors_(std::move(tensors)) {}
  const std::vector<SourceTensor>& tensors() const override { return tensors_; }
  Cost cost() const override { return store_.gather_cost(sites_); }
  Matrix load(size_t i) const override {
    // The first one to be loaded gathers all of them in one walk.
    return store_.gathered(*make_cpu_ops(), sites_, sites_.at(i), check_interrupt).sample;
  }

 private:
  StatisticsStore store_;
  std::vector<StatisticsStore::Site> sites_;
  std::vector<SourceTensor> tensors_;
};

}  // namespace

std::unique_ptr<Source> make_activation_source(Params& p, const SourceContext& context) {
  const std::vector<std::string> patterns = p.texts(
      "activations", {},
      {"patterns of linears whose inputs are captured, as layers.*.down_proj; linears that read the same "
       "input give one tensor, named after the first"});
  const int64_t rows =
      p.integer("rows", 4096, {"tokens kept of each input, chosen by the seed; 0: all", 0, 0x1p40});
  p.done();
  if (p.is_declaring()) return nullptr;
  if (!context.model)
    p.fail("activations", "captured inputs need the key \"model\": {\"path\": folder} in the sweep");
  if (!context.calibration)
    p.fail("activations",
           "captured inputs need the key \"calibration\": {\"corpus\": token file} in the sweep");
  FP4LAB_CHECK(context.models);
  Json resolved_model;
  const auto model = context.models->model(*context.model, context.model_place, context, resolved_model);
  const ModelConfig& config = model->weights->config();
  ChosenWindows windows =
      read_calibration(*context.calibration, context.calibration_place, context, *context.models, config);

  std::vector<StatisticsStore::Site> sites;
  std::vector<SourceTensor> tensors;
  std::vector<bool> matched(patterns.size());
  Json names = Json::array();
  for (int64_t layer = 0; layer < config.layers; ++layer)
    for (int l = 0; l < kLinears; ++l) {
      const std::string name = linear_name(layer, Linear(l));
      bool wanted = false;
      for (size_t i = 0; i < patterns.size(); ++i)
        if (pattern_matches(patterns[i], "model." + name + ".weight")) wanted = matched[i] = true;
      const StatisticsStore::Site site{layer, site_of(Linear(l))};
      if (!wanted || std::find(sites.begin(), sites.end(), site) != sites.end()) continue;
      sites.push_back(site);
      const std::string first = linear_name(layer, linears_of(site.second)[0]);
      tensors.push_back({first, 0, model->weights->shape(Linear(l))[1]});
      names.push_back(first);
    }
  for (size_t i = 0; i < patterns.size(); ++i)
    if (!matched[i]) p.fail("activations", "no linear of the model matches \"" + patterns[i] + "\"");
  if (patterns.empty()) p.fail("activations", "expected patterns of linears, as layers.*.down_proj");

  p.set_resolved("activations", names);
  p.set_resolved("model", resolved_model);
  p.set_resolved("calibration", Json::parse(windows.resolved));
  const bool all = rows == 0 || rows >= int64_t(windows.tokens.ids.size());
  StatisticsStore store(context.cache_dir, model, std::move(windows), false, true, rows, context.seed,
                        context.spill);
  for (SourceTensor& t : tensors) t.rows = store.sample_rows();
  p.set_resolved("rows", store.sample_rows());
  if (!all) p.set_resolved("seed", context.seed);
  return std::make_unique<ActivationSource>(std::move(store), std::move(sites), std::move(tensors));
}

}  // namespace fp4lab
