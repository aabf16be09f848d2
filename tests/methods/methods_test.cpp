#include <nlohmann/json.hpp>

#include "methods/method.h"
#include "tests/catch.h"

using namespace fp4lab;

namespace {

const Place kPlace{"s.json", "/method", nullptr};

NamedMethod parse(const std::string& text) { return parse_method(parse_json(text, "test"), kPlace); }
std::string canonical(const std::string& text) { return method_json(parse(text).spec).dump(); }
std::string error_of(const std::string& text) {
  try {
    parse(text);
  } catch (const ConfigError& e) {
    return e.what();
  }
  return "";
}

const std::string kHadamard = R"([{"k":0,"randomize":false,"type":"hadamard"}])";

}  // namespace

TEST_CASE("methods: the canonical JSON", "[methods]") {
  // Without a transform as it always was: this text is hashed into the keys of stored cells.
  CHECK(canonical(R"("rtn")") == R"({"weight_scales":"rule"})");
  CHECK(canonical(R"({"weight_scales": "alternate"})") == R"({"weight_scales":"alternate"})");
  CHECK(canonical(R"("rtn+ht")") == R"({"transform":)" + kHadamard + R"(,"weight_scales":"rule"})");
  CHECK(canonical(R"({"transform": "hadamard"})") == canonical(R"("rtn+ht")"));
  CHECK(canonical(R"({"base": "rtn+ht", "label": "x"})") == canonical(R"("rtn+ht")"));
  CHECK(canonical(R"({"base": "rtn+ht", "weight_scales": "mse_shrink"})") ==
        R"({"transform":)" + kHadamard + R"(,"weight_scales":"mse_shrink"})");
  CHECK(canonical(R"({"transform": {"type": "hadamard", "k": 128}})") ==
        R"({"transform":[{"k":128,"randomize":false,"type":"hadamard"}],"weight_scales":"rule"})");
  CHECK(canonical(R"({"transform": {"o": "hadamard"}})") ==
        R"({"transform":{"down":[],"gate_up":[],"o":)" + kHadamard + R"(,"qkv":[]},"weight_scales":"rule"})");
  // An empty list takes the base's away, at every site or at those not named.
  CHECK(canonical(R"({"base": "rtn+ht", "transform": []})") == canonical(R"("rtn")"));
  CHECK(canonical(R"({"base": "rtn+ht", "transform": {"o": []}})") == canonical(R"("rtn")"));
}

TEST_CASE("methods: labels", "[methods]") {
  CHECK(parse(R"("rtn+ht")").label == "rtn+ht");
  CHECK(parse(R"({"base": "rtn", "transform": {"type": "hadamard", "k": 128}, "label": "ht128"})").label ==
        "ht128");
}

TEST_CASE("methods: every named one reads back from its canonical JSON", "[methods]") {
  CHECK(method_names() == std::vector<std::string>{"rtn", "rtn+ht"});
  for (const MethodEntry& m : methods()) DYNAMIC_SECTION(m.name) {
      CHECK(method_json(parse_method(Json(std::string(m.name)), kPlace).spec) == method_json(m.spec));
      CHECK(method_json(parse_method(method_json(m.spec), kPlace).spec) == method_json(m.spec));
      CHECK_FALSE(m.description.empty());
    }
}

TEST_CASE("methods: refusals", "[methods]") {
  struct Row {
    const char *text, *message;
  };
  const Row rows[] = {
      {R"("rtn+hd")", "s.json at /method: unknown method \"rtn+hd\"; did you mean \"rtn+ht\"?"},
      {R"({"base": "rtm"})", "s.json at /method/base: "},
      {R"({"transforms": []})",
       "s.json at /method: unknown key \"transforms\"; did you mean \"transform\"? a method "
       "reads: base, transform, weight_scales, label"},
      {R"({"transform": "dct"})", "s.json at /method/transform: unknown transform \"dct\""},
      {R"({"transform": null})", "s.json at /method/transform: expected a transform"},
      {R"({"transform": {"type": "hadamard", "k": 100}})",
       "s.json at /method/transform/k: 100 is not a power of two"},
      {"[]", "s.json at /method: expected a method (a name or an object), found a list []"},
  };
  for (const Row& row : rows) {
    const std::string message = error_of(row.text);
    CAPTURE(row.text, message);
    CHECK(message.rfind(row.message, 0) == 0);
  }
}

TEST_CASE("methods: the keys that are declared", "[methods]") {
  std::vector<std::string> keys;
  for (const KeyInfo& k : declared_keys(declare_method)) keys.push_back(k.key);
  CHECK(keys == std::vector<std::string>{"base", "transform", "weight_scales", "label"});
  for (const TransformEntry& t : transforms()) {
    const std::vector<KeyInfo> own = declared_keys([&](Params& p) { declare_transform(t.name, p); });
    REQUIRE(own.size() >= 1);
    CHECK(own[0].key == "type");
    CHECK(own[0].choices == std::vector<std::string>{std::string(t.name)});
  }
}
