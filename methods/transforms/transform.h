// methods/transforms/transform.h - transforms as values, and what they become for a matrix of so many
// channels: a LinearMap that cancels in X W^T (SPEC section 4).
//   "hadamard"
//   {"type": "hadamard", "k": 128, "randomize": true}
//   ["hadamard", {"type": "hadamard", "k": 128}]        applied from left to right; [] is none
#pragma once
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "core/linear_map.h"
#include "core/params.h"

namespace fp4lab {

struct TransformSpec {
  enum Kind : uint8_t { hadamard } kind = hadamard;
  int64_t k = 0;  // channels per block, a power of two from 2; 0: the format's group
  bool randomize = false;

  bool operator==(const TransformSpec&) const = default;
};

/// What one transform of a list is fitted for.
struct TransformFit {
  int64_t channels, group_size;  // K; elements per scale, 0: the whole row
  uint64_t seed, index;          // of the stream that random signs come from
  int position;                  // in the list
};

/// One kind: its name, one line, and what it does. `read` reads its keys beside "type"; `write` adds them to
/// the canonical JSON; `problem` and `fit` are transform_problem and one step of fit_transforms.
struct TransformEntry {
  std::string_view name, description;
  TransformSpec (*read)(Params& p);
  void (*write)(const TransformSpec& spec, Json& object);
  std::string (*problem)(const TransformSpec& spec, int64_t channels, int64_t group_size);
  void (*fit)(const TransformSpec& spec, const TransformFit& fit, LinearMap& map);
};
/// Every transform in the order of TransformSpec::Kind.
std::span<const TransformEntry> transforms();
std::vector<std::string> transform_names();

/// A list may hold this many: each draws its signs from bits of its own.
inline constexpr int kMaxTransforms = 16;

/// A name, an object, or a list of them. ConfigError with the place.
std::vector<TransformSpec> parse_transforms(const Json& value, const Place& place);
/// The canonical JSON: always a list of objects with every key; parse_transforms reads it back.
Json transforms_json(const std::vector<TransformSpec>& specs);
/// The keys of one transform's object, for `fp4lab list transforms NAME` and the schema.
void declare_transform(std::string_view name, Params& p);

/// Why this transform cannot serve `channels` under a format's group of `group_size` (0: the whole row), and
/// what could; or "".
std::string transform_problem(const TransformSpec& spec, int64_t channels, int64_t group_size);

/// The map of a list of transforms, which have no problem. Random signs depend on (seed, index, place in the
/// list, channel) alone.
LinearMap fit_transforms(const std::vector<TransformSpec>& specs, int64_t channels, int64_t group_size,
                         uint64_t seed, uint64_t index);

}  // namespace fp4lab
