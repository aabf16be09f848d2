// analysis/lemmas/sampling.h - random groups, quantized by the format itself, reduced to moments per group.
//   Groups are drawn a chunk of 2^21 elements at a time, each chunk one matrix: a format's tensor scale is
//   the chunk's. Element j of group b has its own random bits and sums have a fixed order, so results are the
//   same for any number of threads. streams  lemma/<shape>, lemma/log_normal, lemma/outlier_count,
//   lemma/outlier_places, lemma/outlier_sizes
#pragma once
#include <cstdint>
#include <functional>

#include "analysis/lemmas/interval.h"
#include "analysis/lemmas/maxima.h"
#include "formats/format.h"

namespace fp4lab {

struct GroupSource {
  Shape shape = Shape::normal;
  uint64_t seed = 1;
  double log_normal_sigma = 0;  // each group times exp(sigma N(0, 1))
  /// p > 0: each element is an outlier with probability p, +-30 exp(N(0, .5^2)) instead, and only groups that
  /// hold an outlier are drawn: groups are independent, so those without one would only be thrown away.
  double outlier_share = 0;
};

/// A group before and after. y is what the format sees, y = x without a rotation; x^ is rotated back.
struct GroupView {
  int64_t size;
  const float *x, *x_hat, *y, *y_hat;
  const uint8_t* outlier;  // null without outliers
  int64_t top() const;     // argmax |x|, the first on ties
};
/// Writes the moments of one group.
using GroupMoments = void (*)(const GroupView& group, double* moments);

struct GroupSample {
  GroupSource source;
  FormatSpec format;     // its group size is the groups'
  int64_t hadamard = 0;  // 0: no rotation; else a power of two that divides the group size
  int64_t groups = 1;
};

/// `between` is called between chunks and may throw.
MomentSums sample_groups(const GroupSample& sample, int moments, GroupMoments f,
                         const std::function<void()>& between);

/// Memory of `sample_groups`, and its seconds on one core, from rates measured on one machine.
double sampling_bytes(int64_t group_size);
double sampling_seconds(const GroupSample& sample);

}  // namespace fp4lab
