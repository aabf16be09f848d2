// tests/formats/reference.h - quantization as SPEC sections 1 and 2 write it: plain loops, double or long
// double wherever a rule is exact, and one rounded FP32 step at a time where the specification says FP32. Of
// formats/ it uses the value types and the names, no arithmetic.
#pragma once
#include "formats/format.h"
#include "tests/formats/helpers.h"

namespace fp4lab::spec {

/// floor(log2 m), m > 0: exact for subnormals too.
inline int floor_log2(float m) { return std::ilogb(double(m)); }

/// The byte of an E8M0 rule that looks at amax alone.
inline int e8m0_byte(const ScaleRule& rule, const Grid& e, float m) {
  if (m == 0) return 0;
  const int exponent = floor_log2(m);
  const long double x = static_cast<long double>(m), q = static_cast<long double>(e.qmax);
  const long double mantissa = std::ldexp(x, -exponent);  // [1, 2)
  int k = 0;
  switch (rule.kind) {
    case ScaleRule::floor: k = exponent - e.emax; break;
    case ScaleRule::even:
      k = exponent - e.emax + (mantissa >= 2 - std::ldexp(1.0L, -(e.man_bits + 1)));
      break;
    case ScaleRule::ceil_pow2: k = exponent - e.emax + (mantissa > 1); break;
    case ScaleRule::ceil:  // the least k with m <= Qmax 2^k
      for (k = exponent - e.emax - 3; x > std::ldexp(q, k);) ++k;
      break;
    case ScaleRule::map:  // the largest k with c 2^k <= m
      for (k = exponent + 25; std::ldexp(static_cast<long double>(rule.c), k) > x;) --k;
      break;
    case ScaleRule::nearest:  // 2^(k - 1/2) <= m/Qmax < 2^(k + 1/2), squared: m^2 has 48 bits
      for (k = exponent + 2; std::ldexp(q * q, 2 * k - 1) > x * x;) --k;
      break;
    case ScaleRule::fpq: k = exponent; break;
    default: k = -1000;
  }
  return std::clamp(k + 127, 0, 254);
}

/// Error of a group under scale s, in the order that row_kernels.h states.
/// 1 / 2^floor(log2 amax), within 2^-126..2^126: what errors are multiplied by before they are squared.
inline float error_unit(const float* x, int64_t n) {
  float amax = 0;
  for (int64_t i = 0; i < n; ++i) amax = std::max(amax, std::fabs(x[i]));
  return amax > 0 ? std::ldexp(1.0f, std::clamp(-std::ilogb(amax), -126, 126)) : 0x1p126f;
}
inline float group_error(const Grid& e, const float* x, int64_t n, float s) {
  const float unit = error_unit(x, n);
  float lane[16] = {};
  for (int64_t i = 0; i < n; ++i) {
    const float d = (s > 0 ? x[i] - s * float(e.decode(e.encode(x[i] / s))) : x[i]) * unit;
    lane[i % 16] += d * d;
  }
  for (int half : {8, 4, 2, 1})
    for (int l = 0; l < half; ++l) lane[l] += lane[l + half];
  return lane[0];
}

/// The candidate of least error, the smaller scale among equals. Candidates are (stored code, effective
/// scale).
struct Candidate {
  int code;
  float scale;
};
inline Candidate best_of(std::vector<Candidate> candidates, const Grid& e, const float* x, int64_t n) {
  std::stable_sort(candidates.begin(), candidates.end(),
                   [](const Candidate& a, const Candidate& b) { return a.scale < b.scale; });
  Candidate best = candidates.at(0);
  float least = group_error(e, x, n, best.scale);
  for (const Candidate& c : candidates)
    if (const float error = group_error(e, x, n, c.scale); error < least) best = c, least = error;
  return best;
}

inline float e8m0_value(int byte) { return float(std::ldexp(1.0, byte - 127)); }

inline float amax_of(const float* x, int64_t n) {
  float m = 0;
  for (int64_t i = 0; i < n; ++i) m = std::max(m, std::fabs(x[i]));
  return m;
}

struct Quantized {
  std::vector<uint8_t> bytes, zero, codes;  // codes: one per byte
  std::vector<float> factors, scales, values;
};

/// Everything but `fitted`, whose logarithms are not exact (quantize_test.cpp compares it in its own way).
inline Quantized quantize(const FormatSpec& f, MatrixView<const float> X) {
  const Grid e = grid(f.element.name);
  const bool e8m0 = f.scale.name == "ue8m0";
  const Stored type = e8m0 ? Stored{} : stored(f.scale.name);
  const int64_t g = f.group_size == 0 ? X.cols : f.group_size;
  const float qmax = float(e.qmax);
  Quantized out;

  // Tensor scales.
  float whole = 0;
  for (int64_t r = 0; r < X.rows; ++r) whole = std::max(whole, amax_of(X.row(r), X.cols));
  auto tensor_scale = [&](float amax) {
    const double top = f.rule.kind == ScaleRule::four_over_six ? 256 : type.max;
    return amax == 0 ? 1.0f : amax / float(top * e.qmax);
  };
  if (f.rule.kind == ScaleRule::fpq) out.factors = {2.0f / qmax};
  if (f.tensor_scale.mode == TensorScale::dynamic) out.factors = {tensor_scale(whole)};
  if (f.tensor_scale.mode == TensorScale::fixed) out.factors = {f.tensor_scale.value};
  if (f.tensor_scale.mode == TensorScale::per_token)
    for (int64_t r = 0; r < X.rows; ++r) out.factors.push_back(tensor_scale(amax_of(X.row(r), X.cols)));

  for (int64_t r = 0; r < X.rows; ++r)
    for (int64_t at = 0; at < X.cols; at += g) {
      const float* x = X.row(r) + at;
      const float m = amax_of(x, g);
      const float s_t = out.factors.empty() ? 1.0f : out.factors[out.factors.size() == 1 ? 0 : size_t(r)];
      Candidate chosen{0, 0};
      int zero = 0;
      if (e.kind == Grid::asym) {
        const float low = std::min(0.0f, *std::min_element(x, x + g)),
                    high = std::max(0.0f, *std::max_element(x, x + g));
        const float range = high - low;  // of two large ones it is not a float: by halves
        const float s = std::isfinite(range) ? range / qmax : (high / 2 - low / 2) / qmax * 2;
        chosen.code = int(type.encode(double(s)));
        chosen.scale = float(type.decode(uint32_t(chosen.code)));
        if (chosen.scale > 0)
          zero = int(std::clamp(std::nearbyint(double(-low / chosen.scale)), 0.0, e.high));
        out.zero.push_back(uint8_t(zero));
      } else if (m == 0) {
      } else if (f.rule.kind == ScaleRule::quest) {
        double mean = 0, squares = 0;
        for (int64_t i = 0; i < g; ++i) mean += double(x[i]) / double(g);
        for (int64_t i = 0; i < g; ++i) squares += (double(x[i]) - mean) * (double(x[i]) - mean);
        const float v = (2.92247856f / 6) * float(std::sqrt(squares / double(g))) + 1e-8f;
        chosen.code = std::clamp(floor_log2(v) + 127, 0, 254);
        chosen.scale = e8m0_value(chosen.code);
      } else if (f.rule.kind == ScaleRule::search) {
        const int floor = e8m0_byte({ScaleRule::floor}, e, m);
        std::vector<Candidate> candidates;
        for (int j = 0; j < f.rule.k; ++j) {  // f, 2f, f/2, 4f, f/4, ...
          const int code = std::clamp(floor + (j % 2 ? (j + 1) / 2 : -j / 2), 0, 254);
          candidates.push_back({code, e8m0_value(code)});
        }
        chosen = best_of(candidates, e, x, g);
      } else if (e8m0) {
        chosen.code = e8m0_byte(f.rule, e, m);
        chosen.scale = e8m0_value(chosen.code) * s_t;
      } else {
        const int least = f.scale_floor == ScaleFloor::min_subnormal ? 1
                          : f.scale_floor == ScaleFloor::min_normal  ? 1 << type.man_bits
                                                                     : 0;
        auto at_code = [&](int code) { return Candidate{code, s_t * float(type.decode(uint32_t(code)))}; };
        // A full integer grid under a wide float scale multiplies by the reciprocal (formats/elements.h).
        const bool reciprocal = f.element.name.ends_with("-full") && f.scale.bytes > 1 && out.factors.empty();
        auto absmax = [&](float over) {
          return std::max(int(type.encode(double(reciprocal ? m * (1 / over) : m / (over * s_t)))), least);
        };
        chosen = at_code(absmax(qmax));
        if (f.rule.kind == ScaleRule::four_over_six) chosen = best_of({chosen, at_code(absmax(4))}, e, x, g);
        if (f.rule.kind == ScaleRule::sweep) {
          std::vector<Candidate> candidates;
          for (int d = f.rule.lo; d <= f.rule.hi; ++d)
            candidates.push_back(
                at_code(std::clamp(chosen.code + d, std::max(1, least), int(type.values.size()) - 1)));
          chosen = best_of(candidates, e, x, g);
        }
      }
      for (int b = 0; b < (e8m0 ? 1 : type.bytes); ++b)
        out.bytes.push_back(uint8_t(uint32_t(chosen.code) >> (8 * b)));
      out.scales.push_back(chosen.scale);
      for (int64_t i = 0; i < g; ++i) {
        const uint32_t code = chosen.scale > 0 ? e.encode(x[i] / chosen.scale, zero) : e.zero_code();
        out.codes.push_back(uint8_t(code));
        out.values.push_back(chosen.scale > 0 ? chosen.scale * float(e.decode(code, zero)) : 0.0f);
      }
    }
  return out;
}

}  // namespace fp4lab::spec
