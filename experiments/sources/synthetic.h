// experiments/sources/synthetic.h - tensors of random numbers, any row of which can be made alone.
//   element     (r, c) of the distribution: number (r cols + c) of Stream(seed, "synthetic/<distribution>")
//   log_normal  with sigma > 0 every group of a row is multiplied by exp(sigma N(0,1)), group (r, k) being
//   number
//               (r groups + k) of Stream(seed, "synthetic/log_normal")
//   Numbers 2i and 2i+1 come from block i. Computed in double, stored as float32.
#pragma once
#include <array>
#include <span>

#include "core/random.h"
#include "experiments/sources/source.h"

namespace fp4lab {

/// The random bits of a tensor: the stream named above, and a second one (index 1) for pairs that need more
/// than 128.
struct SyntheticStreams {
  Stream first, second;
};

struct Distribution {
  std::string_view name, description;
  bool has_nu;
  /// Numbers 2i and 2i+1: independent.
  std::array<double, 2> (*pair)(const SyntheticStreams& streams, uint64_t i, double nu);
};
/// Every distribution, in the order the docs show them.
std::span<const Distribution> distributions();
const Distribution* find_distribution(std::string_view name);

struct SyntheticSpec {
  const Distribution* distribution;
  double nu;  // degrees of freedom, student_t only
  int64_t rows, cols;
  double log_normal_sigma;
  int64_t log_normal_group;
};

/// Reads the object under "synthetic" and calls done(). ConfigError for wrong keys, shapes and groups.
SyntheticSpec read_synthetic(Params& p);

/// Row r of the tensor; `out` has cols elements. Values beyond float32 become Inf.
void synthetic_row(const SyntheticSpec& spec, uint64_t seed, int64_t r, std::span<float> out);

std::unique_ptr<Source> make_synthetic_source(Params& p, const SourceContext& context);

}  // namespace fp4lab
