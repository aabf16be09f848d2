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
  Tensors(const TensorFile& file, std::string prefix) : file_(file), prefix_(std::move(prefix)) {}

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
  std::vector<T> read(const TensorInfo& t) const {
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

using Value = double (*)(uint32_t);
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
void read_scales(DecodedLinear& d, const Tensors& tensors, const TensorInfo& t, Value value) {
  for (const T bits : tensors.read<T>(t)) {
    const size_t i = d.scales.size();
    if (std::isnan(value(bits)))
      tensors.refuse(t, str("row ", i / size_t(d.groups), ", group ", i % size_t(d.groups), ": ", int(bits),
                            " is not a scale (NaN, Inf or negative)"));
    d.scales.push_back(bits);
  }
}

float read_global(const Tensors& tensors, const char* suffix) {
  const TensorInfo t = tensors.at(suffix, DType::F32, {1});
  const float value = tensors.read<float>(t)[0];
  if (!(value > 0) || !std::isfinite(value)) tensors.refuse(t, str(value, " is not a positive number"));
  return value;
}

/// element * (scale / divisor), or with a factor instead of a divisor element * (scale * factor).
void fill_values(DecodedLinear& d, Value element, Value scale, float factor = 1) {
  d.values = Matrix(d.rows, d.cols);
  for (int64_t r = 0; r < d.rows; ++r)
    for (int64_t c = 0; c < d.cols; ++c) {
      const int64_t group = r * d.groups + c / (d.cols / d.groups);
      const float s = float(scale(d.scales[size_t(group)])) / d.divisor * factor;
      d.values(r, c) = float(element(d.codes[size_t(r * d.cols + c)])) * s;
    }
}

int64_t groups_of(const Tensors& tensors, const TensorInfo& t, int64_t rows, int64_t cols) {
  if (t.shape.size() != 2 || t.shape[0] != rows || t.shape[1] < 1 || cols % t.shape[1] != 0)
    tensors.refuse(
        t, str("shape ", text(t.shape), ", expected (", rows, ", groups) with groups a divisor of ", cols));
  return t.shape[1];
}

}  // namespace

DecodedLinear decode_linear(Layout layout, const TensorFile& file, const std::string& prefix, int64_t rows,
                            int64_t cols) {
  const Tensors tensors(file, prefix);
  DecodedLinear d;
  d.rows = rows;
  d.cols = cols;
  const int64_t unit = layout == Layout::mxfp4_pack_quantized ? 32
                       : layout == Layout::pack_quantized     ? 8
                                                              : 16;
  if (rows < 1 || cols < 1 || cols % unit != 0)
    throw DataError(str(file.paths()[0], ": ", prefix, ": shape ", text({rows, cols}),
                        " cannot be stored as ", name(layout), ": K is not a multiple of ", unit));
  const auto nibbles = [&](const char* suffix) {
    read_nibbles(d, tensors.read<uint8_t>(tensors.at(suffix, DType::U8, {rows, cols / 2})));
  };
  switch (layout) {
    case Layout::nvfp4_pack_quantized:
      nibbles("weight_packed");
      d.groups = cols / 16;
      read_scales<uint8_t>(d, tensors, tensors.at("weight_scale", DType::F8_E4M3, {rows, d.groups}),
                           e4m3_scale);
      d.divisor = read_global(tensors, "weight_global_scale");
      fill_values(d, e2m1, e4m3_scale);
      break;
    case Layout::mxfp4_pack_quantized:
      nibbles("weight_packed");
      d.groups = cols / 32;
      read_scales<uint8_t>(d, tensors, tensors.at("weight_scale", DType::U8, {rows, d.groups}), e8m0_scale);
      fill_values(d, e2m1, e8m0_scale);
      break;
    case Layout::modelopt_nvfp4: {
      nibbles("weight");
      d.groups = cols / 16;
      read_scales<uint8_t>(d, tensors, tensors.at("weight_scale", DType::F8_E4M3, {rows, d.groups}),
                           e4m3_scale);
      const float factor = read_global(tensors, "weight_scale_2");
      fill_values(d, e2m1, e4m3_scale, factor);
      d.divisor = 1 / factor;
      break;
    }
    case Layout::fp_quant: {
      nibbles("qweight");
      const TensorInfo scales = tensors.of_type("scales", DType::U8);
      d.groups = groups_of(tensors, scales, rows, cols);
      const int64_t size = cols / d.groups;  // what tells its two formats apart
      if (size != 16 && size != 32)
        tensors.refuse(scales, str("groups of ", size, ", expected 16 (NVFP4) or 32 (MXFP4)"));
      const Value scale = size == 16 ? e4m3_scale : e8m0_scale;
      read_scales<uint8_t>(d, tensors, scales, scale);
      d.divisor = read_global(tensors, "weight_global_scale");
      fill_values(d, e2m1, scale);
      break;
    }
    case Layout::pack_quantized: {
      for (const uint32_t eight :
           tensors.read<uint32_t>(tensors.at("weight_packed", DType::I32, {rows, cols / 8})))
        for (int j = 0; j < 8; ++j) d.codes.push_back(uint8_t(((eight >> (4 * j) & 15) - 8) & 15));
      const TensorInfo scales = tensors.any("weight_scale");
      if (scales.dtype != DType::F16 && scales.dtype != DType::BF16)
        tensors.refuse(scales, str("dtype ", name(scales.dtype), ", expected F16 or BF16"));
      d.groups = groups_of(tensors, scales, rows, cols);
      const Value scale = scales.dtype == DType::F16 ? f16_scale : bf16_scale;
      read_scales<uint16_t>(d, tensors, scales, scale);
      const TensorInfo shape = tensors.at("weight_shape", DType::I64, {2});
      const std::vector<int64_t> found = tensors.read<int64_t>(shape);
      if (found != std::vector<int64_t>{rows, cols})
        tensors.refuse(shape, str("says ", text(found), ", expected ", text({rows, cols})));
      fill_values(d, int4, scale);
      break;
    }
  }
  return d;
}

}  // namespace fp4lab
