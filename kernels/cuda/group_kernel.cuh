// kernels/cuda/group_kernel.cuh - what 16 threads do for one group of a row, in the CPU's order of operations
// (formats/group_coder.cpp, formats/row_kernels.inc).
#pragma once
#include <type_traits>

#include "formats/group_scale.h"
#include "kernels/cuda/gpu.h"
#include "kernels/cuda/lanes.cuh"

namespace fp4lab::cuda {

/// How the groups' scales come about.
enum class Choice : uint8_t { rule, best, shrink, quest, fitted, given };

struct GroupProblem {
  MatrixView<const float> X;
  int64_t g = 0, groups = 0;  // elements of a group, groups of a row
  Element element;
  GroupRule rule;
  Choice choice = Choice::rule;
  const float* factors = nullptr;  // s_T of each `rows_per_factor` rows, on the GPU; null: `factor`
  int64_t rows_per_factor = 1;
  float factor = 1;
  const FittedScales* fitted = nullptr;  // on the GPU
  bool flat = false;                     // fitted with a = 0: one scale
  // Where results go; null: nowhere. Choice::given reads scale bytes and zero points instead.
  uint8_t* bytes = nullptr;
  uint8_t* zero = nullptr;
  uint8_t* codes = nullptr;  // packed if `packed`, otherwise one per byte, (rows, code_stride)
  int64_t code_stride = 0;
  bool packed = false;       // only where g is a multiple of 16, so that all lanes go on together
  MatrixView<float> values;  // dequantized; may be X
  unsigned long long* bad_row = nullptr;  // the first row with a NaN or Inf; null: X is finite
};

/// The stored scale of group `at`, `width` bytes wide.
__device__ __forceinline__ uint32_t load_scale(const uint8_t* bytes, int width, int64_t at) {
  return width == 1   ? bytes[at]
         : width == 2 ? reinterpret_cast<const uint16_t*>(bytes)[at]
                      : reinterpret_cast<const uint32_t*>(bytes)[at];
}
__device__ __forceinline__ void store_scale(uint8_t* bytes, int width, int64_t at, uint32_t code) {
  if (width == 1)
    bytes[at] = uint8_t(code);
  else if (width == 2)
    reinterpret_cast<uint16_t*>(bytes)[at] = uint16_t(code);
  else
    reinterpret_cast<uint32_t*>(bytes)[at] = code;
}

namespace group_detail {

__device__ __forceinline__ uint32_t largest_lane(uint32_t v, unsigned threads) {
#pragma unroll
  for (int half = 8; half >= 1; half /= 2) v = max(v, __shfl_xor_sync(threads, v, half, 16));
  return v;
}

/// formats/row_kernels.inc: loss_unit.
__device__ __forceinline__ float loss_unit(float m) {
  const int32_t e = 254 - int32_t(float_bits(m) >> 23);
  return bits_float(uint32_t(e < 1 ? 1 : e > 253 ? 253 : e) << 23);
}

/// formats/row_kernels.inc: pow_2_4.
__device__ __forceinline__ float pow_2_4(float d) {
  const uint32_t b = float_bits(d) & 0x7fffffffu;
  const int32_t e = (int32_t(b) - 0x3f3504f3) >> 23;
  const float exponent = float(e);
  const float m = bits_float(b - (uint32_t(e) << 23));
  const float t = (m - 1.0f) / (m + 1.0f), u = t * t;
  float p = u * 0.11111111f + 0.14285715f;
  p = p * u + 0.2f;
  p = p * u + 0.33333334f;
  p = p * u + 1.0f;
  const float whole = (exponent * 2.4f + 0x1.8p23f) - 0x1.8p23f;
  const float rest = (exponent * 2.0f - whole) + exponent * 0.4f + (t * p) * (2.4f * 2.8853901f);
  const float near = (rest + 0x1.8p23f) - 0x1.8p23f;
  const float f = (rest - near) * 0.69314718f;
  float q = f * (1.0f / 5040) + 1.0f / 720;
  q = q * f + 1.0f / 120;
  q = q * f + 1.0f / 24;
  q = q * f + 1.0f / 6;
  q = q * f + 0.5f;
  q = q * f + 1.0f;
  q = q * f + 1.0f;
  float power = whole + near;
  power = power < -127.0f ? -127.0f : power;
  power = power > 127.0f ? 127.0f : power;
  const float scaled = q * bits_float(uint32_t(int32_t(power) + 127) << 23);
  return b < 0x00800000u ? 0.0f : scaled;
}

/// A lane's elements of its group, l, l + 16, ...: in registers when there are kOwn of them, or read again.
template <int kOwn>
struct Own {
  float x[kOwn];
  __device__ Own(const float* from, int lane, int64_t) {
#pragma unroll
    for (int i = 0; i < kOwn; ++i) x[i] = from[lane + 16 * i];
  }
  template <class Body>
  __device__ __forceinline__ void each(const Body& body) const {
#pragma unroll
    for (int i = 0; i < kOwn; ++i) body(x[i], int64_t(16 * i));
  }
};
template <>
struct Own<0> {
  const float* from;
  int lane;
  int64_t g;
  __device__ Own(const float* x, int l, int64_t size) : from(x), lane(l), g(size) {}
  template <class Body>
  __device__ __forceinline__ void each(const Body& body) const {
    for (int64_t i = 0; lane + i < g; i += 16) body(from[lane + i], i);
  }
};

template <class Codec>
inline constexpr bool kAsym = std::is_same_v<Codec, AsymCodec>;

template <class Codec>
__device__ __forceinline__ uint32_t code_of(const Codec& codec, float x, float s, float zero,
                                            uint32_t zero_code) {
  if constexpr (kAsym<Codec>)
    return codec.template encode<float>(s > 0 ? x / s : 0.0f, zero);
  else
    return s > 0 ? codec.template encode<float>(x / s) : zero_code;
}
template <class Codec>
__device__ __forceinline__ float value_of(const Codec& codec, uint32_t code, float s, float zero) {
  if constexpr (kAsym<Codec>)
    return s * codec.template decode<float>(code, zero);
  else
    return s > 0 ? s * codec.template decode<float>(code) : 0.0f;
}

/// The group's loss under the scale s, in the CPU's lanes.
template <class Codec, class Elements, class Loss>
__device__ __forceinline__ float group_loss(const Codec& codec, const Elements& own, float s, float unit,
                                            unsigned threads, const Loss& loss) {
  float sum = 0;
  if constexpr (!kAsym<Codec>)
    own.each([&](float v, int64_t) {
      sum += loss((s > 0 ? v - s * codec.template decode<float>(codec.template encode<float>(v / s)) : v) *
                  unit);
    });
  return add_lanes(sum, threads);
}

__device__ inline float standard_deviation(const float* x, int64_t n) {
  double sum = 0, squares = 0;
  for (int64_t i = 0; i < n; ++i) sum += double(x[i]);
  const double mean = sum / double(n);
  for (int64_t i = 0; i < n; ++i) squares += (double(x[i]) - mean) * (double(x[i]) - mean);
  return float(sqrt(squares / double(n)));
}

struct Chosen {
  uint32_t code;
  float effective;
  float zero;
};

/// The stored scale of group `at`; a group of zeros is coded as zeros whatever it says.
__device__ __forceinline__ Chosen stored(const GroupProblem& p, int64_t at, float amax, float s_t) {
  const uint32_t code = load_scale(p.bytes, p.rule.scale.bytes, at);
  const float s = p.fitted ? p.fitted->table[code] : p.rule.effective(code, s_t);
  return {code, amax == 0 ? 0.0f : s, p.zero ? float(p.zero[at]) : 0.0f};
}

template <class Codec, class Elements>
__device__ Chosen choose(const GroupProblem& p, const Codec& codec, const Elements& own, const float* x,
                         float amax, float s_t, unsigned threads) {
  if constexpr (kAsym<Codec>) {
    float low = 0, high = 0;
    own.each([&](float v, int64_t) { low = v < low ? v : low, high = v > high ? v : high; });
#pragma unroll
    for (int half = 8; half >= 1; half /= 2) {
      low = fminf(low, __shfl_xor_sync(threads, low, half, 16));
      high = fmaxf(high, __shfl_xor_sync(threads, high, half, 16));
    }
    const float steps = p.element.scale_max, range = high - low;
    const bool fits = magnitude(range) <= 0x1.fffffep127f;
    const float scale = fits ? range / steps : (high * 0.5f - low * 0.5f) / steps * 2.0f;
    const uint32_t code = encode_scale(p.rule.scale, scale);
    const float effective = decode_scale(p.rule.scale, code);
    return {code, effective,
            effective > 0 ? float(uint8_t(codec.template encode<float>(-low / effective, 0.0f))) : 0.0f};
  } else {
    switch (p.choice) {
      case Choice::fitted: {
        if (!(amax > 0)) return {0, 0, 0};
        const double scale = double(amax / p.element.scale_max);
        int q = 0;  // thresholds at or below the scale
        for (int step = 128; step >= 1; step /= 2)
          if (q + step <= 255 && p.fitted->thresholds[q + step - 1] <= scale) q += step;
        if (p.flat) q = 0;
        return {uint32_t(q), p.fitted->table[q], 0};
      }
      case Choice::quest: {
        if (amax == 0) return {0, 0, 0};
        const uint32_t byte = quest_byte(standard_deviation(x, p.g));
        return {byte, e8m0_decode(byte), 0};
      }
      case Choice::shrink: {
        const float unit = loss_unit(amax), scale = p.rule.unrounded_scale(amax);
        int best = 0;
        float least = 0;
        for (int i = 0; i < 100; ++i) {
          const float loss = group_loss(codec, own, scale * float(1 - 0.008 * i), unit, threads,
                                        [](float d) { return pow_2_4(d); });
          if (i == 0 || loss < least) best = i, least = loss;
        }
        amax *= float(1 - 0.008 * best);
        break;
      }
      case Choice::best: {
        if (amax == 0) return {0, 0, 0};
        const float unit = loss_unit(amax);
        Chosen best{};
        float least = 0;
        const int count = p.rule.candidates();
        for (int j = 0; j < count; ++j) {
          const uint32_t code = p.rule.candidate(j, amax, s_t);
          const float s = p.rule.effective(code, s_t);
          const float loss = group_loss(codec, own, s, unit, threads, [](float d) { return d * d; });
          if (j == 0 || loss < least) best = {code, s, 0}, least = loss;
        }
        return best;
      }
      default: break;
    }
    if (!(amax > 0)) return {0, 0, 0};
    const uint32_t code = p.rule.base_code(amax, s_t);
    return {code, p.rule.effective(code, s_t), 0};
  }
}

}  // namespace group_detail

/// One half warp per group. kOwn: elements per thread when g = 16 kOwn, otherwise 0.
template <class Codec, int kOwn>
__global__ void __launch_bounds__(256) group_kernel(const GroupProblem p, const Codec codec) {
  using namespace group_detail;
  const int lane = threadIdx.x % kLanes;
  const unsigned threads = half_warp();
  const uint32_t zero_code = p.element.zero_code();
  const int64_t per_block = blockDim.x / kLanes, total = p.X.rows * p.groups;
  for (int64_t at = int64_t(blockIdx.x) * per_block + threadIdx.x / kLanes; at < total;
       at += int64_t(gridDim.x) * per_block) {
    const int64_t row = at / p.groups, first = at % p.groups * p.g;
    const float* const x = p.X.row(row) + first;
    const Own<kOwn> own(x, lane, p.g);
    uint32_t top = 0;
    own.each([&](float v, int64_t) { top = max(top, float_bits(v) & 0x7fffffffu); });
    top = largest_lane(top, threads);
    if (top >= 0x7f800000u && p.bad_row) {
      if (lane == 0) atomicMin(p.bad_row, static_cast<unsigned long long>(row));
      continue;
    }
    const float s_t = p.factors ? p.factors[row / p.rows_per_factor] : p.factor;
    const bool given = p.choice == Choice::given;
    const Chosen c =
        given ? stored(p, at, bits_float(top), s_t) : choose(p, codec, own, x, bits_float(top), s_t, threads);
    if (!given && lane == 0) {
      if (p.bytes) store_scale(p.bytes, p.rule.scale.bytes, at, c.code);
      if (p.zero) p.zero[at] = uint8_t(c.zero);
    }
    if (!p.codes && !p.values.data) continue;
    __syncwarp(threads);  // values may go where others of the group still read from
    own.each([&](float v, int64_t i) {
      const uint32_t code = code_of(codec, v, c.effective, c.zero, zero_code);
      if (p.values.data) p.values(row, first + i + lane) = value_of(codec, code, c.effective, c.zero);
      if (!p.codes) return;
      uint8_t* const to = p.codes + row * p.code_stride;
      if (!p.packed) {
        to[first + i + lane] = uint8_t(code);
        return;
      }
      const uint32_t next = __shfl_down_sync(threads, code, 1, 16);
      if (lane % 2 == 0) to[(first + i + lane) / 2] = uint8_t(code | next << 4);
    });
  }
}

}  // namespace fp4lab::cuda
