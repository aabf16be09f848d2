// experiments/tasks/tensor_input.h - what the tasks over tensors have in common: the keys that say where
// tensors come from, and the transform that each is measured under.
//   A tensor X is taken as X T. Tensors alone have no inputs, so T is one that needs none; the fitted ones
//   that would move activations otherwise (X T^-T) are refused.
#pragma once
#include <memory>
#include <string_view>
#include <vector>

#include "experiments/task.h"
#include "methods/transforms/site_transforms.h"

namespace fp4lab {

/// The keys seed, source, model and calibration.
class TensorInput {
 public:
  TensorInput() = default;
  /// Reads the keys; they are not looked at before `open`.
  explicit TensorInput(Params& p);
  /// ConfigError when there is no source.
  void require(const Params& p) const;
  /// Opens the source, once every key was read. ConfigError for keys that it does not read.
  void open(Params& p, const TaskContext& context);
  /// Leaves in the resolved form what the tensors depend on. The seed stays when the source drew from it, or
  /// `draws` says that the task does.
  void resolve(Params& p, bool draws) const;

  const Source& source() const { return *opened_.source; }
  const std::vector<SourceTensor>& tensors() const { return source().tensors(); }
  uint64_t seed() const { return seed_; }

 private:
  const Json* source_ = nullptr;
  const Json* model_ = nullptr;
  const Json* calibration_ = nullptr;
  SourceCache::Opened opened_{};
  uint64_t seed_ = 1;
};

/// The transforms of a tensor: its site's, or, without a site of its own, the one list there is.
const std::vector<TransformSpec>& transforms_of(const SiteTransforms& transforms, const SourceTensor& t);
/// What tensor `index` of a source is fitted for; `weights` may be null. group_size as in a format.
TransformFit fit_of_tensor(const SourceTensor& t, size_t index, uint64_t seed, int group_size,
                           const FormatSpec* weights);
/// ConfigError at `key` for transforms that cannot serve the tensor.
void check_tensor_transforms(const Params& p, std::string_view key, const SiteTransforms& transforms,
                             const SourceTensor& t, const TransformFit& fit);

/// The key `transform`: null, a name, an object (which may carry a "label"), a list, or an object by site.
/// ConfigError for what looks at data. The resolved form is left in p.
SiteTransforms read_transform(Params& p, const Json& value);

/// Tensor `index` of the source as X T. DataError when that overflows float32.
Matrix load_transformed(const Source& source, size_t index, const std::vector<TransformSpec>& transforms,
                        const TransformFit& fit);

}  // namespace fp4lab
