#include "kernels/cuda/quantize.h"

#include <algorithm>

#include "kernels/cuda/group_launch.h"
#include "kernels/cuda/tensor_factors.h"

namespace fp4lab::cuda {

namespace {

constexpr int kThreads = 256;

/// bytes[i] of a row = codes 2i and 2i + 1.
__global__ void pack_kernel(const uint8_t* codes, int64_t rows, int64_t cols, uint8_t* bytes) {
  const int64_t per_row = (cols + 1) / 2;
  for (int64_t at = int64_t(blockIdx.x) * blockDim.x + threadIdx.x; at < rows * per_row;
       at += int64_t(gridDim.x) * blockDim.x) {
    const int64_t r = at / per_row, c = at % per_row * 2;
    const uint8_t* from = codes + r * cols + c;
    bytes[at] = uint8_t(from[0] | (c + 1 < cols ? from[1] << 4 : 0));
  }
}

void check_arguments(const FormatSpec& format, const WeightScales& search, int64_t cols) {
  FP4LAB_CHECK(!search.needs_hessian(), "a search that looks at the Hessian is not choose_scales'");
  for (const std::string& problem :
       {format_problem(format), weight_scales_problem(search, format), shape_problem(format, cols)})
    if (!problem.empty()) throw ConfigError(problem);
}

/// The problem without its outputs and factors.
GroupProblem problem(const FormatSpec& format, const WeightScales& search, MatrixView<const float> X) {
  GroupProblem p;
  p.X = X, p.g = format.group(X.cols), p.groups = format.groups(X.cols), p.element = format.element;
  p.rule = group_rule(format, search.kind, search.replacement);
  const ScaleRule::Kind kind = p.rule.rule.kind;
  p.choice = kind == ScaleRule::fitted                 ? Choice::fitted
             : kind == ScaleRule::quest                ? Choice::quest
             : search.kind == WeightScales::mse_shrink ? Choice::shrink
             : p.rule.candidates() > 1 || kind == ScaleRule::sweep || kind == ScaleRule::search ||
                     kind == ScaleRule::grid || kind == ScaleRule::four_over_six
                 ? Choice::best
                 : Choice::rule;
  return p;
}

struct Factors {
  GpuArray<float> per_row;
  GpuArray<FittedScales> fitted;
};
/// Gives the problem its factors; what is returned holds them.
Factors use_factors(Gpu& gpu, const FormatSpec& format, const std::vector<float>& factors, GroupProblem& p) {
  Factors held;
  if (p.choice == Choice::fitted) {
    const FittedScales scales = fitted_scales(factors.at(0), factors.at(1));
    held.fitted = gpu.upload(std::span<const FittedScales>(&scales, 1));
    p.fitted = held.fitted.data(), p.flat = !(factors[0] > 0);
  } else if (factors.size() > 1 ||
             (factors.size() == 1 && format.tensor_scale.mode == TensorScale::per_token)) {
    held.per_row = gpu.upload<float>(factors);
    p.factors = held.per_row.data();
  } else if (factors.size() == 1) {
    p.factor = factors[0];
  }
  return held;
}

/// Runs the problem over q's scales, and gives q its codes if asked. DataError for the first NaN or Inf.
void code(Gpu& gpu, GroupProblem p, DeviceQuantized& q, bool with_codes) {
  const FormatSpec& format = q.format;
  p.bytes = q.bytes.data(), p.zero = q.zero_points.data();
  GpuArray<uint8_t> unpacked;
  if (with_codes) {
    q.codes = gpu.allocate<uint8_t>(q.rows * format.code_bytes(q.cols));
    p.packed = format.packed() && p.g % kLanes == 0;
    if (format.packed() && !p.packed) unpacked = gpu.allocate<uint8_t>(q.rows * q.cols);
    p.codes = unpacked.size() ? unpacked.data() : q.codes.data();
    p.code_stride = p.packed ? format.code_bytes(q.cols) : q.cols;
  }
  const unsigned long long none = ~0ull;
  const GpuArray<unsigned long long> bad = gpu.upload(std::span<const unsigned long long>(&none, 1));
  p.bad_row = bad.data();
  code_groups(gpu, p);
  if (unpacked.size()) pack_codes(gpu, unpacked.data(), q.rows, q.cols, q.codes.data());
  unsigned long long row = none;
  gpu.download<unsigned long long>(bad.data(), std::span(&row, 1));
  if (row != none) report_nonfinite(gpu, p.X, int64_t(row));
}

DeviceQuantized quantized(Gpu& gpu, const FormatSpec& format, MatrixView<const float> X,
                          const WeightScales& asked, bool with_codes) {
  const WeightScales search = weight_scales_for(asked, format);
  check_arguments(format, search, X.cols);
  DeviceQuantized q{format, X.rows, X.cols, {}, {}, {}, tensor_factors(gpu, format, search, X)};
  if (search.kind == WeightScales::replace) q.format.rule = search.replacement;
  GroupProblem p = problem(format, search, X);
  const Factors held = use_factors(gpu, format, q.factors, p);
  q.bytes = gpu.allocate<uint8_t>(X.rows * p.groups * format.scale.bytes);
  if (format.has_zero_points()) q.zero_points = gpu.allocate<uint8_t>(X.rows * p.groups);
  code(gpu, p, q, with_codes);
  return q;
}

}  // namespace

DeviceQuantized quantize(Gpu& gpu, const FormatSpec& format, MatrixView<const float> X,
                         const WeightScales& search) {
  return quantized(gpu, format, X, search, true);
}
DeviceQuantized choose_scales(Gpu& gpu, const FormatSpec& format, MatrixView<const float> X,
                              const WeightScales& search) {
  return quantized(gpu, format, X, search, false);
}

DeviceQuantized round(Gpu& gpu, const FormatSpec& format, MatrixView<const float> X,
                      const DeviceQuantized& scales) {
  check_arguments(format, {}, X.cols);
  FP4LAB_CHECK(scales.rows == X.rows && scales.cols == X.cols, "scales of (", scales.rows, ", ", scales.cols,
               ") for X (", X.rows, ", ", X.cols, ")");
  DeviceQuantized q = scales;
  q.format = format;
  GroupProblem p = problem(format, {}, X);
  const Factors held = use_factors(gpu, format, q.factors, p);
  p.choice = Choice::given;
  code(gpu, p, q, true);
  return q;
}

void pack_codes(Gpu& gpu, const uint8_t* codes, int64_t rows, int64_t cols, uint8_t* bytes) {
  const int64_t count = rows * ((cols + 1) / 2);
  if (count == 0) return;
  pack_kernel<<<blocks_for(count, kThreads, 1 << 16), kThreads, 0, gpu.stream()>>>(codes, rows, cols, bytes);
  FP4LAB_CUDA_LAUNCHED("packing ", rows, " x ", cols, " codes");
}

QuantizedMatrix download(Gpu& gpu, const DeviceQuantized& q) {
  QuantizedMatrix out{
      q.format,
      {q.rows, q.cols, Bytes(size_t(q.bytes.size())), Bytes(size_t(q.zero_points.size())), q.factors},
      Bytes(size_t(q.codes.size()))};
  const auto fetch = [&](const GpuArray<uint8_t>& from, Bytes& to) {
    gpu.copy(from.data(), to.data(), from.size());
  };
  fetch(q.codes, out.codes), fetch(q.bytes, out.scales.bytes), fetch(q.zero_points, out.scales.zero_points);
  gpu.wait();
  return out;
}

DeviceQuantized upload(Gpu& gpu, const QuantizedMatrix& q) {
  const auto send = [&](const Bytes& b) { return gpu.upload(std::span<const uint8_t>(b.data(), b.size())); };
  return {
      q.format,        q.rows(), q.cols(), send(q.codes), send(q.scales.bytes), send(q.scales.zero_points),
      q.scales.factors};
}

void fake_quantize(Gpu& gpu, const FormatSpec& format, MatrixView<const float> X, int64_t rows_per_tensor,
                   MatrixView<float> out) {
  check_arguments(format, {}, X.cols);
  FP4LAB_CHECK(out.rows == X.rows && out.cols == X.cols && rows_per_tensor > 0, out.rows, " x ", out.cols);
  if (X.size() == 0) return;
  if (format.rule.kind == ScaleRule::fitted) {
    for (int64_t begin = 0; begin < X.rows; begin += rows_per_tensor) {
      const MatrixView<const float> part = X.middle_rows(begin, std::min(rows_per_tensor, X.rows - begin));
      GroupProblem p = problem(format, {}, part);
      const Factors held = use_factors(gpu, format, tensor_factors(gpu, format, {}, part), p);
      p.values = out.middle_rows(begin, part.rows);
      code_groups(gpu, p);
    }
    return;
  }
  GroupProblem p = problem(format, {}, X);
  p.values = out;
  GpuArray<float> scales;
  const TensorScale& tensor = format.tensor_scale;
  if (format.rule.kind == ScaleRule::fpq) {
    p.factor = 2.0f / format.element.scale_max;
  } else if (tensor.mode == TensorScale::fixed) {
    p.factor = tensor.value;
  } else if (tensor.mode != TensorScale::none) {
    p.rows_per_factor = tensor.mode == TensorScale::per_token ? 1 : rows_per_tensor;
    scales = dynamic_scales(gpu, format, X, p.rows_per_factor);
    p.factors = scales.data();
  }
  code_groups(gpu, p);
}

}  // namespace fp4lab::cuda
