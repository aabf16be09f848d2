#include "core/schema.h"

#include <nlohmann/json.hpp>

#include "tests/catch.h"

using namespace fp4lab;

TEST_CASE("schema: one key of each type, as JSON Schema writes it", "[core][schema]") {
  const Json schema = schema_of(declared_keys([](Params& p) {
    p.number("damping", 0.01, {"fraction of mean(diag H)", 0, 0.5});
    p.integer("block", {"columns", 1});
    p.boolean("fuse", true, {});
    p.choice("order", "natural", {"natural", "act"}, {});
    p.text("name", {});
    p.texts("tensors", {"*"}, {});
    p.integers("shape", {"rows, cols", 1});
    p.raw("transform", {"a transform"});
  }));
  const Json expected = Json::parse(R"json({
    "type": "object",
    "properties": {
      "damping": {"type": "number", "description": "fraction of mean(diag H)", "default": 0.01,
                  "minimum": 0, "maximum": 0.5},
      "block": {"type": "integer", "description": "columns", "minimum": 1},
      "fuse": {"type": "boolean", "default": true},
      "order": {"type": "string", "default": "natural", "enum": ["natural", "act"]},
      "name": {"type": "string"},
      "tensors": {"anyOf": [{"type": "string"}, {"type": "array", "items": {"type": "string"}, "minItems": 1}],
                  "default": ["*"]},
      "shape": {"type": "array", "items": {"type": "integer", "minimum": 1}, "description": "rows, cols"},
      "transform": {"description": "a transform"}
    },
    "required": ["block", "name", "shape"],
    "additionalProperties": false
  })json");
  CHECK(schema == expected);
  CHECK(schema["properties"]["damping"]["minimum"].dump() == "0");  // not 0.0
}

TEST_CASE("schema: no keys, and a type that nobody declares", "[core][schema]") {
  CHECK(schema_of({}).dump() ==
        R"({"additionalProperties":false,"properties":{},"required":[],"type":"object"})");
  KeyInfo odd{"k", "colour", false, "", {}, "", 0, 0};
  CHECK_THROWS_AS(schema_of({odd}), Fault);
}
