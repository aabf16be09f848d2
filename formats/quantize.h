// formats/quantize.h - the three verbs of a format: choose_scales, round, dequantize; and what they produce.
//   X (rows, cols) float32, groups along cols. Scales are always the stored ones: nothing rounds with a scale
//   that the bytes do not hold. Every result is the same for any number of threads and on every x86-64
//   machine.
#pragma once
#include <memory>
#include <vector>

#include "core/buffer.h"
#include "core/matrix.h"
#include "formats/format.h"

namespace fp4lab {

class GroupCoder;  // formats/group_coder.h

/// s_T of a tensor with this amax: amax / (scale max * Qmax), for NVFP4 amax / 2688 (four_over_six:
/// amax / 1536); 1 for a tensor of zeros.
float tensor_scale_for(const FormatSpec& format, float amax);

/// The stored scales of a matrix.
struct Scales {
  int64_t rows = 0, cols = 0;  // of the matrix they belong to
  Bytes bytes;                 // (rows, groups), each scale.bytes wide, little-endian
  Bytes zero_points;           // (rows, groups), int_asym only
  std::vector<float> factors;  // s_T: none, 1 or one per row; `fitted`: a, b
};

/// Packed codes, scales and format: the canonical form everywhere.
struct QuantizedMatrix {
  FormatSpec format;
  Scales scales;
  Bytes codes;  // (rows, format.code_bytes(cols)); 4-bit: element 2i in the low nibble of byte i

  int64_t rows() const { return scales.rows; }
  int64_t cols() const { return scales.cols; }
  /// SHA-256 of codes, scale bytes, zero points and factors, in this order.
  std::string digest() const;
};

/// SPEC sections 2: the scales of X under the format's rule, or under an offline search for weights.
/// DataError naming row and column for a NaN or Inf; ConfigError when format, search or shape do not fit
/// (resolve checks them first).
Scales choose_scales(const FormatSpec& format, MatrixView<const float> X, const WeightScales& search = {});

/// Codes of X under given scales: code = Q(x / s). Same errors.
QuantizedMatrix round(const FormatSpec& format, MatrixView<const float> X, Scales scales);

/// choose_scales and round in one pass over X.
QuantizedMatrix quantize(const FormatSpec& format, MatrixView<const float> X,
                         const WeightScales& search = {});

/// x^ = s * value(code). `out` is (rows, cols).
void dequantize(const QuantizedMatrix& q, MatrixView<float> out);

/// Reads one quantized matrix row by row, on the calling thread: for readers that go through a matrix in
/// tiles. Several threads may share one. The matrix must outlive it.
class RowReader {
 public:
  explicit RowReader(const QuantizedMatrix& q);
  ~RowReader();
  /// Rows [begin, begin + out.rows).
  void dequantize(int64_t begin, MatrixView<float> out) const;
  /// The effective FP32 scale of each group of one row, from its stored bytes.
  void effective_scales(int64_t row, float* out) const;

 private:
  const QuantizedMatrix& q_;
  std::unique_ptr<const GroupCoder> coder_;
};

/// The same for one call.
inline void dequantize_rows(const QuantizedMatrix& q, int64_t begin, MatrixView<float> out) {
  RowReader(q).dequantize(begin, out);
}
inline void effective_scales(const QuantizedMatrix& q, int64_t row, float* out) {
  RowReader(q).effective_scales(row, out);
}
/// The codes of one row, one per byte.
void unpack_codes(const QuantizedMatrix& q, int64_t row, uint8_t* out);

/// dequantize(quantize(X)) without the codes. `out` may be X itself; after a DataError it may be partly
/// written.
void fake_quantize(const FormatSpec& format, MatrixView<const float> X, MatrixView<float> out,
                   const WeightScales& search = {});

}  // namespace fp4lab
