// core/io/hdf5.h - a small RAII layer over the HDF5 C library: what the store and the tests need, no more.
//   Every failure is a DataError with the file, the object's path and HDF5's own innermost message; HDF5's
//   automatic printing is off. Objects are written without timestamps, so equal content gives equal
//   structure. Names may hold '/' only as a path separator; missing groups on a path are created.
//   Text with a NUL byte is refused. One thread at a time.
#pragma once
#include <cstdint>
#include <memory>
#include <span>
#include <string>
#include <string_view>
#include <vector>

namespace fp4lab::h5 {

class File {
 public:
  /// A new file in memory; `image()` gives its bytes. Writing those is the caller's, so a full disk never
  /// meets HDF5.
  static File in_memory();
  /// A new file on disk (truncates). It is built in memory and written by close(): a full disk never meets
  /// HDF5, which does not survive one, and the file must fit in memory.
  static File create(const std::string& path);
  static File open_readonly(const std::string& path);
  File(File&&) noexcept;
  File& operator=(File&&) noexcept;
  ~File();

  void group(const std::string& path);
  bool exists(const std::string& path) const;
  /// Names of the links in a group, in name order.
  std::vector<std::string> children(const std::string& group) const;
  bool is_group(const std::string& path) const;

  // Datasets. Row-major; `shape` multiplies to the data's size; a 1-D shape is the default. Numbers of more
  // than 4096 elements are chunked, shuffled and deflated (level 4). Strings are variable-length UTF-8, also
  // when empty.
  void write(const std::string& path, std::span<const double> data, std::vector<int64_t> shape = {});
  void write(const std::string& path, std::span<const int64_t> data, std::vector<int64_t> shape = {});
  void write(const std::string& path, std::span<const uint8_t> data, std::vector<int64_t> shape = {});
  void write(const std::string& path, std::span<const std::string> data, std::vector<int64_t> shape = {});
  void write_text(const std::string& path, const std::string& text);  // a scalar string, any length

  std::vector<int64_t> shape(const std::string& dataset) const;
  std::vector<double> read_doubles(const std::string& dataset) const;  // converts any numeric type
  std::vector<int64_t> read_integers(const std::string& dataset) const;
  std::vector<uint8_t> read_bytes(const std::string& dataset) const;
  std::vector<std::string> read_strings(const std::string& dataset) const;  // of a scalar: one element
  bool is_text(const std::string& dataset) const;

  // Attributes of an object (path "/" for the root). Text of up to 64 kB.
  void attribute(const std::string& object, const std::string& key, const std::string& value);
  void attribute(const std::string& object, const std::string& key, double value);
  void attribute(const std::string& object, const std::string& key, int64_t value);
  bool has_attribute(const std::string& object, const std::string& key) const;
  std::string attribute_text(const std::string& object, const std::string& key) const;
  double attribute_number(const std::string& object, const std::string& key) const;
  std::vector<std::string> attribute_names(const std::string& object) const;

  /// Copies an object (a group with everything below it) from another file.
  void copy_from(const File& other, const std::string& from, const std::string& to);

  /// The bytes of the file as they would be on disk (flushes). Only for in_memory files.
  std::string image();
  /// Writes and closes; DataError when that fails (a full disk), and then a created file is partial: remove
  /// it. Not yet durable: see publish_file. The destructor closes too, without throwing and without printing.
  void close();

  struct State;  // of hdf5_state.h

 private:
  std::unique_ptr<State> state_;
  explicit File(std::unique_ptr<State> state);
};

/// "1.10.8"
std::string library_version();

}  // namespace fp4lab::h5
