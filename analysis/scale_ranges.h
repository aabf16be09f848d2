// analysis/scale_ranges.h - where the scales of groups lie, and which of them a type of scale cannot hold.
//   The scale of a group is s = max|x| / Qmax, not rounded. Groups without energy have none: they are
//   counted, and are in no other number. clipped    s is above the type's largest value underflow  s rounds
//   to 0 (half the smallest value or less), in ue8m0, which has no 0: s < 2^-127 two_level  the same of s /
//   s_T, where s_T puts the tensor's largest scale at the type's largest value
#pragma once
#include <cstdint>
#include <string>
#include <string_view>
#include <vector>

#include "analysis/binned_sample.h"
#include "core/matrix.h"
#include "formats/scale_types.h"

namespace fp4lab {

/// A type of scale by the name its columns carry ("e8m0", "e5m3": the sign they all lack goes unsaid), and
/// the log2 of its smallest and largest positive values.
struct ScaleTypeRange {
  std::string name;
  ScaleType type;
  double log2_min, log2_max;
};
/// Those of formats/scale_types.h, in their order.
const std::vector<ScaleTypeRange>& scale_type_ranges();

/// Groups that a type of scale cannot hold.
struct LostScales {
  int64_t clipped = 0, underflow = 0, two_level_clipped = 0, two_level_underflow = 0;

  LostScales& operator+=(const LostScales& o);
};

struct ScaleRanges {
  int64_t groups = 0, zero_groups = 0;
  BinnedSample amax;             // of the groups with energy
  std::vector<LostScales> lost;  // by type, as scale_type_ranges()

  ScaleRanges& operator+=(const ScaleRanges& o);
};
/// Of one tensor, which s_T is of; X is finite, group_size divides its columns, q_max > 0.
ScaleRanges scale_ranges(MatrixView<const float> X, int64_t group_size, double q_max);

/// Counts per eighth of an octave, [edge, edge + 1/8) of log2 s; from the first to the last bin that holds
/// some.
struct Log2Histogram {
  std::vector<double> edges, counts;  // bins + 1, bins; one empty bin [0, 1/8) without groups
};
/// A bin of `amax` counts where its mean lies: a group within 2^-12 of an edge may be in the neighbour's bin.
Log2Histogram log2_histogram(const BinnedSample& amax, double q_max);

/// log2 of the q-th quantile of the scales; NaN without groups.
double log2_scale_quantile(const BinnedSample& amax, double q_max, double q);

}  // namespace fp4lab
