// core/io/hdf5_state.h - what hdf5.cpp and hdf5_values.cpp share. Private to them: nobody else includes it,
// since it brings in HDF5's header.
//   Threads: fp4lab calls HDF5 from one thread at a time, and so needs no thread-safe build and no lock here.
#pragma once
#include <hdf5.h>

#include <atomic>
#include <string>
#include <utility>

#include "core/errors.h"
#include "core/io/hdf5.h"

namespace fp4lab::h5 {

/// Owns one HDF5 identifier.
class Handle {
 public:
  Handle() = default;
  Handle(hid_t id, herr_t (*close)(hid_t)) : id_(id), close_(close) {}
  Handle(Handle&& o) noexcept : id_(std::exchange(o.id_, -1)), close_(o.close_) {}
  Handle& operator=(Handle&& o) noexcept {
    std::swap(id_, o.id_), std::swap(close_, o.close_);
    return *this;
  }
  ~Handle() {
    if (valid()) close_(id_);
  }
  bool valid() const { return id_ >= 0; }
  operator hid_t() const { return id_; }

 private:
  hid_t id_ = -1;
  herr_t (*close_)(hid_t) = nullptr;
};

/// The description nearest to the cause on HDF5's error stack. Ask before the next HDF5 call clears it.
std::string innermost_error();

/// For new links: missing groups on the path are created, names are UTF-8.
Handle link_properties();

struct File::State {
  std::string name;  // the path, or "(HDF5 in memory)"
  Handle file;
  int fd = -1;  // of a created file: where close() writes the image

  ~State();
  hid_t id() const {
    FP4LAB_CHECK(file.valid(), name, " is closed");
    return file;
  }
  [[noreturn]] void fail(const char* what, const std::string& object) const;

  Handle open_dataset(const std::string& path) const;
  Handle open_attribute(const std::string& object, const std::string& key) const;
  void write(const std::string& path, hid_t type, const void* data, int64_t elements,
             const std::vector<int64_t>& shape, bool compress);
  void write_attribute(const std::string& object, const std::string& key, hid_t type, const void* value);
  /// Elements of a dataset; refuses counts that the stored bytes cannot hold, before anyone allocates from
  /// them.
  size_t elements(const Handle& dataset, const std::string& path) const;
  template <class T>
  std::vector<T> read_numbers(const std::string& path, hid_t type) const;
};

}  // namespace fp4lab::h5
