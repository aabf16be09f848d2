// methods/transforms/transform.h - transforms as values, and what they become for a site: a LinearMap that
// cancels in X W^T (SPEC section 4).
//   "hadamard"
//   {"type": "hadamard", "k": 128, "randomize": true}
//   ["smooth", {"type": "hadamard", "k": 128}]          applied from left to right; [] is none
#pragma once
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "core/linear_map.h"
#include "core/params.h"
#include "formats/format.h"
#include "methods/site_stats.h"

namespace fp4lab {

/// Values of TransformSpec::k beside a number of channels.
inline constexpr int64_t kGroupSize = 0;   // the format's group
inline constexpr int64_t kFullWidth = -1;  // every channel: "full"
inline constexpr int64_t kHeads = -2;      // across the heads of the input of `o`, head_dim apart: "heads"

struct TransformSpec {
  enum Kind : uint8_t {
    hadamard,
    gsr,
    dct,
    dst,
    random_orthogonal,
    permute,
    smooth,
    awq,
    wush,
    osfp4
  } kind = hadamard;
  int64_t k = kGroupSize;  // channels per block
  bool randomize = false;
  double alpha = 0.6;       // smooth
  int steps = 0;            // awq: grid points; osfp4: steps of the optimizer
  double damping = 0.01;    // wush, osfp4: fraction of the mean of diag H
  std::string by = "mass";  // permute: what the channels are ordered by

  bool operator==(const TransformSpec&) const = default;
};

/// What the transforms of one site are fitted for.
struct TransformFit {
  int64_t channels = 0;                     // K
  int64_t group_size = 0;                   // elements per scale, 0: the whole row
  int64_t head_dim = 0;                     // of the model, where the site is the input of `o`; 0 otherwise
  uint64_t seed = 1, index = 0;             // of the stream that random numbers come from
  const FormatSpec* weights = nullptr;      // null: they stay in full precision
  const FormatSpec* activations = nullptr;  // the same of the inputs
};

/// What one transform of a list sees: the site in the coordinates that the earlier ones left it in.
struct TransformInput {
  TransformFit fit;
  int position;               // in the list
  MatrixView<const float> W;  // (N, K); empty for transforms that need no data
  const SiteStats* stats;     // what the transform's `needs` ask for; null for those that need none.
                              // amax and mean_abs are those of the sample once an earlier transform moved it
};

/// One kind: its name, one line, and what it does. `read` reads its keys beside "type"; `write` adds them to
/// the canonical JSON; `problem` says why it cannot serve a site ("" when it can; fit.channels and group_size
/// are known); `fit` appends its factors to the map.
struct TransformEntry {
  TransformSpec::Kind kind;
  std::string_view name, description;
  StatsNeeds needs;  // nothing: it is known before any data is seen
  TransformSpec (*read)(Params& p);
  void (*write)(const TransformSpec& spec, Json& object);
  std::string (*problem)(const TransformSpec& spec, const TransformFit& fit);
  void (*fit)(const TransformSpec& spec, const TransformInput& input, LinearMap& map);
  StatsNeeds (*needs_by_key)(const TransformSpec& spec) = nullptr;  // beside `needs`, where the keys decide
};
/// Every transform, in the order the docs show them.
std::span<const TransformEntry> transforms();
const TransformEntry& entry_of(TransformSpec::Kind kind);
/// A transform with the defaults that its reader gives its keys.
TransformSpec default_transform(TransformSpec::Kind kind);
std::vector<std::string> transform_names();

/// A list may hold this many: each draws its signs from bits of its own.
inline constexpr int kMaxTransforms = 16;

/// A name, an object, or a list of them. ConfigError with the place.
std::vector<TransformSpec> parse_transforms(const Json& value, const Place& place);
/// The canonical JSON: always a list of objects with every key; parse_transforms reads it back.
Json transforms_json(const std::vector<TransformSpec>& specs);
/// The keys of one transform's object, for `fp4lab list transforms NAME` and the schema.
void declare_transform(std::string_view name, Params& p);

/// Why this transform cannot serve such a site, and what could; or "".
std::string transform_problem(const TransformSpec& spec, const TransformFit& fit);
/// What a list has to see of the inputs: with several transforms also what keeps the later ones' data true.
StatsNeeds needs_of(const std::vector<TransformSpec>& specs);
bool draws_random_numbers(const TransformSpec& spec);

/// The map of a list of transforms, which have no problem. Each is fitted on W, H and the sample as the
/// earlier ones left them; on return W is W T and the stats are those of X T^-T (amax and mean_abs: of the
/// sample, empty without one). `stats` may be null when the list needs none. Random numbers depend on (seed,
/// index, place in the list, channel) alone.
LinearMap fit_transforms(const std::vector<TransformSpec>& specs, const TransformFit& fit,
                         MatrixView<float> W, SiteStats* stats);
/// The same for a list that needs no data; nothing is moved.
LinearMap fit_transforms(const std::vector<TransformSpec>& specs, const TransformFit& fit);

}  // namespace fp4lab
