// How other tools store a quantized linear: bytes typed from their documentation, every format we know
// against every layout through the second decoder, and files that must be refused.
#include "experiments/export/layout.h"

#include <cmath>
#include <cstring>
#include <map>
#include <random>

#include "core/errors.h"
#include "experiments/export/layout_decoder.h"
#include "formats/registry.h"
#include "tests/catch.h"
#include "tests/core/io/temp_folder.h"

using namespace fp4lab;
using namespace fp4lab::test;

namespace {

Matrix some_weights(int64_t rows, int64_t cols) {
  std::mt19937 random(7);
  std::normal_distribution<float> normal;
  Matrix X(rows, cols);
  for (int64_t r = 0; r < rows; ++r)
    for (int64_t c = 0; c < cols; ++c) X(r, c) = normal(random) * std::exp(float(r % 5) - 4.0f);
  for (int64_t c = 0; c < cols / 2; ++c) X(1, c) = 0;  // groups of zeros
  return X;
}

void write(const std::string& path, const std::string& prefix, const std::vector<LayoutTensor>& tensors) {
  std::vector<TensorToWrite> all;
  for (const LayoutTensor& t : tensors)
    all.push_back(
        {prefix + "." + std::string(t.suffix), t.dtype, t.shape, std::as_bytes(std::span(t.bytes))});
  write_safetensors(path, all);
}

std::string accepted_by(Layout layout) {
  std::string all;
  for (const FormatEntry& f : formats())
    if (layout_problem(layout, f.spec).empty()) all += (all.empty() ? "" : " ") + std::string(f.name);
  return all;
}

uint32_t bits_of(float x) {
  uint32_t b;
  std::memcpy(&b, &x, 4);
  return b;
}

/// Tensors of one linear by hand, and what decoding them says.
struct ByHand {
  std::map<std::string, std::pair<DType, std::vector<int64_t>>> kinds;
  std::map<std::string, std::string> bytes;

  void set(const std::string& suffix, DType dtype, std::vector<int64_t> shape, const std::string& data) {
    kinds[suffix] = {dtype, std::move(shape)};
    bytes[suffix] = data;
  }
  DecodedLinear decode(Layout layout, int64_t rows, int64_t cols) const {
    const TempFolder folder;
    std::vector<TensorToWrite> all;
    for (const auto& [suffix, kind] : kinds)
      all.push_back({"m." + suffix, kind.first, kind.second, std::as_bytes(std::span(bytes.at(suffix)))});
    write_safetensors(folder / "a.safetensors", all);
    return decode_linear(layout, TensorFile::open(folder / "a.safetensors"), "m", rows, cols);
  }
  std::string refusal(Layout layout, int64_t rows, int64_t cols) const {
    return message_of<DataError>([&] { decode(layout, rows, cols); });
  }
};

ByHand nvfp4_by_hand() {
  ByHand h;
  h.set("weight_packed", DType::U8, {1, 8}, std::string("\x10\x32\x54\x76\x98\xba\xdc\xfe"));
  h.set("weight_scale", DType::F8_E4M3, {1, 1}, "\x38");  // 1
  h.set("weight_global_scale", DType::F32, {1}, raw(std::vector<float>{4.0f}));
  return h;
}
ByHand int4_by_hand() {
  ByHand h;
  h.set("weight_packed", DType::I32, {1, 1}, raw(std::vector<uint32_t>{0xfedc8710u}));
  h.set("weight_scale", DType::BF16, {1, 1}, raw(std::vector<uint16_t>{0x3f00}));  // 0.5
  h.set("weight_shape", DType::I64, {2}, raw(std::vector<int64_t>{1, 8}));
  return h;
}

}  // namespace

TEST_CASE("layouts: which named formats each can hold", "[experiments][export]") {
  CHECK(accepted_by(Layout::nvfp4_pack_quantized) == "nvfp4 nvfp4-4over6 nvfp4-sweep");
  CHECK(accepted_by(Layout::modelopt_nvfp4) == "nvfp4 nvfp4-4over6 nvfp4-sweep");
  CHECK(accepted_by(Layout::mxfp4_pack_quantized) == "mxfp4 mxfp4-even mxfp4-ceil");
  CHECK(accepted_by(Layout::pack_quantized) == "int4 int4-g128 int4-peer");
  CHECK(accepted_by(Layout::fp_quant) == "mxfp4-paper nvfp4 nvfp4-4over6 nvfp4-sweep");
  for (const LayoutEntry& e : layouts()) {
    CHECK(find_layout(e.name) == &e);
    CHECK(name(e.layout) == e.name);
  }
}

TEST_CASE("layouts: a refusal says why and what can be stored instead", "[experiments][export]") {
  const auto why = [](Layout layout, const char* format) {
    return layout_problem(layout, find_format(format)->spec);
  };
  CHECK(has(why(Layout::mxfp4_pack_quantized, "mxfp4-paper"), "no global scale to hold the third; fp_quant"));
  CHECK(has(why(Layout::mxfp4_pack_quantized, "mxfp4-fitted"), "not powers of two"));
  CHECK(has(why(Layout::mxfp4_pack_quantized, "nvfp4"), "mxfp4-even is the nearest"));
  CHECK(has(why(Layout::nvfp4_pack_quantized, "mxfp4"), "nvfp4 is the nearest"));
  CHECK(has(why(Layout::pack_quantized, "int4-asym"), "zero points"));
  CHECK(has(why(Layout::fp_quant, "mxfp4-even"), "\"even\" weights"));
  CHECK(has(why(Layout::fp_quant, "mxfp4-even"), "mxfp4-paper"));
  const FormatSpec int4 = find_format("int4")->spec;
  CHECK(layout_problem(Layout::pack_quantized, int4, 64).empty());
  CHECK(has(layout_problem(Layout::pack_quantized, int4, 48), "multiple of the group size 32"));
  FormatSpec four = int4;
  four.group_size = 4;
  CHECK(layout_problem(Layout::pack_quantized, four, 12) == "K = 12 is not a multiple of 8");
  const QuantizedMatrix q = quantize(find_format("nvfp4")->spec, some_weights(2, 32));
  CHECK(has(message_of<ConfigError>([&] { to_layout(Layout::mxfp4_pack_quantized, q, 0, 2); }),
            "mxfp4-pack-quantized: only e2m1"));
}

TEST_CASE("layouts: every format that fits, written and read by the second decoder",
          "[experiments][export]") {
  const TempFolder folder;
  const Matrix X = some_weights(6, 256);
  int pairs = 0;
  for (const LayoutEntry& layout : layouts())
    for (const FormatEntry& format : formats()) {
      if (!layout_problem(layout.layout, format.spec).empty()) continue;
      CAPTURE(layout.name, format.name);
      ++pairs;
      const QuantizedMatrix q = quantize(format.spec, X);
      Matrix values(6, 256);
      dequantize(q, values);
      // Four of six rows, as one linear of a site.
      const std::string path = folder / "w.safetensors";
      write(path, "model.x", to_layout(layout.layout, q, 1, 4));
      const DecodedLinear d = decode_linear(layout.layout, TensorFile::open(path), "model.x", 4, 256);
      REQUIRE(d.groups == format.spec.groups(256));
      const Matrix decoded = d.values();
      std::vector<uint8_t> codes(256);
      bool codes_equal = true, scales_equal = true;
      const int width = format.spec.scale.bytes;
      double worst = 0;
      for (int64_t r = 0; r < 4; ++r) {
        unpack_codes(q, r + 1, codes.data());
        codes_equal &= std::memcmp(codes.data(), d.codes.data() + r * 256, 256) == 0;
        for (int64_t g = 0; g < d.groups; ++g)
          scales_equal &=
              std::memcmp(&d.scales[size_t(r * d.groups + g)],
                          q.scales.bytes.data() + ((r + 1) * d.groups + g) * width, size_t(width)) == 0;
        for (int64_t c = 0; c < 256; ++c) {
          const float ours = values(r + 1, c), theirs = decoded(r, c);
          if (ours == 0)
            worst = std::max(worst, double(std::fabs(theirs)));
          else
            worst = std::max(worst, std::fabs(double(theirs) / double(ours) - 1));
        }
      }
      CHECK(codes_equal);
      CHECK(scales_equal);
      // A divisor is an inverse: half an ulp from it, half from the quotient, as much from our own product.
      const bool inverse = format.spec.scale == kE4M3 && layout.layout != Layout::modelopt_nvfp4;
      CHECK(worst <= (inverse ? 3 * 0x1p-24 : 0.0));
      if (inverse) CHECK(std::abs(int(bits_of(d.tensor_scale())) - int(bits_of(q.scales.factors[0]))) <= 1);
      if (format.spec.rule.kind == ScaleRule::fpq) CHECK(d.global == 3.0f);
    }
  CHECK(pairs == 16);
}

TEST_CASE("layouts: bytes by hand", "[experiments][export]") {
  // Codes 0..15, the even element in the low nibble.
  const DecodedLinear fp4 = nvfp4_by_hand().decode(Layout::nvfp4_pack_quantized, 1, 16);
  const float values[16] = {0, .5f, 1, 1.5f, 2, 3, 4, 6, -0.0f, -.5f, -1, -1.5f, -2, -3, -4, -6};
  for (int i = 0; i < 16; ++i) {
    CAPTURE(i);
    CHECK(fp4.codes[size_t(i)] == i);
    CHECK(fp4.values()(0, i) == values[i] / 4);
    CHECK(std::signbit(fp4.values()(0, i)) == (i >= 8));
  }
  // Element j at bits 4j, 8 means zero.
  const DecodedLinear i4 = int4_by_hand().decode(Layout::pack_quantized, 1, 8);
  const float integers[8] = {-8, -7, -1, 0, 4, 5, 6, 7};
  for (int i = 0; i < 8; ++i) CHECK(i4.values()(0, i) == integers[i] / 2);

  ByHand mx;
  mx.set("weight_packed", DType::U8, {1, 16}, std::string(16, '\x22'));
  mx.set("weight_scale", DType::U8, {1, 1}, "\x80");
  CHECK(mx.decode(Layout::mxfp4_pack_quantized, 1, 32).values()(0, 31) == 2.0f);
  mx.set("qweight", DType::U8, {1, 16}, std::string(16, '\x22'));
  mx.set("scales", DType::U8, {1, 1}, "\x80");
  mx.set("weight_global_scale", DType::F32, {1}, raw(std::vector<float>{3.0f}));
  CHECK(mx.decode(Layout::fp_quant, 1, 32).values()(0, 0) == 2.0f / 3.0f);

  // s_T itself, 448 is the largest scale.
  ByHand modelopt = nvfp4_by_hand();
  modelopt.set("weight", DType::U8, {1, 8}, std::string(8, '\x77'));
  modelopt.set("weight_scale", DType::F8_E4M3, {1, 1}, "\x7e");
  modelopt.set("weight_scale_2", DType::F32, {1}, raw(std::vector<float>{0.25f}));
  CHECK(modelopt.decode(Layout::modelopt_nvfp4, 1, 16).values()(0, 0) == 6 * 448 / 4.0f);
}

TEST_CASE("layouts: files that are refused, by tensor", "[experiments][export]") {
  const Layout nv = Layout::nvfp4_pack_quantized;
  for (const char bad : {'\x7f', '\xff', '\x80', '\xb8'}) {  // NaN, -NaN, -0, -1
    ByHand h = nvfp4_by_hand();
    h.set("weight_scale", DType::F8_E4M3, {1, 1}, std::string(1, bad));
    CHECK(has(h.refusal(nv, 1, 16),
              str("tensor m.weight_scale: row 0, group 0: ", int(uint8_t(bad)), " is not a scale")));
  }
  for (const float bad : {0.0f, -1.0f, float(NAN), float(INFINITY)}) {
    ByHand h = nvfp4_by_hand();
    h.set("weight_global_scale", DType::F32, {1}, raw(std::vector<float>{bad}));
    CHECK(has(h.refusal(nv, 1, 16), "tensor m.weight_global_scale: "));
    CHECK(has(h.refusal(nv, 1, 16), "is not a positive number"));
  }
  ByHand h = nvfp4_by_hand();
  CHECK(has(h.refusal(nv, 2, 16), "m.weight_packed: shape (1, 8), expected (2, 8)"));
  CHECK(has(h.refusal(nv, 1, 8), "K is not a multiple of 16"));
  CHECK(has(h.refusal(nv, 0, 16), "(0, 16) cannot be stored"));
  h.kinds.erase("weight_global_scale");
  CHECK(has(h.refusal(nv, 1, 16), "m.weight_global_scale"));
  h.set("weight_packed", DType::I8, {1, 8}, std::string(8, '\0'));
  CHECK(has(h.refusal(nv, 1, 16), "m.weight_packed: dtype I8, expected U8"));

  ByHand mx;
  mx.set("weight_packed", DType::U8, {1, 32}, std::string(32, '\x22'));
  mx.set("weight_scale", DType::U8, {1, 2}, "\x80\xff");
  CHECK(has(mx.refusal(Layout::mxfp4_pack_quantized, 1, 64),
            "m.weight_scale: row 0, group 1: 255 is not a scale"));
  mx.set("qweight", DType::U8, {1, 32}, std::string(32, '\x22'));
  mx.set("scales", DType::U8, {1, 1}, "\x80");
  mx.set("weight_global_scale", DType::F32, {1}, raw(std::vector<float>{3.0f}));
  CHECK(
      has(mx.refusal(Layout::fp_quant, 1, 64), "m.scales: groups of 64, expected 16 (NVFP4) or 32 (MXFP4)"));

  ByHand i4 = int4_by_hand();
  i4.set("weight_shape", DType::I64, {2}, raw(std::vector<int64_t>{8, 1}));
  CHECK(has(i4.refusal(Layout::pack_quantized, 1, 8), "m.weight_shape: says (8, 1), expected (1, 8)"));
  i4 = int4_by_hand();
  i4.set("weight_scale", DType::BF16, {1, 3}, std::string(6, '\0'));
  CHECK(has(i4.refusal(Layout::pack_quantized, 1, 8), "m.weight_scale: shape (1, 3), expected (1, groups)"));
  i4.set("weight_scale", DType::F32, {1, 1}, std::string(4, '\0'));
  CHECK(has(i4.refusal(Layout::pack_quantized, 1, 8), "dtype F32, expected F16 or BF16"));
  for (const uint16_t bad : {uint16_t(0x7f80), uint16_t(0x7fc0), uint16_t(0xbf80)}) {
    i4.set("weight_scale", DType::BF16, {1, 1}, raw(std::vector<uint16_t>{bad}));
    CHECK(has(i4.refusal(Layout::pack_quantized, 1, 8), "is not a scale (NaN, Inf or negative)"));
  }
}

TEST_CASE("layouts: a tensor scale whose inverse overflows", "[experiments][export]") {
  Matrix X(1, 16);
  for (int64_t c = 0; c < 16; ++c) X(0, c) = 1e-36f;
  const QuantizedMatrix q = quantize(find_format("nvfp4")->spec, X);
  CHECK(has(message_of<DataError>([&] { to_layout(Layout::nvfp4_pack_quantized, q, 0, 1); }),
            "too large for FP32; modelopt-nvfp4"));
  CHECK(to_layout(Layout::modelopt_nvfp4, q, 0, 1).size() == 3);
}
