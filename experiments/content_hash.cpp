#include "experiments/content_hash.h"

#include <sys/stat.h>

#include <algorithm>
#include <cerrno>
#include <cstring>
#include <filesystem>
#include <nlohmann/json.hpp>
#include <vector>

#include "core/errors.h"
#include "core/hash.h"
#include "core/io/files.h"

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
  if (!fs::is_directory(path)) return of_file(path);
  std::vector<std::string> names;
  for (const auto& entry : fs::directory_iterator(path)) {
    const std::string name = entry.path().filename().string();
    // Files beside the weights (tokens, goldens) are not the model.
    const bool weights = name.starts_with("model") && name.ends_with(".safetensors");
    if (weights || name == "config.json" || name == "model.safetensors.index.json") names.push_back(name);
  }
  std::sort(names.begin(), names.end());
  Sha256 hash;
  for (const std::string& name : names)
    hash.update(name).update("\n").update(of_file((fs::path(path) / name).string())).update("\n");
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
