#include "core/io/tensor_file.h"

#include <algorithm>
#include <filesystem>
#include <map>

#include "core/io/mapped_file.h"
#include "core/io/tensor_header.h"
#include "core/text.h"

namespace fp4lab {

struct TensorFile::State {
  std::string path;                // as given to open
  std::vector<std::string> paths;  // one per mapping
  std::vector<MappedFile> maps;
  std::vector<TensorInfo> tensors;  // by name

  /// Maps one more file. Its tensors are the caller's to parse.
  std::span<const std::byte> map(const std::string& file) {
    maps.emplace_back(file);
    paths.push_back(file);
    return maps.back().bytes();
  }
  const MappedFile& mapping(const TensorInfo& t) const {
    FP4LAB_CHECK(t.file >= 0 && size_t(t.file) < maps.size(), "file ", t.file, " of ", maps.size());
    const int64_t size = int64_t(maps[size_t(t.file)].bytes().size());
    FP4LAB_CHECK(t.offset >= 0 && t.bytes >= 0 && t.offset <= size && t.bytes <= size - t.offset, t.offset,
                 " + ", t.bytes, " in ", size, " bytes");
    return maps[size_t(t.file)];
  }
  void open_index(const std::filesystem::path& index);
};

/// The index decides: a tensor that a shard holds but the index does not name is not part of the model.
void TensorFile::State::open_index(const std::filesystem::path& index) {
  const MappedFile file(index.string());
  const std::string_view text(reinterpret_cast<const char*>(file.bytes().data()), file.bytes().size());
  std::map<std::string, std::vector<std::string>> wanted;  // file -> tensors; shards in name order
  for (auto& [tensor, shard] : parse_shard_index(index.string(), text)) wanted[shard].push_back(tensor);
  for (const auto& [shard, names] : wanted) {
    const std::string shard_path = (index.parent_path() / shard).string();
    std::map<std::string, TensorInfo> held;
    for (TensorInfo& t : parse_safetensors(shard_path, map(shard_path))) held.emplace(t.name, std::move(t));
    for (const std::string& name : names) {
      auto found = held.extract(name);
      if (found.empty())
        throw DataError(
            str(shard_path, ": holds no tensor ", quote_name(name), ", but ", index.string(), " says so"));
      found.mapped().file = int(maps.size()) - 1;
      tensors.push_back(std::move(found.mapped()));
    }
  }
}

TensorFile TensorFile::open(const std::string& path) {
  namespace fs = std::filesystem;
  auto state = std::make_unique<State>();
  state->path = path;
  fs::path file(path);
  std::error_code error;
  if (fs::is_directory(file, error)) {
    // One file first, as the libraries that write these folders do.
    const fs::path single = file / "model.safetensors", index = file / "model.safetensors.index.json";
    if (!fs::exists(single, error) && !fs::exists(index, error))
      throw DataError(path + ": the folder has no model.safetensors and no model.safetensors.index.json");
    file = fs::exists(single, error) ? single : index;
  }
  const std::string name = file.filename().string();
  if (name.ends_with(".safetensors.index.json"))
    state->open_index(file);
  else if (name.ends_with(".safetensors"))
    state->tensors = parse_safetensors(file.string(), state->map(file.string()));
  else if (name.ends_with(".npy"))
    state->tensors.push_back(parse_npy(file.string(), file.stem().string(), state->map(file.string())));
  else
    throw DataError(path + (fs::exists(file, error) ? ": unknown kind of file" : ": no such file or folder") +
                    "; expected .safetensors, .safetensors.index.json, .npy, or a folder of a checkpoint");
  std::sort(state->tensors.begin(), state->tensors.end(),
            [](const TensorInfo& a, const TensorInfo& b) { return a.name < b.name; });
  return TensorFile(std::move(state));
}

TensorFile::TensorFile(std::unique_ptr<State> state) : state_(std::move(state)) {}
TensorFile::TensorFile(TensorFile&&) noexcept = default;
TensorFile& TensorFile::operator=(TensorFile&&) noexcept = default;
TensorFile::~TensorFile() = default;

const std::vector<TensorInfo>& TensorFile::tensors() const { return state_->tensors; }
const std::vector<std::string>& TensorFile::paths() const { return state_->paths; }

const TensorInfo* TensorFile::find(std::string_view name) const {
  const auto& all = state_->tensors;
  const auto it = std::lower_bound(all.begin(), all.end(), name,
                                   [](const TensorInfo& t, std::string_view n) { return t.name < n; });
  return it != all.end() && it->name == name ? &*it : nullptr;
}

const TensorInfo& TensorFile::at(std::string_view name) const {
  if (const TensorInfo* t = find(name)) return *t;
  std::vector<std::string> known;
  for (const TensorInfo& t : tensors())
    if (t.name.size() <= 200) known.push_back(t.name);  // the distance costs length times length
  const std::string near = nearest_name(name, known);
  known.resize(std::min<size_t>(known.size(), 5));
  throw DataError(str(state_->path, ": no tensor ", quote_name(name),
                      near.empty() ? "" : "; did you mean " + quote_name(near) + "?", " It holds ",
                      tensors().size(), known.empty() ? "" : ": " + join(known),
                      known.size() < tensors().size() ? ", ..." : ""));
}

std::span<const std::byte> TensorFile::bytes(const TensorInfo& t) const {
  const MappedFile& map = state_->mapping(t);
  map.check_not_truncated();
  return map.bytes().subspan(size_t(t.offset), size_t(t.bytes));
}

void TensorFile::release(const TensorInfo& t) const { state_->mapping(t).release(t.offset, t.bytes); }

}  // namespace fp4lab
