#include <sys/wait.h>
#include <unistd.h>

#include <cmath>
#include <limits>
#include <new>
#include <sstream>

#include "core/io/tensor_file.h"
#include "tests/catch.h"
#include "tests/core/io/temp_folder.h"

using namespace fp4lab;
using namespace fp4lab::test;

namespace {
/// A file with one tensor "t" of this dtype, `shift` bytes away from an aligned place.
std::string put_tensor(const TempFolder& folder, DType dtype, std::vector<int64_t> shape,
                       const std::string& data, size_t shift = 0) {
  const std::string before(shift, 'x');
  const auto as_bytes = [](const std::string& s) { return std::as_bytes(std::span(s)); };
  const std::vector<TensorToWrite> tensors = {{"before", DType::U8, {int64_t(shift)}, as_bytes(before)},
                                              {"t", dtype, std::move(shape), as_bytes(data)}};
  write_safetensors(folder / "a.safetensors", tensors);
  return folder / "a.safetensors";
}

std::vector<float> load(DType dtype, const std::string& data, size_t shift = 0) {
  const TempFolder folder;
  const int64_t n = int64_t(data.size()) / bytes_per_element(dtype);
  const TensorFile file = TensorFile::open(put_tensor(folder, dtype, {n}, data, shift));
  std::vector<float> out(static_cast<size_t>(n));
  load_floats(file, file.at("t"), out);
  return out;
}

/// Sign, exponent and mantissa as IEEE 754 reads them; `inf` is whether the top exponent is Inf and NaN.
double decode(uint32_t bits, int exponent_bits, int mantissa_bits, int bias, bool inf) {
  const double sign = bits >> (exponent_bits + mantissa_bits) & 1 ? -1 : 1;
  const int exponent = int(bits >> mantissa_bits & ((1u << exponent_bits) - 1));
  const int mantissa = int(bits & ((1u << mantissa_bits) - 1));
  if (inf && exponent == (1 << exponent_bits) - 1) return mantissa ? NAN : sign * INFINITY;
  if (exponent == 0) return sign * std::ldexp(mantissa, 1 - bias - mantissa_bits);
  return sign * std::ldexp(mantissa + (1 << mantissa_bits), exponent - bias - mantissa_bits);
}
/// Equal in bits, or both NaN.
bool same(float a, double expected) {
  if (std::isnan(expected)) return std::isnan(a);
  return float_bits(a) == float_bits(float(expected));
}
}  // namespace

TEST_CASE("dtypes: names and sizes, as the safetensors specification has them", "[core][io][load]") {
  const std::pair<DType, std::pair<const char*, int>> rows[] = {
      {DType::F64, {"F64", 8}},   {DType::F32, {"F32", 4}},         {DType::F16, {"F16", 2}},
      {DType::BF16, {"BF16", 2}}, {DType::F8_E4M3, {"F8_E4M3", 1}}, {DType::F8_E5M2, {"F8_E5M2", 1}},
      {DType::U8, {"U8", 1}},     {DType::I8, {"I8", 1}},           {DType::U16, {"U16", 2}},
      {DType::I16, {"I16", 2}},   {DType::U32, {"U32", 4}},         {DType::I32, {"I32", 4}},
      {DType::U64, {"U64", 8}},   {DType::I64, {"I64", 8}},         {DType::BOOL, {"BOOL", 1}}};
  for (const auto& [dtype, row] : rows) {
    CHECK(name(dtype) == row.first);
    CHECK(bytes_per_element(dtype) == row.second);
  }
}

TEST_CASE("load: FP8, all codes, with the values of the OCP FP8 specification", "[core][io][load]") {
  std::vector<uint8_t> codes(256);
  for (size_t i = 0; i < 256; ++i) codes[i] = uint8_t(i);
  const std::vector<float> e4m3 = load(DType::F8_E4M3, raw(codes));
  CHECK(e4m3[0x7e] == 448);
  CHECK(e4m3[0xfe] == -448);
  CHECK(e4m3[0x01] == 0x1p-9f);
  CHECK(e4m3[0x07] == 0.875f * 0x1p-6f);
  CHECK(e4m3[0x08] == 0x1p-6f);
  CHECK(e4m3[0x38] == 1);
  CHECK(std::isnan(e4m3[0x7f]));
  CHECK(std::isnan(e4m3[0xff]));
  CHECK(std::signbit(e4m3[0x80]));
  for (uint32_t i = 0; i < 256; ++i) {
    CAPTURE(i);
    CHECK(same(e4m3[i], (i & 0x7f) == 0x7f ? NAN : decode(i, 4, 3, 7, false)));
  }
  const std::vector<float> e5m2 = load(DType::F8_E5M2, raw(codes));
  CHECK(e5m2[0x7b] == 57344);
  CHECK(e5m2[0x01] == 0x1p-16f);
  CHECK(e5m2[0x03] == 0.75f * 0x1p-14f);
  CHECK(e5m2[0x04] == 0x1p-14f);
  CHECK(e5m2[0x7c] == INFINITY);
  CHECK(e5m2[0xfc] == -INFINITY);
  for (uint32_t i = 0; i < 256; ++i) {
    CAPTURE(i);
    CHECK(same(e5m2[i], decode(i, 5, 2, 15, true)));
  }
}

TEST_CASE("load: all 16-bit codes of every 16-bit dtype, at even and odd places", "[core][io][load]") {
  std::vector<uint16_t> codes(65536);
  for (size_t i = 0; i < codes.size(); ++i) codes[i] = uint16_t(i);
  for (size_t shift : {0u, 1u, 3u}) {
    CAPTURE(shift);
    const std::vector<float> half = load(DType::F16, raw(codes), shift),
                             brain = load(DType::BF16, raw(codes), shift),
                             u = load(DType::U16, raw(codes), shift), i = load(DType::I16, raw(codes), shift);
    int wrong = 0;
    for (uint32_t c = 0; c < 65536; ++c) {
      wrong += !same(half[c], decode(c, 5, 10, 15, true));
      wrong += !same(brain[c], decode(c, 8, 7, 127, true));
      wrong += u[c] != float(c);
      wrong += i[c] != float(c < 32768 ? int(c) : int(c) - 65536);
    }
    CHECK(wrong == 0);
  }
}

TEST_CASE("load: the wide dtypes, exact or to the nearest, unaligned", "[core][io][load]") {
  for (size_t shift : {0u, 1u, 5u}) {
    CAPTURE(shift);
    const std::vector<float> f32 = {0.0f,   -0.0f,    0x1p-149f,
                                    -3.25f, INFINITY, std::numeric_limits<float>::max()};
    const std::vector<float> f32_read = load(DType::F32, raw(f32), shift);
    for (size_t i = 0; i < f32.size(); ++i) CHECK(float_bits(f32_read[i]) == float_bits(f32[i]));
    // Halfway between two floats goes to the even one; beyond the largest float is Inf.
    CHECK(load(DType::F64, raw<double>({1 + 0x1p-24, 1 + 0x3p-24, 0.1, -1e300, 0x1p-150}), shift) ==
          std::vector<float>{1, 1 + 0x1p-22f, 0.1f, -INFINITY, 0});
    CHECK(load(DType::U32, raw<uint32_t>({0, 16777217, 16777219, 4294967295u}), shift) ==
          std::vector<float>{0, 16777216, 16777220, 4294967296});
    CHECK(load(DType::I32, raw<int32_t>({-16777217, INT32_MIN, 7}), shift) ==
          std::vector<float>{-16777216, -0x1p31f, 7});
    CHECK(load(DType::U64, raw<uint64_t>({1, ~uint64_t(0), uint64_t(1) << 40}), shift) ==
          std::vector<float>{1, 0x1p64f, 0x1p40f});
    CHECK(load(DType::I64, raw<int64_t>({-1, INT64_MIN}), shift) == std::vector<float>{-1, -0x1p63f});
    CHECK(load(DType::U8, raw<uint8_t>({0, 255}), shift) == std::vector<float>{0, 255});
    CHECK(load(DType::I8, raw<int8_t>({-128, 127}), shift) == std::vector<float>{-128, 127});
    CHECK(load(DType::BOOL, raw<uint8_t>({0, 1, 2}), shift) == std::vector<float>{0, 1, 1});
  }
}

TEST_CASE("load: tensors of several pieces, and of odd lengths", "[core][io][load]") {
  for (int64_t n : {int64_t(1), int64_t(524287), int64_t(524288), int64_t(524289), int64_t(1600001)}) {
    CAPTURE(n);
    std::vector<uint16_t> codes(static_cast<size_t>(n));
    for (size_t i = 0; i < codes.size(); ++i) codes[i] = uint16_t(i * 40503);
    const std::vector<float> out = load(DType::U16, raw(codes), 1);
    CHECK(std::equal(out.begin(), out.end(), codes.begin(), codes.end(),
                     [](float a, uint16_t b) { return a == float(b); }));
  }
}

TEST_CASE("load_floats: room for another number of elements is a fault of the caller", "[core][io][load]") {
  const TempFolder folder;
  const TensorFile file = TensorFile::open(put_tensor(folder, DType::U8, {3}, "abc"));
  std::vector<float> out(4);
  CHECK_THROWS_AS(load_floats(file, file.at("t"), out), Fault);
}

TEST_CASE("load_matrix: shapes", "[core][io][load]") {
  const TempFolder folder;
  const std::string six = raw<float>({1, 2, 3, 4, 5, 6});
  const auto shape_of = [&](std::vector<int64_t> shape, const std::string& data) {
    const TensorFile file = TensorFile::open(put_tensor(folder, DType::F32, std::move(shape), data));
    const Matrix m = load_matrix(file, file.at("t"));
    return std::pair(m.rows(), m.cols());
  };
  using Shape = std::pair<int64_t, int64_t>;
  CHECK(shape_of({3, 2}, six) == Shape{3, 2});
  CHECK(shape_of({6}, six) == Shape{1, 6});
  CHECK(shape_of({}, six.substr(0, 4)) == Shape{1, 1});
  CHECK(shape_of({0, 5}, "") == Shape{0, 5});
  CHECK(shape_of({int64_t(1) << 60, 0}, "") == Shape{int64_t(1) << 60, 0});
  const std::string path = put_tensor(folder, DType::F32, {1, 2, 3}, six);
  CHECK(message_of<DataError>([&] {
          const TensorFile file = TensorFile::open(path);
          load_matrix(file, file.at("t"));
        }) == path + ": tensor \"t\" has shape (1, 2, 3); expected a matrix or a vector");
}

TEST_CASE("load_matrix: NaN and Inf are named by row and column", "[core][io][load]") {
  const TempFolder folder;
  // 700 x 1000 of BF16: the second piece begins at element 524288.
  std::vector<uint16_t> codes(700000, 0x3f80);
  const auto error_at = [&](size_t i, uint16_t code) {
    std::vector<uint16_t> bad = codes;
    bad[i] = code, bad.back() = 0x7f80;
    const std::string path = put_tensor(folder, DType::BF16, {700, 1000}, raw(bad));
    const TensorFile file = TensorFile::open(path);
    const Matrix m = load_matrix(file, file.at("t"), true);
    CHECK(!std::isfinite(m(int64_t(i) / 1000, int64_t(i) % 1000)));
    std::string message = message_of<DataError>([&] { load_matrix(file, file.at("t")); });
    CHECK(message.starts_with(path + ": tensor \"t\" (700, 1000): "));
    return message;
  };
  CHECK(has(error_at(0, 0x7fc0), ": NaN at row 0, column 0; expected finite numbers"));
  CHECK(has(error_at(524287, 0xff80), ": -Inf at row 524, column 287;"));
  CHECK(has(error_at(524288, 0xffff), ": NaN at row 524, column 288;"));
  CHECK(has(error_at(699999, 0x7f80), ": Inf at row 699, column 999;"));
  codes[1] = 0x7f7f, codes[2] = 0x0001;  // the largest and the smallest are finite
  const TensorFile file = TensorFile::open(put_tensor(folder, DType::BF16, {700, 1000}, raw(codes)));
  CHECK(load_matrix(file, file.at("t"))(0, 2) == 0x1p-133f);
  // Finite in the file, beyond float32 in the matrix.
  const TensorFile wide = TensorFile::open(put_tensor(folder, DType::F64, {1, 2}, raw<double>({1, 1e39})));
  CHECK(has(message_of<DataError>([&] { load_matrix(wide, wide.at("t")); }), "Inf at row 0, column 1"));
}

TEST_CASE("load_matrix: resident memory is the output and little more", "[core][io][load]") {
  constexpr int64_t kMega = 1 << 20;
  // Under AddressSanitizer each 8 bytes of output have one of shadow, and freed memory stays for a while.
#if defined(__SANITIZE_ADDRESS__)
  constexpr int64_t kSanitizer = 32 * kMega;
#else
  constexpr int64_t kSanitizer = 0;
#endif
  const TempFolder folder;
  const std::string path = put_tensor(folder, DType::BF16, {8192, 4096}, std::string(64 * kMega, '\x3c'), 3);
  int pipe_ends[2];
  REQUIRE(::pipe(pipe_ends) == 0);
  const pid_t child = ::fork();
  if (child == 0) {
    const auto status = [](const char* key) -> int64_t {  // bytes
      std::istringstream text(get("/proc/self/status"));
      for (std::string word; text >> word;)
        if (int64_t kilobytes = 0; word == key && text >> kilobytes) return kilobytes * 1024;
      return -1;
    };
    int64_t answer[3] = {-1, -1, -1};
    try {
      const TensorFile file = TensorFile::open(path);
      std::ofstream("/proc/self/clear_refs") << "5";  // the peak starts at what is resident now
      answer[0] = status("VmRSS:");
      const Matrix m = load_matrix(file, file.at("t"));
      answer[1] = status("VmHWM:");
      answer[2] = m(8191, 4095) == bits_float(0x3c3c0000) ? 1 : 0;
    } catch (...) {
    }
    const bool told = ::write(pipe_ends[1], answer, sizeof(answer)) == ssize_t(sizeof(answer));
    ::_exit(told ? 0 : 1);
  }
  int64_t answer[3] = {};
  REQUIRE(::read(pipe_ends[0], answer, sizeof(answer)) == ssize_t(sizeof(answer)));
  ::waitpid(child, nullptr, 0);
  ::close(pipe_ends[0]), ::close(pipe_ends[1]);
  CHECK(answer[2] == 1);
  if (answer[0] < 0 || answer[1] < answer[0]) FP4LAB_SKIP("/proc/self/status has no VmRSS and VmHWM");
  CHECK(answer[1] - answer[0] >= 120 * kMega);  // the output was indeed seen
  CHECK(answer[1] - answer[0] <= (128 + 8) * kMega + kSanitizer);
}
