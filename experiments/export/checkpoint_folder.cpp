#include "experiments/export/checkpoint_folder.h"

#include <fcntl.h>
#include <signal.h>
#include <unistd.h>

#include <cerrno>
#include <charconv>
#include <cstdio>
#include <filesystem>
#include <nlohmann/json.hpp>
#include <system_error>

#include "core/errors.h"
#include "core/io/files.h"

namespace fp4lab {

namespace fs = std::filesystem;

namespace {

constexpr const char* kCompanions[] = {"tokenizer.json",
                                       "tokenizer_config.json",
                                       "tokenizer.model",
                                       "special_tokens_map.json",
                                       "vocab.json",
                                       "merges.txt",
                                       "added_tokens.json",
                                       "chat_template.jinja",
                                       "vocab.txt",
                                       "chat_template.json",
                                       "generation_config.json"};

[[noreturn]] void fail(const std::string& path, const char* what, int error) {
  throw DataError(str(path, ": ", what, ": ", std::generic_category().message(error)));
}

/// Folders of this name that dead processes left.
void sweep(const fs::path& parent, const std::string& stem) {
  std::error_code ignored;
  for (const auto& entry : fs::directory_iterator(parent, ignored)) {
    const std::string name = entry.path().filename().string();
    if (!name.starts_with(stem) || !name.ends_with(".tmp")) continue;
    int pid = 0;
    const char *begin = name.data() + stem.size(), *end = name.data() + name.size() - 4;
    if (const auto read = std::from_chars(begin, end, pid); read.ec != std::errc() || read.ptr != end)
      continue;
    if (::kill(pid, 0) != 0 && errno == ESRCH) fs::remove_all(entry.path(), ignored);
  }
}

void sync_folder(const std::string& folder) {
  const int fd = ::open(folder.c_str(), O_RDONLY | O_DIRECTORY | O_CLOEXEC);
  if (fd < 0) return;
  ::fsync(fd);
  ::close(fd);
}

std::string shard_name(size_t i, size_t of) {
  char name[48];
  std::snprintf(name, sizeof name, "model-%05zu-of-%05zu.safetensors", i + 1, of);
  return name;
}

}  // namespace

CheckpointFolder::CheckpointFolder(const std::string& path, bool force, int64_t max_shard_bytes)
    : path_(fs::path(path).lexically_normal().string()), max_shard_bytes_(max_shard_bytes) {
  while (path_.size() > 1 && path_.ends_with('/')) path_.pop_back();
  std::error_code ignored;
  const fs::path parent = fs::path(path_).has_parent_path() ? fs::path(path_).parent_path() : fs::path(".");
  const std::string name = fs::path(path_).filename().string();
  if (name.empty() || name == "." || name == "..") throw DataError(path + ": not a name for a new folder");
  const fs::file_status status = fs::symlink_status(path_, ignored);
  if (fs::exists(status)) {
    if (!force) throw DataError(path_ + ": exists already; --force replaces it");
    if (!fs::is_directory(status)) throw DataError(path_ + ": is not a folder; it is not replaced");
    // --force is for checkpoints; a home folder named by mistake is not one.
    if (!fs::is_empty(path_, ignored) && !fs::exists(fs::path(path_) / "config.json", ignored))
      throw DataError(path_ + ": is a folder without a config.json, which is not replaced");
  }
  if (!fs::is_directory(parent, ignored))
    throw DataError(str(path_, ": there is no folder ", parent.string()));
  const std::string stem = "." + name + ".";
  sweep(parent, stem);
  temporary_ = (parent / str(stem, ::getpid(), ".tmp")).string();
  fs::remove_all(temporary_, ignored);
  std::error_code error;
  if (!fs::create_directory(temporary_, error)) fail(temporary_, "cannot create", error.value());
}

CheckpointFolder::~CheckpointFolder() {
  std::error_code ignored;
  if (!published_) fs::remove_all(temporary_, ignored);
}

void CheckpointFolder::add(std::vector<Tensor> unit) {
  int64_t size = 0;
  for (const Tensor& t : unit) size += int64_t(t.view.data() ? t.view.size() : t.bytes.size());
  if (!pending_.empty() && pending_bytes_ + size > max_shard_bytes_) close_shard();
  for (Tensor& t : unit) pending_.push_back(std::move(t));
  pending_bytes_ += size, total_ += size;
}

void CheckpointFolder::close_shard() {
  std::vector<TensorToWrite> tensors;
  std::vector<std::string> names;
  for (const Tensor& t : pending_) {
    tensors.push_back({t.name, t.dtype, t.shape, t.view.data() ? t.view : std::as_bytes(std::span(t.bytes))});
    names.push_back(t.name);
  }
  const std::string file = temporary_ + "/" + str("part-", shards_.size(), ".safetensors");
  write_safetensors(file, tensors, {{"format", "pt"}});
  shards_.push_back(std::move(names));
  pending_.clear();
  pending_bytes_ = 0;
  if (written) written(file);
}

void CheckpointFolder::finish_tensors() {
  if (!pending_.empty()) close_shard();
  nlohmann::json map = nlohmann::json::object();
  for (size_t i = 0; i < shards_.size(); ++i) {
    const std::string name = shards_.size() == 1 ? "model.safetensors" : shard_name(i, shards_.size());
    for (const std::string& tensor : shards_[i]) map[tensor] = name;
    std::error_code error;
    fs::rename(temporary_ + "/" + str("part-", i, ".safetensors"), temporary_ + "/" + name, error);
    if (error) fail(temporary_ + "/" + name, "cannot rename", error.value());
  }
  if (shards_.size() > 1)
    write_text("model.safetensors.index.json",
               nlohmann::json{{"metadata", {{"total_size", total_}}}, {"weight_map", map}}.dump(2) + "\n");
}

void CheckpointFolder::copy_companions(const std::string& from) {
  for (const char* name : kCompanions) {
    const std::string file = (fs::path(from) / name).string();
    std::error_code ignored;
    if (fs::is_regular_file(file, ignored)) write_text(name, read_file(file));
  }
}

void CheckpointFolder::write_text(const std::string& name, const std::string& text) {
  write_file_atomic(temporary_ + "/" + name, text);
}

void CheckpointFolder::publish() {
  sync_folder(temporary_);
  std::error_code ignored;
  if (fs::exists(fs::symlink_status(path_, ignored))) {
    // Exchanged at once, so that the name is never without a checkpoint; where the file system cannot, aside.
    if (::renameat2(AT_FDCWD, temporary_.c_str(), AT_FDCWD, path_.c_str(), RENAME_EXCHANGE) != 0) {
      const std::string aside = temporary_ + ".old";
      if (::rename(path_.c_str(), aside.c_str()) != 0) fail(path_, "cannot rename", errno);
      if (::rename(temporary_.c_str(), path_.c_str()) != 0) {
        const int error = errno;
        ::rename(aside.c_str(), path_.c_str());
        fail(path_, "cannot rename", error);
      }
      fs::rename(aside, temporary_, ignored);
    }
    published_ = true;
    fs::remove_all(temporary_, ignored);
  } else {
    if (::renameat2(AT_FDCWD, temporary_.c_str(), AT_FDCWD, path_.c_str(), RENAME_NOREPLACE) != 0 &&
        (errno == EEXIST || ::rename(temporary_.c_str(), path_.c_str()) != 0))
      fail(path_, "cannot rename", errno);
    published_ = true;
  }
  sync_folder(fs::path(path_).has_parent_path() ? fs::path(path_).parent_path().string() : ".");
}

}  // namespace fp4lab
