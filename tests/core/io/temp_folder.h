// tests/core/io/temp_folder.h - a folder of a test's own, gone at its end, and small files made by hand.
#pragma once
#include <stdlib.h>

#include <algorithm>
#include <cstdint>
#include <cstring>
#include <filesystem>
#include <fstream>
#include <iterator>
#include <stdexcept>
#include <string>
#include <string_view>
#include <vector>

namespace fp4lab::test {

class TempFolder {
 public:
  explicit TempFolder(const std::filesystem::path& parent = std::filesystem::temp_directory_path()) {
    std::string name = (parent / "fp4lab_test_XXXXXX").string();
    if (!::mkdtemp(name.data())) throw std::runtime_error("mkdtemp " + name);
    path_ = name;
  }
  TempFolder(const TempFolder&) = delete;
  TempFolder& operator=(const TempFolder&) = delete;
  ~TempFolder() {
    std::error_code ignored;
    std::filesystem::remove_all(path_, ignored);
  }
  const std::filesystem::path& path() const { return path_; }
  std::string operator/(std::string_view name) const { return (path_ / name).string(); }
  /// Names of everything in it, sorted.
  std::vector<std::string> names() const {
    std::vector<std::string> out;
    for (const auto& entry : std::filesystem::directory_iterator(path_))
      out.push_back(entry.path().filename().string());
    std::sort(out.begin(), out.end());
    return out;
  }

 private:
  std::filesystem::path path_;
};

/// Writes without any of the code under test; returns the path.
inline std::string put(const std::string& path, std::string_view bytes) {
  std::ofstream out(path, std::ios::binary);
  out.write(bytes.data(), std::streamsize(bytes.size()));
  out.close();
  if (!out) throw std::runtime_error("cannot write " + path);
  return path;
}
inline std::string get(const std::string& path) {
  std::ifstream in(path, std::ios::binary);
  return {std::istreambuf_iterator<char>(in), std::istreambuf_iterator<char>()};
}

/// The n low bytes of x, little-endian.
inline std::string little(uint64_t x, size_t n) {
  std::string out;
  for (size_t i = 0; i < n; ++i) out += char(x >> (8 * i) & 0xff);
  return out;
}

/// Length, header, data.
inline std::string safetensors_bytes(const std::string& header, const std::string& data) {
  return little(header.size(), 8) + header + data;
}
/// A .npy file of version major.0.
inline std::string npy_bytes(const std::string& dict, const std::string& data, int major = 1) {
  return "\x93NUMPY" + little(uint64_t(major), 1) + little(0, 1) + little(dict.size(), major == 1 ? 2 : 4) +
         dict + data;
}

/// The raw bytes of numbers.
template <class T>
std::string raw(const std::vector<T>& values) {
  std::string out(values.size() * sizeof(T), '\0');
  std::memcpy(out.data(), values.data(), out.size());
  return out;
}

/// The message of the E that `f` throws; "(nothing thrown)" when it does not. Others pass through.
template <class E, class F>
std::string message_of(F f) {
  try {
    f();
  } catch (const E& e) {
    return e.what();
  }
  return "(nothing thrown)";
}
inline bool has(const std::string& text, std::string_view part) {
  return text.find(part) != std::string::npos;
}

}  // namespace fp4lab::test
