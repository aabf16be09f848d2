#include <cstring>
#include <nlohmann/json.hpp>
#include <unordered_set>

#include "core/io/temporary_file.h"
#include "core/io/tensor_header.h"

namespace fp4lab {

namespace {
/// As JSON. DataError when the text is not UTF-8.
std::string json_text(const std::string& path, const std::string& text) {
  try {
    return nlohmann::json(text).dump();
  } catch (const nlohmann::json::exception&) {
    throw DataError(path + ": cannot write the name or metadata " + quote_name(text) + ": it is not UTF-8");
  }
}

std::string header_of(const std::string& path, std::span<const TensorToWrite> tensors,
                      const std::vector<std::pair<std::string, std::string>>& metadata) {
  std::string header = "{";
  const auto item = [&](const std::string& key) -> std::string& {
    if (header.back() != '{') header += ',';
    return header.append(json_text(path, key)).append(":");
  };
  std::unordered_set<std::string> seen;
  if (!metadata.empty()) {
    item("__metadata__") += '{';
    for (const auto& [key, value] : metadata) {
      FP4LAB_CHECK(seen.insert(key).second, "metadata ", key, " twice");
      item(key) += json_text(path, value);
    }
    header += '}';
  }
  seen = {"__metadata__"};
  int64_t offset = 0;
  for (const TensorToWrite& t : tensors) {
    const std::optional<TensorSize> size = size_of(t.shape, t.dtype);
    FP4LAB_CHECK(size && size->bytes == int64_t(t.bytes.size()), t.name, " ", shape_text(t.shape), " with ",
                 t.bytes.size(), " bytes");
    FP4LAB_CHECK(seen.insert(t.name).second, t.name, " twice");
    std::string& out = item(t.name);
    out.append("{\"dtype\":\"").append(name(t.dtype)).append("\",\"shape\":[");
    for (size_t i = 0; i < t.shape.size(); ++i) out.append(i ? "," : "").append(std::to_string(t.shape[i]));
    out += str("],\"data_offsets\":[", offset, ",", offset + size->bytes, "]}");
    offset += size->bytes;
  }
  header += '}';
  header.resize((header.size() + 7) / 8 * 8, ' ');  // so that the data begins at a multiple of 8
  return header;
}
}  // namespace

void write_safetensors(const std::string& path, std::span<const TensorToWrite> tensors,
                       const std::vector<std::pair<std::string, std::string>>& metadata) {
  const std::string header = header_of(path, tensors, metadata);
  if (int64_t(header.size()) > kMaxHeaderBytes)
    throw DataError(str(path, ": header of ", header.size(), " bytes; readers accept ", kMaxHeaderBytes));
  char length[8];
  const uint64_t n = header.size();
  std::memcpy(length, &n, 8);
  TemporaryFile file(path);
  file.write({length, 8});
  file.write(header);
  for (const TensorToWrite& t : tensors)
    file.write({reinterpret_cast<const char*>(t.bytes.data()), t.bytes.size()});
  file.publish();
}

}  // namespace fp4lab
