// core/io/tensor_header.h - the layouts behind tensor_file.h, as functions of bytes in memory. Internal to
// core. Every number is checked against the bytes at hand before anything is allocated from it: what these
// functions allocate is a small multiple of the header's own length. `path` is for messages only.
#pragma once
#include <cstddef>
#include <optional>
#include <span>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include "core/io/tensor_file.h"

namespace fp4lab {

inline constexpr int64_t kMaxHeaderBytes = 100'000'000;  // as the reference implementation of safetensors
inline constexpr size_t kMaxDimensions = 32;

/// The tensors of one safetensors file, in file order, `file` = 0.
std::vector<TensorInfo> parse_safetensors(const std::string& path, std::span<const std::byte> file);

/// The one tensor of a .npy file (versions 1.0, 2.0, 3.0), under the given name, `file` = 0.
TensorInfo parse_npy(const std::string& path, std::string name, std::span<const std::byte> file);

/// The weight map of a model.safetensors.index.json: (tensor, file name) in the order written. File names
/// are plain: no folder, no "..", at most 255 bytes, no control characters.
std::vector<std::pair<std::string, std::string>> parse_shard_index(const std::string& path,
                                                                   std::string_view text);

std::optional<DType> dtype_named(std::string_view safetensors_name);

/// Number of elements and bytes; nothing when they, or the product of the non-zero dimensions, pass 2^63 - 1.
struct TensorSize {
  int64_t elements, bytes;
};
std::optional<TensorSize> size_of(std::span<const int64_t> shape, DType dtype);

/// "(3, 4)", "(3)", "()".
std::string shape_text(std::span<const int64_t> shape);

/// The name in quotes for a message: control characters escaped, at most about 100 bytes of it.
std::string quote_name(std::string_view name);

}  // namespace fp4lab
