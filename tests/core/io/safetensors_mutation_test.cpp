// Damaged and hostile files: whatever the bytes, opening and loading either works or is a DataError that says
// something. CI runs this under AddressSanitizer; each header is also parsed from a heap copy of exactly its
// file's bytes, where a read past the end cannot hide in the padding of a mapped page.
#include <unistd.h>

#include "core/io/tensor_file.h"
#include "core/io/tensor_header.h"
#include "core/random.h"
#include "tests/catch.h"
#include "tests/core/io/temp_folder.h"

using namespace fp4lab;
using namespace fp4lab::test;

namespace {
/// Draws in a row from the stream of one mutation.
class Draws {
 public:
  explicit Draws(uint64_t mutation) : stream_(1, "file_mutations", mutation) {}
  size_t below(size_t n) { return size_t(stream_.below(next_++, n)); }
  template <class T>
  const T& one_of(const std::vector<T>& list) {
    return list[below(list.size())];
  }

 private:
  Stream stream_;
  uint64_t next_ = 0;
};

struct Seed {
  std::string name;                // of the file
  size_t length_at, length_bytes;  // where its header's length stands; 0 bytes: the file is all header
  std::string bytes;

  size_t header_at() const { return length_at + length_bytes; }
  size_t header_size() const {
    if (length_bytes == 0) return bytes.size();
    uint64_t n = 0;
    std::memcpy(&n, bytes.data() + length_at, length_bytes);
    return size_t(n);
  }
  std::string header() const { return bytes.substr(header_at(), header_size()); }
  /// The file with another header of the right length.
  std::string with_header(const std::string& text) const {
    if (length_bytes == 0) return text;
    return bytes.substr(0, length_at) + little(text.size(), length_bytes) + text +
           bytes.substr(header_at() + header_size());
  }
};

std::vector<Seed> seeds() {
  const std::string two_types = safetensors_bytes(
      R"({"__metadata__":{"format":"pt"},"w":{"dtype":"BF16","shape":[4,3],"data_offsets":[0,24]},)"
      R"("b":{"dtype":"F32","shape":[3],"data_offsets":[24,36]},"s":{"dtype":"F8_E4M3","shape":[],)"
      R"("data_offsets":[36,37]},"none":{"dtype":"I64","shape":[0,8],"data_offsets":[37,37]}}  )",
      std::string(37, '\x3e'));
  const std::string shard = safetensors_bytes(
      R"({"a":{"dtype":"U8","shape":[2,2],"data_offsets":[0,4]},"c":{"dtype":"F64","shape":[1],)"
      R"("data_offsets":[4,12]}})",
      std::string(12, '\x3f'));
  const std::string dict = "{'descr': '<f4', 'fortran_order': False, 'shape': (2, 3), }    \n";
  const std::string halves = "{'descr': '<f2', 'fortran_order': True, 'shape': (5,), }\n";
  return {
      {"single.safetensors", 0, 8, two_types},
      {"m-1.safetensors", 0, 8, shard},
      {"model.safetensors.index.json", 0, 0,
       R"({"metadata":{"total_size":16},"weight_map":{"a":"m-1.safetensors","c":"m-1.safetensors","d":"m-2.safetensors"}})"},
      {"v1.npy", 8, 2, npy_bytes(dict, std::string(24, '\x40'))},
      {"v3.npy", 8, 4, npy_bytes(halves, std::string(10, '\x40'), 3)},
  };
}

const std::vector<std::string> kNumbers = {"0",
                                           "1",
                                           "-1",
                                           "-0",
                                           "2",
                                           "3",
                                           "4",
                                           "37",
                                           "1.5",
                                           "4.0",
                                           "1e3",
                                           "1e308",
                                           "1e400",
                                           "255",
                                           "65536",
                                           "2147483648",
                                           "4294967296",
                                           "4294967297",
                                           "4611686018427387904",
                                           "9223372036854775807",
                                           "9223372036854775808",
                                           "18446744073709551615",
                                           "18446744073709551616",
                                           "1000000000000000000000000000000",
                                           "007",
                                           "0x10",
                                           "true",
                                           "null",
                                           "\"4\"",
                                           "[]",
                                           "{}",
                                           "[[4]]",
                                           "",
                                           "NaN"};
const std::vector<std::string> kStrings = {"",
                                           ".",
                                           "..",
                                           "../single.safetensors",
                                           "/dev/zero",
                                           "/dev/stdin",
                                           "m-1.safetensors",
                                           "m-2.safetensors",
                                           "w",
                                           "b",
                                           "a",
                                           "__metadata__",
                                           "dtype",
                                           "shape",
                                           "data_offsets",
                                           "weight_map",
                                           "F32",
                                           "F64",
                                           "BF16",
                                           "F8_E5M2",
                                           "U64",
                                           "BOOL",
                                           "C128",
                                           "<f8",
                                           ">f4",
                                           "|O",
                                           "|b1",
                                           "<u2",
                                           "\\u0000",
                                           "\\ud800",
                                           "\\u0077",
                                           "\xff\xfe",
                                           "\x01",
                                           std::string(5000, 'n')};

/// Replaces one run of digits of the text, or one quoted string.
std::string replace_field(Draws& draw, std::string text, bool numbers) {
  std::vector<std::pair<size_t, size_t>> places;  // begin, length
  for (size_t i = 0; i < text.size(); ++i) {
    size_t end = i;
    if (numbers) {
      while (end < text.size() && text[end] >= '0' && text[end] <= '9') ++end;
    } else if (text[i] == '"' || text[i] == '\'') {
      end = text.find(text[i], i + 1);
      if (end == std::string::npos) break;
      places.emplace_back(i + 1, end - i - 1);
    }
    if (numbers && end > i) places.emplace_back(i, end - i);
    i = std::max(i, end);
  }
  if (places.empty()) return text;
  const auto [begin, length] = draw.one_of(places);
  return text.replace(begin, length, draw.one_of(numbers ? kNumbers : kStrings));
}

std::string mutate(Draws& draw, const Seed& seed, const std::vector<Seed>& all) {
  std::string bytes = seed.bytes;
  switch (draw.below(10)) {
    case 0:  // bit flips, anywhere
      for (size_t n = 1 + draw.below(4); n > 0; --n) {
        char& c = bytes[draw.below(bytes.size())];
        c = char(c ^ (1 << draw.below(8)));
      }
      return bytes;
    case 1: {  // bit flips behind the header, which it does not see: NaNs and Infs
      for (size_t n = 1 + draw.below(8); n > 0; --n) {
        char& c = bytes[bytes.size() - 1 - draw.below(std::min<size_t>(10, bytes.size()))];
        c = char(c ^ (1 << draw.below(8)));
      }
      return bytes;
    }
    case 2: return bytes.substr(0, draw.below(bytes.size()));
    case 3: return bytes.insert(draw.below(bytes.size() + 1), draw.one_of(kStrings));
    case 4: return bytes.erase(draw.below(bytes.size()), 1 + draw.below(16));
    case 5: return seed.with_header(replace_field(draw, seed.header(), true));
    case 6: return seed.with_header(replace_field(draw, seed.header(), false));
    case 7: {  // several fields at once
      std::string header = seed.header();
      for (int n = 0; n < 3; ++n) header = replace_field(draw, header, draw.below(2) == 0);
      return seed.with_header(header);
    }
    case 8: {  // the begin of one header, the end of another or of itself
      const std::string a = seed.header(), b = draw.one_of(all).header();
      return seed.with_header(a.substr(0, draw.below(a.size() + 1)) + b.substr(draw.below(b.size())));
    }
    default: {  // the length itself, or a byte of it
      if (seed.length_bytes == 0) return bytes + bytes;
      const std::vector<uint64_t> lengths = {0,
                                             1,
                                             bytes.size(),
                                             bytes.size() - seed.header_at(),
                                             0x7fffffff,
                                             uint64_t(1) << 63,
                                             ~uint64_t(0),
                                             ~uint64_t(7)};
      const uint64_t n = draw.below(2) ? draw.one_of(lengths) : seed.header_size() + draw.below(9) - 4;
      return bytes.replace(seed.length_at, seed.length_bytes, little(n, seed.length_bytes));
    }
  }
}

/// Opens and loads everything; true when it opened. DataErrors must speak; other exceptions pass.
bool survives(const std::string& path, int64_t file_bytes) {
  bool opened = false;
  try {
    const TensorFile file = TensorFile::open(path);
    opened = true;
    int64_t total = 0;
    for (const TensorInfo& t : file.tensors()) {
      total += t.bytes;
      REQUIRE(t.bytes == t.elements * bytes_per_element(t.dtype));
      REQUIRE(int64_t(file.bytes(t).size()) == t.bytes);
      REQUIRE(t.elements <= file_bytes);  // what loading allocates is bounded by it
      std::vector<float> out(size_t(t.elements));
      load_floats(file, t, out);
      if (t.shape.size() <= 2) REQUIRE(load_matrix(file, t, true).size() == t.elements);
      REQUIRE(file.find(t.name) != nullptr);
    }
    REQUIRE(total <= file_bytes);  // no two tensors share a byte
    for (const TensorInfo& t : file.tensors())
      if (t.shape.size() <= 2) load_matrix(file, t);  // may find a NaN
    file.at("absent");                                // may only be a DataError
  } catch (const DataError& e) {
    const std::string message = e.what();
    REQUIRE(message.size() > 10);
    REQUIRE(message.size() < 2000);
  }
  return opened;
}

/// The same bytes without the slack of a mapping.
void parse_exact_copy(const Seed& seed, const std::string& bytes) {
  const std::unique_ptr<char[]> copy(new char[bytes.size()]);
  std::memcpy(copy.get(), bytes.data(), bytes.size());
  const std::span<const char> exact(copy.get(), bytes.size());
  try {
    if (seed.length_bytes == 0)
      parse_shard_index(seed.name, {exact.data(), exact.size()});
    else if (seed.name.ends_with(".npy"))
      parse_npy(seed.name, "x", std::as_bytes(exact));
    else
      parse_safetensors(seed.name, std::as_bytes(exact));
  } catch (const DataError& e) {
    REQUIRE(has(e.what(), seed.name));
  }
}

int64_t peak_resident_bytes() {
  const std::string text = get("/proc/self/status");
  const size_t at = text.find("VmHWM:");
  return at == std::string::npos ? 0 : std::stoll(text.substr(at + 6)) * 1024;
}
}  // namespace

TEST_CASE("mutated files: success or a DataError, 12,000 times", "[core][io][mutation]") {
  const bool memory = ::access("/dev/shm", W_OK) == 0;  // no disk: half the time
  const TempFolder folder(memory ? std::filesystem::path("/dev/shm")
                                 : std::filesystem::temp_directory_path());
  const std::vector<Seed> all = seeds();
  put(folder / "m-2.safetensors",
      safetensors_bytes(R"({"d":{"dtype":"I32","shape":[1],"data_offsets":[0,4]}})", "abcd"));
  const int64_t second_shard = int64_t(std::filesystem::file_size(folder / "m-2.safetensors"));
  for (const Seed& seed : all) put(folder / seed.name, seed.bytes);
  const auto opened_by = [&](const Seed& seed) {  // a shard is opened through its index
    return folder / (seed.name == "m-1.safetensors" ? "model.safetensors.index.json" : seed.name);
  };
  for (const Seed& seed : all) {
    CAPTURE(seed.name);
    CHECK(survives(opened_by(seed), 10000));  // unharmed, they open
  }

  const int64_t peak = peak_resident_bytes();
  int opened = 0, total = 0;
  for (uint64_t mutation = 0; mutation < 12000; ++mutation) {
    Draws draw(mutation);
    const Seed& seed = draw.one_of(all);
    const std::string bytes = mutate(draw, seed, all);
    put(folder / seed.name, bytes);
    INFO("mutation " << mutation << " of " << seed.name << ", " << bytes.size() << " bytes");
    // Through an index, all the files of the folder may be mapped.
    const int64_t limit =
        int64_t(bytes.size()) + second_shard + int64_t(all[0].bytes.size() + all[1].bytes.size());
    parse_exact_copy(seed, bytes);
    opened += survives(opened_by(seed), limit), ++total;
    put(folder / seed.name, seed.bytes);
  }
  CHECK(total == 12000);
  // Most are refused; some changes (data, names, spaces) leave a valid file. Neither side is empty.
  CHECK(opened > total / 20);
  CHECK(opened < total / 2);
#if !defined(__SANITIZE_ADDRESS__)  // which keeps freed memory for a while
  CHECK(peak_resident_bytes() - peak < (64 << 20));
#else
  static_cast<void>(peak);
#endif
}
