// experiments/tasks/site_reports.h - what roundings did to each site, as a record has it.
#pragma once
#include <string>
#include <vector>

#include "experiments/model/quantized_model.h"
#include "experiments/record.h"

namespace fp4lab {

/// The worst of it as columns (NaN where nothing but rtn was done), all of it as arrays sites/...
void add_site_reports(Record& record, const std::vector<PartReport>& reports);
/// The columns.
std::vector<std::string> site_report_metrics();

}  // namespace fp4lab
