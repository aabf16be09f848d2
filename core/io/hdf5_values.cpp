// core/io/hdf5_values.cpp - datasets and attributes.
#include <algorithm>
#include <functional>
#include <numeric>

#include "core/io/hdf5_state.h"

namespace fp4lab::h5 {

namespace {

Handle text_type() {
  Handle type(H5Tcopy(H5T_C_S1), H5Tclose);
  H5Tset_size(type, H5T_VARIABLE);
  H5Tset_cset(type, H5T_CSET_UTF8);
  return type;
}

/// HDF5 reads text up to the first NUL; writing more would lose it silently.
const char* c_text(const std::string& text, const std::string& where) {
  if (text.find('\0') != std::string::npos)
    throw DataError(str(where, ": text with a NUL byte cannot be stored"));
  return text.c_str();
}

/// Whole trailing dimensions, at most 64 Ki elements: half a MB of doubles, inside HDF5's chunk cache of 1
/// MB.
std::vector<hsize_t> chunk_shape(const std::vector<hsize_t>& shape) {
  std::vector<hsize_t> chunk(shape.size());
  hsize_t budget = 65536;
  for (size_t d = shape.size(); d-- > 0;) {
    chunk[d] = std::min(shape[d], budget);
    budget = std::max<hsize_t>(1, budget / chunk[d]);
  }
  return chunk;
}

/// The strings that HDF5 allocated into `pointers`, which it then frees.
std::vector<std::string> take_texts(const std::vector<char*>& pointers, hid_t type, hid_t space) {
  std::vector<std::string> texts;
  texts.reserve(pointers.size());
  for (const char* p : pointers) texts.emplace_back(p ? p : "");  // HDF5 gives null for an empty text
#if H5_VERSION_GE(1, 12, 0)
  H5Treclaim(type, space, H5P_DEFAULT, const_cast<char**>(pointers.data()));
#else
  H5Dvlen_reclaim(type, space, H5P_DEFAULT, const_cast<char**>(pointers.data()));
#endif
  return texts;
}

}  // namespace

Handle link_properties() {
  Handle links(H5Pcreate(H5P_LINK_CREATE), H5Pclose);
  H5Pset_create_intermediate_group(links, 1);
  H5Pset_char_encoding(links, H5T_CSET_UTF8);
  return links;
}

// ---- datasets, written
// -------------------------------------------------------------------------------------

void File::State::write(const std::string& path, hid_t type, const void* data, int64_t elements,
                        const std::vector<int64_t>& shape, bool compress) {
  std::vector<hsize_t> dims(std::max<size_t>(1, shape.size()), hsize_t(elements));
  std::copy(shape.begin(), shape.end(), dims.begin());
  const hsize_t product = std::accumulate(dims.begin(), dims.end(), hsize_t(1), std::multiplies<>());
  FP4LAB_CHECK(product == hsize_t(elements), path, ": shape for ", product, " elements, data has ", elements);
  const Handle space(H5Screate_simple(int(dims.size()), dims.data(), nullptr), H5Sclose);
  const Handle properties(H5Pcreate(H5P_DATASET_CREATE), H5Pclose);
  H5Pset_obj_track_times(properties, false);
  if (compress && elements > 4096) {
    H5Pset_chunk(properties, int(dims.size()), chunk_shape(dims).data());
    H5Pset_shuffle(properties);
    H5Pset_deflate(properties, 4);
  }
  const Handle links = link_properties();
  const Handle set(H5Dcreate2(id(), path.c_str(), type, space, links, properties, H5P_DEFAULT), H5Dclose);
  if (!set.valid()) fail("create the dataset", path);
  if (elements > 0 && H5Dwrite(set, type, H5S_ALL, H5S_ALL, H5P_DEFAULT, data) < 0) fail("write", path);
}

void File::write(const std::string& path, std::span<const double> data, std::vector<int64_t> shape) {
  state_->write(path, H5T_NATIVE_DOUBLE, data.data(), int64_t(data.size()), shape, true);
}

void File::write(const std::string& path, std::span<const int64_t> data, std::vector<int64_t> shape) {
  state_->write(path, H5T_NATIVE_INT64, data.data(), int64_t(data.size()), shape, true);
}

void File::write(const std::string& path, std::span<const uint8_t> data, std::vector<int64_t> shape) {
  state_->write(path, H5T_NATIVE_UINT8, data.data(), int64_t(data.size()), shape, true);
}

void File::write(const std::string& path, std::span<const std::string> data, std::vector<int64_t> shape) {
  std::vector<const char*> pointers;
  for (const std::string& text : data) pointers.push_back(c_text(text, state_->name + " at " + path));
  state_->write(path, text_type(), pointers.data(), int64_t(data.size()), shape, false);
}

void File::write_text(const std::string& path, const std::string& text) {
  const char* value = c_text(text, state_->name + " at " + path);
  const Handle type = text_type(), space(H5Screate(H5S_SCALAR), H5Sclose), links = link_properties();
  const Handle properties(H5Pcreate(H5P_DATASET_CREATE), H5Pclose);
  H5Pset_obj_track_times(properties, false);
  const Handle set(H5Dcreate2(state_->id(), path.c_str(), type, space, links, properties, H5P_DEFAULT),
                   H5Dclose);
  if (!set.valid()) state_->fail("create the dataset", path);
  if (H5Dwrite(set, type, H5S_ALL, H5S_ALL, H5P_DEFAULT, &value) < 0) state_->fail("write", path);
}

// ---- datasets, read
// ----------------------------------------------------------------------------------------

Handle File::State::open_dataset(const std::string& path) const {
  Handle set(H5Dopen2(id(), path.c_str(), H5P_DEFAULT), H5Dclose);
  if (!set.valid()) fail("open the dataset", path);
  return set;
}

size_t File::State::elements(const Handle& dataset, const std::string& path) const {
  const Handle space(H5Dget_space(dataset), H5Sclose), type(H5Dget_type(dataset), H5Tclose);
  const hssize_t n = space.valid() ? H5Sget_simple_extent_npoints(space) : -1;
  hsize_t file_bytes = 0;
  if (n < 0 || !type.valid() || H5Fget_filesize(file, &file_bytes) < 0) fail("read the shape", path);
  // Deflate shrinks at most 1032-fold.
  const double bytes = double(std::min<hsize_t>(H5Dget_storage_size(dataset), file_bytes));
  if (double(n) * double(H5Tget_size(type)) > 1100 * bytes)
    throw DataError(
        str(name, " at ", path, ": claims ", n, " elements, more than its ", bytes, " bytes can hold"));
  return size_t(n);
}

template <class T>
std::vector<T> File::State::read_numbers(const std::string& path, hid_t type) const {
  const Handle set = open_dataset(path);
  std::vector<T> values(elements(set, path));
  if (H5Dread(set, type, H5S_ALL, H5S_ALL, H5P_DEFAULT, values.data()) < 0) fail("read numbers", path);
  return values;
}

std::vector<double> File::read_doubles(const std::string& dataset) const {
  return state_->read_numbers<double>(dataset, H5T_NATIVE_DOUBLE);
}

std::vector<int64_t> File::read_integers(const std::string& dataset) const {
  return state_->read_numbers<int64_t>(dataset, H5T_NATIVE_INT64);
}

std::vector<uint8_t> File::read_bytes(const std::string& dataset) const {
  return state_->read_numbers<uint8_t>(dataset, H5T_NATIVE_UINT8);
}

std::vector<std::string> File::read_strings(const std::string& dataset) const {
  const Handle set = state_->open_dataset(dataset), space(H5Dget_space(set), H5Sclose), type = text_type();
  std::vector<char*> pointers(state_->elements(set, dataset));
  if (H5Dread(set, type, H5S_ALL, H5S_ALL, H5P_DEFAULT, pointers.data()) < 0)
    state_->fail("read texts", dataset);
  return take_texts(pointers, type, space);
}

std::vector<int64_t> File::shape(const std::string& dataset) const {
  const Handle set = state_->open_dataset(dataset), space(H5Dget_space(set), H5Sclose);
  std::vector<hsize_t> dims(H5S_MAX_RANK);
  const int rank = H5Sget_simple_extent_dims(space, dims.data(), nullptr);
  if (rank < 0) state_->fail("read the shape", dataset);
  return {dims.begin(), dims.begin() + rank};
}

bool File::is_text(const std::string& dataset) const {
  const Handle set = state_->open_dataset(dataset), type(H5Dget_type(set), H5Tclose);
  return H5Tget_class(type) == H5T_STRING;
}

// ---- attributes
// --------------------------------------------------------------------------------------------

void File::State::write_attribute(const std::string& object, const std::string& key, hid_t type,
                                  const void* value) {
  const Handle owner(H5Oopen(id(), object.c_str(), H5P_DEFAULT), H5Oclose);
  if (!owner.valid()) fail("open", object);
  if (H5Aexists(owner, key.c_str()) > 0) H5Adelete(owner, key.c_str());
  const Handle space(H5Screate(H5S_SCALAR), H5Sclose), properties(H5Pcreate(H5P_ATTRIBUTE_CREATE), H5Pclose);
  H5Pset_char_encoding(properties, H5T_CSET_UTF8);
  const Handle attribute(H5Acreate2(owner, key.c_str(), type, space, properties, H5P_DEFAULT), H5Aclose);
  if (!attribute.valid() || H5Awrite(attribute, type, value) < 0)
    fail("write the attribute", object + "@" + key);
}

void File::attribute(const std::string& object, const std::string& key, const std::string& value) {
  const char* text = c_text(value, state_->name + " at " + object + "@" + key);
  state_->write_attribute(object, key, text_type(), &text);
}

void File::attribute(const std::string& object, const std::string& key, double value) {
  state_->write_attribute(object, key, H5T_NATIVE_DOUBLE, &value);
}

void File::attribute(const std::string& object, const std::string& key, int64_t value) {
  state_->write_attribute(object, key, H5T_NATIVE_INT64, &value);
}

Handle File::State::open_attribute(const std::string& object, const std::string& key) const {
  Handle attribute(H5Aopen_by_name(id(), object.c_str(), key.c_str(), H5P_DEFAULT, H5P_DEFAULT), H5Aclose);
  if (!attribute.valid()) fail("open the attribute", object + "@" + key);
  return attribute;
}

bool File::has_attribute(const std::string& object, const std::string& key) const {
  const htri_t found = H5Aexists_by_name(state_->id(), object.c_str(), key.c_str(), H5P_DEFAULT);
  if (found < 0) state_->fail("look for the attribute", object + "@" + key);
  return found > 0;
}

std::string File::attribute_text(const std::string& object, const std::string& key) const {
  const Handle attribute = state_->open_attribute(object, key), type = text_type();
  const Handle space(H5Aget_space(attribute), H5Sclose);
  std::vector<char*> pointer(1);
  if (H5Sget_simple_extent_npoints(space) != 1 || H5Aread(attribute, type, pointer.data()) < 0)
    state_->fail("read one text from the attribute", object + "@" + key);
  return take_texts(pointer, type, space).front();
}

double File::attribute_number(const std::string& object, const std::string& key) const {
  const Handle attribute = state_->open_attribute(object, key), space(H5Aget_space(attribute), H5Sclose);
  double value = 0;
  if (H5Sget_simple_extent_npoints(space) != 1 || H5Aread(attribute, H5T_NATIVE_DOUBLE, &value) < 0)
    state_->fail("read one number from the attribute", object + "@" + key);
  return value;
}

std::vector<std::string> File::attribute_names(const std::string& object) const {
  const Handle owner(H5Oopen(state_->id(), object.c_str(), H5P_DEFAULT), H5Oclose);
  if (!owner.valid()) state_->fail("open", object);
  std::vector<std::string> names;
  const auto add = [](hid_t, const char* name, const H5A_info_t*, void* out) -> herr_t {
    static_cast<std::vector<std::string>*>(out)->emplace_back(name);
    return 0;
  };
  if (H5Aiterate2(owner, H5_INDEX_NAME, H5_ITER_INC, nullptr, add, &names) < 0)
    state_->fail("list the attributes", object);
  return names;
}

}  // namespace fp4lab::h5
