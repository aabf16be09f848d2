// methods/transforms/site_transforms.h - the transforms of each site of a layer.
//   what parse_transforms reads: the same for every site
//   {"qkv": "hadamard", "o": [], "down": {"type": "hadamard", "k": 128}}: by site; one left out has none
#pragma once
#include <array>
#include <optional>
#include <string_view>
#include <vector>

#include "core/model/checkpoint.h"
#include "methods/transforms/transform.h"

namespace fp4lab {

using SiteTransforms = std::array<std::vector<TransformSpec>, kSites>;

bool same_at_every_site(const SiteTransforms& transforms);

/// ConfigError with the place.
SiteTransforms parse_site_transforms(const Json& value, const Place& place);
/// The canonical JSON: the shared list, or an object with all four sites where they differ.
Json site_transforms_json(const SiteTransforms& transforms);

/// The site that a weight belongs to by its name ("model.layers.0.self_attn.q_proj.weight", with or without
/// ".weight"); none for other tensors.
std::optional<SiteKind> site_of_tensor(std::string_view tensor);

}  // namespace fp4lab
