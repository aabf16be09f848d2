// core/io/spill.h - a matrix that may be larger than memory: above a limit it lives in a file without a name.
#pragma once
#include <memory>
#include <string>
#include <string_view>

#include "core/matrix.h"

namespace fp4lab {

/// Where matrices of many rows go.
struct SpillPolicy {
  int64_t limit = int64_t(1) << 62;  // bytes of one matrix that stay in memory
  std::string folder;                // for the files of larger ones
};

/// Owns rows * cols float32, dense, row-major. Moves; copies only by hand. Elements are not set.
class SpilledMatrix {
 public:
  SpilledMatrix() = default;
  /// In memory up to `limit` bytes (std::bad_alloc when that is short). Above it in a file of `folder`, as
  /// long as all of it from the start, mapped read-write and unlinked at once: it goes with the matrix or the
  /// process, however that ends. Its pages are the system's to write back and to drop. (On a tmpfs they are
  /// memory after all.) DataError with path and errno text for a folder that cannot be written to and for a
  /// full disk ("No space left on device"). SIGXFSZ must be ignored by the program (main does).
  SpilledMatrix(int64_t rows, int64_t cols, int64_t limit, const std::string& folder);

  /// What the file's name begins with while it has one; the rest is "<pid>.tmp". For sweep_temporaries,
  /// should the process die in between.
  static constexpr std::string_view kPrefix = ".spill.";

  MatrixView<float> view() { return {data(), rows_, cols_, cols_}; }
  MatrixView<const float> view() const { return {data(), rows_, cols_, cols_}; }
  bool in_file() const { return mapped_ != nullptr; }

 private:
  struct Unmap {
    size_t bytes;
    void operator()(float* p) const;
  };
  float* data() const { return mapped_ ? mapped_.get() : const_cast<float*>(memory_.data()); }

  Matrix memory_;
  std::unique_ptr<float[], Unmap> mapped_;
  int64_t rows_ = 0, cols_ = 0;
};

/// The same by a policy. Its folder is made when a file is needed, and rid of what dead processes left there.
SpilledMatrix make_spilled(int64_t rows, int64_t cols, const SpillPolicy& policy);

/// Bytes of memory of this machine, or of the container where that is allowed less.
int64_t machine_memory();

}  // namespace fp4lab
