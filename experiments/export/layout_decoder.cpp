#include "experiments/export/layout_decoder.h"

#include <cmath>
#include <cstring>

#include "core/errors.h"

namespace fp4lab {

namespace {

std::string text(const std::vector<int64_t>& shape) {
  std::string out = "(";
  for (const int64_t n : shape) out += (out.size() > 1 ? ", " : "") + std::to_string(n);
  return out + ")";
}

/// A linear's tensors, each asked for with what it has to be.
class Tensors {
 public:
  /// `headers`: the tensors' data is left alone.
  Tensors(const TensorFile& file, std::string prefix, bool headers)
      : file_(file), prefix_(std::move(prefix)), headers_(headers) {}

  TensorInfo at(std::string_view suffix, DType dtype, const std::vector<int64_t>& shape) const {
    TensorInfo t = of_type(suffix, dtype);
    if (t.shape != shape) refuse(t, str("shape ", text(t.shape), ", expected ", text(shape)));
    return t;
  }
  TensorInfo of_type(std::string_view suffix, DType dtype) const {
    TensorInfo t = any(suffix);
    if (t.dtype != dtype) refuse(t, str("dtype ", name(t.dtype), ", expected ", name(dtype)));
    return t;
  }
  TensorInfo any(std::string_view suffix) const { return file_.at(str(prefix_, ".", suffix)); }
  template <class T>
  std::vector<T> read(const TensorInfo& t, bool always = false) const {
    if (headers_ && !always) return {};
    const std::span<const std::byte> bytes = file_.bytes(t);
    std::vector<T> out(bytes.size() / sizeof(T));
    std::memcpy(out.data(), bytes.data(), out.size() * sizeof(T));
    return out;
  }
  [[noreturn]] void refuse(const TensorInfo& t, const std::string& what) const {
    throw DataError(str(file_.path_of(t), ": tensor ", t.name, ": ", what));
  }

 private:
  const TensorFile& file_;
  std::string prefix_;
  bool headers_;
};

// The values of the bits, as the OCP and IEEE documents define them: sign, exponent, mantissa.
double small_float(uint32_t bits, int exponent_bits, int mantissa_bits, int bias) {
  const int mantissa = int(bits & ((1u << mantissa_bits) - 1));
  const int exponent = int(bits >> mantissa_bits & ((1u << exponent_bits) - 1));
  const double sign = bits >> (mantissa_bits + exponent_bits) & 1 ? -1.0 : 1.0;
  if (exponent == 0) return sign * std::ldexp(mantissa, 1 - bias - mantissa_bits);
  return sign * std::ldexp((1 << mantissa_bits) + mantissa, exponent - bias - mantissa_bits);
}
double e2m1(uint32_t code) { return small_float(code, 2, 1, 1); }
double int4(uint32_t code) { return code < 8 ? int(code) : int(code) - 16; }

/// Of each scale type, and what cannot be one: NaN where the bits are no positive number or zero.
double e4m3_scale(uint32_t b) { return b >= 0x7f ? NAN : small_float(b, 4, 3, 7); }
double e8m0_scale(uint32_t b) { return b == 255 ? NAN : std::ldexp(1.0, int(b) - 127); }
double f16_scale(uint32_t b) { return b >= 0x7c00 ? NAN : small_float(b, 5, 10, 15); }
double bf16_scale(uint32_t b) { return b >= 0x7f80 ? NAN : small_float(b, 8, 7, 127); }

void read_nibbles(DecodedLinear& d, const std::vector<uint8_t>& packed) {
  for (const uint8_t two : packed) {
    d.codes.push_back(two & 15);
    d.codes.push_back(two >> 4);
  }
}

template <class T>
void read_scales(DecodedLinear& d, const Tensors& tensors, const TensorInfo& t) {
  for (const T bits : tensors.read<T>(t)) {
    const size_t i = d.scales.size();
    if (std::isnan(d.scale(bits)))
      tensors.refuse(t, str("row ", i / size_t(d.groups), ", group ", i % size_t(d.groups), ": ", int(bits),
                            " is not a scale (NaN, Inf or negative)"));
    d.scales.push_back(bits);
  }
}

float read_global(const Tensors& tensors, std::string_view suffix) {
  const TensorInfo t = tensors.of_type(suffix, DType::F32);  // (1), or a scalar as Model-Optimizer writes it
  if (!t.shape.empty() && t.shape != std::vector<int64_t>{1})
    tensors.refuse(t, str("shape ", text(t.shape), ", expected (1)"));
  const float value = tensors.read<float>(t, true)[0];
  if (!(value > 0) || !std::isfinite(value)) tensors.refuse(t, str(value, " is not a positive number"));
  return value;
}

int64_t groups_of(const Tensors& tensors, const TensorInfo& t, int64_t rows, int64_t cols) {
  if (t.shape.size() != 2 || t.shape[0] != rows || t.shape[1] < 1 || cols % t.shape[1] != 0)
    tensors.refuse(
        t, str("shape ", text(t.shape), ", expected (", rows, ", groups) with groups a divisor of ", cols));
  return t.shape[1];
}

DecodedLinear read_linear(Layout layout, const Tensors& tensors, int64_t rows, int64_t cols) {
  DecodedLinear d;
  d.rows = rows;
  d.cols = cols;
  d.element = e2m1;
  const auto nibbles = [&](const char* suffix) {
    read_nibbles(d, tensors.read<uint8_t>(tensors.at(suffix, DType::U8, {rows, cols / 2})));
  };
  const auto nvfp4_scales = [&] {
    d.groups = cols / 16, d.scale = e4m3_scale;
    read_scales<uint8_t>(d, tensors, tensors.at("weight_scale", DType::F8_E4M3, {rows, d.groups}));
  };
  switch (layout) {
    case Layout::nvfp4_pack_quantized:
      nibbles("weight_packed");
      nvfp4_scales();
      d.global = read_global(tensors, "weight_global_scale");
      break;
    case Layout::mxfp4_pack_quantized:
      nibbles("weight_packed");
      d.groups = cols / 32, d.scale = e8m0_scale;
      read_scales<uint8_t>(d, tensors, tensors.at("weight_scale", DType::U8, {rows, d.groups}));
      break;
    case Layout::modelopt_nvfp4:
      nibbles("weight");
      nvfp4_scales();
      d.global = read_global(tensors, "weight_scale_2"), d.global_divides = false;
      break;
    case Layout::fp_quant: {
      nibbles("qweight");
      const TensorInfo scales = tensors.of_type("scales", DType::U8);
      d.groups = groups_of(tensors, scales, rows, cols);
      const int64_t size = cols / d.groups;  // what tells its two formats apart
      if (size != 16 && size != 32)
        tensors.refuse(scales, str("groups of ", size, ", expected 16 (NVFP4) or 32 (MXFP4)"));
      d.scale = size == 16 ? e4m3_scale : e8m0_scale;
      read_scales<uint8_t>(d, tensors, scales);
      d.global = read_global(tensors, "weight_global_scale");
      break;
    }
    case Layout::pack_quantized: {
      d.element = int4;
      for (const uint32_t eight :
           tensors.read<uint32_t>(tensors.at("weight_packed", DType::I32, {rows, cols / 8})))
        for (int j = 0; j < 8; ++j) d.codes.push_back(uint8_t(((eight >> (4 * j) & 15) - 8) & 15));
      const TensorInfo scales = tensors.any("weight_scale");
      if (scales.dtype != DType::F16 && scales.dtype != DType::BF16)
        tensors.refuse(scales, str("dtype ", name(scales.dtype), ", expected F16 or BF16"));
      d.groups = groups_of(tensors, scales, rows, cols);
      d.scale = scales.dtype == DType::F16 ? f16_scale : bf16_scale;
      read_scales<uint16_t>(d, tensors, scales);
      const TensorInfo shape = tensors.at("weight_shape", DType::I64, {2});
      const std::vector<int64_t> found = tensors.read<int64_t>(shape, true);
      if (found != std::vector<int64_t>{rows, cols})
        tensors.refuse(shape, str("says ", text(found), ", expected ", text({rows, cols})));
      break;
    }
  }
  return d;
}

DecodedLinear decode(Layout layout, const TensorFile& file, const std::string& prefix, int64_t rows,
                     int64_t cols, bool headers) {
  const int64_t unit = layout == Layout::mxfp4_pack_quantized ? 32
                       : layout == Layout::pack_quantized     ? 8
                                                              : 16;
  if (rows < 1 || cols < 1 || cols % unit != 0)
    throw DataError(str(file.paths()[0], ": ", prefix, ": shape ", text({rows, cols}),
                        " cannot be stored as ", name(layout), ": K is not a multiple of ", unit));
  return read_linear(layout, Tensors(file, prefix, headers), rows, cols);
}

}  // namespace

DecodedLinear decode_linear(Layout layout, const TensorFile& file, const std::string& prefix, int64_t rows,
                            int64_t cols) {
  return decode(layout, file, prefix, rows, cols, false);
}

DecodedLinear decode_header(Layout layout, const TensorFile& file, const std::string& prefix, int64_t rows,
                            int64_t cols) {
  return decode(layout, file, prefix, rows, cols, true);
}

std::optional<float> decode_input_scale(Layout layout, const TensorFile& file, const std::string& prefix) {
  const std::string_view suffix = input_scale_suffix(layout);
  if (suffix.empty()) return {};
  return read_global(Tensors(file, prefix, true), suffix);
}

Matrix DecodedLinear::values() const {
  Matrix out(rows, cols);
  for (int64_t r = 0; r < rows; ++r)
    for (int64_t c = 0; c < cols; ++c) {
      const int64_t group = r * groups + c / (cols / groups);
      const auto s = float(scale(scales[size_t(group)]));
      out(r, c) = float(element(codes[size_t(r * cols + c)])) * (global_divides ? s / global : s * global);
    }
  return out;
}

}  // namespace fp4lab
