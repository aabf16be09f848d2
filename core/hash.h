// core/hash.h - SHA-256 (OpenSSL's), for keys, digests and content hashes.
#pragma once
#include <cstddef>
#include <cstdint>
#include <memory>
#include <span>
#include <string>
#include <string_view>

namespace fp4lab {

class Sha256 {
 public:
  Sha256();
  ~Sha256();
  Sha256& update(std::string_view bytes);
  Sha256& update(std::span<const std::byte> bytes);
  Sha256& update(std::span<const uint8_t> bytes);
  /// 64 lower-case hex digits. Call once.
  std::string hex();

 private:
  struct State;
  std::unique_ptr<State> state_;
};

std::string sha256_hex(std::string_view bytes);
/// Hash of a file's content, read in 4 MB pieces. DataError with path and errno text.
std::string sha256_file(const std::string& path);

}  // namespace fp4lab
