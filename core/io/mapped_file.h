// core/io/mapped_file.h - a whole file as read-only memory. Internal to core/io.
#pragma once
#include <cstddef>
#include <cstdint>
#include <span>
#include <string>

namespace fp4lab {

class MappedFile {
 public:
  /// Maps a regular file, read-only and private. DataError with the path for a missing, unreadable or empty
  /// file and for anything that is not a regular file.
  explicit MappedFile(const std::string& path);
  MappedFile(MappedFile&& other) noexcept;
  MappedFile& operator=(MappedFile&&) = delete;
  ~MappedFile();

  std::span<const std::byte> bytes() const { return {data_, size_}; }
  /// DataError when the file has become shorter since it was mapped: touching the lost pages would be a
  /// SIGBUS. Cheap (one fstat); it cannot see a truncation that comes later.
  void check_not_truncated() const;
  /// Drops the whole pages inside [offset, offset + count) from this process; the file still has them.
  void release(int64_t offset, int64_t count) const;

 private:
  std::string path_;
  int fd_ = -1;
  std::byte* data_ = nullptr;
  size_t size_ = 0;
};

}  // namespace fp4lab
