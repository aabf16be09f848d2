// The JSON Schema of sweep files: the keys that the factories declare, put together.
#include <nlohmann/json.hpp>

#include "analysis/paper.h"
#include "core/schema.h"
#include "core/text.h"
#include "experiments/sweep.h"
#include "formats/registry.h"
#include "methods/method.h"

namespace fp4lab {

namespace {
/// A name, or an object with these keys.
Json name_or_object(const std::vector<std::string>& names, Json object) {
  return {{"anyOf", Json::array({Json{{"enum", names}}, std::move(object)})}};
}
/// A transform, or a list of them.
Json transforms_schema() {
  Json one = {{"anyOf", Json::array({Json{{"enum", transform_names()}}})}};
  for (const TransformEntry& t : transforms()) {
    Json object = schema_of(declared_keys([&](Params& p) { declare_transform(t.name, p); }));
    object["title"] = t.description;
    one["anyOf"].push_back(std::move(object));
  }
  Json list = {{"type", "array"}, {"items", one}, {"maxItems", kMaxTransforms}};
  one["anyOf"].push_back(std::move(list));
  return one;
}

/// The transforms of a whole model: the same everywhere, or by site.
Json site_transforms_schema() {
  const Json transforms = {{"$ref", "#/$defs/transforms"}};
  Json by_site = {{"type", "object"}, {"minProperties", 1}, {"additionalProperties", false}};
  for (const SiteKind s : {SiteKind::qkv, SiteKind::o, SiteKind::gate_up, SiteKind::down})
    by_site["properties"][std::string(name(s))] = transforms;
  return Json::array({transforms, by_site});
}

Json method_schema() {
  Json method = schema_of(declared_keys(declare_method));
  Json& key = method["properties"]["transform"];
  key = {{"anyOf", site_transforms_schema()}, {"description", key["description"]}};
  return name_or_object(method_names(), method);
}

/// Of the tasks that look at tensors alone: also none, and one with a label for its row.
Json tensor_transform_schema() {
  Json all = site_transforms_schema();
  all.push_back({{"type", "null"}});
  all.push_back({{"type", "object"},
                 {"properties", {{"type", {{"enum", transform_names()}}}, {"label", {{"type", "string"}}}}},
                 {"required", {"type", "label"}}});
  return all;
}
}  // namespace

std::string sweep_schema() {
  Json format = schema_of(declared_keys(declare_format));
  format["required"] = Json::array();
  format["properties"]["base"]["enum"] = format_names();
  format["properties"]["base"].erase("default");
  for (const char* key : {"element", "scale"}) format["properties"][key].erase("default");
  format["properties"]["group_size"] = {
      {"anyOf",
       Json::array({Json{{"type", "integer"}, {"minimum", 2}, {"maximum", 4096}}, Json{{"const", "row"}}})}};
  const Json rule = name_or_object(scale_rule_names(), schema_of(declared_keys(declare_rule)));
  format["properties"]["rule"] = {{"$ref", "#/$defs/rule"}};
  const Json tensor_scale = {{"anyOf", Json::array({Json{{"enum", {"none", "dynamic", "per_token"}}},
                                                    Json{{"type", "object"}, {"required", {"static"}}}})}};
  format["properties"]["tensor_scale"] = tensor_scale;

  Json sources = Json::array();
  for (const SourceKind& kind : source_kinds()) {
    Json source = schema_of(declared_keys([&](Params& p) { kind.make(p, SourceContext{"", 0, {}}); }));
    source["title"] = kind.description;
    sources.push_back(std::move(source));
  }
  Json properties = Json::object();
  for (const TaskKind& task : task_kinds()) {
    SourceCache cache;
    const Json keys = schema_of(declared_keys([&](Params& p) {
      task.make(p, TaskContext{"", {}, &cache, nullptr, "", {}});
    }));
    properties.update(keys["properties"]);
  }
  std::vector<std::string> tasks, metrics;
  for (const TaskKind& task : task_kinds()) {
    tasks.emplace_back(task.name);
    const std::vector<std::string> own = task.metrics();
    metrics.insert(metrics.end(), own.begin(), own.end());
  }
  properties["source"] = {{"anyOf", sources}};
  properties["format"] = {{"$ref", "#/$defs/format"}};
  properties["method"] = method_schema();
  properties["transform"] = {{"anyOf", tensor_transform_schema()},
                             {"description", properties["transform"]["description"]}};
  properties["name"] = {{"type", "string"}, {"description", "names the result file: results/<name>.h5"}};
  properties["description"] = {{"type", "string"}};
  properties["task"] = {{"enum", tasks}};
  properties["metrics"] = {{"type", "array"}, {"items", {{"enum", metrics}}}};
  properties["axes"] = {
      {"type", "object"},
      {"description", "{key path: [values]}: the cells are all combinations, in the order written"},
      {"additionalProperties", {{"type", "array"}, {"minItems", 1}}},
      {"properties",
       {{"format", {{"type", "array"}, {"minItems", 1}, {"items", {{"$ref", "#/$defs/format"}}}}}}}};
  const Json axes_of = {{"anyOf", Json::array({Json{{"type", "string"}},
                                               Json{{"type", "array"}, {"items", {{"type", "string"}}}}})}};
  properties["table"] = {{"type", "object"},
                         {"properties", {{"rows", axes_of}, {"cols", axes_of}}},
                         {"additionalProperties", false}};
  properties["compare"] = {{"type", "object"},
                           {"properties", {{"paper", {{"enum", names_of(paper_tables())}}}}},
                           {"required", {"paper"}},
                           {"additionalProperties", false}};
  properties["exclude"] = {{"type", "array"}, {"items", {{"type", "object"}, {"minProperties", 1}}}};
  const Json sweep = {{"type", "object"},
                      {"properties", properties},
                      {"required", {"name", "task"}},
                      {"additionalProperties", false}};
  const Json entries = Json::array(
      {Json{{"$ref", "#/$defs/sweep"}}, Json{{"type", "string"}, {"description", "another sweep file"}},
       Json{{"type", "object"},
            {"properties",
             {{"file", {{"type", "string"}, {"description", "another sweep file"}}},
              {"set", {{"type", "object"}, {"description", "{key path: value} put into its sweeps"}}}}},
            {"required", {"file"}},
            {"additionalProperties", false}}});
  return Json{{"$schema", "https://json-schema.org/draft/2020-12/schema"},
              {"title", "fp4lab sweep"},
              {"$defs",
               {{"sweep", sweep},
                {"format", name_or_object(format_names(), format)},
                {"rule", rule},
                {"transforms", transforms_schema()}}},
              {"anyOf", Json::array({Json{{"$ref", "#/$defs/sweep"}},
                                     Json{{"type", "array"}, {"items", {{"anyOf", entries}}}}})}}
      .dump(2);
}

}  // namespace fp4lab
