// experiments/sources/source.h - where tensors come from: a checkpoint, a file, or a distribution.
//   A source is opened at resolve: names and shapes are known then, data is loaded one tensor at a time when
//   the cell runs.
#pragma once
#include <functional>
#include <memory>
#include <string>
#include <vector>

#include "core/io/spill.h"
#include "core/matrix.h"
#include "core/params.h"

namespace fp4lab {

struct SourceTensor {
  std::string name;  // "model.layers.0.mlp.up_proj.weight"; "normal" for a synthetic one
  int64_t rows, cols;
};

class Source {
 public:
  virtual ~Source() = default;
  virtual const std::vector<SourceTensor>& tensors() const = 0;
  /// Tensor i as float32. DataError naming file, tensor and place for NaN or Inf.
  virtual Matrix load(size_t i) const = 0;
  /// What the first load costs beyond reading: seconds on one core, bytes at a time.
  struct Cost {
    double seconds = 0, bytes = 0;
  };
  virtual Cost cost() const { return {}; }
};

class ModelCache;

/// What a source needs from the sweep around it.
struct SourceContext {
  std::string base_dir;  // paths in the sweep are relative to its file's folder
  uint64_t seed = 0;
  /// Content hash of a file or checkpoint folder, remembered by (path, size, mtime).
  std::function<std::string(const std::string& path)> content_hash = {};
  /// For captured activations: the cell's keys "model" and "calibration" (null when absent) and where they
  /// stand, the models of this run, and the folder for what is gathered from them.
  const Json* model = nullptr;
  const Json* calibration = nullptr;
  Place model_place = {}, calibration_place = {};
  ModelCache* models = nullptr;
  std::string cache_dir = {};
  SpillPolicy spill = {};  // of hidden states on the way
};

/// One kind of source: the key that selects it ("checkpoint", "file", "synthetic"), one line, and its
/// factory. The factory reads the whole source object, calls done(), and leaves in `resolved()` what the
/// tensors depend on: paths are replaced by content hashes.
struct SourceKind {
  std::string_view key, description;
  std::unique_ptr<Source> (*make)(Params& p, const SourceContext& context);
};
const std::vector<SourceKind>& source_kinds();

/// Opens the source that `object` describes. ConfigError when no kind's key, or more than one, is present;
/// DataError for missing or broken files; patterns that match nothing are ConfigErrors listing some tensor
/// names. `resolved` receives the canonical form.
std::unique_ptr<Source> open_source(const Json& object, const Place& place, const SourceContext& context,
                                    Json& resolved);

/// `path` against `base_dir`, after `${VAR}` is replaced from the environment (FP4LAB_DATA defaults to
/// "../shared/data" seen from the source tree). ConfigError for a variable that is not set.
std::string expand_path(const std::string& path, const std::string& base_dir);

}  // namespace fp4lab
