#include "kernels/cuda/tensor_factors.h"

#include <algorithm>
#include <cmath>

#include "formats/group_coder.h"
#include "kernels/cuda/eight.cuh"
#include "kernels/cuda/group_launch.h"

namespace fp4lab::cuda {

namespace {

constexpr int kThreads = 256;

/// bits[row] = those of the row's amax; a NaN's are larger than any number's. A block per row; `eights`: rows
/// can be read as vectors.
__global__ void row_amax_kernel(MatrixView<const float> X, bool eights, uint32_t* bits) {
  __shared__ uint32_t part[kThreads / 32];
  for (int64_t r = blockIdx.x; r < X.rows; r += gridDim.x) {
    const float* const x = X.row(r);
    uint32_t top = 0;
    const auto take = [&](float v) { top = max(top, float_bits(v) & 0x7fffffffu); };
    if (eights) {
      for (int64_t c = threadIdx.x; c < X.cols / 4; c += kThreads) {
        const float4 v = reinterpret_cast<const float4*>(x)[c];
        take(v.x), take(v.y), take(v.z), take(v.w);
      }
    } else {
      for (int64_t c = threadIdx.x; c < X.cols; c += kThreads) take(x[c]);
    }
    top = __reduce_max_sync(~0u, top);
    if (threadIdx.x % 32 == 0) part[threadIdx.x / 32] = top;
    __syncthreads();
    if (threadIdx.x == 0) {
      for (int i = 1; i < kThreads / 32; ++i) top = max(top, part[i]);
      bits[r] = top;
    }
    __syncthreads();
  }
}

/// factors[i] = s_T of rows [i * rows_per_factor, ...): formats/tensor_factors.cpp, tensor_scale_for. A warp
/// per factor.
__global__ void scale_kernel(const uint32_t* bits, int64_t rows, int64_t rows_per_factor, int64_t count,
                             float divisor, float* factors) {
  constexpr int kWarps = kThreads / 32;
  const int lane = threadIdx.x % 32;
  for (int64_t i = int64_t(blockIdx.x) * kWarps + threadIdx.x / 32; i < count;
       i += int64_t(gridDim.x) * kWarps) {
    const int64_t begin = i * rows_per_factor, left = rows - begin;
    uint32_t top = 0;
    for (int64_t r = lane; r < (left < rows_per_factor ? left : rows_per_factor); r += 32)
      top = max(top, bits[begin + r]);
    const float amax = bits_float(__reduce_max_sync(~0u, top));
    if (lane == 0) factors[i] = amax > 0 ? amax / divisor : 1.0f;
  }
}

/// range[0] = the smallest positive amax of a group, range[1] = the largest, as bits.
__global__ void group_range_kernel(MatrixView<const float> X, int64_t g, int64_t groups, uint32_t* range) {
  const int lane = threadIdx.x % kLanes;
  const unsigned threads = half_warp();
  for (int64_t at = int64_t(blockIdx.x) * (kThreads / kLanes) + threadIdx.x / kLanes; at < X.rows * groups;
       at += int64_t(gridDim.x) * (kThreads / kLanes)) {
    const float* x = X.row(at / groups) + at % groups * g;
    uint32_t top = 0;
    for (int64_t i = lane; i < g; i += kLanes) top = max(top, float_bits(x[i]) & 0x7fffffffu);
    top = group_detail::largest_lane(top, threads);
    if (lane == 0 && top > 0) atomicMin(&range[0], top), atomicMax(&range[1], top);
  }
}

/// One row's chains of the alternating search, over ascending columns: 32 rows per block, terms by all
/// threads, one warp per sum.
__global__ void __launch_bounds__(kThreads)
    alternate_kernel(MatrixView<const float> X, MatrixView<const float> values, float s_t,
                     AlternateSums* sums) {
  constexpr int kRows = 32, kCols = 32;
  __shared__ double terms[3][kCols][kRows + 1];
  const int64_t r0 = int64_t(blockIdx.x) * kRows;
  const int warp = threadIdx.x / 32, lane = threadIdx.x % 32;
  double sum = 0;
  for (int64_t c0 = 0; c0 < X.cols; c0 += kCols) {
    for (int at = threadIdx.x; at < kRows * kCols; at += kThreads) {
      const int r = at / kCols, c = at % kCols;
      double x = 0, v = 0;
      if (r0 + r < X.rows && c0 + c < X.cols)
        x = double(X(r0 + r, c0 + c)), v = double(values(r0 + r, c0 + c));
      const double u = v / double(s_t);
      terms[0][c][r] = (x - v) * (x - v), terms[1][c][r] = x * u, terms[2][c][r] = u * u;
    }
    __syncthreads();
    if (warp < 3)
      for (int c = 0; c < kCols && c0 + c < X.cols; ++c) sum += terms[warp][c][lane];
    __syncthreads();
  }
  if (warp < 3 && r0 + lane < X.rows) {
    AlternateSums& s = sums[r0 + lane];
    (warp == 0 ? s.error : warp == 1 ? s.xu : s.uu) = sum;
  }
}

GpuArray<uint32_t> row_amax(Gpu& gpu, MatrixView<const float> X) {
  GpuArray<uint32_t> bits = gpu.allocate<uint32_t>(X.rows);
  if (X.rows == 0) return bits;
  row_amax_kernel<<<blocks_for(X.rows, 1, 1 << 16), kThreads, 0, gpu.stream()>>>(X, in_eights(X),
                                                                                 bits.data());
  FP4LAB_CUDA_LAUNCHED("amax of the rows of ", X.rows, " x ", X.cols);
  return bits;
}

/// amax of every row; DataError for the first NaN or Inf.
std::vector<float> finite_row_amax(Gpu& gpu, MatrixView<const float> X) {
  std::vector<float> amax(size_t(X.rows));
  const GpuArray<uint32_t> bits = row_amax(gpu, X);
  gpu.download<float>(reinterpret_cast<const float*>(bits.data()), amax);
  for (size_t r = 0; r < amax.size(); ++r)
    if (!std::isfinite(amax[r])) report_nonfinite(gpu, X, int64_t(r));
  return amax;
}

float alternate_scale(Gpu& gpu, const FormatSpec& format, MatrixView<const float> X, float first) {
  GroupProblem p;
  p.X = X, p.g = format.group(X.cols), p.groups = format.groups(X.cols), p.element = format.element;
  p.rule = group_rule(format, WeightScales::alternate, {});
  p.choice = Choice::best;
  const GpuArray<float> values = gpu.allocate<float>(X.size());
  p.values = {values.data(), X.rows, X.cols, X.cols};
  const GpuArray<AlternateSums> sums = gpu.allocate<AlternateSums>(X.rows);
  std::vector<AlternateSums> rows(size_t(X.rows));
  return alternate_tensor_scale(first, [&](float s_t) {
    p.factor = s_t;
    code_groups(gpu, p);
    if (X.rows > 0) {
      alternate_kernel<<<unsigned((X.rows + 31) / 32), kThreads, 0, gpu.stream()>>>(X, p.values, s_t,
                                                                                    sums.data());
      FP4LAB_CUDA_LAUNCHED("sums of the alternating search, ", X.rows, " x ", X.cols);
    }
    gpu.download<AlternateSums>(sums.data(), rows);
    AlternateSums all;
    for (const AlternateSums& s : rows) all.error += s.error, all.xu += s.xu, all.uu += s.uu;
    return all;
  });
}

std::vector<float> fitted_range(Gpu& gpu, const FormatSpec& format, MatrixView<const float> X) {
  const uint32_t start[2] = {float_bits(INFINITY), 0};
  const GpuArray<uint32_t> range = gpu.upload<uint32_t>(start);
  if (X.size() > 0) {
    const int64_t groups = format.groups(X.cols);
    group_range_kernel<<<blocks_for(X.rows * groups, kThreads / kLanes, 1 << 16), kThreads, 0,
                         gpu.stream()>>>(X, format.group(X.cols), groups, range.data());
    FP4LAB_CUDA_LAUNCHED("range of the groups of ", X.rows, " x ", X.cols);
  }
  float found[2];
  gpu.download<float>(reinterpret_cast<const float*>(range.data()), found);
  return fitted_factors(format, found[0], found[1]);
}

}  // namespace

void report_nonfinite(Gpu& gpu, MatrixView<const float> X, int64_t row) {
  std::vector<float> values(size_t(X.cols));
  gpu.download<float>(X.row(row), values);
  fp4lab::report_nonfinite(values, row);
}

GpuArray<float> dynamic_scales(Gpu& gpu, const FormatSpec& format, MatrixView<const float> X,
                               int64_t rows_per_factor) {
  const int64_t count = X.rows / rows_per_factor + (X.rows % rows_per_factor != 0);
  GpuArray<float> factors = gpu.allocate<float>(count);
  if (count == 0) return factors;
  const GpuArray<uint32_t> bits = row_amax(gpu, X);
  scale_kernel<<<blocks_for(count, kThreads / 32), kThreads, 0, gpu.stream()>>>(
      bits.data(), X.rows, rows_per_factor, count, tensor_scale_divisor(format), factors.data());
  FP4LAB_CUDA_LAUNCHED(count, " tensor scales");
  return factors;
}

std::vector<float> tensor_factors(Gpu& gpu, const FormatSpec& format, const WeightScales& search,
                                  MatrixView<const float> X) {
  FormatSpec f = format;
  if (search.kind == WeightScales::replace) f.rule = search.replacement;
  if (f.rule.kind == ScaleRule::fpq) return {2.0f / f.element.scale_max};
  if (f.tensor_scale.mode == TensorScale::none && f.rule.kind != ScaleRule::fitted) return {};
  if (f.tensor_scale.mode == TensorScale::fixed) return {f.tensor_scale.value};
  const std::vector<float> amax = finite_row_amax(gpu, X);
  if (f.rule.kind == ScaleRule::fitted) return fitted_range(gpu, f, X);
  if (f.tensor_scale.mode == TensorScale::per_token) {
    std::vector<float> factors;
    for (float a : amax) factors.push_back(tensor_scale_for(f, a));
    return factors;
  }
  const float first = tensor_scale_for(f, amax.empty() ? 0.0f : *std::max_element(amax.begin(), amax.end()));
  return {search.kind == WeightScales::alternate ? alternate_scale(gpu, format, X, first) : first};
}

}  // namespace fp4lab::cuda
