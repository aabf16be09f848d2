#include "formats/registry.h"

#include <nlohmann/json.hpp>
#include <set>

#include "tests/catch.h"

using namespace fp4lab;

namespace {

constexpr int64_t kCols = 4096;

NamedFormat parsed(const std::string& text) {
  return parse_format(parse_json(text, "f.json"), {"sweep.json", "/axes/format/2", nullptr});
}
FormatSpec spec(const std::string& text) { return parsed(text).spec; }

/// The message of the ConfigError; "" if there is none.
std::string error_of(const std::string& text) {
  try {
    parsed(text);
  } catch (const ConfigError& error) {
    return error.what();
  }
  return "";
}
bool has(const std::string& message, const std::string& part) {
  return message.find(part) != std::string::npos;
}

/// The message says where (`pointer` below /axes/format/2) and every part.
void check_error(const std::string& text, const std::string& pointer, const std::vector<std::string>& parts) {
  const std::string message = error_of(text);
  CAPTURE(text, message);
  CHECK(message.rfind("sweep.json at /axes/format/2" + pointer + ": ", 0) == 0);
  for (const std::string& part : parts) {
    CAPTURE(part);
    CHECK(has(message, part));
  }
}

}  // namespace

TEST_CASE("registry: the named formats of SPEC section 3", "[formats][registry]") {
  struct Row {
    const char* name;
    const char* element;
    int group;
    const char *scale, *rule;
    bool tensor_scale;
    double bits;  // per element of a row of 4096
  };
  const double row8 = 8 + 32.0 / kCols;  // one FP32 scale per channel
  const Row rows[] = {
      {"mxfp4", "e2m1", 32, "ue8m0", "floor", false, 4.25},
      {"mxfp4-even", "e2m1", 32, "ue8m0", "even", false, 4.25},
      {"mxfp4-ceil", "e2m1", 32, "ue8m0", "ceil", false, 4.25},
      {"mxfp4-paper", "e2m1", 32, "ue8m0", "fpq", false, 4.25},
      {"mxfp4-fitted", "e2m1", 32, "ue8m0", "fitted", false, 4.25},
      {"nvfp4", "e2m1", 16, "e4m3", "absmax", true, 4.5},
      {"nvfp4-4over6", "e2m1", 16, "e4m3", "four_over_six", true, 4.5},
      {"nvfp4-sweep", "e2m1", 16, "e4m3", "sweep", true, 4.5},
      {"nvint4", "int4", 16, "e4m3", "absmax", true, 4.5},
      {"nvint4-peer", "int4-full", 16, "e4m3", "absmax", true, 4.5},
      {"mxint4", "int4", 32, "ue8m0", "fpq", false, 4.25},
      {"mxint4-peer", "int4-full", 32, "ue8m0", "fpq", false, 4.25},
      {"int4", "int4", 32, "fp16", "absmax", false, 4.5},
      {"int4-g128", "int4", 128, "fp16", "absmax", false, 4.125},
      {"int4-peer", "int4-full", 32, "fp16", "absmax", false, 4.5},
      {"int4-asym", "int4-asym", 32, "fp16", "absmax", false, 4.5 + 4.0 / 32},
      {"nf4", "nf4", 64, "fp32", "absmax", false, 4.5},
      {"mxfp6-e2m3", "e2m3", 32, "ue8m0", "floor", false, 6.25},
      {"mxfp6-e3m2", "e3m2", 32, "ue8m0", "floor", false, 6.25},
      {"mxfp8-e4m3", "e4m3", 32, "ue8m0", "floor", false, 8.25},
      {"mxfp8-e5m2", "e5m2", 32, "ue8m0", "floor", false, 8.25},
      {"mxint8", "int8", 32, "ue8m0", "floor", false, 8.25},
      {"int8", "int8", 0, "fp32", "absmax", false, row8},
      {"fp8", "e4m3", 0, "fp32", "absmax", false, row8},
      {"e2m1-fp32", "e2m1", 32, "fp32", "absmax", false, 5},
      {"e2m1-fp16", "e2m1", 32, "fp16", "absmax", false, 4.5},
      {"e2m1-bf16", "e2m1", 32, "bf16", "absmax", false, 4.5},
      {"e2m1-e1m6", "e2m1", 32, "e1m6", "absmax", true, 4.25},
      {"e2m1-e2m5", "e2m1", 32, "e2m5", "absmax", true, 4.25},
      {"e2m1-e3m4", "e2m1", 32, "e3m4", "absmax", true, 4.25},
      {"e2m1-e4m3", "e2m1", 32, "e4m3", "absmax", true, 4.25},
      {"e2m1-e5m2", "e2m1", 32, "e5m2", "absmax", true, 4.25},
      {"e2m1-ue5m3", "e2m1", 32, "ue5m3", "absmax", true, 4.25},
      {"e2m1-e6m1", "e2m1", 32, "e6m1", "absmax", true, 4.25},
      {"e2m1-e7m0", "e2m1", 32, "e7m0", "absmax", true, 4.25},
      {"e2m1-int8", "e2m1", 32, "int8", "absmax", true, 4.25},
  };
  CHECK(std::size(rows) == formats().size());
  for (const Row& r : rows) {
    CAPTURE(r.name);
    const FormatEntry* f = find_format(r.name);
    REQUIRE(f);
    CHECK(f->spec.element.name == r.element);
    CHECK(f->spec.group_size == r.group);
    CHECK(f->spec.scale.name == r.scale);
    CHECK(entry_of(f->spec.rule.kind).name == r.rule);
    CHECK(f->spec.tensor_scale.mode == (r.tensor_scale ? TensorScale::dynamic : TensorScale::none));
    CHECK(f->spec.scale_floor == ScaleFloor::none);
    CHECK(bits_per_element(f->spec, kCols) == Approx(r.bits).epsilon(1e-14));
    CHECK(format_problem(f->spec) == "");
    CHECK(f->description.size() > 5);
    CHECK(spec("\"" + std::string(r.name) + "\"") == f->spec);
    CHECK(parsed("\"" + std::string(r.name) + "\"").label == r.name);
  }
  CHECK(find_format("nvfp4-sweep")->spec.rule.lo == -3);
  CHECK(find_format("nvfp4-sweep")->spec.rule.hi == 7);
  const std::vector<std::string> names = format_names();
  CHECK(std::set<std::string>(names.begin(), names.end()).size() == names.size());
  CHECK(find_format("nvfp5") == nullptr);
  CHECK(bits_per_element(spec(R"({"base": "nvfp4", "tensor_scale": "per_token"})"), 4096) ==
        4.5 + 32.0 / 4096);
  CHECK(find_format("mxfp8-e4m3")->spec.code_bytes(33) == 33);
  CHECK(kMxfp4.code_bytes(33) == 17);
}

TEST_CASE("registry: parse_format reads back what format_json writes", "[formats][registry]") {
  auto check = [](const FormatSpec& f) {
    const Json json = format_json(f);
    CAPTURE(json.dump());
    const NamedFormat back = parse_format(json, {});
    CHECK(back.spec == f);
    CHECK(format_json(back.spec) == json);
    CHECK(parse_format(parse_json(json.dump(), "f"), {}).spec ==
          f);  // through text too: a static s_T's digits
    CHECK(back.spec.rule == f.rule);
    CHECK(json.size() == 6);
    CHECK_FALSE(json.contains("label"));
  };
  for (const FormatEntry& f : formats()) check(f.spec);
  for (const char* text :
       {R"({"base": "mxfp4", "rule": {"type": "map", "c": 3.6123}})",
        R"({"base": "mxfp4", "rule": {"type": "search", "k": 9}})",
        R"({"base": "nvfp4", "rule": {"type": "sweep", "lo": -8, "hi": 7}})",
        R"({"base": "nvfp4", "group_size": "row"})",
        R"({"base": "nvfp4", "tensor_scale": {"static": 0.0123}, "scale_floor": "min_normal"})",
        R"({"base": "nvfp4", "tensor_scale": {"static": 1e-37}, "scale_floor": "min_subnormal"})",
        R"({"element": "nf4", "group_size": 64, "scale": "ue8m0", "rule": "nearest"})",
        R"({"base": "nvfp4", "tensor_scale": "per_token"})", R"({"base": "nvfp4", "tensor_scale": "none"})",
        R"({"base": "int4", "tensor_scale": "dynamic"})"})
    check(spec(text));
}

TEST_CASE("registry: one format, however it is written, has one JSON", "[formats][registry]") {
  const std::vector<std::vector<std::string>> same = {
      {R"("mxfp4")", R"({"base": "mxfp4"})", R"({"base": "mxfp4-even", "rule": "floor"})",
       R"({"element": "e2m1", "group_size": 32, "scale": "ue8m0"})",
       R"({"element": "e2m1", "group_size": 32.0, "scale": "e8m0"})",
       R"({"base": "mxfp4", "label": "other"})", R"({"base": "nvfp4", "scale": "ue8m0", "group_size": 32})"},
      {R"("nvfp4")", R"({"element": "e2m1", "group_size": 16, "scale": "ue4m3"})",
       R"({"scale": "e4m3", "group_size": 16, "element": "e2m1", "tensor_scale": "dynamic", "rule": "absmax"})",
       R"({"base": "nvfp4-sweep", "rule": {"type": "absmax"}})",
       R"({"base": "mxfp4", "scale": "e4m3", "group_size": 16})"},
      {R"("nvfp4-sweep")", R"({"base": "nvfp4", "rule": "sweep"})",
       R"({"base": "nvfp4", "rule": {"type": "sweep", "hi": 7, "lo": -3}})",
       R"({"base": "nvfp4", "rule": {"type": "sweep"}})"},
      {R"({"base": "mxfp4", "rule": "map"})", R"({"base": "mxfp4", "rule": {"c": 3.6, "type": "map"}})"}};
  for (const auto& ways : same)
    for (const std::string& text : ways) {
      CAPTURE(text);
      CHECK(format_json(spec(text)).dump() == format_json(spec(ways[0])).dump());
      CHECK(spec(text) == spec(ways[0]));
    }
}

TEST_CASE("registry: defaults follow from the kind of scale", "[formats][registry]") {
  const FormatSpec e4m3 = spec(R"({"base": "mxfp4", "scale": "e4m3"})");
  CHECK(e4m3.rule.kind == ScaleRule::absmax);
  CHECK(e4m3.tensor_scale.mode == TensorScale::dynamic);
  CHECK(e4m3.group_size == 32);
  const FormatSpec e8m0 = spec(R"({"base": "nvfp4-4over6", "scale": "ue8m0"})");
  CHECK(e8m0.rule.kind == ScaleRule::floor);
  CHECK(e8m0.tensor_scale.mode == TensorScale::none);
  const FormatSpec fp32 = spec(R"({"base": "nvfp4", "scale": "fp32"})");
  CHECK(fp32.rule.kind == ScaleRule::absmax);
  CHECK(fp32.tensor_scale.mode == TensorScale::none);
  CHECK(spec(R"({"base": "mxfp4-even", "element": "int4"})").rule.kind ==
        ScaleRule::even);  // the scale type stays
  CHECK(spec(R"({"base": "mxfp4-even", "scale": "ue8m0"})").rule.kind == ScaleRule::even);
}

TEST_CASE("registry: labels", "[formats][registry]") {
  CHECK(parsed(R"({"base": "nvfp4", "group_size": 32, "label": "nvfp4-g32"})").label == "nvfp4-g32");
  CHECK(parsed(R"({"group_size": 32, "base": "nvfp4"})").label == R"({"base":"nvfp4","group_size":32})");
  CHECK(parsed(R"("nvfp4")").label == "nvfp4");
}

TEST_CASE("registry: errors say where, what was found and what is known", "[formats][registry]") {
  check_error(R"("nvfp5")", "",
              {"unknown format \"nvfp5\"", "did you mean \"nvfp4\"?", "known: mxfp4, ", "e2m1-int8"});
  check_error("3", "", {"expected a format", "found 3"});
  check_error("[]", "", {"expected a format", "found a list"});
  check_error(R"({"base": "mxfp5"})", "/base", {"unknown format \"mxfp5\"", "did you mean \"mxfp4\"?"});
  check_error(R"({"base": "nvfp4", "grup_size": 32})", "",
              {"unknown key \"grup_size\"", "did you mean \"group_size\"?", "a format reads: base, "});
  check_error(R"({"base": "nvfp4", "element": "e2m2"})", "/element", {"\"e2m2\"", "e2m1"});
  check_error(R"({"base": "nvfp4", "scale": "e4m4"})", "/scale",
              {"\"e4m4\"", "did you mean \"e4m3\"?", "ue8m0"});
  check_error(R"({"base": "nvfp4", "rule": "absmix"})", "/rule",
              {"unknown rule \"absmix\"", "did you mean \"absmax\"?"});
  check_error(R"({"base": "nvfp4", "rule": {"type": "swep"}})", "/rule/type",
              {"\"swep\"", "did you mean \"sweep\"?"});
  check_error(R"({"base": "nvfp4", "rule": {"type": "sweep", "low": -3}})", "/rule",
              {"unknown key \"low\"", "did you mean \"lo\"?"});
  check_error(R"({"base": "mxfp4", "rule": {"type": "floor", "c": 3}})", "/rule", {"unknown key \"c\""});
  check_error(R"({"base": "nvfp4", "rule": 3})", "/rule", {"expected a rule", "found 3"});
  check_error(R"({"base": "mxfp4", "rule": {"type": "search", "k": 10}})", "/rule/k", {"10"});
  check_error(R"({"base": "nvfp4", "rule": {"type": "sweep", "lo": 1}})", "/rule/lo", {"1"});
  check_error(R"({"base": "mxfp4", "rule": {"type": "map", "c": 0}})", "/rule/c", {"0"});
  check_error(R"({"base": "nvfp4", "tensor_scale": "dynamc"})", "/tensor_scale",
              {"did you mean \"dynamic\"?", "{\"static\": s_T}"});
  check_error(R"({"base": "nvfp4", "tensor_scale": {"static": 0}})", "/tensor_scale/static", {"0"});
  check_error(R"({"base": "nvfp4", "tensor_scale": {"statik": 1}})", "/tensor_scale", {"static"});
  check_error(R"({"base": "nvfp4", "tensor_scale": 1.5})", "/tensor_scale", {"found 1.5"});
  check_error(R"({"base": "nvfp4", "scale_floor": "min"})", "/scale_floor", {"min_subnormal", "min_normal"});
  for (const char* size : {"1", "0", "-16", "5000", "4097", "16.5", "\"rows\"", "true", "[16]", "1e300"}) {
    check_error(std::string(R"({"base": "nvfp4", "group_size": )") + size + "}", "/group_size",
                {"2..4096", "\"row\"", "found"});
  }
  check_error(R"({"element": "e2m1", "scale": "ue8m0"})", "/group_size", {"missing key \"group_size\""});
  check_error(R"({"element": "e2m1", "group_size": 16})", "", {"missing", "scale"});
  check_error(R"({"scale": "e4m3", "group_size": 16})", "", {"missing", "element"});
  CHECK(spec(R"({"base": "nvfp4", "group_size": 2})").group_size == 2);
  CHECK(spec(R"({"base": "nvfp4", "group_size": 4096})").group_size == 4096);
}

TEST_CASE("registry: combinations that cannot work are refused with the reason", "[formats][registry]") {
  struct Row {
    const char* text;
    const char* reason;
  };
  const Row rows[] = {
      {R"({"base": "nvfp4", "rule": "floor"})",
       "rule \"floor\" does not choose e4m3 scales; rules that do: absmax, four_over_six, sweep"},
      {R"({"base": "mxfp4", "rule": "absmax"})",
       "rule \"absmax\" does not choose ue8m0 scales; rules that do: floor, even"},
      {R"({"base": "nvfp4", "element": "int4-asym"})", "needs an fp16, bf16 or fp32 scale, not e4m3"},
      {R"({"base": "mxfp4", "element": "int4-asym"})", "needs an fp16, bf16 or fp32 scale, not ue8m0"},
      {R"({"base": "int4-asym", "rule": "sweep"})", "only rule \"absmax\""},
      {R"({"base": "mxfp4-even", "element": "nf4"})",
       "rule \"even\" needs an element with mantissa bits; nf4 has none"},
      {R"({"base": "mxfp4", "element": "int4", "rule": "quest"})", "rule \"quest\" is defined for e2m1 only"},
      {R"({"base": "nvfp4-4over6", "element": "int4"})", "four_over_six\" is defined for e2m1 with e4m3"},
      {R"({"base": "nvfp4", "scale": "e5m2", "rule": "four_over_six"})",
       "four_over_six\" is defined for e2m1 with e4m3"},
      {R"({"base": "int4", "rule": "sweep"})", "rule \"sweep\" needs 8-bit scale codes, not fp16"},
      {R"({"base": "nvfp4", "rule": {"type": "sweep", "lo": -64, "hi": 64}})", "fewer than 128 codes"},
      {R"({"base": "mxfp4", "tensor_scale": "dynamic"})", "take no tensor scale"},
      {R"({"base": "e2m1-fp32", "tensor_scale": "per_token"})", "fp32 scales span every exponent"},
      {R"({"base": "e2m1-bf16", "tensor_scale": "dynamic"})", "bf16 scales span every exponent"},
      {R"({"base": "int4-asym", "tensor_scale": "dynamic"})",
       "zero points and a tensor scale do not go together"},
      {R"({"base": "int4", "scale_floor": "min_normal"})", "scale_floor is for minifloat scales"},
      {R"({"base": "e2m1-int8", "scale_floor": "min_normal"})", "scale_floor is for minifloat scales"},
  };
  for (const Row& r : rows) check_error(r.text, "", {r.reason});
  // What JSON cannot even write.
  auto problem = [](auto change, FormatSpec f) {
    change(f);
    return format_problem(f);
  };
  CHECK(has(problem([](FormatSpec& f) { f.group_size = 1; }, kMxfp4), "group_size 1 is not in 2..4096"));
  CHECK(
      has(problem([](FormatSpec& f) { f.group_size = 5000; }, kMxfp4), "group_size 5000 is not in 2..4096"));
  CHECK(
      has(problem([](FormatSpec& f) { f.rule = {.kind = ScaleRule::search, .k = 0}; }, kMxfp4), "k in 1..9"));
  CHECK(has(problem([](FormatSpec& f) { f.rule = {.kind = ScaleRule::map, .c = -1}; }, kMxfp4),
            "2^-20 < c < 2^20"));
  CHECK(has(problem([](FormatSpec& f) { f.rule = {.kind = ScaleRule::map, .c = NAN}; }, kMxfp4),
            "2^-20 < c < 2^20"));
  CHECK(has(problem([](FormatSpec& f) { f.rule = {.kind = ScaleRule::sweep, .lo = 1}; }, kNvfp4),
            "lo <= 0 <= hi"));
  for (float bad : {0.0f, -1.0f, NAN, INFINITY})
    CHECK(has(problem(
                  [&](FormatSpec& f) {
                    f.tensor_scale = {TensorScale::fixed, bad};
                  },
                  kNvfp4),
              "positive and at most 2^100"));
}

TEST_CASE("registry: rows that do not fit say what would", "[formats][registry]") {
  CHECK(shape_problem(kMxfp4, 64) == "");
  CHECK(has(shape_problem(kMxfp4, 48), "K = 48 is not a multiple of the group size 32; 16 divides it"));
  CHECK(has(shape_problem(kNvfp4, 24), "group size 16; 8 divides it"));
  CHECK(has(shape_problem(kMxfp4, 75), "25 divides it"));
  CHECK(has(shape_problem(kMxfp4, 150), "30 divides it"));  // rather than 2
  CHECK(has(shape_problem(kMxfp4, 74), "2 divides it"));
  CHECK(has(shape_problem(kNvfp4, 4104), "8 divides it"));
  CHECK(has(shape_problem(kMxfp4, 37), "only \"group_size\": \"row\" fits"));
  CHECK(has(shape_problem(kMxfp4, 0), "no columns"));
  FormatSpec row = kMxfp4;
  row.group_size = kWholeRow;
  CHECK(shape_problem(row, 37) == "");
}

TEST_CASE("registry: weight scales", "[formats][registry]") {
  auto read = [](const std::string& text) {
    return parse_weight_scales(parse_json(text, "f"), {"s.json", "/w", nullptr});
  };
  CHECK(read(R"("rule")") == WeightScales{});
  CHECK(read(R"("absmax")") == WeightScales{});
  CHECK(read(R"("alternate")").kind == WeightScales::alternate);
  CHECK(read(R"("mse_shrink")").kind == WeightScales::mse_shrink);
  const WeightScales sweep = read(R"({"type": "sweep", "lo": -8, "hi": 7})");
  CHECK((sweep.kind == WeightScales::replace && sweep.replacement.kind == ScaleRule::sweep &&
         sweep.replacement.lo == -8));
  CHECK(read(R"("four_over_six")").replacement.kind == ScaleRule::four_over_six);
  for (const char* text :
       {R"("rule")", R"("alternate")", R"("mse_shrink")", R"("sweep")", R"({"type": "search", "k": 3})"})
    CHECK(read(weight_scales_json(read(text)).dump()) == read(text));
  std::string message;
  try {
    read(R"("alternat")");
  } catch (const ConfigError& error) {
    message = error.what();
  }
  CHECK(has(message, "s.json at /w: unknown weight_scales \"alternat\"; did you mean \"alternate\"?"));
  CHECK_THROWS_AS(read("3"), ConfigError);

  const WeightScales alternate{WeightScales::alternate, {}}, shrink{WeightScales::mse_shrink, {}};
  for (const char* name : {"nvfp4", "nvint4", "e2m1-int8"})
    CHECK(weight_scales_problem(alternate, find_format(name)->spec) == "");
  for (const char* name : {"mxfp4", "int4", "nf4"})
    CHECK(has(weight_scales_problem(alternate, find_format(name)->spec), "needs 8-bit group scales"));
  CHECK(has(weight_scales_problem(alternate, spec(R"({"base": "nvfp4", "tensor_scale": "per_token"})")),
            "dynamic"));
  for (const char* name : {"nvfp4", "mxfp4", "mxfp4-paper", "int4", "nf4"})
    CHECK(weight_scales_problem(shrink, find_format(name)->spec) == "");
  CHECK(has(weight_scales_problem(shrink, find_format("int4-asym")->spec), "zero points"));
  for (const char* name : {"mxfp4-fitted", "nvfp4-sweep"})
    CHECK(has(weight_scales_problem(shrink, find_format(name)->spec), "must look at amax alone"));
  CHECK(has(weight_scales_problem(sweep, kMxfp4), "does not choose ue8m0 scales"));
  CHECK(weight_scales_problem(sweep, kNvfp4) == "");
}

TEST_CASE("registry: declared keys name every key that is read", "[formats][registry]") {
  std::vector<std::string> keys, rule_keys;
  for (const KeyInfo& k : declared_keys(declare_format)) keys.push_back(k.key);
  for (const KeyInfo& k : declared_keys(declare_rule)) rule_keys.push_back(k.key);
  CHECK(keys == std::vector<std::string>{"base", "label", "element", "group_size", "scale", "rule",
                                         "tensor_scale", "scale_floor"});
  CHECK(rule_keys == std::vector<std::string>{"type", "c", "k", "lo", "hi", "steps", "lowest"});
}
