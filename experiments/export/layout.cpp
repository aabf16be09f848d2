#include "experiments/export/layout.h"

#include <cmath>
#include <cstring>

#include "core/errors.h"
#include "core/text.h"

namespace fp4lab {

namespace {

constexpr LayoutEntry kLayouts[] = {
    {Layout::nvfp4_pack_quantized, "nvfp4-pack-quantized",
     "compressed-tensors: NVFP4, global scale as a divisor"},
    {Layout::mxfp4_pack_quantized, "mxfp4-pack-quantized", "compressed-tensors: MXFP4, no global scale"},
    {Layout::pack_quantized, "pack-quantized", "compressed-tensors: INT4, eight to an I32"},
    {Layout::fp_quant, "fp_quant", "FP-Quant and vLLM: NVFP4 and the paper's MXFP4, with Hadamard matrices"},
    {Layout::modelopt_nvfp4, "modelopt-nvfp4", "Model-Optimizer: NVFP4, tensor scale as a factor"},
};

bool is_nvfp4(const FormatSpec& f) {
  return f.element == kE2M1 && f.group_size == 16 && f.scale == kE4M3 &&
         (f.tensor_scale.mode == TensorScale::dynamic || f.tensor_scale.mode == TensorScale::fixed);
}
bool is_mxfp4(const FormatSpec& f) { return f.element == kE2M1 && f.group_size == 32 && f.scale == kUE8M0; }

std::string nvfp4_problem(const FormatSpec& f) {
  if (is_nvfp4(f)) return "";
  if (f.element == kE2M1 && f.scale == kE4M3 && f.group_size == 16)
    return "one FP32 scale per tensor is stored; nvfp4 has it";
  return "only e2m1 in groups of 16 with e4m3 scales and one FP32 scale per tensor is stored; nvfp4 is the "
         "nearest";
}

std::string mxfp4_problem(const FormatSpec& f) {
  if (!is_mxfp4(f)) return "only e2m1 in groups of 32 with ue8m0 scales is stored; mxfp4-even is the nearest";
  if (f.rule.kind == ScaleRule::fpq)
    return "scales of rule \"fpq\" are a third of a power of two, and there is no global scale to hold the "
           "third; "
           "fp_quant stores it, or take a power-of-two rule (mxfp4-even, which vLLM itself uses)";
  if (f.rule.kind == ScaleRule::fitted)
    return "scales of rule \"fitted\" are not powers of two; take a power-of-two rule (mxfp4-even, which "
           "vLLM "
           "itself uses)";
  return "";
}

std::string int4_problem(const FormatSpec& f) {
  if (f.has_zero_points()) return "zero points are not written; int4-peer is the nearest";
  if (f.element != kInt4 && f.element != element("int4-full"))
    return "only int4 and int4-full elements are stored; int4-peer is the nearest";
  if (f.scale != kFP16 && f.scale != kBF16)
    return str("group scales are fp16 or bf16, not ", f.scale.name, "; int4-peer is the nearest");
  if (f.tensor_scale.mode != TensorScale::none) return "there is no tensor scale; int4-peer is the nearest";
  return "";
}

std::string fp_quant_problem(const FormatSpec& f) {
  if (is_nvfp4(f) || (is_mxfp4(f) && f.rule.kind == ScaleRule::fpq)) return "";
  if (is_mxfp4(f))
    return str("its kernels quantize activations by rule \"fpq\" and divide by 3 on both sides, so \"",
               entry_of(f.rule.kind).name,
               "\" weights would be read with another rule's activations; take mxfp4-paper, or "
               "mxfp4-pack-quantized for these weights");
  return "only nvfp4 and mxfp4-paper are stored";
}

template <class T>
Bytes bytes_of(std::initializer_list<T> values) {
  Bytes bytes(values.size() * sizeof(T));
  std::memcpy(bytes.data(), std::data(values), bytes.size());
  return bytes;
}

/// A third of a power of two is stored as 3, exactly, and not as the inverse of a rounded third.
float divisor(const QuantizedMatrix& q) {
  if (q.format.rule.kind == ScaleRule::fpq) return q.format.element.scale_max / 2;
  const float inverse = 1.0f / q.scales.factors.at(0);
  if (!std::isfinite(inverse))
    throw DataError(
        str("the tensor scale ", q.scales.factors.at(0),
            " is stored as its inverse, which is too large for FP32; modelopt-nvfp4 stores it as it is"));
  return inverse;
}

}  // namespace

std::span<const LayoutEntry> layouts() { return kLayouts; }
const LayoutEntry* find_layout(std::string_view name) { return find_named(kLayouts, name); }
std::string_view name(Layout layout) {
  for (const LayoutEntry& e : kLayouts)
    if (e.layout == layout) return e.name;
  FP4LAB_CHECK(false, "layout ", int(layout), " has no entry");
  return "";
}

std::string layout_problem(Layout layout, const FormatSpec& format) {
  switch (layout) {
    case Layout::nvfp4_pack_quantized:
    case Layout::modelopt_nvfp4: return nvfp4_problem(format);
    case Layout::mxfp4_pack_quantized: return mxfp4_problem(format);
    case Layout::pack_quantized: return int4_problem(format);
    case Layout::fp_quant: return fp_quant_problem(format);
  }
  return "unknown layout";
}

std::string layout_problem(Layout layout, const FormatSpec& format, int64_t cols) {
  if (std::string problem = layout_problem(layout, format); !problem.empty()) return problem;
  if (std::string problem = shape_problem(format, cols); !problem.empty()) return problem;
  if (layout == Layout::pack_quantized && cols % 8 != 0) return str("K = ", cols, " is not a multiple of 8");
  return "";
}

bool global_scale_multiplies(Layout layout) { return layout == Layout::modelopt_nvfp4; }

std::string_view input_scale_suffix(Layout layout) {
  switch (layout) {
    case Layout::nvfp4_pack_quantized: return "input_global_scale";
    case Layout::fp_quant: return "act_global_scale";
    case Layout::modelopt_nvfp4: return "input_scale";
    case Layout::mxfp4_pack_quantized:
    case Layout::pack_quantized: return "";
  }
  return "";
}

std::string_view codes_suffix(Layout layout) { return suffixes(layout)[0]; }

std::vector<std::string_view> suffixes(Layout layout) {
  switch (layout) {
    case Layout::nvfp4_pack_quantized:
      return {"weight_packed", "weight_scale", "weight_global_scale", "input_global_scale"};
    case Layout::mxfp4_pack_quantized: return {"weight_packed", "weight_scale"};
    case Layout::pack_quantized: return {"weight_packed", "weight_scale", "weight_shape"};
    case Layout::fp_quant:
      return {"qweight",
              "scales",
              "weight_global_scale",
              "act_global_scale",
              "forward_hadamard_matrix",
              "backward_hadamard_matrix"};
    case Layout::modelopt_nvfp4: return {"weight", "weight_scale", "weight_scale_2", "input_scale"};
  }
  return {};
}

std::vector<LayoutTensor> to_layout(Layout layout, const QuantizedMatrix& q, int64_t begin, int64_t count,
                                    std::optional<float> global) {
  const int64_t cols = q.cols(), groups = q.format.groups(cols);
  if (const std::string problem = layout_problem(layout, q.format, cols); !problem.empty())
    throw ConfigError(str(name(layout), ": ", problem));
  FP4LAB_CHECK(begin >= 0 && count >= 0 && begin + count <= q.rows(), "rows ", begin, " + ", count, " of ",
               q.rows());
  const auto rows_of = [&](const Bytes& all, int64_t row_bytes) {
    return Bytes(all.begin() + begin * row_bytes, all.begin() + (begin + count) * row_bytes);
  };
  Bytes codes = rows_of(q.codes, q.format.code_bytes(cols));
  Bytes scales = rows_of(q.scales.bytes, groups * q.format.scale.bytes);
  const std::vector<int64_t> packed{count, cols / 2}, grouped{count, groups}, one{1};
  switch (layout) {
    case Layout::nvfp4_pack_quantized:
      return {{"weight_packed", DType::U8, packed, std::move(codes)},
              {"weight_scale", DType::F8_E4M3, grouped, std::move(scales)},
              {"weight_global_scale", DType::F32, one, bytes_of({global ? *global : divisor(q)})}};
    case Layout::mxfp4_pack_quantized:
      return {{"weight_packed", DType::U8, packed, std::move(codes)},
              {"weight_scale", DType::U8, grouped, std::move(scales)}};
    case Layout::pack_quantized:
      for (uint8_t& two : codes) two ^= 0x88;  // two's complement + 8; little-endian, so bits 4j of the I32
      return {
          {"weight_packed", DType::I32, {count, cols / 8}, std::move(codes)},
          {"weight_scale", q.format.scale == kFP16 ? DType::F16 : DType::BF16, grouped, std::move(scales)},
          {"weight_shape", DType::I64, {2}, bytes_of<int64_t>({count, cols})}};
    case Layout::fp_quant:
      return {{"qweight", DType::U8, packed, std::move(codes)},
              {"scales", DType::U8, grouped, std::move(scales)},
              {"weight_global_scale", DType::F32, one, bytes_of({global ? *global : divisor(q)})}};
    case Layout::modelopt_nvfp4:
      return {{"weight", DType::U8, packed, std::move(codes)},
              {"weight_scale", DType::F8_E4M3, grouped, std::move(scales)},
              {"weight_scale_2", DType::F32, one, bytes_of({global ? *global : q.scales.factors.at(0)})}};
  }
  return {};
}

}  // namespace fp4lab
