// core/io/tensor_file.h - named tensors in files, read by mmap: safetensors (one file, or a folder with
// model.safetensors or model.safetensors.index.json), and NumPy's .npy (one tensor, named after the file's
// stem). Nothing is copied until it is asked for; no size in a file is believed before it is checked against
// the file's length.
#pragma once
#include <cstddef>
#include <memory>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "core/matrix.h"

namespace fp4lab {

enum class DType : uint8_t {
  F64,
  F32,
  F16,
  BF16,
  F8_E4M3,
  F8_E5M2,
  U8,
  I8,
  U16,
  I16,
  U32,
  I32,
  U64,
  I64,
  BOOL
};
std::string_view name(DType t);      // "F32", as safetensors spells it
int64_t bytes_per_element(DType t);  // 1, 2, 4 or 8

struct TensorInfo {
  std::string name;
  DType dtype;
  std::vector<int64_t> shape;  // () for a scalar
  int64_t elements;            // product of shape
  int64_t bytes;
  int file;        // index into TensorFile::paths()
  int64_t offset;  // of the first byte, from the start of that file
};

class TensorFile {
 public:
  /// Opens a .safetensors file, a .npy file, a .safetensors.index.json, or a checkpoint folder. DataError
  /// with the path, and the tensor where there is one, for: a missing, unreadable or empty file; a header
  /// that is longer than the file or than 100 MB, is not JSON, is nested or duplicated; unknown dtypes or
  /// keys; negative, fractional or overflowing shapes (or more than 32 dimensions) and offsets; offsets past
  /// the end, overlapping, with holes between, or not of the shape's size; bytes after the last tensor; an
  /// index that names files outside the folder, missing files, or tensors that their file does not hold; .npy
  /// in Fortran order, big-endian, or with a dtype not listed. Of shards, the tensors are those that the
  /// index names.
  static TensorFile open(const std::string& path);
  TensorFile(TensorFile&&) noexcept;
  TensorFile& operator=(TensorFile&&) noexcept;
  ~TensorFile();

  /// All tensors, sorted by name.
  const std::vector<TensorInfo>& tensors() const;
  const TensorInfo* find(std::string_view name) const;  // null when absent
  /// As find; an absent tensor is a DataError that suggests near names.
  const TensorInfo& at(std::string_view name) const;
  /// The files, in shard order; the first line of an error message about a tensor names its file.
  const std::vector<std::string>& paths() const;
  const std::string& path_of(const TensorInfo& t) const { return paths()[size_t(t.file)]; }

  /// The tensor's bytes in the mapping, little-endian, possibly unaligned. Valid while this object lives.
  /// DataError when the file has become shorter since it was opened. A file that is cut later, while the
  /// bytes are being read, ends the program with SIGBUS: replace checkpoints by renaming, never in place.
  std::span<const std::byte> bytes(const TensorInfo& t) const;
  /// Tells the kernel that these pages are not needed now (they can be read again): keeps resident memory at
  /// one tensor.
  void release(const TensorInfo& t) const;

 private:
  struct State;
  std::unique_ptr<State> state_;
  explicit TensorFile(std::unique_ptr<State> state);
};

/// Element conversion to float32: exact for F32, F16, BF16, F8, U8, I8, U16, I16; rounded to nearest for the
/// others. `out` has t.elements floats. Pages are released as they are converted, so that resident memory
/// stays at the output plus a few MB.
void load_floats(const TensorFile& file, const TensorInfo& t, std::span<float> out);

/// The tensor as a float32 matrix. A vector (K) is (1, K); with more than two dimensions it is a DataError
/// that says the shape. NaN or Inf is a DataError naming file, tensor, row and column of the first one,
/// unless `allow_nonfinite`.
Matrix load_matrix(const TensorFile& file, const TensorInfo& t, bool allow_nonfinite = false);

/// Writes one safetensors file (used by tests, captures and exports): temporary name, fsync, rename. Tensors
/// are laid out in the order given, header padded with spaces to 8 bytes. DataError with path and errno text
/// on failure; no partial file is left.
struct TensorToWrite {
  std::string name;
  DType dtype;
  std::vector<int64_t> shape;
  std::span<const std::byte> bytes;
};
void write_safetensors(const std::string& path, std::span<const TensorToWrite> tensors,
                       const std::vector<std::pair<std::string, std::string>>& metadata = {});

}  // namespace fp4lab
