// Quantized checkpoints made by hand: every layout as it is read, and what must be refused, by name.
#include "experiments/export/stored_model.h"

#include <functional>

#include "core/errors.h"
#include "experiments/export/exporter.h"
#include "formats/registry.h"
#include "kernels/cpu/linear_map.h"
#include "tests/catch.h"
#include "tests/experiments/quantized_folder.h"

using namespace fp4lab;
using namespace fp4lab::test;

namespace {

FormatSpec fixed(FormatSpec f) {
  f.tensor_scale = {TensorScale::fixed, 0};
  return f;
}
FormatSpec int4(int64_t group, ScaleType scale) {
  FormatSpec f = find_format("int4-peer")->spec;
  f.group_size = int(group), f.scale = scale;
  return f;
}

/// Every layout with and without quantized inputs, and with rotations.
std::vector<Scheme> schemes() {
  const FormatSpec even = mxfp4_with(ScaleRule::even), paper = mxfp4_with(ScaleRule::fpq);
  const FormatSpec rows = int4(kWholeRow, kBF16);
  return {{Layout::nvfp4_pack_quantized, kNvfp4, {}},
          {Layout::nvfp4_pack_quantized, kNvfp4, fixed(kNvfp4)},
          {Layout::mxfp4_pack_quantized, even, {}},
          {Layout::mxfp4_pack_quantized, even, even},
          {Layout::pack_quantized, int4(32, kBF16), {}},
          {Layout::pack_quantized, int4(16, kFP16), int4(32, kFP16)},
          {Layout::pack_quantized, int4(32, kBF16), rows},
          {Layout::fp_quant, kNvfp4, fixed(kNvfp4)},
          {Layout::fp_quant, kNvfp4, fixed(kNvfp4), 32},
          {Layout::fp_quant, paper, paper},
          {Layout::fp_quant, paper, paper, 32},
          {Layout::modelopt_nvfp4, kNvfp4, {}},
          {Layout::modelopt_nvfp4, kNvfp4, fixed(kNvfp4)}};
}
Scheme ct_nvfp4() { return schemes()[1]; }
Scheme fp_quant_rotated() { return schemes()[10]; }

constexpr const char* kQ = "model.layers.0.self_attn.q_proj";

std::string refusal(const Scheme& scheme, const std::function<void(QuantizedFolder&)>& change) {
  QuantizedFolder made(scheme);
  change(made);
  const TempFolder folder;
  const std::string path = made.write(folder);
  const std::string message = message_of<DataError>([&] {
    const StoredModel model = StoredModel::open(path);
    for (int l = 0; l < kLinears; ++l) {
      const auto linear = Linear(l);
      if (model.is_stored(0, linear)) model.quantized(0, {&linear, 1});
    }
  });
  CHECK(has(message, path));  // which file
  return message;
}

}  // namespace

TEST_CASE("stored model: every layout is read as it was written", "[experiments][export]") {
  for (const Scheme& scheme : schemes()) {
    INFO(name(scheme.layout) << " " << quantization_config(scheme).dump());
    REQUIRE(scheme_problem(scheme) == "");
    const QuantizedFolder made(scheme);
    const TempFolder folder;
    const std::string path = made.write(folder);
    CHECK(says_quantized(path));
    const StoredModel model = StoredModel::open(path);
    CHECK(model.scheme().layout == scheme.layout);
    CHECK(model.scheme().weights == scheme.weights);
    CHECK(model.scheme().activations == scheme.activations);
    CHECK(model.scheme().hadamard == scheme.hadamard);
    CHECK(model.stored_linears() == kLinears);
    for (int i = 0; i < kLinears; ++i) {
      const auto l = Linear(i);
      const QuantizedMatrix& want = made.quantized.at("model." + linear_name(0, l));
      const QuantizedMatrix found = model.quantized(0, {&l, 1});
      CHECK(found.codes == want.codes);
      CHECK(found.scales.bytes == want.scales.bytes);
      REQUIRE(found.scales.factors.size() == want.scales.factors.size());
      for (size_t f = 0; f < want.scales.factors.size(); ++f)
        CHECK(std::fabs(found.scales.factors[f] / want.scales.factors[f] - 1) <= 0x1p-23f);
      // What tasks see is what the second decoder sees, in the original coordinates; it divides by a stored
      // divisor where we multiply by s_T: three roundings of 2^-24 between them, and those of the rotation.
      const Matrix seen = model.load(0, l), decoded = model.decoded(0, l);
      const bool exact = global_scale_multiplies(scheme.layout) || found.scales.factors.empty();
      const float bound = exact ? 0.0f : scheme.hadamard > 1 ? 8 * 0x1p-22f : 0x1p-22f;
      float largest = 0;
      for (int64_t e = 0; e < seen.size(); ++e)
        largest = std::max(largest, std::fabs(seen.data()[e] - decoded.data()[e]) /
                                        std::max(scheme.hadamard > 1 ? 1.0f : 0.0f,
                                                 std::max(std::fabs(decoded.data()[e]), 1e-30f)));
      CHECK(largest <= bound);
      if (scheme.hadamard > 1) {
        Matrix turned(found.rows(), found.cols());
        dequantize(found, turned);
        CHECK_FALSE(std::equal(seen.data(), seen.data() + seen.size(), turned.data()));
        const LinearMap map{{HadamardFactor{scheme.hadamard, {}, 1}}};
        unmap_weights(map, turned);
        CHECK(std::equal(seen.data(), seen.data() + seen.size(), turned.data()));
      }
      if (scheme.activations && scheme.activations->tensor_scale.mode == TensorScale::fixed)
        CHECK(model.activations(0, l)->tensor_scale.value ==
              (scheme.layout == Layout::modelopt_nvfp4 ? 0.25f : 4.0f));
    }
  }
}

TEST_CASE("stored model: ModelOpt's own file says the same", "[experiments][export]") {
  const Scheme scheme{Layout::modelopt_nvfp4, kNvfp4, fixed(kNvfp4)};
  QuantizedFolder made(scheme);
  made.config.erase("quantization_config");
  const TempFolder folder;
  const std::string path = made.write(folder);
  CHECK_FALSE(says_quantized(path));
  CHECK(has(message_of<DataError>([&] { StoredModel::open(path); }), "has no quantization_config"));
  put(folder / "hf_quant_config.json", hf_quant_config(scheme).dump());
  CHECK(says_quantized(path));
  CHECK(StoredModel::open(path).scheme().activations == scheme.activations);
}

TEST_CASE("stored model: linears in full precision stand beside quantized ones", "[experiments][export]") {
  QuantizedFolder made(ct_nvfp4());
  const std::string o = "model.layers.0.self_attn.o_proj";
  for (const std::string_view suffix : suffixes(Layout::nvfp4_pack_quantized))
    made.tensors.erase(o + "." + std::string(suffix));
  made.tensors[o + ".weight"] = {DType::F32, {64, 32}, raw(std::vector<float>(64 * 32, 0.5f))};
  const TempFolder folder;
  const StoredModel model = StoredModel::open(made.write(folder));
  CHECK(model.stored_linears() == kLinears - 1);
  CHECK_FALSE(model.is_stored(0, Linear::o));
  CHECK(model.load(0, Linear::o)(3, 5) == 0.5f);
}

TEST_CASE("stored model: inconsistent tensors are refused by name", "[experiments][export]") {
  using F = QuantizedFolder;
  const auto q = [](const char* suffix) { return str(kQ, ".", suffix); };
  const auto check = [](const Scheme& s, const std::function<void(F&)>& change,
                        std::initializer_list<std::string> parts) {
    const std::string message = refusal(s, change);
    for (const std::string& part : parts) {
      INFO(message);
      CHECK(has(message, part));
    }
  };
  const float nan = std::nanf("");
  const auto number = [](float x) { return raw(std::vector<float>{x}); };

  check(ct_nvfp4(),
        [&](F& f) {
          f.tensors[q("weight_packed")].shape = {64, 16};
        },
        {q("weight_packed"), "shape (64, 16), expected (32, 32)"});
  check(ct_nvfp4(), [&](F& f) { f.tensors[q("weight_packed")].dtype = DType::I8; },
        {q("weight_packed"), "dtype I8, expected U8"});
  check(ct_nvfp4(), [&](F& f) { f.tensors.erase(q("weight_scale")); }, {q("weight_scale")});
  check(ct_nvfp4(), [&](F& f) { f.tensors[q("weight_scale")].bytes[4 + 1] = '\x7f'; },
        {q("weight_scale"), "row 1, group 1"});
  check(ct_nvfp4(), [&](F& f) { f.tensors[q("weight_scale")].bytes[2] = '\xb8'; },
        {q("weight_scale"), "row 0, group 2"});  // -1
  check(ct_nvfp4(), [&](F& f) { f.tensors.erase(q("weight_global_scale")); }, {q("weight_global_scale")});
  for (const float bad : {0.0f, -1.0f, nan, INFINITY}) {
    check(ct_nvfp4(), [&](F& f) { f.tensors[q("weight_global_scale")].bytes = number(bad); },
          {q("weight_global_scale")});
    check(ct_nvfp4(), [&](F& f) { f.tensors[q("input_global_scale")].bytes = number(bad); },
          {q("input_global_scale")});
  }
  check(ct_nvfp4(), [&](F& f) { f.tensors.erase(q("input_global_scale")); }, {q("input_global_scale")});
  check(ct_nvfp4(),
        [&](F& f) {
          f.tensors[q("weight")] = {DType::F32, {32, 64}, std::string(32 * 64 * 4, '\0')};
        },
        {q("weight"), "stored twice"});
  check(ct_nvfp4(), [&](F& f) { f.config["quantization_config"]["ignore"].push_back(kQ); },
        {kQ, "in full precision, but it is stored as nvfp4-pack-quantized"});
  check(ct_nvfp4(),
        [&](F& f) {
          for (auto it = f.tensors.begin(); it != f.tensors.end();)
            it = has(it->first, "_proj.") && !has(it->first, "weight_scale") ? f.tensors.erase(it)
                                                                             : std::next(it);
        },
        {"q_proj"});
  check({Layout::mxfp4_pack_quantized, mxfp4_with(ScaleRule::even), {}},
        [&](F& f) { f.tensors[q("weight_scale")].bytes[3] = '\xff'; }, {q("weight_scale"), "row 1, group 1"});
  check({Layout::mxfp4_pack_quantized, mxfp4_with(ScaleRule::even), {}},
        [&](F& f) {
          f.tensors[q("weight_scale")] = {DType::U8, {32, 4}, std::string(128, '\x7f')};
        },
        {kQ});
  check({Layout::pack_quantized, int4(32, kBF16), {}},
        [&](F& f) {
          f.tensors[q("weight_shape")].bytes = raw(std::vector<int64_t>{64, 64});
        },
        {q("weight_shape")});
  check({Layout::pack_quantized, int4(32, kBF16), {}},
        [&](F& f) {
          f.config["quantization_config"]["config_groups"]["group_0"]["weights"]["group_size"] = 16;
        },
        {"2 groups of scales in a row of", "config.json says groups of 16"});
  check({Layout::pack_quantized, int4(32, kBF16), {}},
        [&](F& f) { f.tensors[q("weight_scale")].dtype = DType::F16; },
        {"the other linears' scales are not"});
  check(fp_quant_rotated(), [&](F& f) { f.tensors[q("weight_global_scale")].bytes = number(2); },
        {q("weight_global_scale"), "is 2; expected 3"});
  check(fp_quant_rotated(), [&](F& f) { f.tensors.erase(q("forward_hadamard_matrix")); },
        {q("forward_hadamard_matrix")});
  check(fp_quant_rotated(), [&](F& f) { f.tensors[q("forward_hadamard_matrix")].bytes[3] ^= '\x80'; },
        {q("forward_hadamard_matrix"), "neither the Hadamard matrix in Sylvester's order nor the identity"});
  check(fp_quant_rotated(), [&](F& f) { f.config["quantization_config"]["hadamard_group_size"] = 64; },
        {"forward_hadamard_matrix", "shape (32, 32), expected (64, 64) as hadamard_group_size says"});
  check(fp_quant_rotated(),
        [&](F& f) {
          std::vector<float> eye(32 * 32);
          for (size_t i = 0; i < 32; ++i) eye[i * 33] = 1;
          f.tensors[q("forward_hadamard_matrix")].bytes = raw(eye);
        },
        {"forward_hadamard_matrix", "differs from the other linears' matrices"});
}

TEST_CASE("stored model: schemes that are not ours are refused by key", "[experiments][export]") {
  using F = QuantizedFolder;
  struct Mistake {
    std::function<void(Json&)> change;
    std::string part;
  };
  const auto group = [](Json& c) -> Json& { return c["config_groups"]["group_0"]; };
  const std::vector<Mistake> ct = {
      {[](Json& c) { c["quant_method"] = "awq"; }, "\"awq\" is not supported; supported: compressed-tensors"},
      {[](Json& c) { c.erase("quant_method"); }, "quant_method"},
      {[](Json& c) { c["format"] = "float-quantized"; }, "\"float-quantized\" is not supported"},
      {[](Json& c) { c["format"] = "mxfp4-pack-quantized"; }, "mxfp4-pack-quantized"},
      {[](Json& c) { c["quantization_status"] = "frozen"; }, "expected compressed"},
      {[](Json& c) { c["transform_config"]["R1"] = 1; }, "online transforms are not supported"},
      {[](Json& c) { c["sparsity_config"]["format"] = "2:4"; }, "sparsity is not supported"},
      {[](Json& c) { c["config_groups"] = Json::object(); }, "config_groups"},
      {[](Json& c) { c["shiny"] = 1; }, "shiny"},
      {[&](Json& c) { group(c)["weights"]["num_bits"] = 8; }, "num_bits"},
      {[&](Json& c) { group(c)["weights"]["symmetric"] = false; }, "zero points are not supported"},
      {[&](Json& c) { group(c)["weights"]["dynamic"] = true; }, "dynamic"},
      {[&](Json& c) { group(c)["weights"]["actorder"] = "group"; }, "actorder"},
      {[&](Json& c) { group(c)["weights"]["group_size"] = 32; }, "group_size 16"},
      {[&](Json& c) { group(c)["weights"] = nullptr; }, "weights"},
      {[&](Json& c) { group(c)["input_activations"]["dynamic"] = true; }, "expected dynamic local"},
      {[&](Json& c) { group(c)["input_activations"]["type"] = "int"; }, "input_activations"},
      {[&](Json& c) { group(c)["output_activations"] = group(c)["weights"]; }, "quantized outputs"},
      {[&](Json& c) {
         c["config_groups"]["group_1"] = group(c);
         c["config_groups"]["group_1"]["input_activations"] = nullptr;
       },
       "groups with different schemes"}};
  const std::vector<Mistake> fp = {{[](Json& c) { c["forward_dtype"] = "mxfp8"; }, "forward_dtype"},
                                   {[](Json& c) { c["forward_method"] = "quest"; }, "expected abs_max"},
                                   {[](Json& c) { c["pseudoquantization"] = true; }, "pseudoquantization"},
                                   {[](Json& c) { c["hadamard_group_size"] = 0; }, "hadamard_group_size"}};
  const std::vector<Mistake> modelopt = {
      {[](Json& c) { c["quant_algo"] = "FP8"; }, "\"FP8\" is not supported"},
      {[](Json& c) { c["group_size"] = 32; }, "expected 16, found 32"}};
  const auto check = [&](const Scheme& scheme, const std::vector<Mistake>& all) {
    for (const Mistake& m : all) {
      const std::string message = refusal(scheme, [&](F& f) { m.change(f.config["quantization_config"]); });
      INFO(message);
      CHECK(has(message, m.part));
      CHECK(has(message, "config.json"));
    }
  };
  check(ct_nvfp4(), ct);
  check(fp_quant_rotated(), fp);
  check({Layout::modelopt_nvfp4, kNvfp4, {}}, modelopt);
}

TEST_CASE("stored model: what other tools add is passed over and told", "[experiments][export]") {
  QuantizedFolder made(ct_nvfp4());
  made.config["quantization_config"]["kv_cache_scheme"] = {{"num_bits", 8}};
  made.config["quantization_config"]["ignore"] = {"lm_head", "re:.*router.*"};
  made.tensors["model.layers.0.self_attn.k_proj.k_scale"] = {DType::F32, {1}, raw(std::vector<float>{1})};
  const TempFolder folder;
  const StoredModel model = StoredModel::open(made.write(folder));
  CHECK(model.scheme().passed_over == std::vector<std::string>{"kv_cache_scheme"});
}

TEST_CASE("convert: what the other layout's readers compute otherwise is refused", "[experiments][export]") {
  struct Wish {
    Scheme from;
    Layout to;
    std::string why;  // "": it can
  };
  const Scheme mx{Layout::mxfp4_pack_quantized, mxfp4_with(ScaleRule::even), {}};
  const std::vector<Wish> wishes = {
      {ct_nvfp4(), Layout::modelopt_nvfp4, ""},
      {ct_nvfp4(), Layout::fp_quant, ""},
      {{Layout::fp_quant, kNvfp4, fixed(kNvfp4)}, Layout::nvfp4_pack_quantized, ""},
      {{Layout::modelopt_nvfp4, kNvfp4, {}}, Layout::nvfp4_pack_quantized, ""},
      {{Layout::modelopt_nvfp4, kNvfp4, {}}, Layout::fp_quant, "weights alone are stored by"},
      {{Layout::fp_quant, kNvfp4, fixed(kNvfp4), 32}, Layout::nvfp4_pack_quantized, "apply no rotation"},
      {ct_nvfp4(), Layout::mxfp4_pack_quantized, "cannot be mxfp4-pack-quantized"},
      {mx, Layout::fp_quant, "rule"},
      {fp_quant_rotated(), Layout::mxfp4_pack_quantized, "a third of a power of two"}};
  for (const Wish& w : wishes) {
    const TempFolder folder;
    const StoredModel model = StoredModel::open(QuantizedFolder(w.from).write(folder));
    INFO(name(w.from.layout) << " to " << name(w.to));
    const std::string message = message_of<ConfigError>([&] { converted_scheme(model, w.to); });
    CHECK(has(message, w.why.empty() ? "(nothing thrown)" : w.why));
    if (!w.why.empty()) CHECK(has(message, model.path()));
    if (!w.why.empty()) continue;
    const TempFolder parent;
    CheckpointFolder to(parent / "new", false, 5000000000);
    const Written written = convert_checkpoint(model, w.to, to, Json::object());
    to.publish();
    CHECK(written.linears == kLinears);
    const StoredModel other = StoredModel::open(parent / "new");
    for (int i = 0; i < kLinears; ++i) {
      const auto l = Linear(i);
      CHECK(other.quantized(0, {&l, 1}).codes == model.quantized(0, {&l, 1}).codes);
      CHECK(other.quantized(0, {&l, 1}).scales.bytes == model.quantized(0, {&l, 1}).scales.bytes);
      if (global_scale_multiplies(w.from.layout) == global_scale_multiplies(w.to))
        CHECK(other.stored_global(0, l) == model.stored_global(0, l));
    }
  }
}

TEST_CASE("stored model: exact tensor scales belong to their divisors", "[experiments][export]") {
  // 1 / (1 / s) is not s: found by trying.
  float s = 1.5f;
  while (1.0f / (1.0f / s) == s) s = std::nextafter(s, 2.0f);
  QuantizedFolder made(ct_nvfp4());
  made.tensors[std::string(kQ) + ".input_global_scale"].bytes = raw(std::vector<float>{1.0f / s});
  const TempFolder folder;
  const std::string path = made.write(folder);
  const auto input = [&] { return StoredModel::open(path).activations(0, Linear::q)->tensor_scale.value; };
  const auto scales = [&](const std::string& text) { put(folder / kScalesFile, text); };
  CHECK(input() != s);
  scales(Json{{kQ, {{"input", double(s)}}}}.dump());
  CHECK(input() == s);
  const auto refused = [&](const std::string& text, const char* part) {
    scales(text);
    const std::string message = message_of<DataError>(input);
    INFO(message);
    CHECK(has(message, std::string(kScalesFile)));
    CHECK(has(message, part));
  };
  refused(Json{{kQ, {{"input", 2 * double(s)}}}}.dump(), "does not belong to the stored tensors");
  refused(Json{{kQ, {{"weight", double(s)}}}}.dump(), "does not belong to the stored tensors");
  refused(Json{{kQ, {{"output", 1}}}}.dump(), "output");
  refused(Json{{"model.layers.9.mlp.up_proj", {{"input", 1}}}}.dump(), "model.layers.9.mlp.up_proj");
  refused("[1]", "expected");
  refused("{", "fp4lab_scales.json");
}
