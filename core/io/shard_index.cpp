// model.safetensors.index.json: {"metadata": anything, "weight_map": {tensor: file name, ...}}
#include <algorithm>
#include <unordered_set>

#include "core/io/strict_sax.h"
#include "core/io/tensor_header.h"

namespace fp4lab {

namespace {
/// A file in the index's own folder, whatever the text: no path, nothing that a terminal would obey.
bool is_plain_name(std::string_view name) {
  if (name.empty() || name == "." || name == ".." || name.size() > 255) return false;
  return std::none_of(name.begin(), name.end(),
                      [](char c) { return c == '/' || c == '\\' || (c >= 0 && c < ' '); });
}

/// Reads "weight_map" at the top; whatever else stands there is passed over, to a depth of 16.
class IndexReader final : public StrictSax {
 public:
  explicit IndexReader(const std::string& path) : StrictSax(path + ": index") {}

  std::vector<std::pair<std::string, std::string>> weight_map;

  void check_complete() const {
    if (!top_keys_.contains("weight_map")) fail("is wrong: no weight_map");
  }

 private:
  int depth_ = 0;
  std::string top_, tensor_;
  std::unordered_set<std::string> top_keys_, tensors_;

  void scalar(const char* what) override {
    if (depth_ == 0 || (depth_ == 1 && top_ == "weight_map"))
      fail("is wrong: ", top_, depth_ ? ": " : "", "expected an object, found ", what);
    if (top_ == "weight_map")
      fail("is wrong: weight_map ", quote_name(tensor_), ": expected a file name, found ", what);
  }

  bool start_object(size_t) override {
    if (top_ == "weight_map" && depth_ == 2) scalar("an object");
    if (++depth_ > 16) fail("is wrong: nested more than 16 deep");
    return true;
  }
  bool end_object() override { return --depth_, true; }
  bool start_array(size_t) override {
    scalar("an array");
    if (++depth_ > 16) fail("is wrong: nested more than 16 deep");
    return true;
  }
  bool end_array() override { return --depth_, true; }

  bool key(std::string& key) override {
    if (depth_ == 1) {
      if (!top_keys_.insert(key).second) fail("is wrong: ", quote_name(key), " is there twice");
      top_ = key;
    } else if (depth_ == 2 && top_ == "weight_map") {
      if (!tensors_.insert(key).second) fail("is wrong: weight_map ", quote_name(key), " is there twice");
      tensor_ = key;
    }
    return true;
  }

  bool string(std::string& text) override {
    if (top_ != "weight_map" || depth_ != 2) return scalar("a string"), true;
    if (!is_plain_name(text))
      fail("is wrong: weight_map ", quote_name(tensor_), ": ", quote_name(text),
           " is not the plain name of a file in the same folder");
    weight_map.emplace_back(tensor_, text);
    return true;
  }
};
}  // namespace

std::vector<std::pair<std::string, std::string>> parse_shard_index(const std::string& path,
                                                                   std::string_view text) {
  if (int64_t(text.size()) > kMaxHeaderBytes)
    throw DataError(str(path, ": index of ", text.size(), " bytes; at most ", kMaxHeaderBytes));
  IndexReader reader(path);
  reader.parse(text);
  reader.check_complete();
  return std::move(reader.weight_map);
}

}  // namespace fp4lab
