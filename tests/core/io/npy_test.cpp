#include "core/io/tensor_file.h"
#include "tests/catch.h"
#include "tests/core/io/temp_folder.h"

using namespace fp4lab;
using namespace fp4lab::test;

namespace {
const std::string kFloats = raw<float>({1, 2, 3, 4, 5, 6});

std::string dict(const std::string& descr, const std::string& order, const std::string& shape) {
  return "{'descr': " + descr + ", 'fortran_order': " + order + ", 'shape': " + shape + ", }";
}
std::string open_error(const std::string& path) {
  return message_of<DataError>([&] { TensorFile::open(path); });
}
}  // namespace

TEST_CASE("npy: versions 1, 2 and 3, named after the file", "[core][io][npy]") {
  const TempFolder folder;
  for (int major : {1, 2, 3}) {
    CAPTURE(major);
    // As NumPy writes it: padded with spaces to a multiple of 64, a newline last.
    std::string text = dict("'<f4'", "False", "(2, 3)");
    while ((text.size() + 1 + (major == 1 ? 10 : 12)) % 64) text += ' ';
    const std::string path = put(folder / "some.weights.npy", npy_bytes(text + '\n', kFloats, major));
    const TensorFile file = TensorFile::open(path);
    REQUIRE(file.tensors().size() == 1);
    const TensorInfo& t = file.at("some.weights");
    CHECK(t.shape == std::vector<int64_t>{2, 3});
    CHECK(t.dtype == DType::F32);
    CHECK(t.offset % 64 == 0);
    CHECK(file.path_of(t) == path);
    const Matrix m = load_matrix(file, t);
    CHECK(m(0, 0) == 1);
    CHECK(m(0, 2) == 3);
    CHECK(m(1, 0) == 4);
  }
}

TEST_CASE("npy: every dtype listed", "[core][io][npy]") {
  struct Case {
    const char* descr;
    DType dtype;
    std::string data;  // 2 and 1
  };
  const std::vector<Case> cases = {
      {"<f4", DType::F32, raw<float>({2, 1})},   {"<f2", DType::F16, raw<uint16_t>({0x4000, 0x3c00})},
      {"<f8", DType::F64, raw<double>({2, 1})},  {"|u1", DType::U8, raw<uint8_t>({2, 1})},
      {"|i1", DType::I8, raw<int8_t>({2, 1})},   {"<u2", DType::U16, raw<uint16_t>({2, 1})},
      {"<i2", DType::I16, raw<int16_t>({2, 1})}, {"<u4", DType::U32, raw<uint32_t>({2, 1})},
      {"<i4", DType::I32, raw<int32_t>({2, 1})}, {"<u8", DType::U64, raw<uint64_t>({2, 1})},
      {"<i8", DType::I64, raw<int64_t>({2, 1})},
  };
  const TempFolder folder;
  for (const Case& c : cases) DYNAMIC_SECTION(c.descr) {
      const std::string descr = "'" + std::string(c.descr) + "'";
      const TensorFile file =
          TensorFile::open(put(folder / "x.npy", npy_bytes(dict(descr, "False", "(2,)"), c.data)));
      CHECK(file.at("x").dtype == c.dtype);
      const Matrix m = load_matrix(file, file.at("x"));
      CHECK(m.rows() == 1);
      CHECK(m(0, 0) == 2);
      CHECK(m(0, 1) == 1);
    }
  const TensorFile file =
      TensorFile::open(put(folder / "x.npy", npy_bytes(dict("'|b1'", "False", "(3,)"), {0, 1, 0})));
  CHECK(file.at("x").dtype == DType::BOOL);
  CHECK(load_matrix(file, file.at("x"))(0, 1) == 1);
  CHECK(load_matrix(file, file.at("x"))(0, 2) == 0);
}

TEST_CASE("npy: spellings of the dict that are fine", "[core][io][npy]") {
  struct Case {
    std::string dict;
    std::vector<int64_t> shape;
  };
  const std::vector<Case> cases = {
      {"{'descr': '<f4', 'fortran_order': False, 'shape': (6,)}", {6}},
      {"{\"shape\":(1,6,),\"descr\":\"<f4\",\"fortran_order\":False}", {1, 6}},
      {dict("'<f4'", "True", "(6,)"), {6}},  // one dimension: C and Fortran order are the same
      {dict("'<f4'", "False", "(1, 2, 3)"), {1, 2, 3}},
      {"  " + dict("'<f4'", "False", "( 6 , )") + "  \n", {6}},
  };
  const TempFolder folder;
  for (const Case& c : cases) {
    CAPTURE(c.dict);
    const TensorFile file = TensorFile::open(put(folder / "x.npy", npy_bytes(c.dict, kFloats)));
    CHECK(file.at("x").shape == c.shape);
    CHECK(file.at("x").elements == 6);
  }
  const TensorFile scalar =
      TensorFile::open(put(folder / "s.npy", npy_bytes(dict("'<f4'", "True", "()"), raw<float>({9}))));
  CHECK(scalar.at("s").shape.empty());
  CHECK(load_matrix(scalar, scalar.at("s"))(0, 0) == 9);
  const TensorFile none =
      TensorFile::open(put(folder / "n.npy", npy_bytes(dict("'<f4'", "False", "(0, 3)"), "")));
  CHECK(load_matrix(none, none.at("n")).cols() == 3);
}

TEST_CASE("npy: what is refused, and the advice", "[core][io][npy]") {
  struct Case {
    const char* what;
    std::string bytes, message;
  };
  const std::string good = dict("'<f4'", "False", "(6,)");
  const auto with = [&](const std::string& text) { return npy_bytes(text, kFloats); };
  const std::vector<Case> cases = {
      {"empty", "", ": is empty (0 bytes)"},
      {"short", "\x93NUMPY\x01", ": is not a .npy file"},
      {"other magic", "NUMPY______________", ": is not a .npy file"},
      {"version 4", npy_bytes(good, kFloats, 4), ": .npy version 4.0; known: 1.0, 2.0, 3.0"},
      {"version 0", npy_bytes(good, kFloats, 0), ": .npy version 0.0"},
      {"version 1.1", std::string("\x93NUMPY\x01\x01") + little(0, 2), ": .npy version 1.1"},
      {"length past the end", std::string("\x93NUMPY\x01\0", 8) + little(65535, 2) + good,
       ": .npy header of 65535 bytes is longer than the file"},
      {"length past the end, 2.0", std::string("\x93NUMPY\x02\0", 8) + little(0xffffffff, 4) + good,
       ": .npy header of 4294967295 bytes is longer than the file"},
      {"length cut, 2.0", std::string("\x93NUMPY\x02\0", 8) + little(1, 2),
       "is longer than the file (10 bytes)"},
      {"empty header", with(""), "expected '{' at byte 0, found the end"},
      {"JSON", with(R"({"descr": "<f4", "fortran_order": false, "shape": [6]})"),
       R"(expected True or False at byte 34, found "false, \"shap")"},
      {"list as shape", with(dict("'<f4'", "False", "[6]")), "expected '('"},
      {"number as shape", with(dict("'<f4'", "False", "(6)")), "shape: (6) is a number; expected (6,)"},
      {"negative", with(dict("'<f4'", "False", "(-6,)")), "expected a number from 0 to 2^63 - 1 in shape"},
      {"fraction", with(dict("'<f4'", "False", "(6.0,)")), "expected ',' or ')'"},
      {"plus", with(dict("'<f4'", "False", "(+6,)")), "expected a number from 0"},
      {"2^63", with(dict("'<f4'", "False", "(9223372036854775808,)")), "shape: a number above 2^63 - 1"},
      {"product overflows", with(dict("'<f4'", "False", "(4294967296, 4294967296)")),
       "shape (4294967296, 4294967296) has more than 2^63 - 1 bytes"},
      {"bytes overflow", with(dict("'<f8'", "False", "(1152921504606846976,)")),
       "has more than 2^63 - 1 bytes"},
      {"two commas", with(dict("'<f4'", "False", "(6,,)")), "expected a number from 0"},
      {"no comma", with(dict("'<f4'", "False", "(2 3)")), "expected ',' or ')'"},
      {"33 dimensions",
       with(dict("'<f4'", "False", "(1,1,1,1,1,1,1,1,1,1,1,1,1,1,1,1,1,1,1,1,1,1,1,1,1,1,1,1,1,1,1,1,6)")),
       "more than 32 dimensions"},
      {"open shape", with("{'descr': '<f4', 'fortran_order': False, 'shape': (6,"), "found the end"},
      {"open dict", with("{'descr': '<f4', 'fortran_order': False, 'shape': (6,)"), "expected '}'"},
      {"open string", with("{'descr': '<f4"), "expected a dtype at byte 11"},
      {"unlike quotes", with("{'descr\": '<f4'}"), "unknown key"},
      {"escape", with(dict("'<f\\x34'", "False", "(6,)")), "an escape in"},
      {"other key", with("{'order': 'C'}"), R"(unknown key "order"; expected descr, fortran_order, shape)"},
      {"descr twice", with("{'descr': '<f4', 'descr': '<f4'}"), "descr is there twice"},
      {"no descr", with("{'fortran_order': False, 'shape': (6,)}"), "no descr"},
      {"no order", with("{'descr': '<f4', 'shape': (6,)}"), "no fortran_order"},
      {"no shape", with("{'descr': '<f4', 'fortran_order': False}"), "no shape"},
      {"code", with("__import__('os')"), "expected '{'"},
      {"text after", with(good + "x"), "bytes after the dict, at "},
      {"structured", with(dict("[('a', '<f4')]", "False", "(6,)")), "structured dtypes are not supported"},
      {"big-endian", with(dict("'>f4'", "False", "(6,)")),
       R"(dtype ">f4" is big-endian; save np.ascontiguousarray(x, dtype='<f4') instead)"},
      {"big-endian i2", with(dict("'>i2'", "False", "(6,)")), "np.ascontiguousarray(x, dtype='<i2') instead"},
      {"complex", with(dict("'<c8'", "False", "(6,)")),
       R"(unknown dtype "<c8"; known: <f4, <f2, <f8, |u1, |i1, <u2, <i2, <u4, <i4, <u8, <i8, |b1)"},
      {"big-endian complex", with(dict("'>c8'", "False", "(6,)")), R"(unknown dtype ">c8"; known: <f4)"},
      {"object", with(dict("'|O'", "False", "(6,)")), R"(unknown dtype "|O")"},
      {"Fortran order", with(dict("'<f4'", "True", "(2, 3)")),
       "Fortran order with shape (2, 3); save np.ascontiguousarray(x) instead"},
      {"cut", npy_bytes(good, kFloats.substr(1)),
       "'<f4' (6) takes 24 bytes but the file has 23 after the header"},
      {"bytes after", npy_bytes(good, kFloats + "x"), "takes 24 bytes but the file has 25 after the header"},
      {"not UTF-8", with("{'descr': '\xff\xfe'}"), "no fortran_order"},
  };
  const TempFolder folder;
  for (const Case& c : cases) DYNAMIC_SECTION(c.what) {
      const std::string path = put(folder / "x.npy", c.bytes);
      const std::string message = open_error(path);
      CAPTURE(message);
      CHECK(message.starts_with(path + ": "));
      CHECK(has(message, c.message));
    }
}
