// Tensors as float32: conversion in pieces, so that the file's pages are given back as they are read.
#include <algorithm>
#include <array>
#include <cmath>
#include <cstring>
#include <limits>

#include "core/io/tensor_header.h"

namespace fp4lab {

namespace {
/// Source bytes converted at a time: with its floats it stays in the second-level cache. A multiple of 8.
constexpr int64_t kPieceBytes = 1 << 20;

/// OCP FP8 E4M3: bias 7, no Inf, S.1111.111 is NaN. Its bits moved into binary16 (bias 15) are 2^8 too small,
/// subnormals included.
constexpr float e4m3_to_float(uint8_t b) {
  if ((b & 0x7f) == 0x7f) return std::numeric_limits<float>::quiet_NaN();
  return to_float(f16{uint16_t((b & 0x80) << 8 | (b & 0x7f) << 7)}) * 256.0f;
}
/// OCP FP8 E5M2 is the upper half of binary16.
constexpr float e5m2_to_float(uint8_t b) { return to_float(f16{uint16_t(b << 8)}); }

/// to_float(f16) without a branch, so that the loop below vectorizes: 7.6 GB/s of source instead of 2.0 (64
/// MB, one core). Inf and NaN are scaled like the others, keep their mantissa, and then get the top exponent.
inline float f16_to_float(f16 h) {
  const uint32_t sign = uint32_t(h.bits & 0x8000u) << 16, body = uint32_t(h.bits & 0x7fffu) << 13;
  const uint32_t special = body >= 0x0f800000u ? 0x7f800000u : 0u;
  return bits_float(sign | special | float_bits(bits_float(body) * 0x1p112f));
}

template <float (*Decode)(uint8_t)>
constexpr std::array<float, 256> kTable = [] {
  std::array<float, 256> table{};
  for (size_t i = 0; i < 256; ++i) table[i] = Decode(uint8_t(i));
  return table;
}();

/// out[i] = convert(element i); elements of type T lie at any address.
template <class T, class Convert>
void convert(const std::byte* from, int64_t n, float* out, Convert to) {
  for (int64_t i = 0; i < n; ++i) {
    T x;
    std::memcpy(&x, from + i * int64_t(sizeof(T)), sizeof(T));
    out[i] = to(x);
  }
}
template <class T>
void cast(const std::byte* from, int64_t n, float* out) {
  convert<T>(from, n, out, [](T x) { return float(x); });
}

void convert_piece(DType dtype, const std::byte* from, int64_t n, float* out) {
  switch (dtype) {
    case DType::F64: return cast<double>(from, n, out);
    case DType::F32: std::memcpy(out, from, size_t(n) * 4); return;
    case DType::F16: return convert<f16>(from, n, out, f16_to_float);
    case DType::BF16: return convert<bf16>(from, n, out, [](bf16 x) { return to_float(x); });
    case DType::F8_E4M3:
      return convert<uint8_t>(from, n, out, [](uint8_t x) { return kTable<e4m3_to_float>[x]; });
    case DType::F8_E5M2:
      return convert<uint8_t>(from, n, out, [](uint8_t x) { return kTable<e5m2_to_float>[x]; });
    case DType::U8: return cast<uint8_t>(from, n, out);
    case DType::I8: return cast<int8_t>(from, n, out);
    case DType::U16: return cast<uint16_t>(from, n, out);
    case DType::I16: return cast<int16_t>(from, n, out);
    case DType::U32: return cast<uint32_t>(from, n, out);
    case DType::I32: return cast<int32_t>(from, n, out);
    case DType::U64: return cast<uint64_t>(from, n, out);
    case DType::I64: return cast<int64_t>(from, n, out);
    case DType::BOOL: return convert<uint8_t>(from, n, out, [](uint8_t x) { return float(x != 0); });
  }
}

/// Converts the tensor piece by piece; `check(begin, count)` sees each piece while it is in the cache.
template <class Check>
void load_pieces(const TensorFile& file, const TensorInfo& t, float* out, Check check) {
  const std::span<const std::byte> bytes = file.bytes(t);
  const int64_t size = bytes_per_element(t.dtype), step = kPieceBytes / size;
  TensorInfo piece = t;  // only its place in the file is used
  for (int64_t begin = 0; begin < t.elements; begin += step) {
    const int64_t count = std::min(step, t.elements - begin);
    convert_piece(t.dtype, bytes.data() + begin * size, count, out + begin);
    check(begin, count);
    piece.offset = t.offset + begin * size, piece.bytes = count * size;
    file.release(piece);
  }
  file.release(t);  // and the pages that two pieces shared
}

bool all_finite(const float* x, int64_t n) {
  uint32_t found = 0;
  for (int64_t i = 0; i < n; ++i) found |= uint32_t((float_bits(x[i]) & 0x7f800000u) == 0x7f800000u);
  return found == 0;
}
}  // namespace

void load_floats(const TensorFile& file, const TensorInfo& t, std::span<float> out) {
  FP4LAB_CHECK(int64_t(out.size()) == t.elements, t.name, ": room for ", out.size(), " of ", t.elements);
  load_pieces(file, t, out.data(), [](int64_t, int64_t) {});
}

Matrix load_matrix(const TensorFile& file, const TensorInfo& t, bool allow_nonfinite) {
  if (t.shape.size() > 2)
    throw DataError(str(file.path_of(t), ": tensor ", quote_name(t.name), " has shape ", shape_text(t.shape),
                        "; expected a matrix or a vector"));
  const int64_t cols = t.shape.empty() ? 1 : t.shape.back(), rows = t.shape.size() == 2 ? t.shape[0] : 1;
  Matrix matrix(rows, cols);
  load_pieces(file, t, matrix.data(), [&](int64_t begin, int64_t count) {
    const float* const x = matrix.data() + begin;
    if (allow_nonfinite || all_finite(x, count)) return;
    const int64_t i = std::find_if_not(x, x + count, [](float v) { return std::isfinite(v); }) - x;
    throw DataError(str(file.path_of(t), ": tensor ", quote_name(t.name), " ", shape_text(t.shape), ": ",
                        std::isnan(x[i]) ? "NaN"
                        : x[i] > 0       ? "Inf"
                                         : "-Inf",
                        " at row ", (begin + i) / cols, ", column ", (begin + i) % cols,
                        "; expected finite numbers"));
  });
  return matrix;
}

}  // namespace fp4lab
