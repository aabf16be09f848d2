#include "core/params.h"

#include <cmath>
#include <limits>
#include <nlohmann/json.hpp>

#include "tests/catch.h"

using namespace fp4lab;

namespace {
const Place kPlace{"e2.json", "/source", {}};

/// The message of the ConfigError that reading raises; "" if it does not.
std::string error_of(const Json& object, const std::function<void(Params&)>& read) {
  try {
    Params params(object, kPlace, "a format");
    read(params);
  } catch (const ConfigError& error) {
    return error.what();
  }
  return "";
}
}  // namespace

TEST_CASE("place: escapes, and the longest prefix of whole segments moves", "[core][params]") {
  CHECK(Place{"f", "", {}}.text() == "f");
  CHECK(Place{"f", "", {}}.child("a").child(2).child("x/y~z").text() == "f at /a/2/x~1y~0z");
  CHECK(Place{"f", "", {}}.child("").text() == "f at /");
  const auto moved =
      std::make_shared<const std::map<std::string, std::string>>(std::map<std::string, std::string>{
          {"/format", "/axes/format/2"}, {"/format/base", "/base"}, {"/model/path", ""}, {"/a~1b", "/c"}});
  const std::pair<const char*, const char*> cases[] = {
      {"/format", "f at /axes/format/2"},
      {"/format/group", "f at /axes/format/2/group"},
      {"/format/group/0", "f at /axes/format/2/group/0"},
      {"/format/base", "f at /base"},
      {"/format/base/k", "f at /base/k"},
      {"/format/base2", "f at /axes/format/2/base2"},
      {"/formats", "f at /formats"},  // not a whole segment
      {"/model", "f at /model"},
      {"/model/path", "f"},
      {"/model/path/x", "f at /x"},
      {"/a~1b/d", "f at /c/d"},
      {"", "f"},
  };
  for (const auto& [pointer, text] : cases) CHECK(Place{"f", pointer, moved}.text() == text);
  CHECK(Place{"f", "", moved}.child("format").child("k").text() ==
        "f at /axes/format/2/k");  // children keep it
  const auto whole = std::make_shared<const std::map<std::string, std::string>>(
      std::map<std::string, std::string>{{"", "/cells/3"}});
  CHECK(Place{"f", "/a/b", whole}.text() == "f at /cells/3/a/b");
  CHECK(Place{"f", "", whole}.text() == "f at /cells/3");
}

TEST_CASE("params: values, defaults and the resolved form", "[core][params]") {
  const Json object = {{"n", 3},
                       {"i", 3.0},
                       {"b", true},
                       {"t", "x"},
                       {"c", "up"},
                       {"one", "only"},
                       {"many", {"a", "b"}},
                       {"shape", {4, 5.0}},
                       {"raw", {{"k", nullptr}}},
                       {"path", "/tmp/x"}};
  Params p(object, kPlace, "a format");
  CHECK(p.number("n", 1.5, {}) == 3.0);
  CHECK(p.number("n_default", 2, {}) == 2.0);
  CHECK(p.integer("i", 1, {}) == 3);
  CHECK(p.integer("i_default", -7, {}) == -7);
  CHECK(p.boolean("b", false, {}));
  CHECK(p.boolean("b_default", true, {}));
  CHECK(p.text("t", "y", {}) == "x");
  CHECK(p.text("t_default", "y", {}) == "y");
  CHECK(p.choice("c", "down", {"up", "down"}, {}) == "up");
  CHECK(p.choice("c_default", "down", {"up", "down"}, {}) == "down");
  CHECK(p.texts("one", {}, {}) == std::vector<std::string>{"only"});
  CHECK(p.texts("many", {}, {}) == std::vector<std::string>{"a", "b"});
  CHECK(p.texts("texts_default", {"z"}, {}) == std::vector<std::string>{"z"});
  CHECK(p.integers("shape", {}) == std::vector<int64_t>{4, 5});
  CHECK(p.integers("integers_default", {1, 2}, {}) == std::vector<int64_t>{1, 2});
  CHECK(p.raw("raw", {}) == object["raw"]);
  CHECK(p.raw("raw_absent", {}).is_null());
  CHECK(p.text("path", {}) == "/tmp/x");
  CHECK_NOTHROW(p.done());
  CHECK(p.has("n"));
  CHECK_FALSE(p.has("n_default"));
  CHECK_FALSE(p.is_declaring());

  CHECK(
      p.resolved().dump() ==
      R"({"b":true,"b_default":true,"c":"up","c_default":"down","i":3,"i_default":-7,"integers_default":[1,2],)"
      R"("many":["a","b"],"n":3.0,"n_default":2.0,"one":["only"],"path":"/tmp/x","raw":{"k":null},"shape":[4,5],)"
      R"("t":"x","t_default":"y","texts_default":["z"]})");
  p.drop_resolved("path");
  p.set_resolved("path_sha256", "abc");
  p.set_resolved("raw", 1);
  CHECK_FALSE(p.resolved().contains("path"));
  CHECK(p.resolved()["path_sha256"] == "abc");
  CHECK(p.resolved()["raw"] == 1);
}

TEST_CASE("params: two ways to write one thing resolve to one text", "[core][params]") {
  const auto resolved = [](const char* text) {
    const Json object = Json::parse(text);
    Params p(object, kPlace, "x");
    p.number("damping", 1, {});
    p.integer("block", 128, {});
    p.texts("names", {"a"}, {});
    p.done();
    return p.resolved().dump();
  };
  const std::string expected = R"({"block":128,"damping":1.0,"names":["a"]})";
  for (const char* text : {"{}", R"({"damping": 1})", R"({"damping": 1.0, "block": 128.0})",
                           R"({"names": "a", "block": 1.28e2})"})
    CHECK(resolved(text) == expected);
  CHECK(resolved(R"({"damping": -0.0})") == resolved(R"({"damping": 0})"));
}

TEST_CASE("params: a wrong type says place, what was expected and what was found", "[core][params]") {
  const auto number = [](Params& p) { p.number("k", 0, {}); };
  const auto integer = [](Params& p) { p.integer("k", 0, {}); };
  const auto boolean = [](Params& p) { p.boolean("k", false, {}); };
  const auto text = [](Params& p) { p.text("k", "", {}); };
  const auto choice = [](Params& p) { p.choice("k", "up", {"up", "down"}, {}); };
  const auto texts = [](Params& p) { p.texts("k", {}, {}); };
  const auto integers = [](Params& p) { p.integers("k", {1}, {}); };
  const struct {
    std::function<void(Params&)> read;
    const char *value, *message;
  } cases[] = {
      {number, "\"abc\"", "expected a number, found a string \"abc\""},
      {number, "null", "expected a number, found null"},
      {number, "true", "expected a number, found true"},
      {integer, "3.5", "expected an integer, found 3.5"},
      {integer, "1e30", "expected an integer, found 1e+30"},
      {integer, "9007199254740994.0", "expected an integer, found 9.007199254740994e+15"},  // 2^53 + 2
      {integer, "9223372036854775808", "expected an integer, found 9223372036854775808"},
      {integer, "\"3\"", "expected an integer, found a string \"3\""},
      {boolean, "0", "expected true or false, found 0"},
      {text, "3", "expected a string, found 3"},
      {text, "\"a\\u0000b\"", "expected a string without \\u0000, found a string \"a\\u0000b\""},
      {choice, "[1]", "expected one of: up, down, found a list [1]"},
      {choice, "\"dwn\"", "unknown k \"dwn\"; did you mean \"down\"? known: up, down"},
      {texts, "[]", "expected a string or a list of strings, found a list []"},
      {texts, "{}", "expected a string or a list of strings, found an object {}"},
      {integers, "\"abc\"", "expected a list of integers, found a string \"abc\""},
      {integers, "3", "expected a list of integers, found 3"},
  };
  for (const auto& [read, value, message] : cases) {
    CAPTURE(value);
    CHECK(error_of({{"k", Json::parse(value)}}, read) == std::string("e2.json at /source/k: ") + message);
  }
  CHECK(error_of({{"k", {"a", 2}}}, texts) == "e2.json at /source/k/1: expected a string, found 2");
  CHECK(error_of({{"k", {1, 2, "a"}}}, integers) ==
        "e2.json at /source/k/2: expected an integer, found a string \"a\"");
  const std::string cut = error_of({{"k", std::string(1000, 'a')}}, number);
  CHECK(cut == "e2.json at /source/k: expected a number, found a string \"" + std::string(59, 'a') + "...");
}

TEST_CASE("params: the limits are inclusive", "[core][params]") {
  const KeyDoc unit{"", 0, 1}, at_least{"", 1}, at_most{"", -std::numeric_limits<double>::infinity(), 2.5};
  const auto number = [](const Json& value, KeyDoc doc) {
    return error_of({{"k", value}}, [&](Params& p) { p.number("k", 0, doc); });
  };
  const auto integer = [](const Json& value, KeyDoc doc) {
    return error_of({{"k", value}}, [&](Params& p) { p.integer("k", 0, doc); });
  };
  for (const Json& good : {Json(0), Json(1), Json(0.5), Json(1.0)}) CHECK(number(good, unit).empty());
  CHECK(number(3, unit) == "e2.json at /source/k: expected a number in [0, 1], found 3");
  CHECK(number(-0.001, unit) == "e2.json at /source/k: expected a number in [0, 1], found -0.001");
  CHECK(number(std::nextafter(1.0, 2), unit).find("found 1.0000000000000002") != std::string::npos);
  CHECK(number(0.5, at_least) == "e2.json at /source/k: expected a number of at least 1, found 0.5");
  CHECK(number(2.6, at_most) == "e2.json at /source/k: expected a number of at most 2.5, found 2.6");
  CHECK(number(std::numeric_limits<double>::quiet_NaN(), {}) ==
        "e2.json at /source/k: expected a number, found null");
  CHECK(number(1e308, {}).empty());
  CHECK(integer(1, at_least).empty());
  CHECK(integer(0, at_least) == "e2.json at /source/k: expected an integer of at least 1, found 0");
  CHECK(integer(2, unit) == "e2.json at /source/k: expected an integer in [0, 1], found 2");
  CHECK(integer(std::numeric_limits<int64_t>::max(), {}).empty());
  CHECK(integer(std::numeric_limits<int64_t>::min(), {}).empty());
  CHECK(integer(0x1p53, {}).empty());
  CHECK(error_of({{"k", {1, 0}}}, [&](Params& p) { p.integers("k", at_least); }) ==
        "e2.json at /source/k/1: expected an integer of at least 1, found 0");
}

TEST_CASE("params: a missing key says what it is and what is read", "[core][params]") {
  const auto read = [](Params& p) {
    p.choice("distribution", "normal", {"normal"}, {"what is drawn"});
    p.integers("shape", {"rows, cols"});
  };
  CHECK(error_of(Json::object(), read) ==
        "e2.json at /source: missing key \"shape\" (rows, cols); a format reads: distribution, shape, ...");
  CHECK(error_of({{"shap", {1, 2}}}, read) ==
        "e2.json at /source: missing key \"shape\" (rows, cols); is \"shap\" meant to be it? a format reads: "
        "distribution, shape, ...");
  CHECK(error_of({{"j", 1}}, [](Params& p) { p.integer("k", {}); }) ==
        "e2.json at /source: missing key \"k\"; a format reads: k, ...");
  // Every required reader refuses an absent key.
  const Json none = Json::object();
  CHECK(error_of(none, [](Params& p) { p.number("k", {}); }).find("missing key \"k\"") != std::string::npos);
  CHECK(error_of(none, [](Params& p) { p.text("k", {}); }).find("missing key \"k\"") != std::string::npos);
  CHECK(error_of(none, [](Params& p) { p.choice("k", {"a"}, {}); }).find("missing key \"k\"") !=
        std::string::npos);
}

TEST_CASE("params: a key that nobody read", "[core][params]") {
  const auto read = [](Params& p) {
    p.text("base", "", {});
    p.text("element", "", {});
    p.integer("group_size", 32, {});
    p.text("scale", "", {});
    p.done();
  };
  const std::string reads = "a format reads: base, element, group_size, scale";
  CHECK(error_of({{"group_size", 16}, {"base", "x"}}, read).empty());
  CHECK(error_of({{"grup", 16}}, read) ==
        "e2.json at /source: unknown key \"grup\"; did you mean \"group_size\"? " + reads);
  CHECK(error_of({{"groupsize", 16}}, read) ==
        "e2.json at /source: unknown key \"groupsize\"; did you mean \"group_size\"? " + reads);
  CHECK(error_of({{"size", 16}}, read).find("did you mean \"group_size\"?") != std::string::npos);
  CHECK(error_of({{"zzz", 16}}, read) == "e2.json at /source: unknown key \"zzz\"; " + reads);
  CHECK(error_of({{"", 16}}, read) == "e2.json at /source: unknown key \"\"; " + reads);
  CHECK(error_of({{"x\n", 16}}, read).find("unknown key \"x\\n\"; ") != std::string::npos);
  CHECK(error_of({{"x", 16}}, [](Params& p) { p.done(); }) ==
        "e2.json at /source: unknown key \"x\"; a format reads no keys");
  CHECK(error_of({{"x", nullptr}}, [](Params& p) { p.done(); }).find("unknown key \"x\"") !=
        std::string::npos);
  CHECK(error_of({{"x", 1}}, [](Params& p) { p.raw("x", {}), p.done(); }).empty());
}

TEST_CASE("params: what is not an object, and a caller's own complaint", "[core][params]") {
  for (const Json& wrong : {Json("abc"), Json(3), Json(nullptr), Json::array({1})})
    CHECK_THROWS_AS(Params(wrong, kPlace, "a format"), ConfigError);
  const Json text = "abc";
  try {
    Params(text, kPlace, "a format");
  } catch (const ConfigError& error) {
    CHECK(std::string(error.what()) ==
          "e2.json at /source: expected an object, found a string \"abc\"; a format is an object of keys");
  }
  CHECK(error_of(Json::object(), [](Params& p) { p.fail("a/b", "no such file"); }) ==
        "e2.json at /source/a~1b: no such file");
  const Json object = Json::object();
  Params p(object, kPlace, "x");
  CHECK(p.place().text() == "e2.json at /source");
  CHECK(p.place("k").text() == "e2.json at /source/k");
  Params taken(std::move(p));
  CHECK(taken.place().pointer == "/source");
}

TEST_CASE("params: declaring answers with defaults and notes what it is asked", "[core][params]") {
  const auto factory = [](Params& p) {
    CHECK(p.number("damping", 0.01, {"fraction", 0, 1}) == 0.01);
    CHECK(p.integer("block", {"columns", 1}) == 0);  // required
    CHECK(p.choice("order", "natural", {"natural", "act"}, {}) == "natural");
    CHECK(p.choice("must", {"a"}, {}) == "");
    CHECK(p.text("name", {}) == "");
    CHECK(p.boolean("fuse", true, {}));
    CHECK(p.texts("tensors", {"*"}, {}) == std::vector<std::string>{"*"});
    CHECK(p.integers("shape", {}).empty());
    CHECK(p.raw("transform", {"a transform"}).is_null());
    CHECK(p.number("limit", std::numeric_limits<double>::infinity(), {}) > 1e308);
    CHECK_FALSE(p.has("damping"));
    p.done();
  };
  const std::vector<KeyInfo> keys = declared_keys(factory);
  const struct {
    const char *key, *type;
    bool required;
    const char* fallback;
  } expected[] = {{"damping", "number", false, "0.01"},
                  {"block", "integer", true, ""},
                  {"order", "string", false, "\"natural\""},
                  {"must", "string", true, ""},
                  {"name", "string", true, ""},
                  {"fuse", "bool", false, "true"},
                  {"tensors", "strings", false, "[\"*\"]"},
                  {"shape", "integers", true, ""},
                  {"transform", "any", false, ""},
                  {"limit", "number", false, ""}};
  REQUIRE(keys.size() == std::size(expected));
  for (size_t i = 0; i < keys.size(); ++i) {
    CAPTURE(i);
    CHECK(keys[i].key == expected[i].key);
    CHECK(keys[i].type == expected[i].type);
    CHECK(keys[i].required == expected[i].required);
    CHECK(keys[i].fallback == expected[i].fallback);
  }
  CHECK(keys[0].doc == "fraction");
  CHECK(keys[0].min == 0);
  CHECK(keys[0].max == 1);
  CHECK(keys[1].min == 1);
  CHECK(keys[1].max == std::numeric_limits<double>::infinity());
  CHECK(keys[2].choices == std::vector<std::string>{"natural", "act"});
  CHECK(Params::declaring("x").is_declaring());

  // Reading notes the same keys in the same order; a key read twice stands once, as it was read last.
  const Json object = Json::object();
  Params p(object, kPlace, "x");
  p.raw("type", {});
  p.number("damping", 0.5, {});
  p.text("type", "a", {});
  REQUIRE(p.declared().size() == 2);
  CHECK(p.declared()[0].key == "type");
  CHECK(p.declared()[0].type == "string");
  CHECK(p.declared()[1].fallback == "0.5");
}
