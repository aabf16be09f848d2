#include "methods/transforms/site_transforms.h"

#include <algorithm>
#include <nlohmann/json.hpp>

#include "core/text.h"

namespace fp4lab {

namespace {
constexpr SiteKind kAllSites[kSites] = {SiteKind::qkv, SiteKind::o, SiteKind::gate_up, SiteKind::down};

struct LinearSite {
  std::string_view linear;
  SiteKind site;
};
constexpr LinearSite kLinearSites[] = {
    {"q_proj", SiteKind::qkv},     {"k_proj", SiteKind::qkv},        {"v_proj", SiteKind::qkv},
    {"o_proj", SiteKind::o},       {"gate_proj", SiteKind::gate_up}, {"up_proj", SiteKind::gate_up},
    {"down_proj", SiteKind::down},
};
}  // namespace

bool same_at_every_site(const SiteTransforms& transforms) {
  return std::all_of(transforms.begin(), transforms.end(), [&](const auto& t) { return t == transforms[0]; });
}

SiteTransforms parse_site_transforms(const Json& value, const Place& place) {
  SiteTransforms out;
  const bool by_site =
      value.is_object() && std::any_of(std::begin(kAllSites), std::end(kAllSites),
                                       [&](SiteKind s) { return value.contains(std::string(name(s))); });
  if (value.is_object() && !by_site && !value.contains("type"))
    throw ConfigError(place.text() + ": expected a transform with its \"type\" (" + join(transform_names()) +
                      ") or an object by site (qkv, o, gate_up, down), found " + describe(value));
  if (!by_site) {
    out.fill(parse_transforms(value, place));
    return out;
  }
  Params p(value, place, "transforms by site");
  for (const SiteKind s : kAllSites) {
    const std::string key(name(s));
    const Json& own = p.raw(key, {"the transforms of this site"});
    if (p.has(key)) out[size_t(s)] = parse_transforms(own, p.place(key));
  }
  p.done();
  return out;
}

Json site_transforms_json(const SiteTransforms& transforms) {
  if (same_at_every_site(transforms)) return transforms_json(transforms[0]);
  Json object = Json::object();
  for (const SiteKind s : kAllSites) object[std::string(name(s))] = transforms_json(transforms[size_t(s)]);
  return object;
}

std::optional<SiteKind> site_of_tensor(std::string_view tensor) {
  constexpr std::string_view kSuffix = ".weight";
  if (tensor.ends_with(kSuffix)) tensor.remove_suffix(kSuffix.size());
  if (const size_t dot = tensor.rfind('.'); dot != tensor.npos) tensor.remove_prefix(dot + 1);
  for (const LinearSite& l : kLinearSites)
    if (l.linear == tensor) return l.site;
  return std::nullopt;
}

}  // namespace fp4lab
