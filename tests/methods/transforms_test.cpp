#include <algorithm>
#include <cmath>
#include <nlohmann/json.hpp>

#include "core/text.h"
#include "kernels/cpu/linear_map.h"
#include "methods/transforms/site_transforms.h"
#include "tests/catch.h"

using namespace fp4lab;

namespace {

const Place kPlace{"s.json", "/method/transform", nullptr};

std::vector<TransformSpec> parse(const std::string& text) {
  return parse_transforms(parse_json(text, "test"), kPlace);
}
SiteTransforms parse_sites(const std::string& text) {
  return parse_site_transforms(parse_json(text, "test"), kPlace);
}
template <class Parse>
std::string error_of(Parse parse_text, const std::string& text) {
  try {
    parse_text(text);
  } catch (const ConfigError& e) {
    return e.what();
  }
  return "";
}
bool has(const std::string& message, const std::string& part) {
  return message.find(part) != std::string::npos;
}

TransformSpec hadamard(int64_t k, bool randomize = false) { return {TransformSpec::hadamard, k, randomize}; }
TransformFit fit_of(int64_t channels, int64_t group, uint64_t seed = 1, uint64_t index = 0) {
  TransformFit fit;
  fit.channels = channels, fit.group_size = group, fit.seed = seed, fit.index = index;
  return fit;
}
std::string problem_of(const TransformSpec& spec, int64_t channels, int64_t group) {
  return transform_problem(spec, fit_of(channels, group));
}
const HadamardFactor& rotation(const LinearMap& map, size_t f) {
  return std::get<HadamardFactor>(map.factors.at(f));
}

/// '+' and '-' of the first signs of factor f.
std::string first_signs(const LinearMap& map, size_t f, size_t n) {
  std::string text;
  for (size_t c = 0; c < n; ++c) text += rotation(map, f).signs.at(c) > 0 ? '+' : '-';
  return text;
}

}  // namespace

TEST_CASE("transforms: what is read, and the canonical JSON", "[methods][transforms]") {
  CHECK(parse(R"("hadamard")") == std::vector{hadamard(0)});
  CHECK(parse(R"({"type": "hadamard"})") == std::vector{hadamard(0)});
  CHECK(parse(R"({"type": "hadamard", "k": 128, "randomize": true})") == std::vector{hadamard(128, true)});
  CHECK(parse(R"(["hadamard", {"type": "hadamard", "k": 2}])") == std::vector{hadamard(0), hadamard(2)});
  CHECK(parse("[]").empty());

  CHECK(transforms_json({}).dump() == "[]");
  CHECK(transforms_json({hadamard(0), hadamard(64, true)}).dump() ==
        R"([{"k":0,"randomize":false,"type":"hadamard"},{"k":64,"randomize":true,"type":"hadamard"}])");
  const std::vector<TransformSpec> specs = {hadamard(0), hadamard(64, true), hadamard(2)};
  CHECK(parse_transforms(transforms_json(specs), kPlace) == specs);
}

TEST_CASE("transforms: the words of k, and every kind's canonical JSON", "[methods][transforms]") {
  CHECK(parse(R"({"type": "hadamard", "k": "full"})") == std::vector{hadamard(kFullWidth)});
  CHECK(parse(R"({"type": "hadamard", "k": "heads"})") == std::vector{hadamard(kHeads)});
  CHECK(parse(R"({"type": "hadamard", "k": 32.0})") == std::vector{hadamard(32)});
  const auto canonical = [](const std::string& text) { return transforms_json(parse(text)).dump(); };
  CHECK(canonical(R"({"type": "hadamard", "k": "heads"})") ==
        R"([{"k":"heads","randomize":false,"type":"hadamard"}])");
  CHECK(canonical(R"({"type": "gsr", "k": 64})") == R"([{"k":64,"type":"gsr"}])");
  CHECK(canonical(R"("dct")") == R"([{"k":0,"type":"dct"}])");
  CHECK(canonical(R"({"type": "dst", "k": 12})") == R"([{"k":12,"type":"dst"}])");
  CHECK(canonical(R"({"type": "random_orthogonal", "k": "full"})") ==
        R"([{"k":"full","type":"random_orthogonal"}])");
  CHECK(canonical(R"("permute")") == R"([{"by":"mass","k":0,"type":"permute"}])");
  CHECK(canonical(R"({"type": "permute", "by": "hessian"})") == R"([{"by":"hessian","type":"permute"}])");
  for (const TransformEntry& entry : transforms()) {
    const std::string once = canonical("\"" + std::string(entry.name) + "\"");
    CAPTURE(once);
    CHECK(canonical(once) == once);
    Params declared = Params::declaring("test");  // what lists and schemas are made of
    declare_transform(entry.name, declared);
    const Json object = parse_json(once, "test")[0];
    for (const auto& item : object.items())
      CHECK(std::any_of(declared.declared().begin(), declared.declared().end(),
                        [&](const KeyInfo& key) { return key.key == item.key(); }));
  }
}

TEST_CASE("transforms: refusals say where and what would do", "[methods][transforms]") {
  struct Row {
    const char* text;
    const char* pointer;
    std::vector<const char*> parts;
  };
  std::string long_list = "[\"hadamard\"";
  for (int i = 0; i < kMaxTransforms; ++i) long_list += ",\"hadamard\"";
  long_list += "]";
  const Row rows[] = {
      {R"("hadamrd")", "", {"unknown transform \"hadamrd\"", "did you mean \"hadamard\"", "known: hadamard"}},
      {"3", "", {"expected a transform (a name or an object), found 3"}},
      {"null", "", {"expected a transform", "found null"}},
      {R"([["hadamard"]])", "/0", {"expected a transform", "found a list"}},
      {R"({"k": 32})", "", {"type"}},
      {R"({"type": "dft"})", "/type", {"dft", "known: hadamard"}},
      {R"({"type": "hadamard", "kk": 32})", "", {"unknown key \"kk\"", "type, k, randomize"}},
      {R"({"type": "hadamard", "k": 48})", "/k", {"48 is not a power of two"}},
      {R"({"type": "hadamard", "k": 1})", "/k", {"1 is not a power of two from 2 on"}},
      {R"({"type": "hadamard", "k": -2})", "/k", {"an integer in [0, ", "found -2"}},
      {R"({"type": "hadamard", "k": 2.5})", "/k", {"or one of: full, heads, found 2.5"}},
      {R"({"type": "hadamard", "k": 1e30})", "/k", {"an integer in [0, 1073741824]", "found 1e+30"}},
      {R"({"type": "hadamard", "k": null})", "/k", {"an integer", "found null"}},
      {R"({"type": "hadamard", "k": "ful"})", "/k", {"did you mean \"full\"", "known: full, heads"}},
      {R"({"type": "gsr", "k": "heads"})", "/k", {"unknown k \"heads\"", "known: full"}},
      {R"({"type": "gsr", "k": 12})", "/k", {"12 is not a power of two from 2 on"}},
      {R"({"type": "dct", "k": 1})", "/k", {"1 is no block; blocks have 2 channels or more"}},
      {R"({"type": "dst", "randomize": true})", "", {"unknown key \"randomize\"", "type, k"}},
      {R"({"type": "random_orthogonal", "k": true})", "/k", {"an integer", "one of: full, found true"}},
      {R"({"type": "permute", "by": "size"})", "/by", {"unknown by \"size\"", "mass, hessian"}},
      {R"({"type": "permute", "k": "full"})", "/k", {"an integer in [0, 1073741824], found a string"}},
      {R"({"type": "permute", "by": "hessian", "k": 8})", "", {"unknown key \"k\"", "type, by"}},
      {R"({"type": "hadamard", "randomize": 1})", "/randomize", {"true or false", "found 1"}},
      {R"(["hadamard", {"type": "hadamard", "k": 3}])", "/1/k", {"3 is not a power of two"}},
      {long_list.c_str(), "", {"17 transforms; a list holds at most 16"}},
  };
  for (const Row& row : rows) {
    const std::string message = error_of(parse, row.text);
    CAPTURE(row.text, message);
    CHECK(message.rfind(std::string("s.json at /method/transform") + row.pointer + ": ", 0) == 0);
    for (const char* part : row.parts) CHECK(has(message, part));
  }
}

TEST_CASE("hadamard: which block sizes serve", "[methods][transforms]") {
  CHECK(problem_of(hadamard(0), 4096, 32) == "");
  CHECK(problem_of(hadamard(128), 4096, 32) == "");
  CHECK(problem_of(hadamard(4096), 4096, 16) == "");
  CHECK(problem_of(hadamard(2), 6, 3) == "");
  CHECK(problem_of(hadamard(0), 352, 0) == "");  // 352 = 11 * 32
  CHECK(problem_of(hadamard(128), 352, 32) ==
        "hadamard: k = 128 does not divide 352 channels; powers of two that do: 2, 4, 8, 16, 32");
  CHECK(problem_of(hadamard(8192), 4096, 32) ==
        "hadamard: k = 8192 does not divide 4096 channels; powers of two that do: 2, 4, 8, 16, 32, 64, 128, "
        "256, 512, 1024, 2048, 4096");
  CHECK(problem_of(hadamard(0), 48, 24) ==
        "hadamard: the format's group size 24 is not a power of two; those that divide 48 channels as "
        "\"k\": 2, 4, 8, 16");
  CHECK(problem_of(hadamard(6), 12, 4) ==
        "hadamard: k = 6 is not a power of two; those that divide 12 channels as \"k\": 2, 4");
  for (const int64_t k : {0, 2})
    CHECK(problem_of(hadamard(k), 33, 0) == "hadamard: no power of two divides 33 channels");
}

TEST_CASE("hadamard: the blocks that are fitted", "[methods][transforms]") {
  const auto k_of = [](const TransformSpec& spec, int64_t channels, int64_t group) {
    const LinearMap map = fit_transforms({spec}, fit_of(channels, group));
    REQUIRE(map.factors.size() == 1);
    CHECK(rotation(map, 0).signs.empty() != spec.randomize);
    return rotation(map, 0).k;
  };
  CHECK(k_of(hadamard(0), 4096, 16) == 16);
  CHECK(k_of(hadamard(0), 4096, 0) == 4096);
  CHECK(k_of(hadamard(0), 352, 0) == 32);
  CHECK(k_of(hadamard(64), 4096, 16) == 64);
  CHECK(k_of(hadamard(64, true), 4096, 16) == 64);
  CHECK(fit_transforms({}, fit_of(4096, 16)).identity());
  CHECK(fit_transforms({hadamard(0), hadamard(8)}, fit_of(64, 16)) ==
        LinearMap{{HadamardFactor{16, {}}, HadamardFactor{8, {}}}});
}

TEST_CASE("hadamard: random signs", "[methods][transforms]") {
  const std::vector<TransformSpec> two = {hadamard(16, true), hadamard(16, true)};
  const LinearMap map = fit_transforms(two, fit_of(4096, 32, 7, 3));
  CHECK(map == fit_transforms(two, fit_of(4096, 32, 7, 3)));
  // Computed outside of this program: bit 0 (bit 1 for the second) of Philox' first word.
  CHECK(first_signs(map, 0, 16) == "+---++--+++--+++");
  CHECK(first_signs(map, 1, 16) == "-+++-++-+---++++");
  CHECK(first_signs(fit_transforms(two, fit_of(4096, 32, 7, 4)), 0, 16) == "+++-++++-++--+--");

  // Half of the channels agree with any other draw: seed, index, place in the list.
  const auto agreeing = [](const LinearMap& a, size_t f, const LinearMap& b, size_t g) {
    int same = 0;
    for (size_t c = 0; c < 4096; ++c) same += rotation(a, f).signs[c] == rotation(b, g).signs[c];
    return same;
  };
  const int far = 5 * 32;  // five standard deviations of 4096 coins
  CHECK(std::abs(agreeing(map, 0, map, 1) - 2048) < far);
  CHECK(std::abs(agreeing(map, 0, fit_transforms(two, fit_of(4096, 32, 8, 3)), 0) - 2048) < far);
  CHECK(std::abs(agreeing(map, 0, fit_transforms(two, fit_of(4096, 32, 7, 4)), 0) - 2048) < far);
  double sum = 0;
  for (const float s : rotation(map, 0).signs) {
    CHECK(std::fabs(s) == 1);
    sum += double(s);
  }
  CHECK(std::fabs(sum) < 2 * far);

  // A channel's sign depends neither on the format, the block size nor on what else is in the list.
  const LinearMap other = fit_transforms({hadamard(8), hadamard(0, true)}, fit_of(1024, 16, 7, 3));
  CHECK(std::equal(rotation(other, 1).signs.begin(), rotation(other, 1).signs.end(),
                   rotation(map, 1).signs.begin()));
}

TEST_CASE("transforms by site", "[methods][transforms]") {
  const SiteTransforms same = parse_sites(R"(["hadamard"])");
  CHECK(same_at_every_site(same));
  for (const auto& site : same) CHECK(site == std::vector{hadamard(0)});
  CHECK(site_transforms_json(same).dump() == R"([{"k":0,"randomize":false,"type":"hadamard"}])");

  const SiteTransforms some = parse_sites(
      R"({"o": "hadamard", "down": [{"type": "hadamard", "k": 128}, "hadamard"], "gate_up": []})");
  CHECK_FALSE(same_at_every_site(some));
  CHECK(some[size_t(SiteKind::qkv)].empty());
  CHECK(some[size_t(SiteKind::o)] == std::vector{hadamard(0)});
  CHECK(some[size_t(SiteKind::gate_up)].empty());
  CHECK(some[size_t(SiteKind::down)] == std::vector{hadamard(128), hadamard(0)});
  CHECK(parse_site_transforms(site_transforms_json(some), kPlace) == some);

  // All four alike are one list, however they were written.
  const SiteTransforms alike = parse_sites(
      R"({"qkv": "hadamard", "o": ["hadamard"], "gate_up": {"type": "hadamard"}, "down": "hadamard"})");
  CHECK(alike == same);
  CHECK(site_transforms_json(alike) == site_transforms_json(same));

  std::string message = error_of(parse_sites, R"({"qkv": [], "out": []})");
  CHECK(has(message, "at /method/transform: unknown key \"out\""));
  CHECK(has(message, "transforms by site"));
  message = error_of(parse_sites, R"({"qkv": [], "down": {"type": "hadamard", "k": 12}})");
  CHECK(has(message, "at /method/transform/down/k: 12 is not a power of two"));
  message = error_of(parse_sites, R"({"o": null})");
  CHECK(has(message, "at /method/transform/o: expected a transform"));
  for (const char* text : {"{}", R"({"k": 32})", R"({"qvk": "hadamard"})"}) {
    message = error_of(parse_sites, text);
    CAPTURE(text, message);
    CHECK(has(message, "at /method/transform: expected a transform with its \"type\" (hadamard, gsr, dct, "));
    CHECK(has(message, "or an object by site (qkv, o, gate_up, down)"));
  }
}

TEST_CASE("the site of a tensor, by its name", "[methods][transforms]") {
  const std::string layer = "model.layers.11.";
  CHECK(site_of_tensor(layer + "self_attn.q_proj.weight") == SiteKind::qkv);
  CHECK(site_of_tensor(layer + "self_attn.k_proj.weight") == SiteKind::qkv);
  CHECK(site_of_tensor(layer + "self_attn.v_proj") == SiteKind::qkv);
  CHECK(site_of_tensor(layer + "self_attn.o_proj.weight") == SiteKind::o);
  CHECK(site_of_tensor(layer + "mlp.gate_proj.weight") == SiteKind::gate_up);
  CHECK(site_of_tensor(layer + "mlp.up_proj.weight") == SiteKind::gate_up);
  CHECK(site_of_tensor("down_proj") == SiteKind::down);
  for (const char* name : {"", "weight", ".weight", "normal", "lm_head.weight", "x.q_proj.bias", "xq_proj",
                           "q_proj.weight.scale"})
    CHECK_FALSE(site_of_tensor(name));
}
