#include "kernels/cuda/gptq.h"

#include <algorithm>

#include "kernels/cuda/elementwise.h"
#include "kernels/cuda/gemm.h"
#include "kernels/cuda/group_kernel.cuh"
#include "kernels/cuda/tensor_factors.h"

namespace fp4lab::cuda {

namespace {

constexpr int kPanel = 128;         // columns: 4 per lane
constexpr int kPitch = kPanel + 4;  // of the coefficients in shared memory
constexpr int kThreads = 512;       // 16 rows

__global__ void live_kernel(MatrixView<const float> W, const uint8_t* dead, float* out) {
  for (int64_t at = int64_t(blockIdx.x) * blockDim.x + threadIdx.x; at < W.rows * W.cols;
       at += int64_t(gridDim.x) * blockDim.x)
    out[at] = dead[at % W.cols] ? 0.0f : W(at / W.cols, at % W.cols);
}

struct Panel {
  MatrixView<const float> W;  // live, stored order
  const int32_t* order;
  const float* coefficients;  // (K, K)
  float* corrections;         // (N, K), loop order
  const float* scales;        // (N, groups)
  const uint8_t* zero;        // (N, groups), int_asym only
  int64_t g, groups;
  const float* weight;  // (K)
  double weight_unit, added;
  float* errors;   // (N, kPanel)
  uint8_t* codes;  // (N, K), one per byte, stored order
  double* losses;  // (N)
  int64_t begin;
  int count;  // columns
  uint32_t zero_code;
};

/// One warp per row: lane l has the panel's columns 4 l, ..., 4 l + 3.
template <class Codec>
__global__ void __launch_bounds__(kThreads) panel_kernel(const Panel p, const Codec codec) {
  extern __shared__ float4 shared4[];
  float* const coefficients = reinterpret_cast<float*>(shared4);  // [k][j]: what column j takes of k's error
  const int64_t K = p.W.cols;
  for (int at = threadIdx.x; at < kPanel * kPanel; at += kThreads) {
    const int j = at / kPanel, k = at % kPanel;
    coefficients[k * kPitch + j] =
        j < p.count && k < j ? p.coefficients[(p.begin + j) * K + p.begin + k] : 0.0f;
  }
  __syncthreads();
  const int lane = threadIdx.x % 32;
  for (int64_t row = int64_t(blockIdx.x) * (kThreads / 32) + threadIdx.x / 32; row < p.W.rows;
       row += int64_t(gridDim.x) * (kThreads / 32)) {
    float t[4], c[4], s[4], z[4], v[4], e[4];
    uint32_t code[4];
    int32_t channel[4];
#pragma unroll
    for (int i = 0; i < 4; ++i) {
      const int k = 4 * lane + i;
      t[i] = c[i] = s[i] = z[i] = v[i] = e[i] = 0, code[i] = 0, channel[i] = 0;
      if (k >= p.count) continue;
      channel[i] = p.order[p.begin + k];
      const int64_t group = row * p.groups + channel[i] / p.g;
      t[i] = p.W(row, channel[i]);
      c[i] = p.corrections[row * K + p.begin + k];
      s[i] = p.scales[group];
      if (p.zero) z[i] = float(p.zero[group]);
    }
    for (int owner = 0; 4 * owner < p.count; ++owner)
#pragma unroll
      for (int i = 0; i < 4; ++i) {
        const int k = 4 * owner + i;
        if (k >= p.count) break;
        const float value = t[i] + c[i];
        const uint32_t bits = group_detail::code_of(codec, value, s[i], z[i], p.zero_code);
        const float error = t[i] - group_detail::value_of(codec, bits, s[i], z[i]);
        if (lane == owner) v[i] = value, code[i] = bits, e[i] = error;
        const float moved = __shfl_sync(~0u, error, owner);
        const float4 a = *reinterpret_cast<const float4*>(coefficients + k * kPitch + 4 * lane);
        // Columns up to k take nothing: their coefficient is 0, and they have been rounded.
        c[0] = fmaf(moved, a.x, c[0]), c[1] = fmaf(moved, a.y, c[1]);
        c[2] = fmaf(moved, a.z, c[2]), c[3] = fmaf(moved, a.w, c[3]);
      }
    double loss = 0;
#pragma unroll
    for (int i = 0; i < 4; ++i) {
      const int k = 4 * lane + i;
      p.errors[row * kPanel + k] = e[i];
      if (k >= p.count) continue;
      p.codes[row * K + channel[i]] = uint8_t(code[i]);
      const double by_target = double(e[i]), d = double(v[i]) - double(t[i]) + by_target;
      loss += double(p.weight[p.begin + k]) * p.weight_unit * d * d - p.added * by_target * by_target;
    }
#pragma unroll
    for (int half = 16; half >= 1; half /= 2) loss += __shfl_xor_sync(~0u, loss, half);
    if (lane == 0) p.losses[row] += loss;
  }
}

template <class Codec>
void round_panel(Gpu& gpu, const Panel& p, const Codec& codec) {
  constexpr int kBytes = kPanel * kPitch * int(sizeof(float));
  FP4LAB_CUDA_CALL(
      cudaFuncSetAttribute(panel_kernel<Codec>, cudaFuncAttributeMaxDynamicSharedMemorySize, kBytes),
      "a panel with ", kBytes, " bytes of shared memory");
  const unsigned blocks = blocks_for(p.W.rows, kThreads / 32, 3 * gpu.multiprocessors());
  panel_kernel<Codec><<<blocks, kThreads, kBytes, gpu.stream()>>>(p, codec);
  FP4LAB_CUDA_LAUNCHED("GPTQ of columns ", p.begin, " to ", p.begin + p.count, " of ", p.W.rows, " x ",
                       p.W.cols);
}

void round_panel(Gpu& gpu, const Panel& p, const Element& e) {
  switch (e.kind) {
    case ElementKind::minifloat:
      return e == kE2M1 ? round_panel(gpu, p, E2M1Codec{}) : round_panel(gpu, p, minifloat_codec(e));
    case ElementKind::int_sym:
    case ElementKind::int_full: return round_panel(gpu, p, int_codec(e));
    case ElementKind::int_asym: return round_panel(gpu, p, asym_codec(e));
    case ElementKind::table: return round_panel(gpu, p, Nf4Codec{});
  }
}

}  // namespace

GpuArray<float> without_dead(Gpu& gpu, MatrixView<const float> W, const DeviceFactor& factor) {
  if (const int64_t at = first_nonfinite(gpu, W); at >= 0) report_nonfinite(gpu, W, at / W.cols);
  GpuArray<float> live = gpu.allocate<float>(W.size());
  const GpuArray<uint8_t> dead = gpu.upload<uint8_t>(factor.dead);
  if (W.size() == 0) return live;
  live_kernel<<<blocks_for(W.size(), 256, 16 * gpu.multiprocessors()), 256, 0, gpu.stream()>>>(W, dead.data(),
                                                                                               live.data());
  FP4LAB_CUDA_LAUNCHED("live channels of ", W.rows, " x ", W.cols);
  return live;
}

GptqCodes gptq(Gpu& gpu, MatrixView<const float> W, const DeviceFactor& factor, DeviceQuantized scales) {
  const int64_t N = W.rows, K = W.cols;
  FP4LAB_CHECK(factor.ok && int64_t(factor.order.size()) == K && scales.rows == N && scales.cols == K, "W (",
               N, ", ", K, "), ", factor.order.size(), " channels, scales of (", scales.rows, ", ",
               scales.cols, ")");
  const FormatSpec& format = scales.format;
  const int64_t groups = format.groups(K);
  const GpuArray<float> effective = gpu.allocate<float>(N * groups);
  effective_scales(gpu, scales, {effective.data(), N, groups, groups});
  const GpuArray<int32_t> order = gpu.upload<int32_t>(factor.order);
  const GpuArray<float> weight = gpu.upload<float>(factor.weight);
  const GpuArray<float> corrections = gpu.allocate<float>(N * K), errors = gpu.allocate<float>(N * kPanel);
  const GpuArray<uint8_t> codes = gpu.allocate<uint8_t>(N * K);
  const GpuArray<double> losses = gpu.allocate<double>(N);
  gpu.fill(corrections.data(), 0, N * K * int64_t(sizeof(float)));
  gpu.fill(losses.data(), 0, N * int64_t(sizeof(double)));
  Panel p{W,
          order.data(),
          factor.coefficients.data(),
          corrections.data(),
          effective.data(),
          scales.zero_points.data(),
          format.group(K),
          groups,
          weight.data(),
          factor.weight_unit,
          factor.added,
          errors.data(),
          codes.data(),
          losses.data(),
          0,
          0,
          format.element.zero_code()};
  for (p.begin = 0; p.begin < K && N > 0; p.begin += kPanel) {
    p.count = int(std::min<int64_t>(kPanel, K - p.begin));
    round_panel(gpu, p, format.element);
    const int64_t end = p.begin + p.count;
    if (end < K)
      gemm(gpu, {errors.data(), N, p.count, kPanel},
           {factor.coefficients.data() + end * K + p.begin, K - end, p.count, K},
           {corrections.data() + end, N, K - end, K}, true);
  }
  GptqCodes out{std::move(scales), 0};
  if (format.packed()) {
    out.q.codes = gpu.allocate<uint8_t>(N * format.code_bytes(K));
    pack_codes(gpu, codes.data(), N, K, out.q.codes.data());
  } else {
    out.q.codes = codes;
  }
  std::vector<double> by_row(static_cast<size_t>(N));
  gpu.download<double>(losses.data(), by_row);
  for (const double loss : by_row) out.loss += loss;
  return out;
}

}  // namespace fp4lab::cuda
