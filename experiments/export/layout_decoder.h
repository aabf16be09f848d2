// experiments/export/layout_decoder.h - a second reading of the layouts, from their documentation alone: no
// codec, table or packing of formats/ is used, so that an export that is read back is checked by something
// that cannot share its mistakes. Plain and slow on purpose.
#pragma once
#include <optional>
#include <string>
#include <vector>

#include "core/matrix.h"
#include "experiments/export/layout.h"

namespace fp4lab {

struct DecodedLinear {
  int64_t rows = 0, cols = 0, groups = 0;
  std::vector<uint8_t> codes;  // (rows, cols): e2m1 sign << 3 | magnitude; INT4 as two's complement in 4 bits
  std::vector<uint32_t> scales;  // (rows, groups): the stored bits
  float global = 1;              // the global scale as it is stored; 1 where the layout has none
  bool global_divides = true;    // or it is a factor
  double (*element)(uint32_t code) = nullptr;
  double (*scale)(uint32_t bits) = nullptr;

  /// s_T: the stored factor, or one over the stored divisor rounded to FP32.
  float tensor_scale() const { return global_divides ? 1.0f / global : global; }
  /// element * (scale / divisor), or element * (scale * factor), each operation rounded to FP32.
  Matrix values() const;
};

/// The linear whose tensors are `prefix`.weight_packed and so on, of (rows, cols) as the model's config asks.
/// DataError naming file and tensor for one that is missing, of another dtype or shape; a scale that is NaN,
/// Inf, negative, or the E8M0 byte 255 (with its row and group); a global scale that is not a positive
/// number.
DecodedLinear decode_linear(Layout layout, const TensorFile& file, const std::string& prefix, int64_t rows,
                            int64_t cols);
/// The same without codes and group scales: what is wrong with names, dtypes, shapes and the global scale.
DecodedLinear decode_header(Layout layout, const TensorFile& file, const std::string& prefix, int64_t rows,
                            int64_t cols);

/// The tensor scale of a linear's inputs as it is stored (a divisor; ModelOpt's is a factor); nothing where
/// the layout has no such tensor. Same errors.
std::optional<float> decode_input_scale(Layout layout, const TensorFile& file, const std::string& prefix);

}  // namespace fp4lab
