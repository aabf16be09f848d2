#include "experiments/content_hash.h"

#include <sys/stat.h>

#include <cerrno>
#include <cstring>
#include <filesystem>
#include <nlohmann/json.hpp>
#include <set>

#include "core/errors.h"
#include "core/hash.h"
#include "core/io/files.h"
#include "core/io/tensor_file.h"
#include "experiments/export/stored_model.h"

namespace fp4lab {

namespace fs = std::filesystem;

ContentHashes::ContentHashes(std::string cache_file) : cache_file_(std::move(cache_file)) {
  if (cache_file_.empty() || !fs::exists(cache_file_)) return;
  try {
    const nlohmann::json all = nlohmann::json::parse(read_file(cache_file_));
    for (const auto& [path, entry] : all.items())
      entries_[path] = {entry.at("size").get<int64_t>(), entry.at("mtime_ns").get<int64_t>(),
                        entry.at("sha256").get<std::string>()};
  } catch (const std::exception&) {
    entries_.clear();
  }
}

std::string ContentHashes::of_file(const std::string& path) {
  struct stat s;
  if (::stat(path.c_str(), &s) != 0) throw DataError(path + ": cannot open: " + std::strerror(errno));
  const std::string key = fs::weakly_canonical(path).string();
  const int64_t size = s.st_size, mtime = int64_t(s.st_mtim.tv_sec) * 1000000000 + s.st_mtim.tv_nsec;
  const auto known = entries_.find(key);
  if (known != entries_.end() && known->second.size == size && known->second.mtime_ns == mtime)
    return known->second.hash;
  const std::string hash = sha256_file(path);
  entries_[key] = {size, mtime, hash};
  changed_ = true;
  return hash;
}

std::string ContentHashes::of(const std::string& path) {
  const bool folder = fs::is_directory(path);
  if (!folder && !path.ends_with(".json")) return of_file(path);
  // A checkpoint: the files its tensors come from, whatever they are called, with its index and its config.
  const fs::path dir = folder ? fs::path(path) : fs::path(path).parent_path();
  std::set<std::string> files;
  const TensorFile tensors = TensorFile::open(path);
  files.insert(tensors.paths().begin(), tensors.paths().end());
  if (!folder) files.insert(path);
  for (const char* name :
       {"config.json", "hf_quant_config.json", kScalesFile, "model.safetensors.index.json"})
    if (fs::exists(dir / name)) files.insert((dir / name).string());
  std::map<std::string, std::string> by_name;  // where the folder lies is not content
  for (const std::string& file : files) by_name[fs::path(file).filename().string()] = of_file(file);
  Sha256 hash;
  for (const auto& [name, content] : by_name) hash.update(name).update("\n").update(content).update("\n");
  return hash.hex();
}

void ContentHashes::save() {
  if (!changed_ || cache_file_.empty()) return;
  nlohmann::json all = nlohmann::json::object();
  for (const auto& [path, e] : entries_)
    all[path] = {{"size", e.size}, {"mtime_ns", e.mtime_ns}, {"sha256", e.hash}};
  try {
    fs::create_directories(fs::path(cache_file_).parent_path());
    write_file_atomic(cache_file_, all.dump(1));
    changed_ = false;
  } catch (const std::exception&) {
  }
}

}  // namespace fp4lab
