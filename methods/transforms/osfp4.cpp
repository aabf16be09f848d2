#include "methods/transforms/osfp4.h"

#include <Eigen/Cholesky>
#include <algorithm>
#include <cmath>
#include <nlohmann/json.hpp>
#include <optional>

namespace fp4lab {

namespace {

// Parameters are logarithms to base 2; the rate is 0.12 in natural ones.
constexpr double kRate = 0.12 / 0.6931471805599453;
constexpr double kBeta1 = 0.9, kBeta2 = 0.999, kEpsilon = 1e-8;
constexpr int64_t kSampleRows = 512;

/// (1 - Q(x) / x)^2 at x = 2^t, the mean of both signs.
double relative_error(const Element& e, double t) {
  const float x = float(std::exp2(t));
  double sum = 0;
  for (const float v : {x, -x}) {
    const double error = 1 - double(decode_element(e, encode_element(e, v))) / double(v);
    sum += error * error;
  }
  return sum / 2;
}

/// One side of a group's loss: rows of k values that share the channels' a and have a scale each.
struct Side {
  const PhaseError* phi;
  double sign;  // of log a in log |value / scale|: -1 for weights, +1 for activations
  int64_t rows, k;
  std::vector<float> log2_abs, energy;         // (rows, k): of the values; their squares times the weights
  std::vector<double> log2_scale, row_energy;  // (rows): searched; sums of `energy`

  /// Every `every`-th row of X (rows, k); channel r counts weight[r]-fold. Scales start at absmax / qmax.
  Side(const PhaseError& table, double direction, MatrixView<const float> X, int64_t every,
       const std::vector<double>& weight, float qmax)
      : phi(&table), sign(direction), rows((X.rows + every - 1) / every), k(X.cols) {
    for (int64_t i = 0; i < rows; ++i) {
      const float* x = X.row(i * every);
      float amax = 0;
      double sum = 0;
      for (int64_t r = 0; r < k; ++r) {
        amax = std::max(amax, std::abs(x[r]));
        log2_abs.push_back(x[r] != 0 ? std::log2(std::abs(x[r])) : -1000.0f);  // 0: no energy, no slope
        energy.push_back(float(weight[size_t(r)] * double(x[r]) * double(x[r])));
        sum += double(energy.back());
      }
      log2_scale.push_back(amax > 0 ? std::log2(double(amax)) - std::log2(double(qmax)) : 0.0);
      row_energy.push_back(sum);
    }
  }

  /// The loss' derivatives by log2 |value / scale|, summed over each row, and added to each channel's sum.
  void slopes(const std::vector<double>& log2_a, std::vector<double>& by_row,
              std::vector<double>& by_channel) const {
    std::vector<float> shift(size_t(k), 0.0f), part(size_t(k), 0.0f);
    for (size_t r = 0; r < shift.size(); ++r) shift[r] = float(sign * log2_a[r]);
    for (int64_t i = 0; i < rows; ++i) {
      const float *value = log2_abs.data() + i * k, *e = energy.data() + i * k;
      const float scale = float(log2_scale[size_t(i)]);
      double sum = 0;
      for (size_t r = 0; r < part.size(); ++r) part[r] = e[r] * phi->slope(value[r] + shift[r] - scale);
      for (size_t r = 0; r < part.size(); ++r) sum += double(part[r]), by_channel[r] += double(part[r]);
      by_row[size_t(i)] = sum;
    }
  }

  /// Mean of log2 of the scales of rows that are not all 0; none without such rows.
  std::optional<double> mean_log2_scale() const {
    double sum = 0, count = 0;
    for (size_t i = 0; i < row_energy.size(); ++i)
      if (row_energy[i] > 0) sum += log2_scale[i], count += 1;
    return count > 0 ? std::optional(sum / count) : std::nullopt;
  }
};

/// One parameter's optimizer.
struct Adam {
  double m = 0, v = 0;
  double step(double gradient, double correction1, double correction2) {
    m = kBeta1 * m + (1 - kBeta1) * gradient;
    v = kBeta2 * v + (1 - kBeta2) * gradient * gradient;
    return kRate * (m / correction1) / (std::sqrt(v / correction2) + kEpsilon);
  }
};

/// log2 a of the k channels of a group, the geometric mean of the first side's scales moved into it.
std::vector<double> fit_group(std::vector<Side>& sides, int64_t k, int steps) {
  std::vector<double> log2_a(size_t(k), 0.0), channel_energy(size_t(k), 0.0), by_channel(size_t(k), 0.0);
  std::vector<Adam> channels(size_t(k), Adam{});
  std::vector<std::vector<Adam>> scales;
  std::vector<std::vector<double>> by_row;
  for (const Side& side : sides) {
    scales.emplace_back(size_t(side.rows));
    by_row.emplace_back(size_t(side.rows), 0.0);
    for (size_t i = 0; i < side.energy.size(); ++i) channel_energy[i % size_t(k)] += double(side.energy[i]);
  }
  double power1 = 1, power2 = 1;
  for (int step = 0; step < steps; ++step) {
    power1 *= kBeta1, power2 *= kBeta2;
    std::vector<double> gradient(size_t(k), 0.0);
    for (size_t s = 0; s < sides.size(); ++s) {
      std::fill(by_channel.begin(), by_channel.end(), 0.0);
      sides[s].slopes(log2_a, by_row[s], by_channel);
      for (size_t r = 0; r < gradient.size(); ++r) gradient[r] += sides[s].sign * by_channel[r];
    }
    for (size_t r = 0; r < log2_a.size(); ++r)
      if (channel_energy[r] > 0)
        log2_a[r] -= channels[r].step(gradient[r] / channel_energy[r], 1 - power1, 1 - power2);
    for (size_t s = 0; s < sides.size(); ++s)
      for (size_t i = 0; i < by_row[s].size(); ++i)
        if (sides[s].row_energy[i] > 0)
          sides[s].log2_scale[i] -=
              scales[s][i].step(-by_row[s][i] / sides[s].row_energy[i], 1 - power1, 1 - power2);
  }
  if (const std::optional<double> mean = sides.front().mean_log2_scale())
    for (double& a : log2_a) a -= sides.front().sign * *mean;
  return log2_a;
}

}  // namespace

PhaseError::PhaseError(const Element& e) {
  float least = INFINITY, largest = 0;  // magnitudes of the element other than 0
  for (uint32_t code = 0; code < (1u << e.bits); ++code)
    if (const float v = std::abs(decode_element(e, code)); v > 0 && std::isfinite(v))
      least = std::min(least, v), largest = std::max(largest, v);
  const int lowest = std::ilogb(least) - 3, highest = std::ilogb(largest) + 6;
  // phi(2^t) is the mean of the relative error over the octave that ends at t: a difference of running sums.
  // The error is continuous (rounding is to nearest), so that midpoints of steps are good to 1e-8.
  std::vector<double> sums = {0.0};
  for (int i = 0; i < (highest - lowest + 1) * kPerOctave; ++i)
    sums.push_back(sums.back() + relative_error(e, lowest - 1 + (i + 0.5) / kPerOctave) / kPerOctave);
  for (size_t i = kPerOctave; i < sums.size(); ++i) phi_.push_back(sums[i] - sums[i - kPerOctave]);
  slope_.push_back(0);
  for (size_t i = 1; i < phi_.size(); ++i) slope_.push_back(float((phi_[i] - phi_[i - 1]) * kPerOctave));
  slope_.push_back(0);
  lowest_ = float(lowest);
  last_ = float(slope_.size() - 1);
}

double PhaseError::at(double x) const {
  if (x == 0) return 1;
  const double last = double(phi_.size() - 1);
  const double place = std::clamp((std::log2(std::abs(x)) - double(lowest_)) * kPerOctave, 0.0, last);
  const size_t i = size_t(std::min(place, last - 1));
  return phi_[i] + (place - double(i)) * (phi_[i + 1] - phi_[i]);
}

std::vector<double> kept_energies(const SiteStats& stats, double damping) {
  const int64_t n = stats.H.rows();
  const double tokens = double(std::max<int64_t>(stats.tokens, 1));
  // With the channels in reverse R is the lower factor of Cholesky; the upper triangle becomes the lower one.
  Eigen::MatrixXd reversed(n, n);
  double mean = 0;
  for (int64_t i = 0; i < n; ++i)
    for (int64_t j = i; j < n; ++j) reversed(n - 1 - i, n - 1 - j) = stats.H(i, j) / tokens;
  for (int64_t i = 0; i < n; ++i) mean += reversed(i, i) / double(n);
  if (mean == 0) return std::vector<double>(size_t(n), 1.0);
  reversed.diagonal().array() += damping * mean;
  const Eigen::LLT<Eigen::Ref<Eigen::MatrixXd>> llt(reversed);
  std::vector<double> u2;
  bool good = llt.info() == Eigen::Success;
  for (int64_t r = 0; r < n; ++r) {
    u2.push_back(std::pow(reversed(n - 1 - r, n - 1 - r), 2));
    good = good && u2.back() > 0 && std::isfinite(u2.back());
  }
  if (!good) throw DataError(str("osfp4: H is not positive definite with damping ", damping));
  return u2;
}

TransformSpec read_osfp4(Params& p) {
  TransformSpec spec{TransformSpec::osfp4};
  spec.steps = int(p.integer("steps", 80, {"steps of the optimizer", 0, 100000}));
  spec.damping = p.number("damping", 0.01, {"fraction of mean(diag H) added to H", 1e-6, 1});
  return spec;
}

void write_osfp4(const TransformSpec& spec, Json& object) {
  object["steps"] = spec.steps;
  object["damping"] = spec.damping;
}

std::string osfp4_problem(const TransformSpec&, const TransformFit& fit) {
  if (!fit.weights && !fit.activations) return "osfp4: neither weights nor activations are quantized";
  for (const FormatSpec* f : {fit.weights, fit.activations}) {
    if (!f) continue;
    const std::string whose = f == fit.weights ? "the weights'" : "the activations'";
    if (f->has_zero_points())
      return str("osfp4: ", whose, " element ", f->element.name,
                 " has zero points; the relative error of a value needs a symmetric grid");
    if (f->group_size == kWholeRow)
      return str("osfp4: ", whose, " scale is for the whole row; it balances the channels of a group");
    if (const std::string shape = shape_problem(*f, fit.channels); !shape.empty()) return "osfp4: " + shape;
  }
  if (fit.weights && fit.activations && fit.weights->group_size != fit.activations->group_size)
    return str("osfp4: weights have groups of ", fit.weights->group_size, ", activations of ",
               fit.activations->group_size, "; it fits both in the same groups");
  return "";
}

void fit_osfp4(const TransformSpec& spec, const TransformInput& input, LinearMap& map) {
  const FormatSpec *weights = input.fit.weights, *activations = input.fit.activations;
  const MatrixView<const float> W = input.W;
  const SiteStats& stats = *input.stats;
  const MatrixView<const float> X = stats.sample.view();
  FP4LAB_CHECK(stats.H.rows() == W.cols && stats.H.cols() == W.cols, "osfp4: W has ", W.cols, " channels, H ",
               stats.H.rows());
  FP4LAB_CHECK(!activations || (X.rows > 0 && X.cols == W.cols), "osfp4: a sample of ", X.rows, " x ",
               X.cols);
  const std::vector<double> u2 = kept_energies(stats, spec.damping);
  std::optional<PhaseError> weight_phi, activation_phi;
  if (weights) weight_phi.emplace(weights->element);
  if (activations) activation_phi.emplace(activations->element);
  const int64_t k = (weights ? weights : activations)->group_size;
  const int64_t every = std::max<int64_t>(1, (X.rows + kSampleRows - 1) / kSampleRows);
  const double tokens = double((X.rows + every - 1) / every);

  DiagonalFactor factor{std::vector<float>(size_t(W.cols), 1.0f)};
#pragma omp parallel for schedule(dynamic)
  for (int64_t first = 0; first < W.cols; first += k) {
    std::vector<double> squares(size_t(k), 0.0), weight_side, activation_side;
    double largest = 0, largest_u2 = 0;
    for (int64_t i = 0; i < W.rows; ++i)
      for (int64_t r = 0; r < k; ++r) squares[size_t(r)] += std::pow(double(W(i, first + r)), 2);
    for (int64_t r = 0; r < k; ++r) {
      largest = std::max(largest, squares[size_t(r)]);
      largest_u2 = std::max(largest_u2, u2[size_t(first + r)]);
    }
    if (!(largest > 0)) continue;  // nothing to quantize: a = 1
    // L / (T largest largest_u2): energies near 1, whatever the units of W and X.
    for (int64_t r = 0; r < k; ++r) {
      weight_side.push_back(u2[size_t(first + r)] / largest_u2 / largest);
      activation_side.push_back(squares[size_t(r)] / largest / largest_u2 / std::max(tokens, 1.0));
    }
    std::vector<Side> sides;
    if (weights)
      sides.emplace_back(*weight_phi, -1.0, MatrixView<const float>{W.data + first, W.rows, k, W.stride}, 1,
                         weight_side, weights->element.scale_max);
    if (activations)
      sides.emplace_back(*activation_phi, 1.0, MatrixView<const float>{X.data + first, X.rows, k, X.stride},
                         every, activation_side, activations->element.scale_max);
    const std::vector<double> log2_a = fit_group(sides, k, spec.steps);
    for (int64_t r = 0; r < k; ++r) {
      const float a = float(std::exp2(std::clamp(log2_a[size_t(r)], -100.0, 100.0)));
      factor.scale[size_t(first + r)] = 1 / to_float(bf16_from_float(a));
    }
  }
  map.factors.emplace_back(std::move(factor));
}

}  // namespace fp4lab
