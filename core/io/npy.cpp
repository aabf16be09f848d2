// NumPy's .npy: "\x93NUMPY", version, header length (2 bytes in 1.0, 4 bytes in 2.0 and 3.0), a Python dict
//   {'descr': '<f4', 'fortran_order': False, 'shape': (3, 4), }
// padded with spaces and a newline, then the elements.
// https://numpy.org/doc/stable/reference/generated/numpy.lib.format.html
#include <charconv>
#include <cstring>

#include "core/errors.h"
#include "core/io/tensor_header.h"

namespace fp4lab {

namespace {
struct Descr {
  std::string_view name;
  DType dtype;
};
constexpr Descr kDescrs[] = {
    {"<f4", DType::F32}, {"<f2", DType::F16}, {"<f8", DType::F64}, {"|u1", DType::U8},
    {"|i1", DType::I8},  {"<u2", DType::U16}, {"<i2", DType::I16}, {"<u4", DType::U32},
    {"<i4", DType::I32}, {"<u8", DType::U64}, {"<i8", DType::I64}, {"|b1", DType::BOOL},
};

/// The dict, read strictly: these three keys, each once, in any order.
class DictReader {
 public:
  DictReader(const std::string& path, std::string_view text) : path_(path), text_(text) {}

  std::string_view descr;
  bool fortran_order = false;
  std::vector<int64_t> shape;

  void read() {
    expect('{');
    bool seen_descr = false, seen_order = false, seen_shape = false;
    while (!accept('}')) {
      const std::string_view key = text("a key");
      bool* const seen = key == "descr"           ? &seen_descr
                         : key == "fortran_order" ? &seen_order
                         : key == "shape"         ? &seen_shape
                                                  : nullptr;
      if (!seen) fail("unknown key ", quote_name(key), "; expected descr, fortran_order, shape");
      if (*seen) fail(key, " is there twice");
      *seen = true;
      expect(':');
      if (seen == &seen_descr)
        read_descr();
      else if (seen == &seen_order)
        read_order();
      else
        read_shape();
      if (!accept(',')) {
        expect('}');
        break;
      }
    }
    if (!seen_descr || !seen_order || !seen_shape)
      fail("no ", !seen_descr ? "descr" : !seen_order ? "fortran_order" : "shape");
    spaces();
    if (at_ != text_.size()) fail("bytes after the dict, at ", at_);
  }

  template <class... Ts>
  [[noreturn]] void fail(const Ts&... parts) const {
    throw DataError(str(path_, ": .npy header: ", parts...));
  }

 private:
  const std::string& path_;
  std::string_view text_;
  size_t at_ = 0;

  void spaces() {
    while (at_ < text_.size() && (text_[at_] == ' ' || text_[at_] == '\n')) ++at_;
  }
  bool accept(char c) {
    spaces();
    if (at_ == text_.size() || text_[at_] != c) return false;
    return ++at_, true;
  }
  [[noreturn]] void unexpected(std::string_view wanted) const {
    fail("expected ", wanted, " at byte ", at_, ", found ",
         at_ == text_.size() ? "the end" : quote_name(text_.substr(at_, 12)));
  }
  void expect(char c) {
    if (!accept(c)) unexpected(std::string{'\'', c, '\''});
  }
  std::string_view text(std::string_view wanted) {
    const char quote = accept('\'') ? '\'' : accept('"') ? '"' : '\0';
    const size_t end = quote ? text_.find(quote, at_) : std::string_view::npos;
    if (end == std::string_view::npos) unexpected(wanted);
    const std::string_view found = text_.substr(at_, end - at_);
    if (found.find('\\') != std::string_view::npos) fail("an escape in ", quote_name(found));
    at_ = end + 1;
    return found;
  }

  void read_descr() {
    spaces();
    if (at_ < text_.size() && text_[at_] == '[') fail("structured dtypes are not supported; save one field");
    descr = text("a dtype");
  }
  void read_order() {
    spaces();
    for (const auto& [word, value] : {std::pair("True", true), std::pair("False", false)})
      if (text_.substr(at_).starts_with(word)) {
        at_ += std::strlen(word);
        fortran_order = value;
        return;
      }
    unexpected("True or False");
  }
  /// () or (3,) or (3, 4) or (3, 4,); a bare (3) is a number in Python.
  void read_shape() {
    expect('(');
    bool comma = true;
    while (!accept(')')) {
      if (!comma) unexpected("',' or ')'");
      spaces();
      int64_t n = -1;
      const char* const begin = text_.data() + at_;
      const auto [end, error] = std::from_chars(begin, text_.data() + text_.size(), n);
      if (error == std::errc::result_out_of_range) fail("shape: a number above 2^63 - 1");
      if (error != std::errc() || n < 0) unexpected("a number from 0 to 2^63 - 1 in shape");
      at_ += size_t(end - begin);
      if (shape.size() == kMaxDimensions) fail("shape: more than ", kMaxDimensions, " dimensions");
      shape.push_back(n);
      comma = accept(',');
    }
    if (shape.size() == 1 && !comma) fail("shape: (", shape[0], ") is a number; expected (", shape[0], ",)");
  }
};

DType dtype_of(const DictReader& dict) {
  for (const Descr& d : kDescrs)
    if (d.name == dict.descr) return d.dtype;
  std::string known;
  for (const Descr& d : kDescrs) (known += known.empty() ? "" : ", ") += d.name;
  if (dict.descr.starts_with('>')) {
    for (const Descr& d : kDescrs)
      if (d.name[0] == '<' && d.name.substr(1) == dict.descr.substr(1))
        dict.fail("dtype ", quote_name(dict.descr), " is big-endian; save np.ascontiguousarray(x, dtype='",
                  d.name, "') instead");
  }
  dict.fail("unknown dtype ", quote_name(dict.descr), "; known: ", known);
}
}  // namespace

TensorInfo parse_npy(const std::string& path, std::string name, std::span<const std::byte> file) {
  const std::string_view bytes(reinterpret_cast<const char*>(file.data()), file.size());
  if (bytes.size() < 10 || !bytes.starts_with("\x93NUMPY"))
    throw DataError(path + ": is not a .npy file: it does not begin with \\x93NUMPY and a version");
  const int major = uint8_t(bytes[6]), minor = uint8_t(bytes[7]);
  if (major < 1 || major > 3 || minor != 0)
    throw DataError(str(path, ": .npy version ", major, ".", minor, "; known: 1.0, 2.0, 3.0"));
  const size_t before = major == 1 ? 10 : 12;
  uint32_t length = 0;
  if (bytes.size() >= before) std::memcpy(&length, bytes.data() + 8, before - 8);
  if (bytes.size() < before || length > bytes.size() - before)
    throw DataError(
        str(path, ": .npy header of ", length, " bytes is longer than the file (", bytes.size(), " bytes)"));
  if (int64_t(length) > kMaxHeaderBytes)
    throw DataError(str(path, ": .npy header of ", length, " bytes; at most ", kMaxHeaderBytes));

  DictReader dict(path, bytes.substr(before, length));
  dict.read();
  const DType dtype = dtype_of(dict);
  if (dict.fortran_order && dict.shape.size() > 1)
    dict.fail("Fortran order with shape ", shape_text(dict.shape), "; save np.ascontiguousarray(x) instead");
  const std::optional<TensorSize> size = size_of(dict.shape, dtype);
  if (!size) dict.fail("shape ", shape_text(dict.shape), " has more than 2^63 - 1 bytes");
  const int64_t offset = int64_t(before + length), found = int64_t(bytes.size()) - offset;
  if (found != size->bytes)
    dict.fail("'", dict.descr, "' ", shape_text(dict.shape), " takes ", size->bytes,
              " bytes but the file has ", found, " after the header");
  return {std::move(name), dtype, std::move(dict.shape), size->elements, size->bytes, 0, offset};
}

}  // namespace fp4lab
