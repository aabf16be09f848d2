// The `file` source, and what it shares with `checkpoint`: tensors of an open file, chosen by patterns.
#include <algorithm>
#include <filesystem>
#include <nlohmann/json.hpp>

#include "core/text.h"
#include "experiments/sources/file_source.h"

namespace fp4lab {

namespace {

bool is_digit(char c) { return c >= '0' && c <= '9'; }

/// The run of digits at the front, taken off `text`, without its leading zeros.
std::string_view take_number(std::string_view& text) {
  size_t n = 0;
  while (n < text.size() && is_digit(text[n])) ++n;
  std::string_view number = text.substr(0, n);
  text.remove_prefix(n);
  while (number.size() > 1 && number.front() == '0') number.remove_prefix(1);
  return number;
}

SourceTensor described(const TensorInfo& t) {
  const int64_t cols = t.shape.empty() ? 1 : t.shape.back();
  return {t.name, t.shape.size() == 2 ? t.shape[0] : 1, cols};
}

class TensorFileSource : public Source {
 public:
  TensorFileSource(TensorFile file, const std::vector<const TensorInfo*>& chosen) : file_(std::move(file)) {
    for (const TensorInfo* t : chosen) {
      infos_.push_back(*t);
      tensors_.push_back(described(*t));
    }
  }
  const std::vector<SourceTensor>& tensors() const override { return tensors_; }
  Matrix load(size_t i) const override { return load_matrix(file_, infos_.at(i)); }

 private:
  TensorFile file_;
  std::vector<TensorInfo> infos_;
  std::vector<SourceTensor> tensors_;
};

/// The first names, in natural order, for a message.
std::string some_names(const TensorFile& file) {
  std::vector<std::string> names;
  for (const TensorInfo& t : file.tensors()) names.push_back(t.name);
  std::sort(names.begin(), names.end(), natural_less);
  constexpr size_t kShown = 8;
  const size_t all = names.size();
  if (all > kShown) names.resize(kShown);
  return join(names) + (all > kShown ? str(", ... (", all, " in all)") : "");
}

}  // namespace

bool natural_less(std::string_view a, std::string_view b) {
  const std::string_view whole_a = a, whole_b = b;
  while (!a.empty() && !b.empty()) {
    if (is_digit(a.front()) && is_digit(b.front())) {
      const std::string_view x = take_number(a), y = take_number(b);
      if (x.size() != y.size()) return x.size() < y.size();
      if (x != y) return x < y;
    } else {
      if (a.front() != b.front()) return uint8_t(a.front()) < uint8_t(b.front());
      a.remove_prefix(1), b.remove_prefix(1);
    }
  }
  if (a.empty() != b.empty()) return a.empty();
  return whole_a < whole_b;  // they differ in leading zeros at most
}

bool pattern_matches(std::string_view pattern, std::string_view tensor_name) {
  constexpr std::string_view kPrefix = "model.", kSuffix = ".weight";
  const bool prefix = tensor_name.starts_with(kPrefix), suffix = tensor_name.ends_with(kSuffix);
  for (const bool cut_front : {false, true})
    for (const bool cut_back : {false, true}) {
      if ((cut_front && !prefix) || (cut_back && !suffix)) continue;
      std::string_view name = tensor_name;
      if (cut_front) name.remove_prefix(kPrefix.size());
      if (cut_back && name.size() >= kSuffix.size()) name.remove_suffix(kSuffix.size());
      if (glob_match(pattern, name)) return true;
    }
  return false;
}

std::vector<const TensorInfo*> matched_tensors(const TensorFile& file, const std::string& path,
                                               std::span<const std::string> patterns, const Params& p,
                                               std::string_view key) {
  std::vector<const TensorInfo*> chosen;
  for (const std::string& pattern : patterns) {
    const size_t before = chosen.size();
    bool found = false;
    for (const TensorInfo& t : file.tensors()) {
      if (!pattern_matches(pattern, t.name)) continue;
      found = true;
      if (std::find(chosen.begin(), chosen.begin() + int64_t(before), &t) == chosen.begin() + int64_t(before))
        chosen.push_back(&t);
    }
    if (!found)
      p.fail(key, str("no tensor of ", path, " matches \"", pattern, "\"; it holds ", some_names(file)));
  }
  std::sort(chosen.begin(), chosen.end(),
            [](const TensorInfo* a, const TensorInfo* b) { return natural_less(a->name, b->name); });
  for (const TensorInfo* t : chosen) {
    if (t->shape.size() <= 2 && t->elements > 0) continue;
    std::string shape;
    for (const int64_t n : t->shape) shape += (shape.empty() ? "" : ", ") + std::to_string(n);
    throw DataError(str(file.path_of(*t), ": tensor \"", t->name, "\" has shape (", shape,
                        "); expected a matrix or a vector with elements; \"", key,
                        "\" chooses which are read"));
  }
  return chosen;
}

std::string path_of_key(const Params& p, std::string_view key, const std::string& text,
                        const SourceContext& context) {
  try {
    return expand_path(text, context.base_dir);
  } catch (const ConfigError& e) {
    p.fail(key, e.what());
  }
}

TensorFile open_at_key(const Params& p, std::string_view key, const std::string& path) {
  try {
    return TensorFile::open(path);
  } catch (const DataError& e) {
    throw DataError(p.place(key).text() + ": " + e.what());
  }
}

std::unique_ptr<Source> make_tensor_file_source(TensorFile file,
                                                const std::vector<const TensorInfo*>& chosen) {
  return std::make_unique<TensorFileSource>(std::move(file), chosen);
}

std::unique_ptr<Source> make_file_source(Params& p, const SourceContext& context) {
  const std::string text = p.text("file", {"a .npy or .safetensors file, relative to the sweep's folder"});
  const std::vector<std::string> patterns =
      p.texts("tensors", {"*"}, {"patterns of tensor names; \"model.\" and \".weight\" may be left out"});
  p.done();
  if (p.is_declaring()) return nullptr;
  const std::string path = path_of_key(p, "file", text, context);
  if (std::filesystem::is_directory(path))
    p.fail("file", str(path, " is a folder; a folder with a model is {\"checkpoint\": path}"));
  TensorFile file = open_at_key(p, "file", path);
  const auto chosen = matched_tensors(file, path, patterns, p);
  p.set_resolved("file", context.content_hash(path));
  std::vector<std::string> names;
  for (const TensorInfo* t : chosen) names.push_back(t->name);
  p.set_resolved("tensors", names);
  // The one tensor of a .npy is named after the file, which is not content.
  if (path.ends_with(".npy")) p.drop_resolved("tensors");
  return make_tensor_file_source(std::move(file), chosen);
}

}  // namespace fp4lab
