#include "analysis/tensor_errors.h"

#include <immintrin.h>

#include <algorithm>
#include <cmath>
#include <limits>

#include "analysis/outliers.h"
#include "core/portable.h"

namespace fp4lab {

namespace {

constexpr int kHistogramBins = 320, kHistogramBias = 160;
// Rows of a tile are decoded together, about the second-level cache's worth; tiles of a block run in any
// order, then their rows are added up in order.
constexpr int64_t kTileElements = 16384, kTileRows = 16, kBlockTiles = 256;

// Eight lanes: two registers of doubles, one of floats or counts.
constexpr int kSumLanes = 8;
typedef double Doubles __attribute__((vector_size(32)));
typedef float Floats __attribute__((vector_size(32)));
typedef float HalfFloats __attribute__((vector_size(16)));
typedef uint32_t Counts __attribute__((vector_size(32)));

template <class V>
V load(const float* p) {
  V v;
  __builtin_memcpy(&v, p, sizeof v);
  return v;
}
Doubles load_doubles(const float* p) { return __builtin_convertvector(load<HalfFloats>(p), Doubles); }
/// One bit per lane of a comparison's result.
int lane_bits(Counts mask) { return _mm256_movemask_ps((__m256)mask); }

/// Lanes added by halves: 4, 2, 1 apart.
double sum(const Doubles (&v)[2]) {
  const Doubles s = v[0] + v[1];
  return (s[0] + s[2]) + (s[1] + s[3]);
}
int64_t sum(const Counts& v) {
  int64_t total = 0;
  for (int l = 0; l < kSumLanes; ++l) total += v[l];
  return total;
}
uint32_t largest(Counts v) {
  const Counts a = __builtin_shuffle(v, Counts{4, 5, 6, 7, 0, 1, 2, 3}), b = v > a ? v : a;
  const Counts c = __builtin_shuffle(b, Counts{2, 3, 0, 1, 2, 3, 0, 1}), d = b > c ? b : c;
  return std::max(d[0], d[1]);
}

/// What an element can represent under its group's scale.
struct Range {
  float low = -std::numeric_limits<float>::infinity(), high = std::numeric_limits<float>::infinity();
};
Range range_of(const Element& e, float scale, float zero) {
  if (e.kind == ElementKind::int_asym) return {(0 - zero) * scale, (float(e.highest()) - zero) * scale};
  return {-(e.scale_max * scale), e.scale_max * scale};
}

/// Counts of a row, lane by lane; they fit up to 2^35 elements.
struct RowCounts {
  Counts nonzero{}, dead{}, clipped{};
};

/// Sums of one group, lane by lane.
struct GroupSums {
  Doubles energy[2]{}, error[2]{};
  Counts amax{};  // as bits
  Counts clipped{};

  /// Eight elements. Padding with x = y = 0 adds nothing, exactly.
  void add(const float* x, const float* y, Range range, RowCounts& counts) {
    for (int h = 0; h < 2; ++h) {
      const Doubles v = load_doubles(x + 4 * h), e = v - load_doubles(y + 4 * h);
      energy[h] += v * v;
      error[h] += e * e;
    }
    const Floats v = load<Floats>(x), decoded = load<Floats>(y);
    const Counts m = (Counts)v & 0x7fffffffu;
    amax = m > amax ? m : amax;
    const Counts nonzero = (Counts)(v != 0.0f);  // all ones, that is -1, where true
    const Counts outside = (Counts)(v < range.low) | (Counts)(v > range.high);
    counts.nonzero -= nonzero;
    counts.dead -= nonzero & (Counts)(decoded == 0.0f);
    clipped -= outside;
  }
};

GroupSums sum_group(const float* x, const float* y, int64_t g, Range range, RowCounts& counts) {
  GroupSums s;
  int64_t i = 0;
  for (; i + kSumLanes <= g; i += kSumLanes) s.add(x + i, y + i, range, counts);
  if (i < g) {
    float last_x[kSumLanes] = {}, last_y[kSumLanes] = {};
    std::copy(x + i, x + g, last_x);
    std::copy(y + i, y + g, last_y);
    s.add(last_x, last_y, range, counts);
  }
  return s;
}

/// The first i with the magnitude `amax`, which is there.
int64_t first_of_magnitude(const float* x, int64_t g, uint32_t amax) {
  int64_t i = 0;
  for (; i + kSumLanes <= g; i += kSumLanes)
    if (const int found = lane_bits(((Counts)load<Floats>(x + i) & 0x7fffffffu) == amax))
      return i + __builtin_ctz(unsigned(found));
  while ((float_bits(x[i]) & 0x7fffffffu) != amax) ++i;
  return i;
}

/// Outliers of a row, from left to right. `first` is the row-major index of x in the tensor.
void add_outliers(ErrorSums& row, const float* x, const float* y, int64_t n, const OutlierCut& cut,
                  int64_t first) {
  for (int64_t i = 0; i < n; ++i) {
    if (!cut.holds(float_bits(x[i]) & 0x7fffffffu, first + i)) continue;
    const double v = double(x[i]), e = v - double(y[i]);
    row.outliers += 1;
    row.outlier_ape += std::fabs(e) / std::fabs(v);
    row.outlier_se += e * e / (v * v);
  }
}

/// Adds one group to its row; returns whether it has energy.
bool add_group(ErrorSums& row, RowCounts& counts, const float* x, const float* y, int64_t g, Range range,
               const OutlierCut& cut, int64_t first) {
  const GroupSums s = sum_group(x, y, g, range, counts);
  const double energy = sum(s.energy), error = sum(s.error);
  const uint32_t amax = largest(s.amax);
  row.energy += energy;
  row.error += error;
  counts.clipped += s.clipped;
  row.overflowing_groups += lane_bits((Counts)(s.clipped != 0u)) != 0;
  if (amax == 0) {
    row.zero_groups += 1;  // the others have energy: even 2^-149 squared is a normal double
    return false;
  }
  const int64_t top = first_of_magnitude(x, g, amax);
  const double v = double(x[top]), e = v - double(y[top]);
  row.group_relative += error / energy;
  row.top += e * e;
  row.top_relative += e * e / (v * v);
  row.crest += std::fabs(v) / std::sqrt(energy / double(g));
  row.crest_groups += 1;
  if (amax >= cut.threshold) add_outliers(row, x, y, g, cut, first);
  return true;
}

/// floor(log2 s) of a finite s > 0, exact for subnormals too.
int floor_log2(float s) {
  const bool tiny = s < 0x1p-126f;
  return int(float_bits(tiny ? s * 0x1p24f : s) >> 23) - 127 - (tiny ? 24 : 0);
}

/// X, what it became, and where its outliers are.
struct Comparison {
  MatrixView<const float> X;
  const QuantizedMatrix* quantized;       // decoded tile by tile; or null, and then:
  const RowReader* reader;                // of `quantized`
  MatrixView<const float> reconstructed;  // X^
  const FormatSpec& format;
  OutlierCut cut;
};

/// What one thread needs for a tile of rows.
struct Scratch {
  Matrix decoded;
  std::vector<float> scales;
  std::vector<int64_t> histogram;
};

/// Row r, whose reconstruction is y.
ErrorSums measure_row(const Comparison& c, int64_t r, const float* y, Scratch& scratch) {
  const int64_t g = c.format.group(c.X.cols), groups = c.format.groups(c.X.cols);
  const uint8_t* zero_points = c.quantized && c.format.has_zero_points()
                                   ? c.quantized->scales.zero_points.data() + r * groups
                                   : nullptr;
  if (c.quantized) c.reader->effective_scales(r, scratch.scales.data());
  ErrorSums row;
  RowCounts counts;
  for (int64_t k = 0; k < groups; ++k) {
    const float scale = c.quantized ? scratch.scales[size_t(k)] : 0;
    const Range range =
        c.quantized ? range_of(c.format.element, scale, zero_points ? float(zero_points[k]) : 0) : Range{};
    const int64_t at = k * g;
    const bool energy = add_group(row, counts, c.X.row(r) + at, y + at, g, range, c.cut, r * c.X.cols + at);
    if (energy && scale > 0) ++scratch.histogram[size_t(floor_log2(scale) + kHistogramBias)];
  }
  row.elements = c.X.cols, row.groups = groups;
  row.nonzero = sum(counts.nonzero), row.dead = sum(counts.dead), row.clipped = sum(counts.clipped);
  return row;
}

ErrorSums measure(const Comparison& c) {
  const MatrixView<const float> X = c.X;
  const bool decode = c.quantized != nullptr;
  const int64_t tile = std::clamp<int64_t>(kTileElements / std::max<int64_t>(1, X.cols), 1, kTileRows);
  const int64_t block = std::min(tile * kBlockTiles, X.rows);
  std::vector<ErrorSums> row_sums(static_cast<size_t>(block));
  ErrorSums total;
  total.scale_histogram.assign(kHistogramBins, 0);
#pragma omp parallel
  {
    Scratch scratch{Matrix(decode ? tile : 0, decode ? X.cols : 0),
                    std::vector<float>(decode ? size_t(c.format.groups(X.cols)) : 0),
                    std::vector<int64_t>(kHistogramBins)};
    for (int64_t start = 0; start < X.rows; start += block) {
      const int64_t end = std::min(start + block, X.rows);
#pragma omp for schedule(static)
      for (int64_t begin = start; begin < end; begin += tile) {
        const int64_t count = std::min(tile, end - begin);
        if (decode) c.reader->dequantize(begin, scratch.decoded.view().middle_rows(0, count));
        for (int64_t r = begin; r < begin + count; ++r)
          row_sums[size_t(r - start)] =
              measure_row(c, r, decode ? scratch.decoded.row(r - begin) : c.reconstructed.row(r), scratch);
      }
#pragma omp single
      for (int64_t r = start; r < end; ++r) total += row_sums[size_t(r - start)];
    }
#pragma omp critical
    for (size_t b = 0; b < scratch.histogram.size(); ++b) total.scale_histogram[b] += scratch.histogram[b];
  }
  total.bits = bits_per_element(c.format, X.cols) * double(total.elements);
  return total;
}

Comparison compare(MatrixView<const float> X, const QuantizedMatrix* q, const RowReader* reader,
                   MatrixView<const float> reconstructed, const FormatSpec& format, double outlier_share) {
  const int64_t rows = q ? q->rows() : reconstructed.rows, cols = q ? q->cols() : reconstructed.cols;
  FP4LAB_CHECK(X.rows == rows && X.cols == cols, "X (", X.rows, ", ", X.cols, ") against (", rows, ", ", cols,
               ")");
  FP4LAB_CHECK(cols > 0 && shape_problem(format, cols).empty(), cols, " columns");
  return {X, q, reader, reconstructed, format, outlier_cut(X, outlier_share)};
}

}  // namespace

ErrorSums& ErrorSums::operator+=(const ErrorSums& o) {
  elements += o.elements, groups += o.groups, zero_groups += o.zero_groups;
  energy += o.energy, error += o.error, group_relative += o.group_relative;
  top += o.top, top_relative += o.top_relative;
  crest += o.crest, crest_groups += o.crest_groups;
  nonzero += o.nonzero, dead += o.dead;
  clipped += o.clipped, overflowing_groups += o.overflowing_groups;
  outliers += o.outliers, outlier_ape += o.outlier_ape, outlier_se += o.outlier_se;
  bits += o.bits;
  if (scale_histogram.size() < o.scale_histogram.size()) scale_histogram.resize(o.scale_histogram.size());
  for (size_t b = 0; b < o.scale_histogram.size(); ++b) scale_histogram[b] += o.scale_histogram[b];
  return *this;
}

ErrorSums measure_errors(MatrixView<const float> X, const QuantizedMatrix& q, double outlier_share) {
  const RowReader reader(q);
  return measure(compare(X, &q, &reader, {}, q.format, outlier_share));
}

ErrorSums measure_errors(MatrixView<const float> X, MatrixView<const float> reconstructed,
                         const FormatSpec& format, double outlier_share) {
  return measure(compare(X, nullptr, nullptr, reconstructed, format, outlier_share));
}

}  // namespace fp4lab
