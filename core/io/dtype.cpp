// Element types and shapes: names, sizes, and how messages print them.
#include <nlohmann/json.hpp>

#include "core/errors.h"
#include "core/io/tensor_header.h"

namespace fp4lab {

namespace {
struct DTypeRow {
  DType dtype;
  std::string_view name;
  int64_t bytes;
};
constexpr DTypeRow kDTypes[] = {
    {DType::F64, "F64", 8},   {DType::F32, "F32", 4},         {DType::F16, "F16", 2},
    {DType::BF16, "BF16", 2}, {DType::F8_E4M3, "F8_E4M3", 1}, {DType::F8_E5M2, "F8_E5M2", 1},
    {DType::U8, "U8", 1},     {DType::I8, "I8", 1},           {DType::U16, "U16", 2},
    {DType::I16, "I16", 2},   {DType::U32, "U32", 4},         {DType::I32, "I32", 4},
    {DType::U64, "U64", 8},   {DType::I64, "I64", 8},         {DType::BOOL, "BOOL", 1},
};
constexpr bool in_enum_order() {
  for (size_t i = 0; i < std::size(kDTypes); ++i)
    if (size_t(kDTypes[i].dtype) != i) return false;
  return true;
}
static_assert(in_enum_order());
}  // namespace

std::string_view name(DType t) { return kDTypes[size_t(t)].name; }
int64_t bytes_per_element(DType t) { return kDTypes[size_t(t)].bytes; }

std::optional<DType> dtype_named(std::string_view safetensors_name) {
  for (const DTypeRow& row : kDTypes)
    if (row.name == safetensors_name) return row.dtype;
  return std::nullopt;
}

std::optional<TensorSize> size_of(std::span<const int64_t> shape, DType dtype) {
  // Zeros are left out of the product, so that the answer does not depend on where they stand.
  int64_t product = bytes_per_element(dtype);
  bool empty = false;
  for (int64_t n : shape) {
    if (n == 0)
      empty = true;
    else if (__builtin_mul_overflow(product, n, &product))
      return std::nullopt;
  }
  if (empty) return TensorSize{0, 0};
  return TensorSize{product / bytes_per_element(dtype), product};
}

std::string shape_text(std::span<const int64_t> shape) {
  std::string out = "(";
  for (size_t i = 0; i < shape.size(); ++i) out += (i ? ", " : "") + std::to_string(shape[i]);
  return out + ")";
}

std::string quote_name(std::string_view name) {
  std::string text(name.substr(0, 100));
  if (name.size() > 100) text += "...";
  // `replace`, because the cut may fall inside a character.
  return nlohmann::json(text).dump(-1, ' ', false, nlohmann::json::error_handler_t::replace);
}

}  // namespace fp4lab
