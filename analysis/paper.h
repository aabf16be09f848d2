// analysis/paper.h - what arXiv 2509.23202 ("Bridging the Gap Between Promise and Performance for
// Microscaling FP4 Quantization") reports, to be printed beside our own numbers.
//   model     Llama-3.1-8B-Instruct
//   average   of MMLU-CoT, GSM8K, HellaSwag and WinoGrande, in percent
//   recovery  100 average / (the average of the model in FP16: 78.93), as the paper prints it
//   source    Tables 1, 2, 11 (its Llama-3 8B column) and 12 (its standard columns, 5 calibration seeds)
// These are accuracies. Ours are recoveries of perplexity and KL divergences: orders may be compared, numbers
// may not be subtracted.
#pragma once
#include <span>
#include <string>
#include <string_view>
#include <vector>

namespace fp4lab {

struct PaperRow {
  std::string_view table, format, method;  // named as ours
  double average;                          // percent; NaN where only the recovery is printed
  double recovery;                         // percent
  double deviation;                        // of the recovery over kPaperSeeds seeds; NaN where not given
};

struct PaperTable {
  std::string_view name, what;  // "table1", "weights and activations"
  std::string_view label;       // the model and the metric of its numbers
  bool weight_only;             // W4A16; else activations are quantized as the weights are
};

/// The tables that we know, in the paper's order.
std::span<const PaperTable> paper_tables();
/// The rows of one of them, in its order.
std::vector<PaperRow> paper_rows(std::string_view table);

/// The paper's name of a format of ours: both "int4" and "int4-peer" are its int4. "" when it has none.
std::string_view paper_format(std::string_view ours);

/// Percentage points of recovery that the paper takes for noise between two runs.
inline constexpr double kPaperNoise = 0.3;
inline constexpr int kPaperSeeds = 5;  // behind each of its deviations

/// Which of two rows recovers more: 1 the first, -1 the second, 0 when they are no further apart than
/// kPaperNoise, or, where both have deviations, than twice the standard error of their difference.
int paper_order(const PaperRow& a, const PaperRow& b);

}  // namespace fp4lab
