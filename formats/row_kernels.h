// formats/row_kernels.h - the inner loops over groups, compiled for x86-64-v3 and x86-64-v4 from one source
// (row_kernels.inc) and chosen once at run time. Both give the same bits: every step is a single rounded IEEE
// operation, and sums run in 16 fixed lanes.
//   x       groups * g floats of one row, contiguous, finite
//   scale   one effective FP32 scale per group; 0 means: every code the zero code, every value +0
//   zero    zero points, one per group; only int_asym elements read them (null otherwise)
//   codes   one per byte
#pragma once
#include <cstdint>

#include "formats/elements.h"
#include "formats/scale_types.h"

namespace fp4lab {

struct RowKernels {
  const char* name;  // "x86-64-v3", "x86-64-v4"

  /// The largest |x| as bits: above 0x7f800000 when a NaN is among them, 0x7f800000 for an Inf.
  uint32_t (*max_magnitude)(const float* x, int64_t n);
  /// amax of each group.
  void (*group_amax)(const float* x, int64_t groups, int64_t g, float* amax);
  /// Smallest and largest value of each group, widened to contain 0.
  void (*group_range)(const float* x, int64_t groups, int64_t g, float* low, float* high);

  /// code = Q(x / scale). `next` is what will be read after x, as many elements: it is brought into the cache
  /// meanwhile, since nothing else asks the memory for anything while one run is computed on (x itself:
  /// nothing is next).
  void (*encode)(const Element& e, const float* x, const float* scale, const uint8_t* zero, int64_t groups,
                 int64_t g, uint8_t* codes, const float* next);
  /// out = scale * value(code).
  void (*decode)(const Element& e, const uint8_t* codes, const float* scale, const uint8_t* zero,
                 int64_t groups, int64_t g, float* out);
  /// decode(encode(x)), without the codes.
  void (*fake)(const Element& e, const float* x, const float* scale, const uint8_t* zero, int64_t groups,
               int64_t g, float* out, const float* next);
  /// Two codes per byte, the even element in the low nibble; an odd last one leaves the high nibble 0.
  void (*pack)(const uint8_t* codes, int64_t n, uint8_t* bytes);
  void (*unpack)(const uint8_t* bytes, int64_t n, uint8_t* codes);

  /// For each group, the index of the candidate scale with the least error sum (x - s Q(x/s))^2, and that
  /// error. `candidates` is (groups, n); equal errors keep the earlier index, so callers list smaller scales
  /// first. The sum: element i adds to lane i mod 16 in order, each step rounded to FP32; lanes are added by
  /// halves (8, 4, 2, 1). Differences are taken in units of 2^floor(log2 amax), so that squares of huge or
  /// tiny ones neither overflow nor vanish; otherwise that changes nothing.
  void (*best_candidate)(const Element& e, const float* x, int64_t groups, int64_t g, const float* candidates,
                         int n, int32_t* best, float* error);
  /// For each group, the i in 0..99 for which scale * (1 - 0.008 i) has the least sum |x - s Q(x/s)|^2.4
  /// (same sum order; equal errors keep the smaller i).
  void (*best_shrink)(const Element& e, const float* x, int64_t groups, int64_t g, const float* scale,
                      int32_t* best);

  /// byte = PowerOfTwoRule for each amax; effective[i] = factor * 2^(byte - 127), 0 where amax is 0.
  void (*power_of_two_scales)(int offset, uint32_t threshold, float factor, const float* amax, int64_t groups,
                              uint8_t* bytes, float* effective);
  /// code = max(Minifloat(amax / divisor), least where amax > 0); effective = s_T * value, 0 where amax is 0.
  void (*minifloat_scales)(const Minifloat& m, float divisor, float s_t, uint32_t least, const float* amax,
                           int64_t groups, uint8_t* codes, float* effective);
  /// effective = s_T * value(byte), for scale types of one byte.
  void (*decode_byte_scales)(const ScaleType& t, const uint8_t* bytes, int64_t groups, float s_t,
                             float* effective);
  /// Copies past the caches, for outputs too large to be read again soon. Any alignment.
  void (*stream_copy)(const float* from, int64_t n, float* to);
};

/// The kernels for this processor. FP4LAB_ISA=x86-64-v3 in the environment asks for the smaller set.
const RowKernels& row_kernels();
/// Both sets; the v4 one is null when this processor cannot run it. For tests and benchmarks.
const RowKernels& row_kernels_v3();
const RowKernels* row_kernels_v4();

}  // namespace fp4lab
