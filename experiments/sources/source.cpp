#include "experiments/sources/source.h"

#include <algorithm>
#include <cstdlib>
#include <filesystem>
#include <nlohmann/json.hpp>

#include "core/text.h"
#include "experiments/sources/file_source.h"
#include "experiments/sources/synthetic.h"

namespace fp4lab {

namespace fs = std::filesystem;

namespace {

/// "../shared/data" seen from the source tree: this file lies two folders below its root.
std::string default_data() {
  const fs::path root = fs::path(__FILE__).parent_path().parent_path().parent_path();
  return (root.parent_path() / "shared" / "data").string();
}

std::string variable(const std::string& name) {
  if (const char* value = std::getenv(name.c_str())) return value;
  if (name == "FP4LAB_DATA") return default_data();
  throw ConfigError(str("the environment has no variable \"", name, "\""));
}

}  // namespace

const std::vector<SourceKind>& source_kinds() {
  static const std::vector<SourceKind> kinds = {
      {"checkpoint", "tensors of a folder or file, by default the weights of a model's linears",
       &make_checkpoint_source},
      {"weights", "tensors of the sweep's model", &make_weights_source},
      {"activations", "what flows into a model's linears", &make_activation_source},
      {"file", "tensors of a .npy or .safetensors file", &make_file_source},
      {"synthetic", "random numbers of a named distribution", &make_synthetic_source},
  };
  return kinds;
}

std::unique_ptr<Source> open_source(const Json& object, const Place& place, const SourceContext& context,
                                    Json& resolved) {
  Params p(object, place, "a source");
  std::vector<std::string> known, found;
  const SourceKind* chosen = nullptr;
  for (const SourceKind& kind : source_kinds()) {
    known.emplace_back(kind.key);
    if (!p.has(kind.key)) continue;
    found.emplace_back(kind.key);
    chosen = &kind;
  }
  if (found.empty())
    throw ConfigError(
        str(place.text(), ": a source has one of the keys ", join(known), "; found ", describe(object)));
  if (found.size() > 1)
    throw ConfigError(str(place.text(), ": a source is one thing, but this one has ", join(found, " and ")));
  std::unique_ptr<Source> source = chosen->make(p, context);
  resolved = p.resolved();
  return source;
}

std::string expand_path(const std::string& path, const std::string& base_dir) {
  std::string text;
  for (size_t at = 0; at < path.size();) {
    const size_t begin = path.find("${", at);
    if (begin == std::string::npos) {
      text += path.substr(at);
      break;
    }
    const size_t end = path.find('}', begin);
    if (end == std::string::npos)
      throw ConfigError(str("path \"", path, "\" has a \"${\" without its \"}\""));
    text += path.substr(at, begin - at);
    text += variable(path.substr(begin + 2, end - begin - 2));
    at = end + 1;
  }
  if (text.empty()) throw ConfigError("the path is empty");
  return (fs::path(base_dir) / text).lexically_normal().string();  // an absolute `text` replaces base_dir
}

}  // namespace fp4lab
