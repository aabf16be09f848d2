#include <fcntl.h>
#include <sys/stat.h>

#include "core/io/tensor_file.h"
#include "tests/catch.h"
#include "tests/core/io/temp_folder.h"

using namespace fp4lab;
using namespace fp4lab::test;

namespace {
std::string open_error(const std::string& path) {
  return message_of<DataError>([&] { TensorFile::open(path); });
}
/// One tensor named t.
std::string tensor(const std::string& dtype, const std::string& shape, const std::string& offsets) {
  return R"("t":{"dtype":")" + dtype + R"(","shape":)" + shape + R"(,"data_offsets":)" + offsets + "}";
}
std::span<const std::byte> as_bytes(const std::string& s) {
  return {reinterpret_cast<const std::byte*>(s.data()), s.size()};
}
}  // namespace

TEST_CASE("safetensors: a small file, read as its bytes say", "[core][io][safetensors]") {
  const TempFolder folder;
  // Out of name order, with a scalar, an empty tensor, an escape in a name and spaces after the header.
  const std::string header = R"({"__metadata__":{"format":"pt"},)"
                             R"("w":{"dtype":"F32","shape":[2,3],"data_offsets":[0,24]},)"
                             R"("none":{"data_offsets":[24,24],"shape":[0,7],"dtype":"BF16"},)"
                             R"("\u00e9":{"dtype":"U8","shape":[],"data_offsets":[24,25]}}   )";
  const std::string data = raw<float>({1, -2, 3.5f, 0, 1e-45f, 65504}) + '\x07';
  const std::string path = put(folder / "a.safetensors", safetensors_bytes(header, data));
  const TensorFile file = TensorFile::open(path);
  CHECK(file.paths() == std::vector<std::string>{path});
  REQUIRE(file.tensors().size() == 3);
  CHECK(file.tensors()[0].name == "none");
  CHECK(file.tensors()[1].name == "w");
  CHECK(file.tensors()[2].name == "\xC3\xA9");
  const TensorInfo& w = file.at("w");
  CHECK(w.dtype == DType::F32);
  CHECK(w.shape == std::vector<int64_t>{2, 3});
  CHECK(w.elements == 6);
  CHECK(w.bytes == 24);
  CHECK(w.offset == int64_t(8 + header.size()));
  CHECK(file.path_of(w) == path);
  CHECK(file.at("none").elements == 0);
  CHECK(file.bytes(file.at("none")).empty());
  CHECK(file.at("\xC3\xA9").elements == 1);
  CHECK(file.bytes(file.at("\xC3\xA9"))[0] == std::byte(7));
  const Matrix m = load_matrix(file, w);
  CHECK(m.rows() == 2);
  CHECK(m.cols() == 3);
  CHECK(m(0, 2) == 3.5f);
  CHECK(m(1, 1) == 1e-45f);
  CHECK(m(1, 2) == 65504);
}

TEST_CASE("safetensors: no tensors is a valid file", "[core][io][safetensors]") {
  const TempFolder folder;
  CHECK(TensorFile::open(put(folder / "a.safetensors", safetensors_bytes("{}", ""))).tensors().empty());
}

TEST_CASE("safetensors: files that are none", "[core][io][safetensors]") {
  const TempFolder folder;
  const std::string path = folder / "a.safetensors";
  const auto error_for = [&](const std::string& bytes) { return open_error(put(path, bytes)); };
  CHECK(open_error(path) == path + ": cannot open: No such file or directory");
  CHECK(error_for("") == path + ": is empty (0 bytes)");
  CHECK(error_for("1234567") == path + ": is not a safetensors file: 7 bytes, the length alone is 8");
  CHECK(error_for(little(0, 8)) == path + ": safetensors header is not JSON: it is empty");
  CHECK(error_for(little(3, 8) + "{}") ==
        path + ": safetensors header of 3 bytes is longer than the file (10 bytes)");
  for (uint64_t n : {uint64_t(1) << 63, ~uint64_t(0), ~uint64_t(0) - 7, uint64_t(100)})
    CHECK(has(error_for(little(n, 8) + "{}"),
              ": safetensors header of " + std::to_string(n) + " bytes is longer than the file"));
  CHECK(has(error_for(safetensors_bytes("[]", "")), "is not JSON: it does not begin with '{'"));
  CHECK(has(error_for(safetensors_bytes("\xEF\xBB\xBF{}", "")), "does not begin with '{'"));
  CHECK(has(error_for(safetensors_bytes("{", "")), "header is not JSON: parse error at line 1, column 2"));
  CHECK(has(error_for(safetensors_bytes("{} x", "")), "header is not JSON: parse error"));
  CHECK(has(error_for(safetensors_bytes(std::string("{}\0\0", 4), "")), "it holds a NUL byte"));
  CHECK(has(error_for(safetensors_bytes("{\"\xff\":1}", "")), "header is not JSON: parse error"));
  CHECK(has(error_for(safetensors_bytes("{\"\xed\xa0\x80\":1}", "")), "is not JSON"));  // a surrogate
  CHECK(has(error_for(safetensors_bytes(R"({"\ud800":1})", "")), "is not JSON"));
  CHECK(has(error_for(safetensors_bytes("{\"a\":NaN}", "")), "is not JSON"));
  CHECK(has(error_for(safetensors_bytes("{/**/}", "")), "is not JSON"));
}

TEST_CASE("safetensors: a header above 100 MB is refused unread", "[core][io][safetensors]") {
  const TempFolder folder;
  const std::string path = put(folder / "a.safetensors", little(100'000'001, 8) + "{");
  std::filesystem::resize_file(path, 100'000'009);  // sparse
  CHECK(open_error(path) == path + ": safetensors header of 100000001 bytes; at most 100000000");
}

TEST_CASE("safetensors: not a file", "[core][io][safetensors]") {
  const TempFolder folder;
  std::filesystem::create_directory(folder / "a.safetensors");
  CHECK(open_error(folder / "a.safetensors") ==
        (folder / "a.safetensors") +
            ": the folder has no model.safetensors and no model.safetensors.index.json");
  REQUIRE(::mkfifo((folder / "p.safetensors").c_str(), 0600) == 0);
  CHECK(open_error(folder / "p.safetensors") == (folder / "p.safetensors") + ": is not a regular file");
  CHECK(has(open_error(put(folder / "a.bin", "x")), "a.bin: unknown kind of file; expected .safetensors"));
  CHECK(has(open_error(folder / "none"), "none: no such file or folder; expected .safetensors"));
}

TEST_CASE("safetensors: headers that say wrong things", "[core][io][safetensors]") {
  const std::string ok = tensor("U8", "[4]", "[0,4]");
  struct Case {
    const char* what;
    std::string header, data, message;
  };
  const std::string four = "1234";
  const std::vector<Case> cases = {
      {"tensor is a number", R"({"t":1})", "", R"("t": expected an object, found 1)"},
      {"tensor is an array", R"({"t":[]})", "", R"("t": expected an object, found an array)"},
      {"metadata is text", R"({"__metadata__":"x"})", "",
       R"("__metadata__": expected an object, found a string)"},
      {"metadata is an array", R"({"__metadata__":[]})", "", "expected an object, found an array"},
      {"metadata is nested", R"({"__metadata__":{"a":{}}})", "",
       R"(__metadata__ "a": expected a string, found an object)"},
      {"metadata twice", R"({"__metadata__":{},"__metadata__":{}})", "", R"("__metadata__" is there twice)"},
      {"metadata key twice", R"({"__metadata__":{"a":"","a":""}})", "", R"(__metadata__ "a" is there twice)"},
      {"name twice", "{" + ok + "," + ok + "}", four, R"("t" is there twice)"},
      {"name twice, once escaped", "{" + ok + R"(,"\u0074":{}})", four, R"("t" is there twice)"},
      {"dtype twice", R"({"t":{"dtype":"U8","dtype":"U8"}})", "", R"(tensor "t": dtype is there twice)"},
      {"no dtype", R"({"t":{"shape":[4],"data_offsets":[0,4]}})", four, R"(tensor "t": no dtype)"},
      {"no shape", R"({"t":{"dtype":"U8","data_offsets":[0,4]}})", four, R"(tensor "t": no shape)"},
      {"no offsets", R"({"t":{"dtype":"U8","shape":[4]}})", four, R"(tensor "t": no data_offsets)"},
      {"other key", R"({"t":{"size":4}})", four,
       R"(unknown key "size"; a tensor has: dtype, shape, data_offsets)"},
      {"nested object", R"({"t":{"dtype":{}}})", "", "dtype: expected a string, found an object"},
      {"nested array", R"({"t":{"shape":[[4]]}})", "",
       "shape: expected numbers from 0 to 2^63 - 1, found an array"},
      {"shape is a number", R"({"t":{"shape":4}})", "", "shape: expected an array, found 4"},
      {"dtype is null", R"({"t":{"dtype":null}})", "", "dtype: expected a string, found null"},
      {"dtype is an array", R"({"t":{"dtype":[]}})", "", "dtype: expected a string, found an array"},
      {"unknown dtype", "{" + tensor("F4", "[4]", "[0,4]") + "}", four,
       R"(unknown dtype "F4"; known: F64, F32, F16, BF16, F8_E4M3)"},
      {"lower case", "{" + tensor("u8", "[4]", "[0,4]") + "}", four, R"(unknown dtype "u8")"},
      {"negative shape", "{" + tensor("U8", "[-4]", "[0,4]") + "}", four,
       "shape: expected numbers from 0 to 2^63 - 1, found -4"},
      {"fractional shape", "{" + tensor("U8", "[4.0]", "[0,4]") + "}", four,
       "found a fractional or too large number"},
      {"exponent", "{" + tensor("U8", "[4e0]", "[0,4]") + "}", four,
       "found a fractional or too large number"},
      {"text in shape", "{" + tensor("U8", R"(["4"])", "[0,4]") + "}", four, "found a string"},
      {"boolean in shape", "{" + tensor("U8", "[true]", "[0,4]") + "}", four, "found a boolean"},
      {"2^63", "{" + tensor("U8", "[9223372036854775808]", "[0,4]") + "}", four, "found 9223372036854775808"},
      {"2^64", "{" + tensor("U8", "[18446744073709551616]", "[0,4]") + "}", four,
       "found a fractional or too large number"},
      {"2^63 - 1 of U8", "{" + tensor("U8", "[9223372036854775807]", "[0,4]") + "}", four,
       "span 4 bytes but U8 (9223372036854775807) takes 9223372036854775807"},
      {"2^61 of F32", "{" + tensor("F32", "[2305843009213693952]", "[0,4]") + "}", four,
       "shape (2305843009213693952) has more than 2^63 - 1 bytes"},
      {"product wraps to 4", "{" + tensor("U8", "[4294967296,4294967297]", "[0,4]") + "}", four,
       "has more than 2^63 - 1 bytes"},
      {"product wraps to 0", "{" + tensor("U8", "[4294967296,4294967296]", "[0,0]") + "}", "",
       "has more than 2^63 - 1 bytes"},
      {"overflow beside a zero", "{" + tensor("U8", "[0,4294967296,4294967296]", "[0,0]") + "}", "",
       "has more than 2^63 - 1 bytes"},
      {"33 dimensions",
       "{" + tensor("U8", "[1,1,1,1,1,1,1,1,1,1,1,1,1,1,1,1,1,1,1,1,1,1,1,1,1,1,1,1,1,1,1,1,1]", "[0,1]") +
           "}",
       "1", "more than 32 dimensions"},
      {"one offset", "{" + tensor("U8", "[4]", "[4]") + "}", four,
       "data_offsets: expected 2 numbers, found 1"},
      {"three offsets", "{" + tensor("U8", "[4]", "[0,2,4]") + "}", four,
       "data_offsets: expected 2 numbers, found more"},
      {"negative offset", "{" + tensor("U8", "[4]", "[-1,3]") + "}", four,
       "data_offsets: expected numbers from 0 to 2^63 - 1, found -1"},
      {"begin after end", "{" + tensor("U8", "[4]", "[4,0]") + "}", four,
       "data_offsets begin at 4 and end before, at 0"},
      {"past the end", "{" + tensor("U8", "[5]", "[0,5]") + "}", four,
       "data_offsets end at 5 but the file has 4 bytes of data"},
      {"far past the end", "{" + tensor("U8", "[4]", "[9223372036854775803,9223372036854775807]") + "}", four,
       "data_offsets end at 9223372036854775807 but"},
      {"too long for its shape", "{" + tensor("U8", "[3]", "[0,4]") + "}", four,
       "data_offsets span 4 bytes but U8 (3) takes 3"},
      {"too short for its dtype", "{" + tensor("F64", "[2]", "[0,4]") + "}", four,
       "data_offsets span 4 bytes but F64 (2) takes 16"},
      {"overlap", "{" + ok + R"(,"u":{"dtype":"U8","shape":[4],"data_offsets":[3,7]}})", "1234567",
       R"(tensor "u" at byte 3 overlaps tensor "t", which ends at 4)"},
      {"same place", "{" + ok + R"(,"u":{"dtype":"U8","shape":[4],"data_offsets":[0,4]}})", four,
       "overlaps tensor"},
      {"inside another", "{" + ok + R"(,"u":{"dtype":"U8","shape":[1],"data_offsets":[1,2]}})", four,
       "overlaps tensor"},
      {"hole", "{" + ok + R"(,"u":{"dtype":"U8","shape":[1],"data_offsets":[6,7]}})", "1234567",
       R"(a hole of 2 bytes before tensor "u")"},
      {"hole at the start", "{" + tensor("U8", "[3]", "[1,4]") + "}", four,
       R"(a hole of 1 bytes before tensor "t")"},
      {"bytes at the end", "{" + ok + "}", four + "56", "the file has 2 bytes after the last tensor"},
      {"data and no tensor", "{}", "x", "the file has 1 bytes after the last tensor"},
  };
  const TempFolder folder;
  for (const Case& c : cases) DYNAMIC_SECTION(c.what) {
      const std::string path = put(folder / "a.safetensors", safetensors_bytes(c.header, c.data));
      const std::string message = open_error(path);
      CAPTURE(message);
      CHECK(message.starts_with(path + ": safetensors header is wrong: "));
      CHECK(has(message, c.message));
    }
}

TEST_CASE("safetensors: deep nesting and long names stay cheap", "[core][io][safetensors]") {
  const TempFolder folder;
  const auto error_for = [&](const std::string& header) {
    return open_error(put(folder / "a.safetensors", safetensors_bytes(header, "")));
  };
  std::string deep = R"({"t":)";
  deep.append(2'000'000, '[');
  CHECK(has(error_for(deep), R"("t": expected an object, found an array)"));
  const std::string message = error_for("{\"" + std::string(1'000'000, 'n') + "\":1}");
  CHECK(message.size() < 400);
  CHECK(has(message, "nnn...\": expected an object"));
  CHECK(has(error_for("{\"a\\u001bb\":1}"), R"("a\u001bb")"));  // nothing for the terminal to obey
}

TEST_CASE("safetensors: write, then read by hand and by ourselves", "[core][io][safetensors]") {
  const TempFolder folder;
  const std::string a = raw<uint16_t>({0x3f80, 0xc000}), b = raw<float>({0.5f}), none;
  const std::vector<TensorToWrite> tensors = {{"z\"", DType::BF16, {2, 1}, as_bytes(a)},
                                              {"empty", DType::I64, {0}, as_bytes(none)},
                                              {"a", DType::F32, {}, as_bytes(b)}};
  write_safetensors(folder / "w.safetensors", tensors, {{"k", "v\n"}, {"format", "pt"}});
  std::string header = R"({"__metadata__":{"k":"v\n","format":"pt"},)"
                       R"("z\"":{"dtype":"BF16","shape":[2,1],"data_offsets":[0,4]},)"
                       R"("empty":{"dtype":"I64","shape":[0],"data_offsets":[4,4]},)"
                       R"("a":{"dtype":"F32","shape":[],"data_offsets":[4,8]}})";
  while (header.size() % 8) header += ' ';
  CHECK(get(folder / "w.safetensors") == safetensors_bytes(header, a + b));
  CHECK(folder.names() == std::vector<std::string>{"w.safetensors"});
  const TensorFile file = TensorFile::open(folder / "w.safetensors");
  CHECK(load_matrix(file, file.at("z\""))(1, 0) == -2);
  CHECK(load_matrix(file, file.at("a"))(0, 0) == 0.5f);
  CHECK(load_matrix(file, file.at("empty")).size() == 0);

  write_safetensors(folder / "w.safetensors", {});
  CHECK(get(folder / "w.safetensors") == safetensors_bytes("{}      ", ""));
}

TEST_CASE("safetensors: what cannot be written", "[core][io][safetensors]") {
  const TempFolder folder;
  const std::string path = folder / "w.safetensors", b = raw<float>({0.5f});
  const auto write = [&](std::vector<TensorToWrite> t) { write_safetensors(path, t); };
  CHECK_THROWS_AS(write({{"a", DType::F32, {2}, as_bytes(b)}}), Fault);
  CHECK_THROWS_AS(write({{"a", DType::F32, {1}, as_bytes(b)}, {"a", DType::F32, {1}, as_bytes(b)}}), Fault);
  CHECK_THROWS_AS(write({{"__metadata__", DType::F32, {1}, as_bytes(b)}}), Fault);
  CHECK(has(message_of<DataError>([&] { write({{"\xff", DType::F32, {1}, as_bytes(b)}}); }), "is not UTF-8"));
  CHECK(message_of<DataError>([&] { write_safetensors(folder / "no/w.safetensors", {}); }) ==
        (folder / "no/w.safetensors") + ": cannot write: No such file or directory");
  CHECK(folder.names().empty());
}
