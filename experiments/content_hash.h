// experiments/content_hash.h - what a file holds, as a SHA-256, without reading it again when it has not
// changed.
#pragma once
#include <map>
#include <string>

namespace fp4lab {

class ContentHashes {
 public:
  /// Remembers hashes in `cache_file` (JSON: path, size, mtime, hash); "" keeps them in memory only. A cache
  /// that cannot be read is started anew; it is only ever a saving of time.
  explicit ContentHashes(std::string cache_file);
  /// Hash of a file, or of a checkpoint (its folder or its index): the files its tensors come from, its index
  /// its config.json, and what else belongs to a quantized one (hf_quant_config.json, exact tensor scales),
  /// by name. DataError when something cannot be read.
  std::string of(const std::string& path);
  /// Writes the cache if it changed; failing to is no error.
  void save();

 private:
  std::string of_file(const std::string& path);
  struct Entry {
    int64_t size, mtime_ns;
    std::string hash;
  };
  std::string cache_file_;
  std::map<std::string, Entry> entries_;
  bool changed_ = false;
};

}  // namespace fp4lab
