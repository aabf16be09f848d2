#include <nlohmann/json.hpp>

#include "methods/method.h"
#include "methods/site.h"
#include "tests/catch.h"
#include "tests/methods/gptq_cases.h"

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

TEST_CASE("methods: the canonical JSON of the GPTQ family", "[methods]") {
  const std::string up_front = R"("rounding":"gptq","scales":"up_front","weight_scales":"rule"})";
  CHECK(canonical(R"("gptq")") ==
        R"({"damping":0.01,"hessian_inputs":"quantized","order":"natural",)" + up_front);
  CHECK(canonical(R"({"rounding": "gptq"})") == canonical(R"("gptq")"));
  CHECK(canonical(R"({"base": "mr-gptq", "rounding": "rtn", "weight_scales": "rule"})") ==
        canonical(R"("rtn+ht")"));
  CHECK(canonical(R"({"base": "gptq", "order": "static_activation", "damping": 0.02})") ==
        R"({"damping":0.02,"hessian_inputs":"quantized","order":"static_activation",)" + up_front);
  CHECK(canonical(R"("mr-gptq")") ==
        R"({"damping":0.01,"hessian_inputs":"quantized","order":"static_activation","rounding":"gptq",)"
        R"("scales":"up_front","transform":)" +
            kHadamard + R"(,"weight_scales":"paper"})");
  CHECK(canonical(R"({"base": "gptaq", "alpha": 0.5})") ==
        R"({"alpha":0.5,"damping":0.01,"hessian_inputs":"quantized","order":"natural","rounding":"gptaq",)"
        R"("scales":"up_front","weight_scales":"rule"})");
  CHECK(canonical(R"({"weight_scales": "local_hessian", "hessian_inputs": "full_precision"})") ==
        R"({"hessian_inputs":"full_precision","weight_scales":"local_hessian"})");
  CHECK(canonical(R"("quarot")").find("hessian_inputs") == std::string::npos);
  // A base whose transform looked at the inputs, without it: nothing does any more.
  CHECK(canonical(R"({"base": "smoothquant", "transform": []})") == canonical(R"("rtn")"));
  CHECK(canonical(R"({"base": "gptq", "scales": "in_loop", "weight_scales": "nearby"})") ==
        R"({"damping":0.01,"hessian_inputs":"quantized","order":"natural","rounding":"gptq",)"
        R"("scales":"in_loop","weight_scales":"nearby"})");
}

TEST_CASE("methods: labels", "[methods]") {
  CHECK(parse(R"("rtn+ht")").label == "rtn+ht");
  CHECK(parse(R"({"base": "rtn", "transform": {"type": "hadamard", "k": 128}, "label": "ht128"})").label ==
        "ht128");
}

TEST_CASE("methods: every named one reads back from its canonical JSON", "[methods]") {
  CHECK(method_names() == std::vector<std::string>{"rtn", "rtn+ht", "smoothquant", "awq", "quarot", "gptq",
                                                   "mr-gptq", "gptaq", "qronos", "gptq-wush", "osfp4"});
  for (const MethodEntry& m : methods()) DYNAMIC_SECTION(m.name) {
      CHECK(method_json(parse_method(Json(std::string(m.name)), kPlace).spec) == method_json(m.spec));
      const MethodSpec back = parse_method(method_json(m.spec), kPlace).spec;
      CHECK(method_json(back) == method_json(m.spec));
      CHECK(back == m.spec);
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
       "reads: base, rotation, transform, weight_scales, label, rounding, hessian_inputs"},
      {R"({"transform": "dcf"})", "s.json at /method/transform: unknown transform \"dcf\""},
      {R"({"transform": null})", "s.json at /method/transform: expected a transform"},
      {R"({"transform": {"type": "hadamard", "k": 100}})",
       "s.json at /method/transform/k: 100 is not a power of two"},
      {R"({"rounding": "gptw"})", "s.json at /method/rounding: "},
      {R"({"base": "rtn", "damping": 0.1})",
       "s.json at /method/damping: \"damping\" belongs to gptq, gptaq and qronos; the rounding is rtn"},
      {R"({"base": "gptq", "rounding": "rtn", "order": "natural"})",
       "s.json at /method/order: \"order\" belongs to gptq, gptaq and qronos; the rounding is rtn"},
      {R"({"base": "rtn", "scales": "in_loop"})", "s.json at /method/scales: \"scales\" belongs to gptq"},
      {R"({"base": "gptq", "alpha": 0.5})", "s.json at /method: unknown key \"alpha\""},
      {R"({"base": "gptq", "damping": -0.1})", "s.json at /method/damping: "},
      {R"({"base": "gptaq", "alpha": 1.5})", "s.json at /method/alpha: "},
      {R"({"base": "gptq", "order": "activation"})", "s.json at /method/order: "},
      {R"({"base": "gptq", "order": "static_activation", "scales": "in_loop"})",
       "s.json at /method/scales: in_loop meets a group's columns together: order natural or "
       "dynamic_activation"},
      {R"({"base": "mr-gptq", "scales": "at_group_start"})",
       "s.json at /method/scales: at_group_start meets a group's columns together"},
      {R"({"base": "gptq", "hessian_inputs": "both"})", "s.json at /method/hessian_inputs: "},
      {R"({"base": "rtn", "hessian_inputs": "quantized"})",
       "s.json at /method/hessian_inputs: nothing in this method looks at a site's inputs"},
      {R"({"base": "gptaq", "hessian_inputs": "full_precision"})",
       "s.json at /method/hessian_inputs: gptaq compares the quantized model's inputs with the original's: "
       "hessian_inputs quantized"},
      {R"({"base": "awq", "rounding": "qronos"})",
       "s.json at /method/rounding: qronos compares the quantized model's inputs with the original's"},
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
  CHECK(keys == std::vector<std::string>{"base", "rotation", "transform", "weight_scales", "label",
                                         "rounding", "order", "scales", "damping", "alpha",
                                         "hessian_inputs"});
  for (const TransformEntry& t : transforms()) {
    const std::vector<KeyInfo> own = declared_keys([&](Params& p) { declare_transform(t.name, p); });
    REQUIRE(own.size() >= 1);
    CHECK(own[0].key == "type");
    CHECK(own[0].choices == std::vector<std::string>{std::string(t.name)});
  }
}

TEST_CASE("methods: every named one through a site; GPTQ and its kin lose less than rtn", "[methods]") {
  for (const MethodEntry& m : methods())
    for (const char* name : {"nvfp4", "mxfp4-paper", "int4"}) DYNAMIC_SECTION(m.name << " " << name) {
        const FormatSpec& format = sites::format(name);
        const sites::Site site = sites::make_site(64, 128, 512, {9, 70}, 6, 50);
        const SitePlace place{.kind = SiteKind::down, .head_dim = 32};
        REQUIRE(site_problem(m.spec, place, &format, nullptr, 128) == "");
        // The output's error in the method's coordinates, activations as they are.
        const auto error = [&](const MethodSpec& spec, SiteReport* report) {
          SiteStats stats = site.stats.clone();
          stats.D = MatrixD::zeros(128, 128);
          const QuantizedWeights got = quantize_site(*make_cpu_ops(), spec, place, &format, nullptr,
                                                     make_cpu_ops()->adopt(site.W.clone()), &stats);
          CHECK(got.digest == got.q->digest());
          CHECK(spec::difference(sites::matrix_of(got.W), gptq_cases::dequantized(*got.q)) == "");
          Matrix X = site.X.clone();
          map_activations(got.map, X);
          if (report) *report = got.report;
          return sites::output_error(site.X, site.W, X, sites::matrix_of(got.W));
        };
        SiteReport report;
        const double mine = error(m.spec, &report),
                     whole = sites::output_error(site.X, site.W, site.X, Matrix::zeros(64, 128));
        MethodSpec nearest = m.spec;
        nearest.rounding = {};
        const double rtn = error(nearest, nullptr);
        CAPTURE(mine / whole, mine / rtn);
        CHECK(mine < 0.04 * whole);
        CHECK(mine > 1e-4 * whole);
        CHECK_FALSE(report.fell_back);
        if (m.spec.rounding.kind == Rounding::rtn) {
          CHECK(mine == rtn);
          CHECK(report.condition == 0);
        } else {
          CHECK(mine < 0.95 * rtn);
          CHECK(report.damping == 0.01);
          CHECK(report.loss * 512 == Approx(mine).epsilon(1e-3));
        }
      }
}
