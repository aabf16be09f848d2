// From stored bytes back to numbers.
#include "kernels/cuda/eight.cuh"
#include "kernels/cuda/group_kernel.cuh"
#include "kernels/cuda/quantize.h"

namespace fp4lab::cuda {

namespace {

constexpr int kThreads = 256;

/// How stored scales become numbers.
struct ScaleReader {
  ScaleType type;
  const uint8_t* bytes;
  int64_t groups;        // of a row
  const float* factors;  // per row, or null: `factor`
  float factor;
  const FittedScales* fitted;

  /// Of group `at` of the matrix, row after row.
  __device__ float operator()(int64_t at) const {
    if (fitted) return fitted->table[bytes[at]];
    const float s_t = factors ? factors[at / groups] : factor;
    return s_t * decode_scale(type, load_scale(bytes, type.bytes, at));
  }
};

__global__ void effective_kernel(ScaleReader scale, MatrixView<float> out) {
  for (int64_t at = int64_t(blockIdx.x) * blockDim.x + threadIdx.x; at < out.rows * out.cols;
       at += int64_t(gridDim.x) * blockDim.x)
    out(at / out.cols, at % out.cols) = scale(at);
}

template <class Codec>
__device__ __forceinline__ float decoded(const Codec& codec, uint32_t code, float s, float zero) {
  if constexpr (group_detail::kAsym<Codec>)
    return s * codec.template decode<float>(code, zero);
  else
    return s * codec.template decode<float>(code);
}

/// A thread takes one byte of codes: two elements when they are packed.
template <class Codec>
__global__ void dequantize_kernel(const Codec codec, ScaleReader scale, const uint8_t* zero,
                                  const uint8_t* codes, int64_t per_row, bool packed, int64_t g,
                                  MatrixView<float> out) {
  for (int64_t at = int64_t(blockIdx.x) * blockDim.x + threadIdx.x; at < out.rows * per_row;
       at += int64_t(gridDim.x) * blockDim.x) {
    const int64_t r = at / per_row, i = at % per_row;
    const uint32_t byte = codes[at];
    const auto write = [&](int64_t c, uint32_t code) {
      const int64_t group = r * scale.groups + c / g;
      out(r, c) = decoded(codec, code, scale(group), zero ? float(zero[group]) : 0.0f);
    };
    if (!packed) {
      write(i, byte);
    } else {
      write(2 * i, byte & 15);
      if (2 * i + 1 < out.cols) write(2 * i + 1, byte >> 4);
    }
  }
}

/// The same at the speed of memory, eight elements per thread: rows in eights, groups of whole eights.
template <class Codec>
__global__ void __launch_bounds__(kThreads)
    dequantize_eights_kernel(const Codec codec, ScaleReader scale, const uint8_t* zero, const uint8_t* codes,
                             bool packed, int64_t per_group, MatrixView<float> out) {
  const int64_t per_row = out.cols / 8, count = out.rows * per_row;
  const bool dense = out.stride == out.cols;
  for (int64_t at = int64_t(blockIdx.x) * kThreads + threadIdx.x; at - threadIdx.x % 32 < count;
       at += int64_t(gridDim.x) * kThreads) {  // all threads of a warp go on together
    const bool inside = at < count;
    Eight v{};
    if (inside) {
      const int64_t group = at / per_group;
      const float s = scale(group), z = zero ? float(zero[group]) : 0.0f;
      const uint2 all = packed ? uint2{reinterpret_cast<const uint32_t*>(codes)[at], 0}
                               : reinterpret_cast<const uint2*>(codes)[at];
#pragma unroll
      for (int i = 0; i < 8; ++i) {
        const uint32_t code = packed ? all.x >> (4 * i) & 15 : (i < 4 ? all.x : all.y) >> (8 * (i % 4)) & 255;
        v.x[i] = decoded(codec, code, s, z);
      }
    }
    const int64_t row = dense ? 0 : at / per_row;
    store_eight(out.row(row) + (at - row * per_row) * 8, v, inside);
  }
}

/// What a ScaleReader points to besides the bytes.
struct Held {
  GpuArray<float> per_row;
  GpuArray<FittedScales> fitted;
};
ScaleReader reader_of(Gpu& gpu, const DeviceQuantized& q, Held& held) {
  ScaleReader reader{q.format.scale, q.bytes.data(), q.format.groups(q.cols), nullptr, 1, nullptr};
  if (q.format.rule.kind == ScaleRule::fitted) {
    const FittedScales scales = fitted_scales(q.factors.at(0), q.factors.at(1));
    held.fitted = gpu.upload(std::span<const FittedScales>(&scales, 1));
    reader.fitted = held.fitted.data();
  } else if (q.factors.size() > 1) {
    held.per_row = gpu.upload<float>(q.factors);
    reader.factors = held.per_row.data();
  } else if (q.factors.size() == 1) {
    reader.factor = q.factors[0];
  }
  return reader;
}

}  // namespace

void effective_scales(Gpu& gpu, const DeviceQuantized& q, MatrixView<float> out) {
  FP4LAB_CHECK(out.rows == q.rows && out.cols == q.format.groups(q.cols), out.rows, " x ", out.cols);
  if (out.size() == 0) return;
  Held held;
  effective_kernel<<<blocks_for(out.size(), kThreads, 1 << 16), kThreads, 0, gpu.stream()>>>(
      reader_of(gpu, q, held), out);
  FP4LAB_CUDA_LAUNCHED("scales of ", q.rows, " x ", q.cols);
}

void dequantize(Gpu& gpu, const DeviceQuantized& q, MatrixView<float> out) {
  FP4LAB_CHECK(out.rows == q.rows && out.cols == q.cols, out.rows, " x ", out.cols);
  if (out.size() == 0) return;
  Held held;
  const ScaleReader scale = reader_of(gpu, q, held);
  const int64_t per_row = q.format.code_bytes(q.cols), g = q.format.group(q.cols);
  const bool packed = q.format.packed(), eights = in_eights(out) && g % 8 == 0;
  const auto run = [&](const auto& codec) {
    if (eights)
      dequantize_eights_kernel<<<blocks_for(out.size() / 8, kThreads), kThreads, 0, gpu.stream()>>>(
          codec, scale, q.zero_points.data(), q.codes.data(), packed, g / 8, out);
    else
      dequantize_kernel<<<blocks_for(q.rows * per_row, kThreads, 1 << 16), kThreads, 0, gpu.stream()>>>(
          codec, scale, q.zero_points.data(), q.codes.data(), per_row, packed, g, out);
    FP4LAB_CUDA_LAUNCHED("dequantizing ", q.rows, " x ", q.cols);
  };
  const Element& e = q.format.element;
  switch (e.kind) {
    case ElementKind::minifloat: return e == kE2M1 ? run(E2M1Codec{}) : run(minifloat_codec(e));
    case ElementKind::int_sym:
    case ElementKind::int_full: return run(int_codec(e));
    case ElementKind::int_asym: return run(asym_codec(e));
    case ElementKind::table: return run(Nf4Codec{});
  }
}

}  // namespace fp4lab::cuda
