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
      kernels_(row_kernels()) {
  if (search.kind == WeightScales::replace) format_.rule = search.replacement;
  // The paper's search looks at the whole neighbourhood of the absmax code once s_T is found.
  // The bounds of `sweep` hold for E4M3; for other scale types that means every code.
  if (search.kind == WeightScales::alternate) {
    format_.rule = ScaleRule{.kind = ScaleRule::sweep};
    all_codes_ = !(format_.scale == kE4M3);
  }
  if (search.kind == WeightScales::local_hessian) {
    format_.rule = format_.scale.kind == ScaleKind::exponent ? ScaleRule{.kind = ScaleRule::search, .k = 4}
                                                             : ScaleRule{.kind = ScaleRule::sweep};
    all_codes_ = true;
  }
  by_reciprocal_ = format_.element.kind == ElementKind::int_full && format_.scale.bytes > 1 &&
                   format_.tensor_scale.mode == TensorScale::none;
  if (format_.rule.kind == ScaleRule::fitted) {
    const double a = double(factors_.at(0)), b = double(factors_.at(1));
    for (int q = 0; q < 256; ++q) table_.push_back(float(std::exp2(a * q + b)));
    for (int q = 0; q < 255; ++q) thresholds_.push_back(std::exp2(a * (q + 0.5) + b));
  }
}

float GroupCoder::tensor_scale(int64_t row) const {
  if (format_.rule.kind == ScaleRule::fitted) return 1;
  return factors_.empty() ? 1.0f : factors_.size() == 1 ? factors_[0] : factors_[size_t(row)];
}

int GroupCoder::top_code() const {
  return format_.scale.kind == ScaleKind::minifloat ? int(format_.scale.mini.max_code) : 127;
}

int GroupCoder::candidates_per_group() const {
  switch (format_.rule.kind) {
    case ScaleRule::four_over_six: return 2;
    case ScaleRule::sweep: return all_codes_ ? top_code() : format_.rule.hi - format_.rule.lo + 1;
    case ScaleRule::search: return format_.rule.k;
    case ScaleRule::grid: return format_.rule.steps;
    default: return 1;
  }
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
    for (int64_t k = 0; k < groups; ++k) s.unrounded[size_t(k)] = unrounded_scale(s.amax[size_t(k)]);
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

uint32_t GroupCoder::base_code(float amax, int64_t row) const {
  if (format_.scale.kind == ScaleKind::exponent)
    return power_of_two_rule(format_.rule, format_.element).byte(amax);
  const float scale =
      by_reciprocal_ ? unrounded_scale(amax) : amax / (format_.element.scale_max * tensor_scale(row));
  return std::max(encode_scale(format_.scale, scale), least_code());
}

uint32_t GroupCoder::least_code() const {
  return format_.scale_floor == ScaleFloor::min_subnormal ? 1u
         : format_.scale_floor == ScaleFloor::min_normal  ? 1u << format_.scale.mini.man_bits
                                                          : 0u;
}

void GroupCoder::candidates(float amax, int64_t row, uint32_t* codes, float* effective) const {
  const ScaleRule& rule = format_.rule;
  const int count = candidates_per_group();
  if (amax == 0) {
    std::fill_n(codes, count, 0u), std::fill_n(effective, count, 0.0f);
    return;
  }
  const int least = int(std::max(1u, least_code())), top = top_code();
  const float s_t = tensor_scale(row);
  switch (rule.kind) {
    case ScaleRule::search: {
      // f = floor, then 2f, f/2, 4f, f/4...
      const int first = int(base_code(amax, row)) - (rule.k - 1) / 2;
      for (int j = 0; j < count; ++j) codes[j] = uint32_t(std::clamp(first + j, 0, 254));
      break;
    }
    case ScaleRule::four_over_six:
      codes[0] = base_code(amax, row);
      codes[1] = std::max(format_.scale.mini.encode(amax / (4.0f * s_t)), least_code());
      break;
    case ScaleRule::sweep: {
      const int first = all_codes_ ? least : int(base_code(amax, row)) + rule.lo;
      for (int j = 0; j < count; ++j) codes[j] = uint32_t(std::clamp(first + j, least, top));
      break;
    }
    case ScaleRule::grid:
      for (int j = 0; j < count; ++j) {
        const double share = rule.lowest + (1 - rule.lowest) * j / (rule.steps - 1);
        codes[j] = base_code(amax * float(share), row);
      }
      break;
    default: codes[0] = base_code(amax, row);
  }
  for (int j = 0; j < count; ++j) effective[j] = s_t * decode_scale(format_.scale, codes[j]);
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
      const auto q = std::upper_bound(thresholds_.begin(), thresholds_.end(), scale) - thresholds_.begin();
      // A flat tensor (a = 0) has one scale, q = 0.
      bytes[k] = amax > 0 && factors_[0] > 0 ? uint8_t(q) : uint8_t(0);
      effective[k] = amax > 0 ? table_[bytes[k]] : 0.0f;
    }
    return;
  }
  if (rule.kind == ScaleRule::quest) {
    for (int64_t k = 0; k < groups; ++k) {
      const float deviation = float(standard_deviation(x + k * g_, g_));
      const float v = (2.92247856f / 6.0f) * deviation + 1e-8f;
      const int byte = PowerOfTwoRule{0, 1u << 23}.byte(v);
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
      const float scale = by_reciprocal_ ? unrounded_scale(amax) : amax / divisor;
      const uint32_t bits = amax > 0 ? encode_scale(type, scale) : 0;
      store_bits(bytes + k * type.bytes, type.bytes, bits);
      effective[k] = s_t * decode_scale(type, bits);
    }
  } else {
    kernels_.minifloat_scales(type.mini, divisor, s_t, least_code(), s.amax.data(), groups, bytes, effective);
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
    for (int64_t k = 0; k < groups; ++k) out[k] = table_[bytes[k]];
    return;
  }
  const float s_t = tensor_scale(row);
  if (type.bytes == 1) return kernels_.decode_byte_scales(type, bytes, groups, s_t, out);
  for (int64_t k = 0; k < groups; ++k)
    out[k] = s_t * decode_scale(type, load_bits(bytes + k * type.bytes, type.bytes));
}

}  // namespace fp4lab
