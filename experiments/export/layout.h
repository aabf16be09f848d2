// experiments/export/layout.h - how other tools store a quantized linear: from codes and scale bytes to named
// tensors, and back.
//   (N, K) = (out, in), row-major, groups of G along K.
//   compressed-tensors
//     nvfp4-pack-quantized  weight_packed U8 (N, K/2), weight_scale F8_E4M3 (N, K/16),
//                           weight_global_scale F32 (1): a divisor, 1 / s_T
//     mxfp4-pack-quantized  weight_packed U8 (N, K/2), weight_scale U8 (N, K/32): E8M0 bytes, no global scale
//     pack-quantized        weight_packed I32 (N, K/8): element j at bits 4j, offset binary q + 8;
//                           weight_scale BF16 or F16 (N, K/G), weight_shape I64 (2)
//   FP-Quant, vLLM
//     fp_quant              qweight U8 (N, K/2), scales U8 (N, K/G), weight_global_scale F32 (1): a divisor,
//                           3 for the paper's MXFP4
//   Model-Optimizer
//     modelopt-nvfp4        weight U8 (N, K/2), weight_scale F8_E4M3 (N, K/16), weight_scale_2 F32 (1):
//                           a factor, s_T itself
// In a byte of 4-bit elements the even element is the low nibble, everywhere.
#pragma once
#include <optional>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "core/io/tensor_file.h"
#include "formats/quantize.h"

namespace fp4lab {

enum class Layout : uint8_t {
  nvfp4_pack_quantized,
  mxfp4_pack_quantized,
  pack_quantized,
  fp_quant,
  modelopt_nvfp4
};

struct LayoutEntry {
  Layout layout;
  std::string_view name, description;
};
std::span<const LayoutEntry> layouts();
const LayoutEntry* find_layout(std::string_view name);
std::string_view name(Layout layout);

/// Why matrices of this format cannot be stored so, with the nearest thing that can; or "".
std::string layout_problem(Layout layout, const FormatSpec& format);
/// The same for a width: `K = 36 is not a multiple of 8`.
std::string layout_problem(Layout layout, const FormatSpec& format, int64_t cols);

/// One tensor of a linear: `suffix` follows the linear's name and a dot.
struct LayoutTensor {
  std::string_view suffix;
  DType dtype;
  std::vector<int64_t> shape;
  Bytes bytes;
};

/// Rows [begin, begin + count) of a quantized matrix (of one site, say) as a layout's tensors. ConfigError
/// where layout_problem has something to say; DataError for a divisor that overflows. The divisors are 1 /
/// s_T rounded to FP32, so a reader's s_T may be an ulp away; everything else is the matrix's own bytes.
/// `global`: the global scale to store instead, bit for bit, where it was read from a layout that divides
/// (multiplies) as this one does.
std::vector<LayoutTensor> to_layout(Layout layout, const QuantizedMatrix& q, int64_t begin, int64_t count,
                                    std::optional<float> global = {});

/// Whether the layout's global scales are factors (ModelOpt's); the others' are divisors.
bool global_scale_multiplies(Layout layout);
/// The tensor with the tensor scale of a linear's inputs: "input_global_scale"; "" where there is none.
std::string_view input_scale_suffix(Layout layout);
/// The tensor with the codes: "weight_packed", "qweight", "weight".
std::string_view codes_suffix(Layout layout);
/// Every tensor that a linear may have, in the order they are written.
std::vector<std::string_view> suffixes(Layout layout);

}  // namespace fp4lab
