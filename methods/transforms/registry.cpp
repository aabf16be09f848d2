// methods/transforms/registry.cpp - every transform fp4lab knows. To add one: its file, a kind, and a row.
#include <nlohmann/json.hpp>

#include "core/text.h"
#include "methods/transforms/hadamard.h"

namespace fp4lab {

namespace {

constexpr TransformEntry kTransforms[] = {
    {"hadamard", "blocks of k channels times H_k / sqrt(k), with random signs if asked", &read_hadamard,
     &write_hadamard, &hadamard_problem, &fit_hadamard},
};
static_assert(TransformSpec::hadamard == 0);

const TransformEntry& entry_of(const TransformSpec& spec) { return kTransforms[size_t(spec.kind)]; }

TransformSpec parse_one(const Json& value, const Place& place) {
  if (value.is_string()) {
    const std::string name = value.get<std::string>();
    const TransformEntry* found = find_named(kTransforms, name);
    if (!found) throw ConfigError(place.text() + ": " + unknown_name("transform", name, transform_names()));
    const Json none = Json::object();
    Params p(none, place, "transform " + name);
    return found->read(p);
  }
  if (!value.is_object())
    throw ConfigError(place.text() + ": expected a transform (a name or an object), found " +
                      describe(value));
  Params p(value, place, "a transform");
  const TransformSpec spec =
      find_named(kTransforms, p.choice("type", transform_names(), {"the transform's name"}))->read(p);
  p.done();
  return spec;
}

}  // namespace

std::span<const TransformEntry> transforms() { return kTransforms; }

std::vector<std::string> transform_names() { return names_of(kTransforms); }

std::vector<TransformSpec> parse_transforms(const Json& value, const Place& place) {
  if (!value.is_array()) return {parse_one(value, place)};
  if (value.size() > size_t(kMaxTransforms))
    throw ConfigError(
        str(place.text(), ": ", value.size(), " transforms; a list holds at most ", kMaxTransforms));
  std::vector<TransformSpec> specs;
  for (size_t i = 0; i < value.size(); ++i) specs.push_back(parse_one(value[i], place.child(i)));
  return specs;
}

Json transforms_json(const std::vector<TransformSpec>& specs) {
  Json list = Json::array();
  for (const TransformSpec& spec : specs) {
    const TransformEntry& entry = entry_of(spec);
    Json object = {{"type", std::string(entry.name)}};
    entry.write(spec, object);
    list.push_back(std::move(object));
  }
  return list;
}

void declare_transform(std::string_view name, Params& p) {
  p.choice("type", {std::string(name)}, {"the transform's name"});
  if (const TransformEntry* entry = find_named(kTransforms, name)) entry->read(p);
}

std::string transform_problem(const TransformSpec& spec, int64_t channels, int64_t group_size) {
  return entry_of(spec).problem(spec, channels, group_size);
}

LinearMap fit_transforms(const std::vector<TransformSpec>& specs, int64_t channels, int64_t group_size,
                         uint64_t seed, uint64_t index) {
  FP4LAB_CHECK(specs.size() <= size_t(kMaxTransforms), specs.size(), " transforms");
  LinearMap map;
  for (size_t i = 0; i < specs.size(); ++i) {
    const std::string problem = transform_problem(specs[i], channels, group_size);
    FP4LAB_CHECK(problem.empty(), problem);
    entry_of(specs[i]).fit(specs[i], {channels, group_size, seed, index, int(i)}, map);
  }
  return map;
}

}  // namespace fp4lab
