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

/// How stored scales become numbers.
struct ScaleReader {
  ScaleType type;
  const uint8_t* bytes;
  int64_t groups;
  const float* factors;  // per row, or null: `factor`
  float factor;
  const FittedScales* fitted;

  __device__ float operator()(int64_t row, int64_t group) const {
    const uint8_t* at = bytes + (row * groups + group) * type.bytes;
    if (fitted) return fitted->table[at[0]];
    uint32_t bits = 0;
    for (int i = 0; i < type.bytes; ++i) bits |= uint32_t(at[i]) << (8 * i);
    const float s_t = factors ? factors[row] : factor;
    return s_t * decode_scale(type, bits);
  }
};

__global__ void effective_kernel(ScaleReader scale, MatrixView<float> out) {
  for (int64_t at = int64_t(blockIdx.x) * blockDim.x + threadIdx.x; at < out.rows * out.cols;
       at += int64_t(gridDim.x) * blockDim.x)
    out(at / out.cols, at % out.cols) = scale(at / out.cols, at % out.cols);
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
    const auto value = [&](int64_t c, uint32_t code) {
      const float s = scale(r, c / g);
      if constexpr (group_detail::kAsym<Codec>)
        return s * codec.template decode<float>(code, float(zero[r * scale.groups + c / g]));
      else
        return s * codec.template decode<float>(code);
    };
    if (!packed) {
      out(r, i) = value(i, byte);
    } else {
      out(r, 2 * i) = value(2 * i, byte & 15);
      if (2 * i + 1 < out.cols) out(r, 2 * i + 1) = value(2 * i + 1, byte >> 4);
    }
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

ScaleReader reader_of(Gpu& gpu, const DeviceQuantized& q, Factors& held) {
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

DeviceQuantized quantized(Gpu& gpu, const FormatSpec& format, MatrixView<const float> X,
                          const WeightScales& asked, bool with_codes) {
  const WeightScales search = weight_scales_for(asked, format);
  check_arguments(format, search, X.cols);
  DeviceQuantized q{format, X.rows, X.cols, {}, {}, {}, tensor_factors(gpu, format, search, X)};
  if (search.kind == WeightScales::replace) q.format.rule = search.replacement;
  GroupProblem p = problem(format, search, X);
  const Factors held = use_factors(gpu, format, q.factors, p);
  q.bytes = gpu.allocate<uint8_t>(X.rows * p.groups * format.scale.bytes);
  p.bytes = q.bytes.data();
  if (format.has_zero_points()) q.zero_points = gpu.allocate<uint8_t>(X.rows * p.groups);
  p.zero = q.zero_points.data();
  GpuArray<uint8_t> unpacked;
  const bool packs_itself = format.packed() && p.g % 16 == 0;
  if (with_codes) {
    q.codes = gpu.allocate<uint8_t>(X.rows * format.code_bytes(X.cols));
    if (format.packed() && !packs_itself) unpacked = gpu.allocate<uint8_t>(X.size());
    p.codes = unpacked.size() ? unpacked.data() : q.codes.data();
    p.packed = packs_itself;
    p.code_stride = packs_itself ? format.code_bytes(X.cols) : X.cols;
  }
  const unsigned long long none = ~0ull;
  const GpuArray<unsigned long long> bad = gpu.upload(std::span<const unsigned long long>(&none, 1));
  p.bad_row = bad.data();
  code_groups(gpu, p);
  unsigned long long row = none;
  gpu.download<unsigned long long>(bad.data(), std::span(&row, 1));
  if (row != none) report_nonfinite(gpu, X, int64_t(row));
  if (unpacked.size()) pack_codes(gpu, unpacked.data(), X.rows, X.cols, q.codes.data());
  return q;
}

}  // namespace

void pack_codes(Gpu& gpu, const uint8_t* codes, int64_t rows, int64_t cols, uint8_t* bytes) {
  const int64_t count = rows * ((cols + 1) / 2);
  if (count == 0) return;
  pack_kernel<<<blocks_for(count, kThreads, 1 << 16), kThreads, 0, gpu.stream()>>>(codes, rows, cols, bytes);
  FP4LAB_CUDA_LAUNCHED("packing ", rows, " x ", cols, " codes");
}

DeviceQuantized quantize(Gpu& gpu, const FormatSpec& format, MatrixView<const float> X,
                         const WeightScales& search) {
  return quantized(gpu, format, X, search, true);
}
DeviceQuantized choose_scales(Gpu& gpu, const FormatSpec& format, MatrixView<const float> X,
                              const WeightScales& search) {
  return quantized(gpu, format, X, search, false);
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

void effective_scales(Gpu& gpu, const DeviceQuantized& q, MatrixView<float> out) {
  FP4LAB_CHECK(out.rows == q.rows && out.cols == q.format.groups(q.cols), out.rows, " x ", out.cols);
  if (out.size() == 0) return;
  Factors held;
  effective_kernel<<<blocks_for(out.size(), kThreads, 1 << 16), kThreads, 0, gpu.stream()>>>(
      reader_of(gpu, q, held), out);
  FP4LAB_CUDA_LAUNCHED("scales of ", q.rows, " x ", q.cols);
}

void dequantize(Gpu& gpu, const DeviceQuantized& q, MatrixView<float> out) {
  FP4LAB_CHECK(out.rows == q.rows && out.cols == q.cols, out.rows, " x ", out.cols);
  if (out.size() == 0) return;
  Factors held;
  const ScaleReader scale = reader_of(gpu, q, held);
  const int64_t per_row = q.format.code_bytes(q.cols);
  const auto run = [&](const auto& codec) {
    dequantize_kernel<<<blocks_for(q.rows * per_row, kThreads, 1 << 16), kThreads, 0, gpu.stream()>>>(
        codec, scale, q.zero_points.data(), q.codes.data(), per_row, q.format.packed(),
        q.format.group(q.cols), out);
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
