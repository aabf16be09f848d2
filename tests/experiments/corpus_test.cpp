#include "experiments/corpus.h"

#include <algorithm>
#include <cstdlib>
#include <numeric>
#include <set>

#include "core/errors.h"
#include "core/io/tensor_file.h"
#include "tests/catch.h"
#include "tests/core/io/temp_folder.h"

using namespace fp4lab;
using namespace fp4lab::test;
namespace fs = std::filesystem;

namespace {
std::string put_corpus(const std::string& path, DType dtype, const std::vector<int64_t>& shape,
                       const std::string& bytes, const std::string& name = "tokens") {
  const TensorToWrite tensor{name, dtype, shape, std::as_bytes(std::span(bytes))};
  write_safetensors(path, {&tensor, 1});
  return path;
}
/// Ids 0, 1, 2, ... as U16.
std::string put_counting(const std::string& path, const std::vector<int64_t>& shape) {
  std::vector<uint16_t> ids(
      size_t(std::accumulate(shape.begin(), shape.end(), int64_t{1}, std::multiplies<>())));
  std::iota(ids.begin(), ids.end(), uint16_t(0));
  return put_corpus(path, DType::U16, shape, raw(ids));
}
WindowChoice first(int64_t windows, int64_t length, int64_t offset = 0) {
  return {.windows = windows, .length = length, .offset = offset};
}
WindowChoice drawn(int64_t windows, int64_t length, uint64_t seed, int64_t offset = 0) {
  return {.windows = windows, .length = length, .offset = offset, .random = true, .seed = seed};
}
std::string open_error(const std::string& path) {
  return message_of<DataError>([&] { Corpus::open(path); });
}
std::string cut_error(const Corpus& corpus, const WindowChoice& choice, int64_t vocab_size = 1000) {
  return message_of<DataError>([&] { corpus.cut(choice, vocab_size); });
}
/// Of a counting corpus: every window is what its start says.
void check_counting(const TokenWindows& w) {
  REQUIRE(w.starts.size() == size_t(w.windows));
  REQUIRE(w.ids.size() == size_t(w.windows * w.length));
  for (int64_t i = 0; i < w.windows; ++i)
    for (int64_t j = 0; j < w.length; ++j) CHECK(w.ids[size_t(i * w.length + j)] == w.starts[size_t(i)] + j);
}
using Starts = std::vector<int64_t>;
}  // namespace

TEST_CASE("corpus: every dtype, as safetensors and as .npy", "[experiments][corpus]") {
  const TempFolder folder;
  const auto check = [&](DType dtype, const std::string& descr, const std::string& bytes, int32_t large) {
    CAPTURE(descr);
    const std::string a = put_corpus(folder / "a.safetensors", dtype, {6}, bytes);
    const std::string b =
        put(folder / "b.npy",
            npy_bytes("{'descr': '" + descr + "', 'fortran_order': False, 'shape': (6,), }", bytes));
    for (const std::string& path : {a, b}) {
      const Corpus corpus = Corpus::open(path);
      CHECK(corpus.path() == path);
      CHECK(corpus.tokens() == 6);
      const TokenWindows w = corpus.cut(first(0, 2), int64_t(large) + 1);
      CHECK(w.windows == 3);
      CHECK(w.length == 2);
      CHECK(w.starts == Starts{0, 2, 4});
      CHECK(w.ids == std::vector<int32_t>{7, 0, 300, large, 2, 1});
      CHECK(cut_error(corpus, first(0, 2), large) ==
            path + ": tensor \"" + (path == a ? "tokens" : "b") + "\": id " + std::to_string(large) +
                " at index 3; expected 0.." + std::to_string(large - 1) + " (the model's vocab_size is " +
                std::to_string(large) + ")");
    }
  };
  check(DType::U16, "<u2", raw(std::vector<uint16_t>{7, 0, 300, 65535, 2, 1}), 65535);
  check(DType::U32, "<u4", raw(std::vector<uint32_t>{7, 0, 300, 128255, 2, 1}), 128255);
  check(DType::I32, "<i4", raw(std::vector<int32_t>{7, 0, 300, 128255, 2, 1}), 128255);
  check(DType::I64, "<i8", raw(std::vector<int64_t>{7, 0, 300, 128255, 2, 1}), 128255);
}

TEST_CASE("corpus: ids outside the vocabulary, in chosen windows only", "[experiments][corpus]") {
  const TempFolder folder;
  const auto says = [&](DType dtype, const std::string& bytes, const std::string& id) {
    const std::string path = put_corpus(folder / "c.safetensors", dtype, {5}, bytes);
    const Corpus corpus = Corpus::open(path);
    CHECK(has(cut_error(corpus, first(0, 1), 10), "\"tokens\": id " + id + " at index 3; expected 0..9"));
    CHECK(corpus.cut(first(3, 1), 10).ids == std::vector<int32_t>{1, 2, 9});
    CHECK(corpus.cut(first(1, 1, 4), 10).ids == std::vector<int32_t>{0});
  };
  says(DType::U16, raw(std::vector<uint16_t>{1, 2, 9, 10, 0}), "10");
  says(DType::U32, raw(std::vector<uint32_t>{1, 2, 9, 4294967295u, 0}), "4294967295");
  says(DType::I32, raw(std::vector<int32_t>{1, 2, 9, -1, 0}), "-1");
  says(DType::I64, raw(std::vector<int64_t>{1, 2, 9, int64_t{1} << 32, 0}), "4294967296");
  says(DType::I64, raw(std::vector<int64_t>{1, 2, 9, INT64_MIN, 0}), "-9223372036854775808");
}

TEST_CASE("corpus: windows of a stream", "[experiments][corpus]") {
  const TempFolder folder;
  const Corpus corpus = Corpus::open(put_counting(folder / "s.safetensors", {23}));
  CHECK(corpus.tokens() == 23);
  for (const auto& [length, windows] : {std::pair(1, 23), {5, 4}, {11, 2}, {12, 1}, {23, 1}, {24, 0}})
    CHECK(corpus.windows(length) == windows);
  CHECK(corpus.cut(first(0, 5), 100).starts == Starts{0, 5, 10, 15});
  CHECK(corpus.cut(first(2, 5), 100).starts == Starts{0, 5});
  CHECK(corpus.cut(first(2, 5, 1), 100).starts == Starts{5, 10});
  CHECK(corpus.cut(first(0, 5, 3), 100).starts == Starts{15});
  CHECK(corpus.cut(first(4, 5), 100).windows == 4);
  for (const int64_t length : {1, 5, 11, 23}) check_counting(corpus.cut(first(0, length), 100));
}

TEST_CASE("corpus: windows of rows never cross them", "[experiments][corpus]") {
  const TempFolder folder;
  const Corpus corpus = Corpus::open(put_counting(folder / "r.safetensors", {3, 10}));
  CHECK(corpus.tokens() == 30);
  for (const auto& [length, windows] : {std::pair(1, 30), {4, 6}, {5, 6}, {6, 3}, {10, 3}, {11, 0}})
    CHECK(corpus.windows(length) == windows);
  CHECK(corpus.cut(first(0, 4), 100).starts == Starts{0, 4, 10, 14, 20, 24});
  CHECK(corpus.cut(first(3, 4, 1), 100).starts == Starts{4, 10, 14});
  CHECK(corpus.cut(first(0, 10), 100).starts == Starts{0, 10, 20});
  check_counting(corpus.cut(first(0, 4), 100));
  check_counting(corpus.cut(drawn(4, 4, 1), 100));
}

TEST_CASE("corpus: windows drawn by the seed", "[experiments][corpus]") {
  const TempFolder folder;
  const Corpus corpus = Corpus::open(put_counting(folder / "s.safetensors", {20003}));
  const int64_t all = corpus.windows(20);
  REQUIRE(all == 1000);
  const TokenWindows w = corpus.cut(drawn(100, 20, 7), 20003);
  check_counting(w);
  CHECK(std::is_sorted(w.starts.begin(), w.starts.end()));
  CHECK(std::set<int64_t>(w.starts.begin(), w.starts.end()).size() == 100);
  for (const int64_t s : w.starts) CHECK((s % 20 == 0 && s < 20000));
  CHECK(corpus.cut(drawn(100, 20, 7), 20003).starts == w.starts);
  CHECK(corpus.cut(drawn(100, 20, 8), 20003).starts != w.starts);
  CHECK(corpus.cut(first(100, 20), 20003).starts != w.starts);
  // More of them are these and others.
  const Starts more = corpus.cut(drawn(300, 20, 7), 20003).starts;
  CHECK(std::includes(more.begin(), more.end(), w.starts.begin(), w.starts.end()));
  // All there are, whatever the seed.
  CHECK(corpus.cut(drawn(0, 20, 7), 20003).starts == corpus.cut(first(0, 20), 20003).starts);
  CHECK(corpus.cut(drawn(1000, 20, 3), 20003).starts == corpus.cut(first(0, 20), 20003).starts);
  // What is left out is never drawn.
  const TokenWindows late = corpus.cut(drawn(100, 20, 7, 850), 20003);
  CHECK(late.starts.front() >= 850 * 20);
  check_counting(late);
  CHECK(corpus.cut(drawn(0, 20, 7, 999), 20003).starts == Starts{19980});

  // Each window is drawn about equally often: 400 draws of 10 of 40, 100 each, deviation sqrt(75) = 8.7.
  std::vector<int> times(40);
  for (uint64_t seed = 0; seed < 400; ++seed)
    for (const int64_t s : corpus.cut(drawn(10, 500, seed), 20003).starts) ++times[size_t(s / 500)];
  for (const int n : times) CHECK((n > 60 && n < 140));
}

TEST_CASE("corpus: more than there is", "[experiments][corpus]") {
  const TempFolder folder;
  const std::string stream = put_counting(folder / "s.safetensors", {23});
  const std::string rows = put_counting(folder / "r.safetensors", {3, 10});
  const Corpus s = Corpus::open(stream), r = Corpus::open(rows);
  CHECK(cut_error(s, first(0, 24)) ==
        stream + ": tensor \"tokens\" holds no window of 24 tokens: it is one stream of 23 tokens");
  CHECK(cut_error(r, first(1, 11)) ==
        rows + ": tensor \"tokens\" holds no window of 11 tokens: it is 3 rows of 10 tokens");
  CHECK(
      cut_error(s, first(5, 5)) ==
      stream +
          ": tensor \"tokens\" holds 4 windows of 5 tokens (it is one stream of 23 tokens); 5 are asked for");
  CHECK(cut_error(r, first(5, 4, 2)) ==
        rows +
            ": tensor \"tokens\" holds 6 windows of 4 tokens (it is 3 rows of 10 "
            "tokens); 5 are asked for after the first 2");
  CHECK(has(cut_error(s, drawn(5, 5, 1)), "5 are asked for"));
  CHECK(has(cut_error(s, first(0, 5, 4)), "holds 4 windows of 5 tokens"));
  CHECK(has(cut_error(s, first(0, 5, INT64_MAX)), "some are asked for after the first 9223372036854775807"));
  CHECK(has(cut_error(s, first(INT64_MAX, 5)), "9223372036854775807 are asked for"));
  CHECK(has(cut_error(s, first(1, INT64_MAX)), "no window of 9223372036854775807 tokens"));
  const Corpus empty = Corpus::open(put_corpus(folder / "e.safetensors", DType::U16, {0, 4}, ""));
  CHECK(empty.windows(4) == 0);
  CHECK(has(cut_error(empty, first(0, 4)), "it is 0 rows of 4 tokens"));
  CHECK_THROWS_AS(s.cut(first(1, 0), 10), Fault);
  CHECK_THROWS_AS(s.cut(first(-1, 1), 10), Fault);
  CHECK_THROWS_AS(s.cut(first(1, 1, -1), 10), Fault);
  CHECK_THROWS_AS(s.cut(first(1, 1), 0), Fault);
}

TEST_CASE("corpus: files that are none", "[experiments][corpus]") {
  const TempFolder folder;
  const std::string path = folder / "c.safetensors", bytes(8, '\0');
  for (const DType dtype : {DType::F32, DType::I16, DType::U8, DType::U64, DType::BOOL}) {
    const int64_t n = 8 / bytes_per_element(dtype);
    CHECK(open_error(put_corpus(path, dtype, {n}, bytes)) ==
          path + ": tensor \"tokens\" is " + std::string(name(dtype)) +
              "; expected token ids in U16, U32, I32 or I64");
  }
  CHECK(
      open_error(put_corpus(path, DType::I64, {}, bytes)) ==
      path +
          ": tensor \"tokens\" has 0 dimensions; expected one stream (T) or windows of text in rows (R, L)");
  CHECK(has(open_error(put_corpus(path, DType::U16, {2, 2, 1}, bytes)), "has 3 dimensions"));
  CHECK(Corpus::open(put_corpus(path, DType::U16, {4}, bytes, "only")).tokens() == 4);
  CHECK(has(open_error(put_corpus(path, DType::U8, {8}, bytes, "on\x1bly")), R"(tensor "on\u001bly" is U8)"));

  const TensorToWrite two[] = {{"a", DType::U16, {4}, std::as_bytes(std::span(bytes))},
                               {"b", DType::U16, {4}, std::as_bytes(std::span(bytes))}};
  write_safetensors(path, two);
  CHECK(open_error(path) ==
        path +
            ": no tensor \"tokens\" among 2; a corpus is a tensor of token ids with this name, "
            "or the only one of its file");
  const TensorToWrite named[] = {{"mask", DType::U8, {8}, std::as_bytes(std::span(bytes))},
                                 {"tokens", DType::U16, {4}, std::as_bytes(std::span(bytes))}};
  write_safetensors(path, named);
  CHECK(Corpus::open(path).tokens() == 4);
  CHECK(has(open_error(folder / "none.safetensors"),
            "none.safetensors: cannot open: No such file or directory"));
  CHECK(has(open_error(put(folder / "t.txt", "1 2 3")), "unknown kind of file"));
}

TEST_CASE("corpus: windows that overlap", "[experiments][corpus]") {
  const auto at = [](int64_t length, const Starts& starts) {
    return TokenWindows{int64_t(starts.size()), length, {}, starts};
  };
  const auto both = [](const TokenWindows& a, const TokenWindows& b) {
    CHECK(overlap(a, b) == overlap(b, a));
    return overlap(a, b);
  };
  CHECK_FALSE(both(at(4, {0, 8}), at(4, {4, 12})));
  CHECK(both(at(4, {0, 8}), at(4, {11})));
  CHECK(both(at(4, {0, 8}), at(4, {5})));
  CHECK(both(at(4, {0, 8}), at(4, {8})));
  CHECK(both(at(2, {6}), at(100, {0})));
  CHECK_FALSE(both(at(2, {100}), at(100, {0})));
  CHECK_FALSE(both(at(4, {}), at(4, {0})));
  CHECK(both(at(1, {9, 3}), at(1, {3})));  // in any order
  // Against all pairs, for every choice of some windows of 2 and of 3 in 12 tokens.
  for (int x = 0; x < 64; ++x)
    for (int y = 0; y < 16; ++y) {
      Starts a, b;
      bool expected = false;
      for (int i = 0; i < 6; ++i)
        if (x >> i & 1) a.push_back(2 * i);
      for (int i = 0; i < 4; ++i)
        if (y >> i & 1) b.push_back(3 * i);
      for (const int64_t s : a)
        for (const int64_t t : b) expected |= s < t + 3 && t < s + 2;
      if (both(at(2, a), at(3, b)) != expected) FAIL("choices " << x << " and " << y);
    }
}

TEST_CASE("corpus: the shipped and the shared ones", "[experiments][corpus]") {
  const Corpus shipped = Corpus::open(FP4LAB_SOURCE_DIR "/experiments/data/tiny-llama/selfgen.safetensors");
  CHECK(shipped.tokens() == 64 * 512);
  CHECK(shipped.windows(512) == 64);
  CHECK(shipped.cut(first(0, 512), 8192).windows == 64);
  const char* const set = std::getenv("FP4LAB_DATA");
  const fs::path folder = (set ? fs::path(set) : fs::path(FP4LAB_SOURCE_DIR) / "../shared/data") / "corpora";
  if (!fs::exists(folder)) FP4LAB_SKIP("no " + folder.string() + "; set FP4LAB_DATA");
  const Corpus wiki = Corpus::open((folder / "wikitext2_test.safetensors").string());
  CHECK(wiki.tokens() == 397739);
  CHECK(wiki.windows(2048) == 194);
  CHECK(wiki.cut(first(128, 1024), 8192).starts.back() == 127 * 1024);
  CHECK(Corpus::open((folder / "calibration.safetensors").string()).windows(1024) == 256);
}
