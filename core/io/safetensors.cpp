// The safetensors layout: 8 bytes little-endian header length n, n bytes of JSON, then the data without
// holes. https://huggingface.co/docs/safetensors
#include <algorithm>
#include <cstring>
#include <unordered_set>

#include "core/io/strict_sax.h"
#include "core/io/tensor_header.h"

namespace fp4lab {

namespace {
/// {"__metadata__": {text: text}, name: {"dtype": text, "shape": [...], "data_offsets": [begin, end]}, ...}
class HeaderReader final : public StrictSax {
 public:
  HeaderReader(const std::string& path, int64_t data_begin, int64_t data_bytes)
      : StrictSax(path + ": safetensors header"), data_begin_(data_begin), data_bytes_(data_bytes) {}

  std::vector<TensorInfo> tensors;

  /// After the parse: the tensors side by side, from the first byte of the data to the last.
  void check_layout() {
    std::sort(tensors.begin(), tensors.end(), [](const TensorInfo& a, const TensorInfo& b) {
      return std::pair(a.offset, a.bytes) < std::pair(b.offset, b.bytes);
    });
    int64_t end = data_begin_;
    const TensorInfo* before = nullptr;
    for (const TensorInfo& t : tensors) {
      if (t.offset < end)
        fail("is wrong: tensor ", quote_name(t.name), " at byte ", t.offset - data_begin_,
             " overlaps tensor ", quote_name(before->name), ", which ends at ", end - data_begin_);
      if (t.offset > end)
        fail("is wrong: a hole of ", t.offset - end, " bytes before tensor ", quote_name(t.name));
      end = t.offset + t.bytes, before = &t;
    }
    if (const int64_t rest = data_begin_ + data_bytes_ - end; rest > 0)
      fail("is wrong: the file has ", rest, " bytes after the last tensor");
  }

 private:
  enum class In { file, names, metadata, tensor, shape, offsets };
  In in_ = In::file;
  int64_t data_begin_, data_bytes_;
  std::unordered_set<std::string> names_, metadata_;
  std::string name_, key_;  // of the tensor, and inside it
  bool seen_dtype_ = false, seen_shape_ = false, seen_offsets_ = false;
  std::string dtype_;
  std::vector<int64_t> shape_, offsets_;

  template <class... Ts>
  [[noreturn]] void fail_tensor(const Ts&... parts) const {
    fail("is wrong: tensor ", quote_name(name_), ": ", parts...);
  }

  void scalar(const char* what) override {
    switch (in_) {
      case In::file: fail("is wrong: expected an object, found ", what);
      case In::names: fail("is wrong: ", quote_name(name_), ": expected an object, found ", what);
      case In::metadata:
        fail("is wrong: __metadata__ ", quote_name(key_), ": expected a string, found ", what);
      case In::tensor:
        fail_tensor(key_, ": expected ", key_ == "dtype" ? "a string" : "an array", ", found ", what);
      case In::shape:
      case In::offsets: fail_tensor(key_, ": expected numbers from 0 to 2^63 - 1, found ", what);
    }
  }

  bool start_object(size_t) override {
    if (in_ == In::file) {
      in_ = In::names;
    } else if (in_ == In::names && name_ == "__metadata__") {
      in_ = In::metadata;
    } else if (in_ == In::names) {
      in_ = In::tensor;
      seen_dtype_ = seen_shape_ = seen_offsets_ = false;
      shape_.clear(), offsets_.clear();
    } else {
      scalar("an object");
    }
    return true;
  }

  bool key(std::string& key) override {
    if (in_ == In::names) {
      if (!names_.insert(key).second) fail("is wrong: ", quote_name(key), " is there twice");
      name_ = key;
    } else if (in_ == In::metadata) {
      if (!metadata_.insert(key).second) fail("is wrong: __metadata__ ", quote_name(key), " is there twice");
      key_ = key;
    } else {
      bool* const seen = key == "dtype"          ? &seen_dtype_
                         : key == "shape"        ? &seen_shape_
                         : key == "data_offsets" ? &seen_offsets_
                                                 : nullptr;
      if (!seen) fail_tensor("unknown key ", quote_name(key), "; a tensor has: dtype, shape, data_offsets");
      if (*seen) fail_tensor(key, " is there twice");
      *seen = true;
      key_ = key;
    }
    return true;
  }

  bool end_object() override {
    if (in_ == In::tensor) finish_tensor();
    in_ = in_ == In::names ? In::file : In::names;
    return true;
  }

  bool start_array(size_t) override {
    if (in_ == In::tensor && key_ == "shape")
      in_ = In::shape;
    else if (in_ == In::tensor && key_ == "data_offsets")
      in_ = In::offsets;
    else
      scalar("an array");
    return true;
  }

  bool end_array() override {
    if (in_ == In::offsets && offsets_.size() != 2)
      fail_tensor("data_offsets: expected 2 numbers, found ", offsets_.size());
    in_ = In::tensor;
    return true;
  }

  bool string(std::string& text) override {
    if (in_ == In::tensor && key_ == "dtype")
      dtype_ = text;
    else if (in_ != In::metadata)
      scalar("a string");
    return true;
  }

  bool number_integer(int64_t value) override { return scalar(std::to_string(value).c_str()), true; }

  bool number_unsigned(uint64_t value) override {
    if ((in_ != In::shape && in_ != In::offsets) || value > uint64_t(INT64_MAX)) {
      scalar(std::to_string(value).c_str());
    } else if (in_ == In::shape) {
      if (shape_.size() == kMaxDimensions) fail_tensor("shape: more than ", kMaxDimensions, " dimensions");
      shape_.push_back(int64_t(value));
    } else {
      if (offsets_.size() == 2) fail_tensor("data_offsets: expected 2 numbers, found more");
      offsets_.push_back(int64_t(value));
    }
    return true;
  }

  void finish_tensor() {
    if (!seen_dtype_ || !seen_shape_ || !seen_offsets_)
      fail_tensor("no ", !seen_dtype_ ? "dtype" : !seen_shape_ ? "shape" : "data_offsets");
    const std::optional<DType> dtype = dtype_named(dtype_);
    if (!dtype)
      fail_tensor("unknown dtype ", quote_name(dtype_), "; known: F64, F32, F16, BF16, F8_E4M3, F8_E5M2, ",
                  "U8, I8, U16, I16, U32, I32, U64, I64, BOOL");
    const std::optional<TensorSize> size = size_of(shape_, *dtype);
    if (!size) fail_tensor("shape ", shape_text(shape_), " has more than 2^63 - 1 bytes");
    const int64_t begin = offsets_[0], end = offsets_[1];
    if (begin > end) fail_tensor("data_offsets begin at ", begin, " and end before, at ", end);
    if (end > data_bytes_)
      fail_tensor("data_offsets end at ", end, " but the file has ", data_bytes_, " bytes of data");
    if (end - begin != size->bytes)
      fail_tensor("data_offsets span ", end - begin, " bytes but ", dtype_, " ", shape_text(shape_),
                  " takes ", size->bytes);
    tensors.push_back({name_, *dtype, shape_, size->elements, size->bytes, 0, data_begin_ + begin});
  }
};
}  // namespace

std::vector<TensorInfo> parse_safetensors(const std::string& path, std::span<const std::byte> file) {
  if (file.size() < 8)
    throw DataError(str(path, ": is not a safetensors file: ", file.size(), " bytes, the length alone is 8"));
  uint64_t length = 0;
  std::memcpy(&length, file.data(), 8);
  if (length > file.size() - 8)
    throw DataError(str(path, ": safetensors header of ", length, " bytes is longer than the file (",
                        file.size(), " bytes)"));
  if (length > uint64_t(kMaxHeaderBytes))
    throw DataError(str(path, ": safetensors header of ", length, " bytes; at most ", kMaxHeaderBytes));
  const std::string_view text(reinterpret_cast<const char*>(file.data()) + 8, size_t(length));
  if (!text.starts_with('{'))
    throw DataError(str(path, ": safetensors header is not JSON: ",
                        text.empty() ? "it is empty" : "it does not begin with '{'"));
  HeaderReader reader(path, 8 + int64_t(length), int64_t(file.size() - 8 - length));
  reader.parse(text);
  reader.check_layout();
  return std::move(reader.tensors);
}

}  // namespace fp4lab
