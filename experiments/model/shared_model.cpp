#include "experiments/model/shared_model.h"

#include <unistd.h>

#include <algorithm>
#include <filesystem>
#include <nlohmann/json.hpp>

#include "experiments/sources/file_source.h"
#include "kernels/forward/forward.h"

namespace fp4lab {

namespace {

/// What `open` throws, with the place of what named the file.
template <class Open>
auto at_place(const Place& place, const Open& open) {
  try {
    return open();
  } catch (const DataError& e) {
    throw DataError(place.text() + ": " + e.what());
  }
}

struct WindowKeys {
  std::vector<std::string> corpora;
  WindowChoice choice;
};

void read_window_keys(Params& p, int64_t default_windows, KeyDoc windows, WindowKeys& keys) {
  keys.choice.windows = p.integer("windows", default_windows, windows);
  keys.choice.length = p.integer("length", 2048, {"tokens per window", 2, 0x1p24});
  keys.choice.offset = p.integer("offset", 0, {"windows left out from the start", 0, 0x1p40});
}

WindowKeys read_calibration_keys(Params& p) {
  WindowKeys keys;
  keys.corpora = {
      p.text("corpus", {"token ids, a .safetensors or .npy file, relative to the sweep's folder"})};
  read_window_keys(p, 128, {"how many", 1, 0x1p40}, keys);
  keys.choice.random =
      p.choice("sample", "random", {"random", "first"}, {"drawn by the seed, or the first ones"}) == "random";
  return keys;
}

WindowKeys read_evaluation_keys(Params& p) {
  WindowKeys keys;
  keys.corpora =
      p.texts("corpora", {}, {"token ids, .safetensors or .npy files, relative to the sweep's folder"});
  read_window_keys(p, 0, {"how many, from the start; 0: all", 0, 0x1p40}, keys);
  return keys;
}

ChosenWindows cut(const std::string& text, const WindowKeys& keys, std::string_view key, const Params& p,
                  const SourceContext& context, ModelCache& cache, const ModelConfig& config) {
  if (keys.choice.length > config.max_positions)
    throw DataError(str(p.place("length").text(), ": windows of ", keys.choice.length,
                        " tokens are longer than the model's context of ", config.max_positions));
  const std::string path = path_of_key(p, key, text, context);
  const auto corpus = cache.corpus(path, p.place(key), context);
  WindowChoice choice = keys.choice;
  choice.seed = context.seed;
  ChosenWindows out;
  out.name = std::filesystem::path(path).stem().string();
  out.hash = corpus->hash;
  out.tokens = at_place(p.place(key), [&] { return corpus->corpus.cut(choice, config.vocab_size); });
  Json resolved = {{"corpus", corpus->hash},
                   {"windows", out.tokens.windows},
                   {"length", choice.length},
                   {"offset", choice.offset},
                   {"sample", choice.random ? "random" : "first"}};
  if (choice.random) resolved["seed"] = choice.seed;
  out.resolved = resolved.dump();
  out.seeded = choice.random;
  return out;
}

}  // namespace

std::shared_ptr<const Matrix> MatrixCache::get(const std::string& key, const std::function<Matrix()>& make) {
  if (const auto at = entries_.find(key); at != entries_.end()) {
    at->second.used = ++clock_;
    return at->second.matrix;
  }
  auto made = std::make_shared<const Matrix>(make());
  const auto bytes = [](const Matrix& m) { return m.size() * int64_t(sizeof(float)); };
  if (bytes(*made) > limit_) return made;
  while (held_ + bytes(*made) > limit_) {
    const auto oldest = std::min_element(entries_.begin(), entries_.end(), [](const auto& a, const auto& b) {
      return a.second.used < b.second.used;
    });
    held_ -= bytes(*oldest->second.matrix);
    entries_.erase(oldest);
  }
  held_ += bytes(*made);
  entries_[key] = {made, ++clock_};
  return made;
}

ModelCache::ModelCache()
    : hidden_(
          std::make_shared<MatrixCache>(int64_t(::sysconf(_SC_PHYS_PAGES)) * ::sysconf(_SC_PAGESIZE) / 8)) {}

double weights_of_block(const ModelConfig& config) {
  double weights = 0;
  for (int l = 0; l < kLinears; ++l) {
    const auto [out, in] = linear_shape(config, Linear(l));
    weights += double(out) * double(in);
  }
  return weights;
}

WalkCost walk_cost(const ModelConfig& c, double tokens, double length) {
  const double heads = double(c.heads * c.head_dim), weights = weights_of_block(c);
  const double chunk = double(default_chunk(*make_cpu_ops(), int64_t(length))) * length;
  return {2 * tokens * double(c.layers) * (weights + heads * length) / kNominalRate,
          tokens * double(c.hidden_size) * 4, weights * 4,
          chunk * 4 * (3 * double(c.hidden_size) + 5 * std::max(double(c.intermediate_size), heads))};
}

ModelPaths read_model_paths(Params& p) {
  ModelPaths paths;
  paths.path =
      p.text("path", {"a checkpoint folder (config.json and safetensors), relative to the sweep's folder"});
  paths.quantized = p.text("quantized", "",
                           {"the same model quantized, a folder that `fp4lab export` or another tool wrote: "
                            "\"format\": \"stored\""});
  return paths;
}

namespace {

/// Both are the same model, so far as shapes say.
void check_same_model(const Params& p, const ModelWeights& original, const ModelWeights& quantized) {
  const ModelConfig &a = original.config(), &b = quantized.config();
  if (a.architecture != b.architecture || a.layers != b.layers || a.hidden_size != b.hidden_size ||
      a.intermediate_size != b.intermediate_size || a.heads != b.heads || a.kv_heads != b.kv_heads ||
      a.head_dim != b.head_dim || a.vocab_size != b.vocab_size)
    p.fail("quantized", str(quantized.path(), " is another model than ", original.path(),
                            ": architecture or sizes differ"));
}

}  // namespace

std::shared_ptr<const SharedModel> ModelCache::model(const Json& object, const Place& place,
                                                     const SourceContext& context, Json& resolved) {
  Params p(object, place, "a model");
  const ModelPaths paths = read_model_paths(p);
  p.done();
  const std::string path = path_of_key(p, "path", paths.path, context);
  std::shared_ptr<const SharedModel>& model = models_[path];
  if (!model)
    model = at_place(p.place("path"), [&] {
      const auto weights = open_model(path);
      return std::make_shared<const SharedModel>(SharedModel{
          weights, std::dynamic_pointer_cast<const StoredModel>(weights), context.content_hash(path)});
    });
  resolved = {{"path", model->hash}};
  if (paths.quantized.empty()) return model;
  const std::string other = path_of_key(p, "quantized", paths.quantized, context);
  std::shared_ptr<const SharedModel>& both = models_[path + "\n" + other];
  if (!both)
    both = at_place(p.place("quantized"), [&] {
      const auto stored = std::make_shared<const StoredModel>(StoredModel::open(other));
      check_same_model(p, *model->weights, *stored);
      return std::make_shared<const SharedModel>(SharedModel{model->weights, stored, model->hash});
    });
  resolved["quantized"] = context.content_hash(other);
  return both;
}

std::shared_ptr<const SharedCorpus> ModelCache::corpus(const std::string& path, const Place& place,
                                                       const SourceContext& context) {
  std::shared_ptr<const SharedCorpus>& corpus = corpora_[path];
  if (!corpus)
    corpus = at_place(place, [&] {
      return std::make_shared<const SharedCorpus>(
          SharedCorpus{Corpus::open(path), context.content_hash(path)});
    });
  return corpus;
}

void declare_calibration(Params& p) { read_calibration_keys(p); }
void declare_evaluation(Params& p) { read_evaluation_keys(p); }

ChosenWindows read_calibration(const Json& object, const Place& place, const SourceContext& context,
                               ModelCache& cache, const ModelConfig& config) {
  Params p(object, place, "a calibration");
  const WindowKeys keys = read_calibration_keys(p);
  p.done();
  return cut(keys.corpora[0], keys, "corpus", p, context, cache, config);
}

std::vector<ChosenWindows> read_evaluation(const Json& object, const Place& place,
                                           const SourceContext& context, ModelCache& cache,
                                           const ModelConfig& config) {
  Params p(object, place, "an evaluation");
  const WindowKeys keys = read_evaluation_keys(p);
  p.done();
  if (keys.corpora.empty()) p.fail("corpora", "missing key \"corpora\": the token files to evaluate on");
  std::vector<ChosenWindows> out;
  for (const std::string& text : keys.corpora) {
    out.push_back(cut(text, keys, "corpora", p, context, cache, config));
    for (size_t i = 0; i + 1 < out.size(); ++i)
      if (out[i].name == out.back().name)
        p.fail("corpora",
               str("two corpora are named \"", out[i].name, "\"; their columns would be the same"));
  }
  return out;
}

}  // namespace fp4lab
