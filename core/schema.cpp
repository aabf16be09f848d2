#include "core/schema.h"

#include <cmath>
#include <nlohmann/json.hpp>

#include "core/errors.h"

namespace fp4lab {

namespace {

/// A limit as an integer where it is one: editors show it.
Json limit(double x) { return x == std::trunc(x) && std::fabs(x) <= 0x1p53 ? Json(int64_t(x)) : Json(x); }

/// The type and the limits of one value.
Json value_schema(std::string_view type, const KeyInfo& key) {
  Json out = Json::object();
  out["type"] = type;
  if (type == "string" && !key.choices.empty()) out["enum"] = key.choices;
  if (type == "number" || type == "integer") {
    if (std::isfinite(key.min)) out["minimum"] = limit(key.min);
    if (std::isfinite(key.max)) out["maximum"] = limit(key.max);
  }
  return out;
}

Json key_schema(const KeyInfo& key) {
  if (key.type == "any") return Json::object();
  if (key.type == "bool") return value_schema("boolean", key);
  if (key.type == "integers") return {{"type", "array"}, {"items", value_schema("integer", key)}};
  if (key.type == "strings") {
    const Json one = value_schema("string", key);
    return {{"anyOf", Json::array({one, {{"type", "array"}, {"items", one}, {"minItems", 1}}})}};
  }
  FP4LAB_CHECK(key.type == "number" || key.type == "integer" || key.type == "string", key.key, ": ",
               key.type);
  return value_schema(key.type, key);
}

}  // namespace

Json schema_of(const std::vector<KeyInfo>& keys) {
  Json properties = Json::object(), required = Json::array();
  for (const KeyInfo& key : keys) {
    Json& property = properties[key.key] = key_schema(key);
    if (!key.doc.empty()) property["description"] = key.doc;
    if (!key.fallback.empty()) property["default"] = Json::parse(key.fallback);
    if (key.required) required.push_back(key.key);
  }
  return {{"type", "object"},
          {"properties", std::move(properties)},
          {"required", std::move(required)},
          {"additionalProperties", false}};
}

}  // namespace fp4lab
