// methods/transforms/registry.cpp - every transform fp4lab knows. To add one: its file, a kind, and a row.
#include <algorithm>
#include <cmath>
#include <nlohmann/json.hpp>

#include "core/text.h"
#include "kernels/cpu/linear_map.h"
#include "methods/transforms/awq.h"
#include "methods/transforms/gsr.h"
#include "methods/transforms/hadamard.h"
#include "methods/transforms/osfp4.h"
#include "methods/transforms/permute.h"
#include "methods/transforms/random_orthogonal.h"
#include "methods/transforms/smooth.h"
#include "methods/transforms/trigonometric.h"
#include "methods/transforms/wush.h"

namespace fp4lab {

namespace {

constexpr TransformEntry kTransforms[] = {
    {TransformSpec::hadamard,
     "hadamard",
     "blocks of k channels times H_k / sqrt(k), with random signs if asked",
     {},
     &read_hadamard,
     &write_hadamard,
     &hadamard_problem,
     &fit_hadamard},
    {TransformSpec::gsr,
     "gsr",
     "the Hadamard of blocks, coordinates by their number of sign changes",
     {},
     &read_gsr,
     &write_gsr,
     &gsr_problem,
     &fit_gsr},
    {TransformSpec::dct,
     "dct",
     "the orthonormal cosine transform (DCT-II) of blocks of k channels",
     {},
     &read_dct,
     &write_trigonometric,
     &trigonometric_problem,
     &fit_trigonometric},
    {TransformSpec::dst,
     "dst",
     "the orthonormal sine transform (DST-II) of blocks of k channels",
     {},
     &read_dst,
     &write_trigonometric,
     &trigonometric_problem,
     &fit_trigonometric},
    {TransformSpec::random_orthogonal,
     "random_orthogonal",
     "blocks of k channels times random orthogonal matrices",
     {},
     &read_random_orthogonal,
     &write_random_orthogonal,
     &random_orthogonal_problem,
     &fit_random_orthogonal},
    {TransformSpec::permute,
     "permute",
     "another order: blocks of equal mass, or descending diag(H)",
     {},
     &read_permute,
     &write_permute,
     &permute_problem,
     &fit_permute,
     &permute_needs},
    {TransformSpec::smooth,
     "smooth",
     "SmoothQuant: a diagonal that shares each channel's range out",
     {.columns = true},
     &read_smooth,
     &write_smooth,
     &smooth_problem,
     &fit_smooth},
    {TransformSpec::awq,
     "awq",
     "AWQ: a diagonal mean|X|^a, a searched for the least error of the weights",
     {.columns = true, .hessian = true},
     &read_awq,
     &write_awq,
     &awq_problem,
     &fit_awq},
    {TransformSpec::wush,
     "wush",
     "WUSH: blocks that equalize the second moments of weights and activations",
     {.hessian = true},
     &read_wush,
     &write_wush,
     &wush_problem,
     &fit_wush},
    {TransformSpec::osfp4,
     "osfp4",
     "OSFP4: a diagonal that moves values to where the element is most exact",
     {.hessian = true, .sample = true},
     &read_osfp4,
     &write_osfp4,
     &osfp4_problem,
     &fit_osfp4},
};
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

const TransformEntry& entry_of(TransformSpec::Kind kind) {
  for (const TransformEntry& entry : kTransforms)
    if (entry.kind == kind) return entry;
  FP4LAB_CHECK(false, "transform kind ", int(kind));
  std::abort();
}

TransformSpec default_transform(TransformSpec::Kind kind) {
  const TransformEntry& entry = entry_of(kind);
  const Json none = Json::object();
  Params p(none, {}, std::string(entry.name));
  return entry.read(p);
}

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
    const TransformEntry& entry = entry_of(spec.kind);
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

std::string transform_problem(const TransformSpec& spec, const TransformFit& fit) {
  return entry_of(spec.kind).problem(spec, fit);
}

namespace {
StatsNeeds own_needs(const TransformSpec& spec) {
  const TransformEntry& entry = entry_of(spec.kind);
  return entry.needs_by_key ? entry.needs | entry.needs_by_key(spec) : entry.needs;
}
}  // namespace

StatsNeeds needs_of(const std::vector<TransformSpec>& specs) {
  StatsNeeds needs;
  for (size_t i = 0; i < specs.size(); ++i) {
    const StatsNeeds own = own_needs(specs[i]);
    needs = needs | own;
    // Per-channel statistics do not move with the coordinates; those of the sample are taken again.
    if (own.columns && i > 0) needs.sample = true;
  }
  return needs;
}

bool draws_random_numbers(const TransformSpec& spec) {
  return spec.randomize || spec.kind == TransformSpec::random_orthogonal;
}

namespace {

/// amax and mean_abs of a sample's channels.
void take_columns(const Matrix& sample, SiteStats& stats) {
  stats.amax.assign(size_t(sample.cols()), 0);
  stats.mean_abs.assign(size_t(sample.cols()), 0);
  for (int64_t t = 0; t < sample.rows(); ++t)
    for (int64_t c = 0; c < sample.cols(); ++c) {
      const float a = std::abs(sample(t, c));
      stats.amax[size_t(c)] = std::max(stats.amax[size_t(c)], a);
      stats.mean_abs[size_t(c)] += double(a);
    }
  for (double& m : stats.mean_abs) m /= double(sample.rows());
}

void move(const LinearMap& map, SiteStats& stats) {
  if (stats.H.size()) map_hessian(map, stats.H);
  if (stats.D.size()) map_cross(map, stats.D);
  if (stats.sample.size()) {
    map_activations(map, stats.sample);
    take_columns(stats.sample, stats);
  } else {
    stats.amax.clear(), stats.mean_abs.clear();
  }
}

}  // namespace

LinearMap fit_transforms(const std::vector<TransformSpec>& specs, const TransformFit& fit,
                         MatrixView<float> W, SiteStats* stats) {
  FP4LAB_CHECK(specs.size() <= size_t(kMaxTransforms), specs.size(), " transforms");
  LinearMap map;
  for (size_t i = 0; i < specs.size(); ++i) {
    const std::string problem = transform_problem(specs[i], fit);
    FP4LAB_CHECK(problem.empty(), problem);
    const TransformEntry& entry = entry_of(specs[i].kind);
    FP4LAB_CHECK(stats || !own_needs(specs[i]).any(), entry.name, " without statistics");
    LinearMap step;
    entry.fit(specs[i], {fit, int(i), W, stats}, step);
    map_weights(step, W);
    if (stats) move(step, *stats);
    map.factors.insert(map.factors.end(), step.factors.begin(), step.factors.end());
  }
  return map;
}

LinearMap fit_transforms(const std::vector<TransformSpec>& specs, const TransformFit& fit) {
  return fit_transforms(specs, fit, MatrixView<float>{nullptr, 0, fit.channels, fit.channels}, nullptr);
}

}  // namespace fp4lab
