#include "analysis/lemmas/sampling.h"

#include <algorithm>
#include <cmath>

#include "core/matrix.h"
#include "core/random.h"
#include "formats/quantize.h"
#include "kernels/cpu/linear_map.h"

namespace fp4lab {

namespace {

constexpr int64_t kChunk = int64_t{1} << 21;  // elements
constexpr double kOutlierSize = 30, kOutlierSpread = 0.5;

int64_t groups_per_row(int64_t group_size) { return std::max<int64_t>(1, 512 / group_size); }

/// By inversion: density exp(-|x|) / 2.
double laplace_of(double u) { return u < 0.5 ? std::log(2 * u) : -std::log(2 * (1 - u)); }

class Generator {
 public:
  Generator(const GroupSource& s, int64_t group_size)
      : source_(s),
        size_(group_size),
        base_(s.seed, s.shape == Shape::normal ? "lemma/normal" : "lemma/laplace"),
        factors_(s.seed, "lemma/log_normal"),
        counts_(s.seed, "lemma/outlier_count"),
        places_(s.seed, "lemma/outlier_places"),
        sizes_(s.seed, "lemma/outlier_sizes") {}

  /// Group b; `outlier` (size) is written when the source has outliers.
  void group(int64_t b, float* x, uint8_t* outlier) const {
    const uint64_t first = uint64_t(b) * uint64_t((size_ + 1) / 2);
    for (int64_t j = 0; j < size_; j += 2) {
      const std::array<double, 2> two = pair(first + uint64_t(j / 2));
      x[j] = float(two[0]);
      if (j + 1 < size_) x[j + 1] = float(two[1]);
    }
    if (source_.log_normal_sigma > 0) {
      const double factor = std::exp(source_.log_normal_sigma * normal_pair(factors_.block(uint64_t(b)))[0]);
      for (int64_t j = 0; j < size_; ++j) x[j] = float(factor * double(x[j]));
    }
    if (source_.outlier_share > 0) place_outliers(b, x, outlier);
  }

 private:
  std::array<double, 2> pair(uint64_t i) const {
    const std::array<uint32_t, 4> bits = base_.block(i);
    if (source_.shape == Shape::normal) return normal_pair(bits);
    return {laplace_of(uniform_open(bits[0], bits[1])), laplace_of(uniform_open(bits[2], bits[3]))};
  }

  /// How many outliers a group with at least one holds: Binomial(size, p) given that it is not 0, by
  /// inversion.
  int64_t outliers(int64_t b) const {
    const double p = source_.outlier_share, n = double(size_);
    const auto bits = counts_.block(uint64_t(b));
    double left = uniform_open(bits[0], bits[1]) * -std::expm1(n * std::log1p(-p));
    double share = n * p * std::exp((n - 1) * std::log1p(-p));  // P(1)
    int64_t k = 1;
    for (; k < size_ && left > share; ++k) {
      left -= share;
      share *= (n - double(k)) / double(k + 1) * p / (1 - p);
    }
    return k;
  }

  /// Every set of places equally likely (Floyd's algorithm).
  void place_outliers(int64_t b, float* x, uint8_t* outlier) const {
    std::fill_n(outlier, size_, uint8_t{0});
    for (int64_t j = size_ - outliers(b); j < size_; ++j) {
      const uint64_t number = uint64_t(b) * uint64_t(size_) + uint64_t(j);
      int64_t at = int64_t(places_.below(number, uint64_t(j + 1)));
      if (outlier[at]) at = j;
      outlier[at] = 1;
      const std::array<double, 2> z = normal_pair(sizes_.block(number));
      x[at] = float(std::copysign(kOutlierSize * std::exp(kOutlierSpread * z[0]), z[1]));
    }
  }

  GroupSource source_;
  int64_t size_;
  Stream base_, factors_, counts_, places_, sizes_;
};

}  // namespace

int64_t GroupView::top() const {
  int64_t best = 0;
  for (int64_t j = 1; j < size; ++j)
    if (std::fabs(x[j]) > std::fabs(x[best])) best = j;
  return best;
}

MomentSums sample_groups(const GroupSample& sample, int moments, GroupMoments f,
                         const std::function<void()>& between) {
  const int64_t size = sample.format.group_size, per_row = groups_per_row(size), cols = per_row * size;
  FP4LAB_CHECK(size >= 2 && sample.groups >= 1, size, ", ", sample.groups);
  const Generator generator(sample.source, size);
  const bool outliers = sample.source.outlier_share > 0;
  LinearMap rotation;
  if (sample.hadamard > 0) {
    FP4LAB_CHECK(size % sample.hadamard == 0, size, ", ", sample.hadamard);
    rotation.factors.push_back(HadamardFactor{sample.hadamard, {}, 1});
  }
  const int64_t all_rows = (sample.groups + per_row - 1) / per_row;
  const int64_t most = std::min(all_rows, std::max<int64_t>(1, kChunk / cols));
  Matrix x(most, cols), y, back(most, cols), back_rotated;
  if (!rotation.identity()) y = Matrix(most, cols), back_rotated = Matrix(most, cols);
  std::vector<uint8_t> marks(outliers ? size_t(x.size()) : 0);
  MomentSums total(moments);
  for (int64_t begin = 0; begin < all_rows; begin += most) {
    between();
    const int64_t rows = std::min(most, all_rows - begin);
    const auto part = [&](Matrix& m) { return m.view().middle_rows(0, rows); };
#pragma omp parallel for schedule(static)
    for (int64_t r = 0; r < rows; ++r)
      for (int64_t k = 0; k < per_row; ++k)
        generator.group((begin + r) * per_row + k, x.row(r) + k * size,
                        outliers ? marks.data() + r * cols + k * size : nullptr);
    if (!rotation.identity()) {
      std::copy_n(x.data(), rows * cols, y.data());
      map_weights(rotation, part(y));
      fake_quantize(sample.format, part(y), part(back_rotated));
      std::copy_n(back_rotated.data(), rows * cols, back.data());
      unmap_weights(rotation, part(back));
    } else {
      fake_quantize(sample.format, part(x), part(back));
    }
    const Matrix &seen = rotation.identity() ? x : y, &seen_back = rotation.identity() ? back : back_rotated;
    std::vector<MomentSums> of_row(static_cast<size_t>(rows), MomentSums(moments));
#pragma omp parallel for schedule(static)
    for (int64_t r = 0; r < rows; ++r) {
      std::vector<double> found(size_t(moments), 0.0);
      // A last row may be drawn in full and hold more groups than were asked for.
      const int64_t wanted = std::min(per_row, sample.groups - (begin + r) * per_row);
      for (int64_t k = 0; k < wanted; ++k) {
        const int64_t at = k * size;
        f({size, x.row(r) + at, back.row(r) + at, seen.row(r) + at, seen_back.row(r) + at,
           outliers ? marks.data() + r * cols + at : nullptr},
          found.data());
        of_row[size_t(r)].add(found);
      }
    }
    for (const MomentSums& sums : of_row) total += sums;
  }
  return total;
}

double sampling_bytes(int64_t group_size) {
  const double cols = double(groups_per_row(group_size) * group_size);
  return std::max(double(kChunk), cols) * (4 * 4 + 1) + double(kChunk) / cols * 1000;
}

double sampling_seconds(const GroupSample& s) {
  const double per_element = 35e-9 + (s.hadamard > 0 ? 10e-9 : 0);
  return double(s.groups) * double(s.format.group_size) * per_element;
}

}  // namespace fp4lab
