// experiments/model/shared_model.h - models and corpora opened once for all the cells that name them, and
// what cells of one process share while they run.
#pragma once
#include <functional>
#include <map>
#include <memory>
#include <string>

#include "core/model/model_weights.h"
#include "experiments/corpus.h"
#include "experiments/export/stored_model.h"
#include "experiments/sources/source.h"

namespace fp4lab {

struct SharedModel {
  std::shared_ptr<const ModelWeights> weights;  // in full precision; a quantized checkpoint's are dequantized
  std::shared_ptr<const StoredModel> stored;    // what `"format": "stored"` means; null without one
  std::string hash;                             // of `weights`
};

struct SharedCorpus {
  Corpus corpus;
  std::string hash;
};

/// Windows of a corpus that a cell reads, and what they are made from.
struct ChosenWindows {
  std::string name;  // of the corpus: its file's stem
  std::string hash;  // of its file
  TokenWindows tokens;
  std::string
      resolved;  // JSON: hash, windows, length, offset, sample, seed: the same choice gives the same JSON
  bool seeded = false;  // drawn by the seed
};

/// Matrices that several cells need, the latest few: made again when they were let go.
class MatrixCache {
 public:
  explicit MatrixCache(int64_t limit_bytes) : limit_(limit_bytes) {}
  std::shared_ptr<const Matrix> get(const std::string& key, const std::function<Matrix()>& make);
  bool holds(const std::string& key) const { return entries_.contains(key); }

 private:
  int64_t limit_, held_ = 0, clock_ = 0;
  struct Entry {
    std::shared_ptr<const Matrix> matrix;
    int64_t used;
  };
  std::map<std::string, Entry> entries_;
};

class ModelCache {
 public:
  ModelCache();
  /// {"path": folder} under the key "model", with {"quantized": folder} the same model as somebody quantized
  /// it; leaves the content hashes in `resolved`. ConfigError for keys,
  /// DataError for the checkpoint, both with the place.
  std::shared_ptr<const SharedModel> model(const Json& object, const Place& place,
                                           const SourceContext& context, Json& resolved);
  /// A corpus by its path.
  std::shared_ptr<const SharedCorpus> corpus(const std::string& path, const Place& place,
                                             const SourceContext& context);
  /// Hidden states of full-precision models over evaluation windows: up to an eighth of the machine's memory.
  const std::shared_ptr<MatrixCache>& hidden() const { return hidden_; }

 private:
  std::map<std::string, std::shared_ptr<const SharedModel>> models_;
  std::map<std::string, std::shared_ptr<const SharedCorpus>> corpora_;
  std::shared_ptr<MatrixCache> hidden_;
};

/// Multiply-adds and other operations per second and core that estimates of time assume.
inline constexpr double kNominalRate = 100e9;

/// What running a model in full precision over windows costs, in seconds on one core and in bytes at a time.
struct WalkCost {
  double seconds;
  double states;     // the hidden states of all windows
  double block;      // one block's weights in float32
  double workspace;  // of one chunk of windows
};
WalkCost walk_cost(const ModelConfig& config, double tokens, double length);
/// Weights of one block's linears.
double weights_of_block(const ModelConfig& config);

/// Keys of {"path": ..., "quantized": ...}.
struct ModelPaths {
  std::string path, quantized;
};
ModelPaths read_model_paths(Params& p);

/// {"corpus": path, "windows": n, "length": L, "sample": "random" | "first", "offset": n}: the calibration.
ChosenWindows read_calibration(const Json& object, const Place& place, const SourceContext& context,
                               ModelCache& cache, const ModelConfig& config);
void declare_calibration(Params& p);

/// {"corpora": paths, "windows": n, "length": L, "offset": n}: what a model is evaluated on.
std::vector<ChosenWindows> read_evaluation(const Json& object, const Place& place,
                                           const SourceContext& context, ModelCache& cache,
                                           const ModelConfig& config);
void declare_evaluation(Params& p);

}  // namespace fp4lab
