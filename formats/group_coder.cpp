#include "formats/group_coder.h"

#include <algorithm>
#include <cmath>
#include <cstring>
#include <limits>

namespace fp4lab {

GroupScratch::GroupScratch(int64_t groups, int candidates_per_group)
    : amax(size_t(groups)),
      low(size_t(groups)),
      unrounded(size_t(groups)),
      chosen(size_t(groups)),
      candidates(size_t(groups * candidates_per_group)),
      error(size_t(groups)),
      best(size_t(groups)),
      candidate_codes(size_t(groups * candidates_per_group)) {}

namespace {
void store_bits(uint8_t* at, int bytes, uint32_t bits) { std::memcpy(at, &bits, size_t(bytes)); }
uint32_t load_bits(const uint8_t* at, int bytes) {
  uint32_t bits = 0;
  std::memcpy(&bits, at, size_t(bytes));
  return bits;
}
/// Population standard deviation about the mean: sums in double, in order.
double standard_deviation(const float* x, int64_t n) {
  double sum = 0, squares = 0;
  for (int64_t i = 0; i < n; ++i) sum += double(x[i]);
  const double mean = sum / double(n);
  for (int64_t i = 0; i < n; ++i) squares += (double(x[i]) - mean) * (double(x[i]) - mean);
  return std::sqrt(squares / double(n));
}
}  // namespace

GroupCoder::GroupCoder(const FormatSpec& format, const WeightScales& search, int64_t cols,
                       std::vector<float> factors)
    : format_(format),
      search_(search.kind),
      g_(format.group(cols)),
      factors_(std::move(factors)),
      rule_(group_rule(format, search.kind, search.replacement)),
      kernels_(row_kernels()) {
  format_.rule = rule_.rule;
  if (format_.rule.kind == ScaleRule::fitted)
    fitted_ = std::make_unique<const FittedScales>(fitted_scales(factors_.at(0), factors_.at(1)));
}

float GroupCoder::tensor_scale(int64_t row) const {
  if (format_.rule.kind == ScaleRule::fitted) return 1;
  return factors_.empty() ? 1.0f : factors_.size() == 1 ? factors_[0] : factors_[size_t(row)];
}

bool GroupCoder::measure(const float* x, int64_t groups, GroupScratch& s) const {
  kernels_.group_amax(x, groups, g_, s.amax.data());
  bool finite = true;
  for (int64_t k = 0; k < groups; ++k)
    finite = finite && s.amax[size_t(k)] <= std::numeric_limits<float>::max();
  return finite;
}

bool GroupCoder::choose(const float* x, int64_t row, int64_t groups, const float* known_amax, uint8_t* bytes,
                        uint8_t* zero, float* effective, GroupScratch& s) const {
  if (known_amax)
    std::copy(known_amax, known_amax + groups, s.amax.begin());
  else if (!measure(x, groups, s))
    return false;
  if (search_ == WeightScales::mse_shrink) {
    // The search runs on the unrounded scale amax/Qmax; the amax it settles on then goes through the format's
    // rule.
    for (int64_t k = 0; k < groups; ++k) s.unrounded[size_t(k)] = rule_.unrounded_scale(s.amax[size_t(k)]);
    kernels_.best_shrink(format_.element, x, groups, g_, s.unrounded.data(), s.best.data());
    for (int64_t k = 0; k < groups; ++k) s.amax[size_t(k)] *= float(1 - 0.008 * s.best[size_t(k)]);
  }
  if (format_.has_zero_points())
    choose_asym(x, groups, bytes, zero, effective, s);
  else if (format_.scale.kind == ScaleKind::exponent)
    choose_e8m0(x, row, groups, bytes, effective, s);
  else
    choose_rounded(x, row, groups, bytes, effective, s);
  return true;
}

void GroupCoder::candidates(float amax, int64_t row, uint32_t* codes, float* effective) const {
  const int count = candidates_per_group();
  const float s_t = tensor_scale(row);
  for (int j = 0; j < count; ++j) {
    codes[j] = amax == 0 ? 0 : rule_.candidate(j, amax, s_t);
    effective[j] = amax == 0 ? 0.0f : rule_.effective(codes[j], s_t);
  }
}

/// Takes, for each group, the best of its candidates.
void GroupCoder::pick_best(const float* x, int64_t row, int64_t groups, uint8_t* bytes, float* effective,
                           GroupScratch& s) const {
  const int count = candidates_per_group();
  for (int64_t k = 0; k < groups; ++k)
    candidates(s.amax[size_t(k)], row, &s.candidate_codes[size_t(k * count)],
               &s.candidates[size_t(k * count)]);
  kernels_.best_candidate(format_.element, x, groups, g_, s.candidates.data(), count, s.best.data(),
                          s.error.data());
  for (int64_t k = 0; k < groups; ++k) {
    const size_t at = size_t(k * count + s.best[size_t(k)]);
    store_bits(bytes + k * format_.scale.bytes, format_.scale.bytes, s.candidate_codes[at]);
    effective[k] = s.candidates[at];
  }
}

void GroupCoder::choose_e8m0(const float* x, int64_t row, int64_t groups, uint8_t* bytes, float* effective,
                             GroupScratch& s) const {
  const ScaleRule& rule = format_.rule;
  if (rule.kind == ScaleRule::fitted) {
    for (int64_t k = 0; k < groups; ++k) {
      const float amax = s.amax[size_t(k)];
      const double scale = double(amax / format_.element.scale_max);  // s = m/Qmax is an FP32 number
      const double* const thresholds = fitted_->thresholds;
      const auto q = std::upper_bound(thresholds, thresholds + 255, scale) - thresholds;
      // A flat tensor (a = 0) has one scale, q = 0.
      bytes[k] = amax > 0 && factors_[0] > 0 ? uint8_t(q) : uint8_t(0);
      effective[k] = amax > 0 ? fitted_->table[bytes[k]] : 0.0f;
    }
    return;
  }
  if (rule.kind == ScaleRule::quest) {
    for (int64_t k = 0; k < groups; ++k) {
      const float deviation = float(standard_deviation(x + k * g_, g_));
      const uint32_t byte = quest_byte(deviation);
      const bool zeros = s.amax[size_t(k)] == 0;
      bytes[k] = zeros ? 0 : uint8_t(byte);
      effective[k] = zeros ? 0.0f : e8m0_decode(bytes[k]);
    }
    return;
  }
  const PowerOfTwoRule p = power_of_two_rule(rule, format_.element);
  kernels_.power_of_two_scales(p.offset, p.threshold, tensor_scale(row), s.amax.data(), groups, bytes,
                               effective);
  if (rule.kind == ScaleRule::search) pick_best(x, row, groups, bytes, effective, s);
}

void GroupCoder::choose_rounded(const float* x, int64_t row, int64_t groups, uint8_t* bytes, float* effective,
                                GroupScratch& s) const {
  const ScaleType& type = format_.scale;
  const float s_t = tensor_scale(row), divisor = format_.element.scale_max * s_t;
  if (type.kind != ScaleKind::minifloat) {
    for (int64_t k = 0; k < groups; ++k) {
      const float amax = s.amax[size_t(k)];
      const float scale = rule_.by_reciprocal ? rule_.unrounded_scale(amax) : amax / divisor;
      const uint32_t bits = amax > 0 ? encode_scale(type, scale) : 0;
      store_bits(bytes + k * type.bytes, type.bytes, bits);
      effective[k] = s_t * decode_scale(type, bits);
    }
  } else {
    kernels_.minifloat_scales(type.mini, divisor, s_t, rule_.least, s.amax.data(), groups, bytes, effective);
  }
  if (format_.rule.kind != ScaleRule::absmax) pick_best(x, row, groups, bytes, effective, s);
}

void GroupCoder::choose_asym(const float* x, int64_t groups, uint8_t* bytes, uint8_t* zero, float* effective,
                             GroupScratch& s) const {
  const float steps = format_.element.scale_max;  // 2^n - 1
  kernels_.group_range(x, groups, g_, s.low.data(), s.amax.data());
  for (int64_t k = 0; k < groups; ++k) {
    const float low = s.low[size_t(k)], high = s.amax[size_t(k)];
    const float range = high - low;  // of two large floats it overflows: then by halves
    const float scale = std::isfinite(range) ? range / steps : (high * 0.5f - low * 0.5f) / steps * 2.0f;
    const uint32_t bits = encode_scale(format_.scale, scale);
    store_bits(bytes + k * format_.scale.bytes, format_.scale.bytes, bits);
    effective[k] = decode_scale(format_.scale, bits);
    zero[k] = effective[k] > 0 ? uint8_t(AsymCodec{steps}.encode(-low / effective[k], 0.0f)) : uint8_t(0);
  }
}

void GroupCoder::effective(const uint8_t* bytes, int64_t row, int64_t groups, float* out) const {
  const ScaleType& type = format_.scale;
  if (format_.rule.kind == ScaleRule::fitted) {
    for (int64_t k = 0; k < groups; ++k) out[k] = fitted_->table[bytes[k]];
    return;
  }
  const float s_t = tensor_scale(row);
  if (type.bytes == 1) return kernels_.decode_byte_scales(type, bytes, groups, s_t, out);
  for (int64_t k = 0; k < groups; ++k)
    out[k] = s_t * decode_scale(type, load_bits(bytes + k * type.bytes, type.bytes));
}

}  // namespace fp4lab
