#include "core/io/tensor_file.h"

#include <sys/stat.h>
#include <unistd.h>

#include <cstdlib>

#include "tests/catch.h"
#include "tests/core/io/temp_folder.h"

using namespace fp4lab;
using namespace fp4lab::test;
namespace fs = std::filesystem;

namespace {
std::string open_error(const std::string& path) {
  return message_of<DataError>([&] { TensorFile::open(path); });
}
std::string one_tensor(const std::string& name, char value) {
  return safetensors_bytes("{\"" + name + R"(":{"dtype":"U8","shape":[1],"data_offsets":[0,1]}})", {value});
}
/// Two shards: b in the first, a and an unlisted "extra" in the second.
void put_shards(const TempFolder& folder, const std::string& weight_map) {
  put(folder / "m-1.safetensors", one_tensor("b", 1));
  put(folder / "m-2.safetensors",
      safetensors_bytes(R"({"a":{"dtype":"U8","shape":[1],"data_offsets":[0,1]},)"
                        R"("extra":{"dtype":"U8","shape":[1],"data_offsets":[1,2]}})",
                        {2, 3}));
  put(folder / "model.safetensors.index.json",
      R"({"metadata":{"total_size":3,"nested":[{"x":null}]},"weight_map":)" + weight_map + "}");
}
const char* const kGoodMap = R"({"b":"m-1.safetensors","a":"m-2.safetensors"})";

fs::path shared_data() {
  const char* const set = std::getenv("FP4LAB_DATA");
  return set ? fs::path(set) : fs::path(FP4LAB_SOURCE_DIR) / "../shared/data";
}
int64_t resident_bytes() {
  const std::string text = get("/proc/self/statm");
  return std::stoll(text.substr(text.find(' '))) * ::sysconf(_SC_PAGESIZE);
}
}  // namespace

TEST_CASE("tensor file: a folder with one file, and lookups in it", "[core][io][tensor_file]") {
  const TempFolder folder;
  put(folder / "model.safetensors", one_tensor("layers.0.weight", 5));
  TensorFile file = TensorFile::open(folder.path().string());
  CHECK(file.paths() == std::vector<std::string>{folder / "model.safetensors"});
  CHECK(file.find("layers.0.weigh") == nullptr);
  CHECK(file.find("layers.0.weight ") == nullptr);
  REQUIRE(file.find("layers.0.weight") != nullptr);
  CHECK(message_of<DataError>([&] { file.at("layers.0.weigth"); }) ==
        folder.path().string() +
            ": no tensor \"layers.0.weigth\"; did you mean \"layers.0.weight\"? It holds 1: layers.0.weight");
  TensorFile moved = std::move(file);
  CHECK(moved.bytes(moved.at("layers.0.weight"))[0] == std::byte(5));
  put(folder / "other.safetensors", one_tensor("x", 6));
  moved = TensorFile::open(folder / "other.safetensors");
  CHECK(moved.bytes(moved.at("x"))[0] == std::byte(6));
  TensorInfo forged = moved.at("x");
  forged.bytes += 1;
  CHECK_THROWS_AS(moved.bytes(forged), Fault);
  CHECK_THROWS_AS(moved.release(forged), Fault);
}

TEST_CASE("tensor file: shards, with the index as the judge", "[core][io][tensor_file]") {
  const TempFolder folder;
  put_shards(folder, kGoodMap);
  for (const std::string& path : {folder.path().string(), folder / "model.safetensors.index.json"}) {
    const TensorFile file = TensorFile::open(path);
    CHECK(file.paths() == std::vector<std::string>{folder / "m-1.safetensors", folder / "m-2.safetensors"});
    REQUIRE(file.tensors().size() == 2);
    CHECK(file.tensors()[0].name == "a");
    CHECK(file.path_of(file.at("a")) == (folder / "m-2.safetensors"));
    CHECK(file.bytes(file.at("a"))[0] == std::byte(2));
    CHECK(file.bytes(file.at("b"))[0] == std::byte(1));
    CHECK(file.find("extra") == nullptr);
  }
  // One file beside an index: the file.
  put(folder / "model.safetensors", one_tensor("single", 9));
  CHECK(TensorFile::open(folder.path().string()).tensors()[0].name == "single");
}

TEST_CASE("tensor file: shards behind links, as download caches keep them", "[core][io][tensor_file]") {
  const TempFolder folder;
  fs::create_directory(folder / "blobs");
  fs::create_directory(folder / "snapshot");
  put(folder / "blobs/1234", one_tensor("a", 7));
  fs::create_symlink("../blobs/1234", folder / "snapshot/model.safetensors");
  const TensorFile file = TensorFile::open(folder / "snapshot");
  CHECK(file.bytes(file.at("a"))[0] == std::byte(7));
}

TEST_CASE("tensor file: indexes that are refused", "[core][io][tensor_file]") {
  struct Case {
    const char* what;
    std::string weight_map, message;
  };
  const char* const plain = " is not the plain name of a file in the same folder";
  const std::vector<Case> cases = {
      {"a file outside", R"({"a":"../m-2.safetensors"})",
       R"(index is wrong: weight_map "a": "../m-2.safetensors")" + std::string(plain)},
      {"an absolute path", R"({"a":"/etc/passwd"})", R"("/etc/passwd")" + std::string(plain)},
      {"a subfolder", R"({"a":"sub/m.safetensors"})", plain},
      {"a backslash", R"({"a":"sub\\m.safetensors"})", plain},
      {"two dots", R"({"a":".."})", plain},
      {"one dot", R"({"a":"."})", plain},
      {"no name", R"({"a":""})", plain},
      {"a NUL", R"({"a":"m-2.safetensors\u0000"})", plain},
      {"a control character", R"({"a":"m\u001b.safetensors"})",
       R"("m\u001b.safetensors")" + std::string(plain)},
      {"a long name", R"({"a":")" + std::string(256, 'n') + R"("})", plain},
      {"a missing file", R"({"a":"m-3.safetensors"})",
       "m-3.safetensors: cannot open: No such file or directory"},
      {"a tensor in the other file", R"({"a":"m-1.safetensors"})",
       R"(m-1.safetensors: holds no tensor "a", but )"},
      {"a number", R"({"a":2})", R"(weight_map "a": expected a file name, found a number)"},
      {"null", R"({"a":null})", "expected a file name, found null"},
      {"an object", R"({"a":{}})", "expected a file name, found an object"},
      {"an array", R"({"a":["m-2.safetensors"]})", "expected a file name, found an array"},
      {"a tensor twice", R"({"a":"m-2.safetensors","\u0061":"m-2.safetensors"})",
       R"(weight_map "a" is there twice)"},
      {"the map is an array", "[]", "weight_map: expected an object, found an array"},
      {"the map is text", R"("x")", "weight_map: expected an object, found a string"},
      {"the map twice", R"({},"weight_map":{})", R"(index is wrong: "weight_map" is there twice)"},
      {"cut", R"({"a":)", "index is not JSON: parse error"},
      {"not UTF-8", "{\"\xff\":\"m-1.safetensors\"}", "index is not JSON: parse error"},
      {"nested", R"({},"x":[[[[[[[[[[[[[[[[0]]]]]]]]]]]]]]]])", "index is wrong: nested more than 16 deep"},
  };
  for (const Case& c : cases) DYNAMIC_SECTION(c.what) {
      const TempFolder folder;
      put_shards(folder, c.weight_map);
      const std::string message = open_error(folder.path().string());
      CAPTURE(message);
      CHECK(message.starts_with(folder.path().string() + "/m"));
      CHECK(has(message, c.message));
    }
}

TEST_CASE("tensor file: index files that are none", "[core][io][tensor_file]") {
  const TempFolder folder;
  const std::string path = folder / "model.safetensors.index.json";
  const auto error_for = [&](const std::string& bytes) { return open_error(put(path, bytes)); };
  CHECK(open_error(folder.path().string()) ==
        folder.path().string() + ": the folder has no model.safetensors and no model.safetensors.index.json");
  CHECK(error_for("") == path + ": is empty (0 bytes)");
  CHECK(error_for("{}") == path + ": index is wrong: no weight_map");
  CHECK(error_for("[]") == path + ": index is wrong: expected an object, found an array");
  CHECK(error_for("3") == path + ": index is wrong: expected an object, found a number");
  CHECK(error_for(R"({"metadata":{"weight_map":{"a":"b"}}})") == path + ": index is wrong: no weight_map");
  CHECK(has(error_for(std::string(100000, '[')), "index is wrong: expected an object, found an array"));
  CHECK(error_for(std::string("{\"weight_map\":{}}\0", 18)) ==
        path + ": index is not JSON: it holds a NUL byte");
  CHECK(has(error_for("\xEF\xBB\xBF{\"weight_map\":{}}"), "it begins with a byte order mark"));
  CHECK(error_for("{\"weight_map\":{}}").find("(nothing thrown)") == 0);  // an empty model, but a valid index
  put(path, R"({"weight_map":{"a":"shard"}})");
  fs::create_directory(folder / "shard");
  CHECK(open_error(path) == (folder / "shard") + ": is a folder; expected a file");
  fs::remove(path);
  fs::create_directory(path);
  CHECK(has(open_error(folder.path().string()), "index.json: is a folder; expected a file"));
}

TEST_CASE("tensor file: a file cut while it is open is an error, not a crash", "[core][io][tensor_file]") {
  const TempFolder folder;
  put(folder / "a.safetensors", one_tensor("t", 1));
  const TensorFile file = TensorFile::open(folder / "a.safetensors");
  const auto size = fs::file_size(folder / "a.safetensors");
  fs::resize_file(folder / "a.safetensors", size - 1);
  CHECK(message_of<DataError>([&] { file.bytes(file.at("t")); }) ==
        (folder / "a.safetensors") + ": became shorter while open: " + std::to_string(size - 1) +
            " bytes, was " + std::to_string(size));
  CHECK_THROWS_AS(load_matrix(file, file.at("t")), DataError);
}

TEST_CASE("tensor file: release gives pages back, and they can be read again", "[core][io][tensor_file]") {
  constexpr int64_t kBytes = 32 << 20;
  const TempFolder folder;
  const std::vector<std::byte> data(kBytes, std::byte(1));
  const TensorToWrite tensor{"t", DType::U8, {kBytes}, data};
  write_safetensors(folder / "a.safetensors", {&tensor, 1});
  const TensorFile file = TensorFile::open(folder / "a.safetensors");
  const auto sum = [&] {
    int64_t total = 0;
    for (std::byte b : file.bytes(file.at("t"))) total += int64_t(b);
    return total;
  };
  const int64_t before = resident_bytes();
  CHECK(sum() == kBytes);
  const int64_t read = resident_bytes();
  file.release(file.at("t"));
  const int64_t released = resident_bytes();
  CHECK(read - before > kBytes * 3 / 4);
  CHECK(released - before < kBytes / 4);
  CHECK(sum() == kBytes);
}

TEST_CASE("tensor file: the model that ships", "[core][io][tensor_file]") {
  const TensorFile file = TensorFile::open(FP4LAB_SOURCE_DIR "/experiments/data/tiny-llama");
  CHECK(file.tensors().size() == 56);
  const TensorInfo& t = file.at("model.embed_tokens.weight");
  CHECK(t.dtype == DType::BF16);
  CHECK(t.shape == std::vector<int64_t>{8192, 256});
  const Matrix m = load_matrix(file, t);  // values read from the file with Python's struct
  CHECK(m(0, 0) == 0.0150146484375f);
  CHECK(m(0, 1) == 0.043212890625f);
  CHECK(m(8191, 255) == 0.107421875f);
  int64_t bytes = 0;
  for (const TensorInfo& each : file.tensors()) bytes += each.bytes;
  CHECK(bytes == 13644224 - 8 - 6072);
}

TEST_CASE("tensor file: a model in six shards", "[core][io][tensor_file]") {
  const fs::path folder = shared_data() / "models/small";
  if (!fs::exists(folder)) FP4LAB_SKIP("no " + folder.string() + "; set FP4LAB_DATA");
  const TensorFile file = TensorFile::open(folder.string());
  CHECK(file.paths().size() == 6);
  CHECK(file.tensors().size() == 83);
  const TensorInfo& t = file.at("model.layers.0.mlp.down_proj.weight");
  CHECK(fs::path(file.path_of(t)).filename() == "model-00002-of-00006.safetensors");
  const Matrix m = load_matrix(file, t);
  CHECK(m.rows() == 512);
  CHECK(m.cols() == 1536);
  CHECK(m(0, 0) == -0.048095703125f);
  CHECK(m(0, 1000) == 0.0098876953125f);
  int64_t bytes = 0;
  for (const TensorInfo& each : file.tensors()) bytes += each.bytes;
  CHECK(bytes == 65031168);  // total_size of its index
}
