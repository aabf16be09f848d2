// core/io/temporary_file.h - a file in the making: written beside its final name, then published or gone.
// Internal to core/io; others use files.h and write_safetensors.
#pragma once
#include <string>
#include <string_view>

namespace fp4lab {

class TemporaryFile {
 public:
  /// Opens ".<name>.<pid>.tmp" beside `path`, empty. DataError with path and errno text.
  explicit TemporaryFile(const std::string& path);
  TemporaryFile(const TemporaryFile&) = delete;
  TemporaryFile& operator=(const TemporaryFile&) = delete;
  /// Removes the file unless it was published.
  ~TemporaryFile();

  /// Appends. DataError with path and errno text ("No space left on device").
  void write(std::string_view bytes);
  /// fsync, rename over `path`, fsync of the folder. Call once, last.
  void publish();

 private:
  std::string path_, temporary_;
  int fd_ = -1;
};

}  // namespace fp4lab
