#include "experiments/tasks/site_reports.h"

#include <algorithm>
#include <cmath>

#include "core/text.h"

namespace fp4lab {

void add_site_reports(Record& record, const std::vector<PartReport>& reports) {
  SiteReport worst;
  double fallbacks = 0, dead = 0, loss = 0;
  std::vector<std::string> names;
  std::vector<double> damping, condition, fell_back, dead_channels, losses;
  for (const auto& [name, r] : reports) {
    worst.damping = std::max(worst.damping, r.damping),
    worst.condition = std::max(worst.condition, r.condition);
    fallbacks += r.fell_back, dead += double(r.dead_channels), loss += r.loss;
    names.push_back(name);
    damping.push_back(r.damping), condition.push_back(r.condition), fell_back.push_back(r.fell_back);
    dead_channels.push_back(double(r.dead_channels)), losses.push_back(r.loss);
  }
  const bool rounded = worst.damping > 0 || worst.condition > 0;
  const auto scalar = [&](const char* name, double value, const char* units, const char* equation) {
    record.scalars.push_back({name, rounded ? value : std::nan(""), {units, equation}});
  };
  // Of a cell on a GPU: what it left to the CPU, and why.
  std::string on_cpu;
  for (const auto& [name, r] : reports)
    if (!r.on_cpu.empty() && on_cpu.find(r.on_cpu) == std::string::npos)
      on_cpu += (on_cpu.empty() ? "" : "; ") + r.on_cpu;
  if (!on_cpu.empty()) record.texts.push_back({"on_cpu", "weights: " + on_cpu});
  scalar("damping_max", worst.damping, "1", "largest damping of any site, fraction of mean(diag H)");
  scalar("condition_max", worst.condition, "1", "largest estimated condition of any site's damped H, 1-norm");
  scalar("fallbacks", fallbacks, "1", "sites whose H was not positive definite: rounded to nearest");
  scalar("dead_channels", dead, "1", "inputs that were 0 for every calibration token, over all sites");
  scalar("gptq_loss", loss, "1", "sum over sites of tr((T - Q) H (T - Q)^T) per token, undamped H");
  if (!rounded) return;
  const auto sites = int64_t(names.size());
  const auto array = [&](const char* name, std::vector<double> values, const char* equation) {
    record.arrays.push_back({str("sites/", name), std::move(values), {sites}, "(sites)", {"1", equation}});
  };
  array("damping", std::move(damping), "fraction of mean(diag H)");
  array("condition", std::move(condition), "estimate for the damped H, 1-norm");
  array("fell_back", std::move(fell_back), "1: rounded to nearest");
  array("dead_channels", std::move(dead_channels), "inputs with H_ii = 0");
  array("gptq_loss", std::move(losses), "tr((T - Q) H (T - Q)^T) per token, undamped H");
  record.text_arrays.push_back({"sites/name", std::move(names), "(sites): the first linear of each"});
}

std::vector<std::string> site_report_metrics() {
  return {"damping_max", "condition_max", "fallbacks", "dead_channels", "gptq_loss"};
}

}  // namespace fp4lab
