// Checkpoint folders in the making: whole or not at all; and the reading back that finds a flipped bit.
#include "experiments/export/checkpoint_folder.h"

#include <sys/wait.h>
#include <unistd.h>

#include "core/errors.h"
#include "core/io/files.h"
#include "experiments/export/read_back.h"
#include "formats/registry.h"
#include "tests/catch.h"
#include "tests/core/io/temp_folder.h"
#include "tests/experiments/quantized_folder.h"

using namespace fp4lab;
using namespace fp4lab::test;
namespace fs = std::filesystem;

namespace {

CheckpointFolder::Tensor tensor(const std::string& name, size_t bytes) {
  return {name, DType::U8, {int64_t(bytes)}, Bytes(bytes, uint8_t(bytes))};
}
std::string refusal(const std::string& path, bool force) {
  return message_of<DataError>([&] { CheckpointFolder(path, force, 1000); });
}
size_t entries(const fs::path& folder) {
  return size_t(std::distance(fs::directory_iterator(folder), fs::directory_iterator()));
}

}  // namespace

TEST_CASE("checkpoint folder: shards, index, and nothing before the end", "[experiments][export]") {
  const TempFolder parent;
  const std::string path = parent / "new";
  {
    CheckpointFolder folder(path, false, 100);
    std::vector<size_t> on_disk;
    folder.written = [&](const std::string& file) {
      on_disk.push_back(TensorFile::open(file).tensors().size());
    };
    folder.add({tensor("a", 60), tensor("b", 30)});
    folder.add({tensor("c", 10)});  // fits exactly
    folder.add({tensor("d", 1)});
    folder.add({tensor("e", 300)});  // alone, above the limit
    folder.finish_tensors();
    folder.write_text("config.json", "{}");
    CHECK(on_disk == std::vector<size_t>{3, 1, 1});
    CHECK_FALSE(fs::exists(path));
    folder.publish();
    CHECK(folder.shards() == 3);
    CHECK(folder.bytes() == 401);
  }
  CHECK(entries(parent.path()) == 1);
  CHECK(entries(path) == 5);
  const TensorFile all = TensorFile::open(path);
  CHECK(all.tensors().size() == 5);
  CHECK(all.path_of(all.at("e")) == path + "/model-00003-of-00003.safetensors");
  const Json index = parse_json_file(path + "/model.safetensors.index.json");
  CHECK(index["metadata"]["total_size"] == 401);
  CHECK(index["weight_map"]["c"] == "model-00001-of-00003.safetensors");
}

TEST_CASE("checkpoint folder: what is there stays, but for --force", "[experiments][export]") {
  const TempFolder parent;
  const std::string path = parent / "old";
  fs::create_directory(path);
  put(fs::path(path) / "config.json", "old");
  put(parent / "file", "");
  fs::create_directory(parent / "home");
  put(parent / "home/letter", "dear");
  CHECK(has(refusal(path, false), "exists already; --force replaces it"));
  CHECK(has(refusal(parent / "file", true), "is not a folder"));
  CHECK(has(refusal(parent / "home", true), "without a config.json"));
  CHECK(has(refusal(parent / "no/new", false), "there is no folder"));
  CHECK(has(refusal(".", true), "not a name"));
  const auto write = [&](bool publish) {
    CheckpointFolder folder(path, true, 100);
    folder.add({tensor("a", 3)});
    folder.finish_tensors();
    folder.write_text("config.json", "new");
    if (publish) folder.publish();
  };
  write(false);  // given up before the end
  CHECK(read_file(path + "/config.json") == "old");
  CHECK(entries(parent.path()) == 3);
  write(true);
  CHECK(read_file(path + "/config.json") == "new");
  CHECK(entries(parent.path()) == 3);
}

TEST_CASE("checkpoint folder: what dead processes left is removed", "[experiments][export]") {
  const TempFolder parent;
  const pid_t child = ::fork();
  if (child == 0) ::_exit(0);
  ::waitpid(child, nullptr, 0);
  const std::string dead = parent / str(".new.", child, ".tmp"),
                    alive = parent / str(".new.", ::getppid(), ".tmp"),
                    other = parent / str(".newer.", child, ".tmp");
  for (const std::string& folder : {dead, alive, other}) {
    fs::create_directory(folder);
    put(fs::path(folder) / "part-0.safetensors", "x");
  }
  { CheckpointFolder folder(parent / "new", false, 100); }
  CHECK_FALSE(fs::exists(dead));
  CHECK(fs::exists(alive));
  CHECK(fs::exists(other));
}

TEST_CASE("read back: a flipped bit of codes or scales is found", "[experiments][export]") {
  FormatSpec even = mxfp4_with(ScaleRule::even), paper = mxfp4_with(ScaleRule::fpq);
  FormatSpec integers = find_format("int4-peer")->spec;
  const std::vector<Scheme> schemes = {{Layout::nvfp4_pack_quantized, kNvfp4, {}},
                                       {Layout::mxfp4_pack_quantized, even, {}},
                                       {Layout::pack_quantized, integers, {}},
                                       {Layout::fp_quant, paper, paper},
                                       {Layout::modelopt_nvfp4, kNvfp4, {}}};
  const std::string linear = "model.layers.0.self_attn.o_proj";
  for (const Scheme& scheme : schemes) {
    INFO(name(scheme.layout));
    const QuantizedFolder made(scheme);
    const auto compare = [&](const QuantizedFolder& written) {
      const TempFolder folder;
      const std::string file = written.write(folder) + "/model.safetensors";
      ReadBack check(scheme);
      check.expect({linear, std::make_shared<const QuantizedMatrix>(made.quantized.at(linear)), 0, 64});
      return message_of<DataError>([&] { check.compare(file), check.all_compared(); });
    };
    CHECK(compare(made) == "(nothing thrown)");
    for (const std::string_view suffix : suffixes(scheme.layout)) {
      const std::string name = linear + "." + std::string(suffix);
      if (!made.tensors.contains(name) || suffix == "weight_shape" || has(name, "matrix") ||
          suffix == "act_global_scale")
        continue;
      QuantizedFolder flipped = made;
      // Two ulps of a global scale; the lowest bit of the middle byte of everything else.
      std::string& bytes = flipped.tensors[name].bytes;
      if (has(name, "global_scale") || suffix == "weight_scale_2")
        bytes[0] = char(bytes[0] ^ 8);
      else
        bytes[bytes.size() / 2] = char(bytes[bytes.size() / 2] ^ 1);
      INFO(name);
      CHECK(has(compare(flipped), linear + " reads back otherwise than it was written"));
    }
    ReadBack check(scheme);
    check.expect({linear, std::make_shared<const QuantizedMatrix>(made.quantized.at(linear)), 0, 64});
    CHECK(has(message_of<DataError>([&] { check.all_compared(); }), "were not written"));
  }
}
