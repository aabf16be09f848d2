#include "kernels/cuda/stream_groups.h"

#include <algorithm>
#include <bit>

#include "kernels/cuda/eight.cuh"
#include "kernels/cuda/quotient.h"

namespace fp4lab::cuda {

namespace {

constexpr int kThreads = 256;

/// How eights are found and which share a factor.
struct Layout {
  int64_t count;       // eights of the matrix
  int64_t per_row;     // of a row; the matrix is one row where nothing asks for rows
  int64_t per_factor;  // that share an element of `factors`
  int log_group;       // 2^log_group threads of a warp hold a group
};

/// x / s of eight elements of a group with this amax. `exact`: s is the power of two of `code`.
__device__ __forceinline__ Eight quotients(const Eight& x, float s, uint32_t code, bool exact, float amax) {
  Eight v;
  if (exact) {
    // Product and quotient are the same real number, rounded once.
    const float inverse = e8m0_decode(254u - code);
#pragma unroll
    for (int i = 0; i < 8; ++i) v.x[i] = x.x[i] * inverse;
  } else if (Quotient::serves(s, amax)) {
    const Quotient quotient(s);
#pragma unroll
    for (int i = 0; i < 8; ++i) v.x[i] = quotient.of(x.x[i]);
  } else {
#pragma unroll
    for (int i = 0; i < 8; ++i) v.x[i] = s > 0 ? x.x[i] / s : 0.0f;
  }
  return v;
}

/// Four codes as bytes, or, as nibbles, in the low half.
template <int kBits>
__device__ __forceinline__ uint32_t four_codes(const uint32_t* code) {
  return code[0] | code[1] << kBits | code[2] << (2 * kBits) | code[3] << (3 * kBits);
}

/// A thread takes eight elements; the threads of a group are neighbours in a warp.
template <class Codec>
__global__ void __launch_bounds__(kThreads)
    stream_kernel(const GroupProblem p, const Codec codec, const Layout layout) {
  const uint32_t zero_code = p.element.zero_code();
  const int lane = threadIdx.x % 32;
  // All threads of a warp go on together: they exchange values.
  for (int64_t at = int64_t(blockIdx.x) * kThreads + threadIdx.x; at - lane < layout.count;
       at += int64_t(gridDim.x) * kThreads) {
    const bool inside = at < layout.count;
    const int64_t row = layout.per_row == layout.count ? 0 : at / layout.per_row;
    const int64_t first = (at - row * layout.per_row) * 8;
    const Eight x = inside ? load_eight(p.X.row(row) + first) : Eight{};
    uint32_t top = 0;
#pragma unroll
    for (int i = 0; i < 8; ++i) top = max(top, float_bits(x.x[i]) & 0x7fffffffu);
#pragma unroll 1
    for (int i = 0; i < layout.log_group; ++i) top = max(top, __shfl_xor_sync(~0u, top, 1 << i));
    const bool leads = inside && (lane & ((1 << layout.log_group) - 1)) == 0;
    if (p.bad_row && leads && top >= 0x7f800000u)
      atomicMin(p.bad_row, static_cast<unsigned long long>(at * 8 / (p.groups * p.g)));
    const float amax = bits_float(top);
    float s_t = p.factor;
    if (p.factors && inside) s_t = p.factors[layout.per_factor >= layout.count ? 0 : at / layout.per_factor];
    const uint32_t code = amax > 0 ? p.rule.base_code(amax, s_t) : 0;
    const float s = amax > 0 ? p.rule.effective(code, s_t) : 0.0f;
    if (p.bytes && leads) store_scale(p.bytes, p.rule.scale.bytes, at >> layout.log_group, code);
    const bool exact = p.rule.scale.kind == ScaleKind::exponent && s_t == 1;
    const Eight v = quotients(x, s, code, exact, amax);
    uint32_t codes[8];
    if (s > 0) {
#pragma unroll
      for (int i = 0; i < 8; ++i) codes[i] = codec.template encode<float>(v.x[i]);
    } else {
#pragma unroll
      for (int i = 0; i < 8; ++i) codes[i] = zero_code;
    }
    if (p.codes && inside) {
      if (p.packed)
        reinterpret_cast<uint32_t*>(p.codes)[at] = four_codes<4>(codes) | four_codes<4>(codes + 4) << 16;
      else
        reinterpret_cast<uint2*>(p.codes)[at] = uint2{four_codes<8>(codes), four_codes<8>(codes + 4)};
    }
    if (!p.values.data) continue;
    Eight out;
#pragma unroll
    for (int i = 0; i < 8; ++i) out.x[i] = s * codec.template decode<float>(codes[i]);  // s = 0: 0 * 0
    store_eight(p.values.row(row) + first, out, inside);
  }
}

template <class Codec>
void launch(Gpu& gpu, const GroupProblem& p, const Codec& codec, const Layout& layout) {
  stream_kernel<<<blocks_for(layout.count, kThreads), kThreads, 0, gpu.stream()>>>(p, codec, layout);
  FP4LAB_CUDA_LAUNCHED("coding ", p.X.rows, " x ", p.X.cols, " in groups of ", p.g);
}

}  // namespace

bool can_stream_groups(const GroupProblem& p) {
  return p.choice == Choice::rule && p.element.kind != ElementKind::int_asym && p.g >= 16 && p.g <= 256 &&
         std::has_single_bit(uint64_t(p.g)) && in_eights(p.X) && (!p.values.data || in_eights(p.values)) &&
         (!p.codes || p.code_stride == p.X.cols / (p.packed ? 2 : 1));
}

void stream_groups(Gpu& gpu, const GroupProblem& p) {
  const int64_t per_row = p.X.cols / 8, count = p.X.rows * per_row;
  const bool dense = p.X.stride == p.X.cols && (!p.values.data || p.values.stride == p.X.cols);
  const Layout layout{count, dense ? count : per_row, std::min(p.rows_per_factor, p.X.rows) * per_row,
                      std::countr_zero(uint64_t(p.g / 8))};
  const Element& e = p.element;
  switch (e.kind) {
    case ElementKind::minifloat:
      return e == kE2M1 ? launch(gpu, p, E2M1Codec{}, layout) : launch(gpu, p, minifloat_codec(e), layout);
    case ElementKind::int_sym:
    case ElementKind::int_full: return launch(gpu, p, int_codec(e), layout);
    case ElementKind::table: return launch(gpu, p, Nf4Codec{}, layout);
    case ElementKind::int_asym: break;
  }
  FP4LAB_CHECK(false, e.name, " does not stream");
}

}  // namespace fp4lab::cuda
