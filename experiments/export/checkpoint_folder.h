// experiments/export/checkpoint_folder.h - a checkpoint folder in the making: written beside its final name,
// then there as a whole, or not at all.
#pragma once
#include <functional>
#include <span>
#include <string>
#include <utility>
#include <vector>

#include "core/buffer.h"
#include "core/io/tensor_file.h"

namespace fp4lab {

class CheckpointFolder {
 public:
  /// Makes ".<name>.<pid>.tmp" beside `path`; what dead processes left there is removed. DataError when
  /// `path` exists and `force` is off (with `force`, when it is anything but a folder), when its parent is no
  /// folder or cannot be written. A shard is closed before it would pass `max_shard_bytes`; a linear's
  /// tensors stay together.
  CheckpointFolder(const std::string& path, bool force, int64_t max_shard_bytes);
  CheckpointFolder(const CheckpointFolder&) = delete;
  CheckpointFolder& operator=(const CheckpointFolder&) = delete;
  /// Removes it unless it was published.
  ~CheckpointFolder();

  struct Tensor {
    std::string name;
    DType dtype;
    std::vector<int64_t> shape;
    Bytes bytes;                           // its own
    std::span<const std::byte> view = {};  // or somebody's, until the folder is published
  };
  /// Tensors that belong together. Memory: a shard.
  void add(std::vector<Tensor> unit);
  /// Called with every shard's file when it is on the disk, to read it back.
  std::function<void(const std::string& file)> written;

  /// Copies the tokenizer's files and generation_config.json, those that are there.
  void copy_companions(const std::string& from);
  /// Closes the last shard; names shards model-00001-of-0000N.safetensors and writes their index, or calls
  /// the only one model.safetensors.
  void finish_tensors();
  void write_text(const std::string& name, const std::string& text);
  /// Where it is now.
  const std::string& folder() const { return temporary_; }
  /// Durable, then under its name; an older folder is replaced at once and then removed.
  void publish();

  int64_t shards() const { return int64_t(shards_.size()); }
  int64_t bytes() const { return total_; }

 private:
  void close_shard();
  std::string path_, temporary_;
  bool published_ = false;
  int64_t max_shard_bytes_, pending_bytes_ = 0, total_ = 0;
  std::vector<Tensor> pending_;
  std::vector<std::vector<std::string>> shards_;  // names of the tensors
};

}  // namespace fp4lab
