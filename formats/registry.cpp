// formats/registry.cpp - every format fp4lab knows by name. To add one, add a row.
#include "formats/registry.h"

#include "core/text.h"

namespace fp4lab {

namespace {
constexpr ScaleRule rule(ScaleRule::Kind kind) { return {.kind = kind}; }
constexpr TensorScale kDynamic{TensorScale::dynamic, 0};

/// 32 elements under one power-of-two scale.
constexpr FormatSpec mx(const Element& e, ScaleRule::Kind kind) { return {e, 32, kUE8M0, rule(kind)}; }
/// Two levels: 8-bit group scales under one FP32 tensor scale.
constexpr FormatSpec two_level(const Element& e, int group, const ScaleType& scale,
                               ScaleRule::Kind kind = ScaleRule::absmax) {
  return {e, group, scale, rule(kind), kDynamic};
}
constexpr FormatSpec one_level(const Element& e, int group, const ScaleType& scale) {
  return {e, group, scale};
}

constexpr FormatEntry kFormats[] = {
    {"mxfp4", "MXFP4 (OCP): e2m1, one E8M0 scale per 32, rule floor", mx(kE2M1, ScaleRule::floor)},
    {"mxfp4-even", "MXFP4 with the rule of compressed-tensors and vLLM", mx(kE2M1, ScaleRule::even)},
    {"mxfp4-ceil", "MXFP4 that never clips (ModelOpt, cuBLAS)", mx(kE2M1, ScaleRule::ceil)},
    {"mxfp4-paper", "MXFP4 of arXiv 2509.23202: scale (4/3) 2^(floor(log2 amax) - 2)",
     mx(kE2M1, ScaleRule::fpq)},
    {"mxfp4-fitted", "MXFP4 with E8M0 codes fitted to the tensor (the paper's dagger)",
     mx(kE2M1, ScaleRule::fitted)},
    {"nvfp4", "NVFP4: e2m1, one E4M3 scale per 16, FP32 per tensor", two_level(kE2M1, 16, kE4M3)},
    {"nvfp4-4over6", "NVFP4, amax on 4 or on 6 by MSE",
     two_level(kE2M1, 16, kE4M3, ScaleRule::four_over_six)},
    {"nvfp4-sweep", "NVFP4, the E4M3 scale of least MSE", two_level(kE2M1, 16, kE4M3, ScaleRule::sweep)},
    {"nvint4", "INT4 in NVFP4's clothes: E4M3 per 16, FP32 per tensor", two_level(kInt4, 16, kE4M3)},
    {"nvint4-peer", "nvint4 on FP-Quant's grid: -8..7, amax/7.5", two_level(element("int4-full"), 16, kE4M3)},
    {"mxint4", "INT4, one E8M0 scale per 32, the paper's rule: amax in [3.5, 7)", mx(kInt4, ScaleRule::fpq)},
    {"mxint4-peer", "mxint4 on FP-Quant's grid: -8..7, amax/7.5", mx(element("int4-full"), ScaleRule::fpq)},
    {"int4", "symmetric INT4 (-7..7), one FP16 scale per 32", one_level(kInt4, 32, kFP16)},
    {"int4-g128", "symmetric INT4 (-7..7), one FP16 scale per 128", one_level(kInt4, 128, kFP16)},
    {"int4-peer", "the peers' INT4: -8..7, amax/7.5, FP16 per 32",
     one_level(element("int4-full"), 32, kFP16)},
    {"int4-asym", "INT4 with zero points: 0..15, FP16 per 32", one_level(element("int4-asym"), 32, kFP16)},
    {"nf4", "NormalFloat4 (QLoRA), one FP32 scale per 64", one_level(element("nf4"), 64, kFP32)},
    {"mxfp6-e2m3", "MXFP6 (OCP), e2m3", mx(element("e2m3"), ScaleRule::floor)},
    {"mxfp6-e3m2", "MXFP6 (OCP), e3m2", mx(element("e3m2"), ScaleRule::floor)},
    {"mxfp8-e4m3", "MXFP8 (OCP), e4m3", mx(element("e4m3"), ScaleRule::floor)},
    {"mxfp8-e5m2", "MXFP8 (OCP), e5m2", mx(element("e5m2"), ScaleRule::floor)},
    {"mxint8", "MXINT8 (OCP)", mx(element("int8"), ScaleRule::floor)},
    {"int8", "INT8, one FP32 scale per channel or token", one_level(element("int8"), kWholeRow, kFP32)},
    {"fp8", "FP8 e4m3, one FP32 scale per channel or token", one_level(element("e4m3"), kWholeRow, kFP32)},
    {"e2m1-fp32", "e2m1, unrounded scale per 32: ablation", one_level(kE2M1, 32, kFP32)},
    {"e2m1-fp16", "e2m1, FP16 scale per 32: ablation", one_level(kE2M1, 32, kFP16)},
    {"e2m1-bf16", "e2m1, BF16 scale per 32: ablation", one_level(kE2M1, 32, kBF16)},
    {"e2m1-e1m6", "e2m1, E1M6 scale per 32: ablation", two_level(kE2M1, 32, scale_type("e1m6"))},
    {"e2m1-e2m5", "e2m1, E2M5 scale per 32: ablation", two_level(kE2M1, 32, scale_type("e2m5"))},
    {"e2m1-e3m4", "e2m1, E3M4 scale per 32: ablation", two_level(kE2M1, 32, scale_type("e3m4"))},
    {"e2m1-e4m3", "e2m1, E4M3 scale per 32: ablation", two_level(kE2M1, 32, kE4M3)},
    {"e2m1-e5m2", "e2m1, E5M2 scale per 32: ablation", two_level(kE2M1, 32, scale_type("e5m2"))},
    {"e2m1-ue5m3", "e2m1, UE5M3 scale per 32: ablation", two_level(kE2M1, 32, scale_type("ue5m3"))},
    {"e2m1-e6m1", "e2m1, E6M1 scale per 32: ablation", two_level(kE2M1, 32, scale_type("e6m1"))},
    {"e2m1-e7m0", "e2m1, E7M0 scale per 32: ablation", two_level(kE2M1, 32, scale_type("e7m0"))},
    {"e2m1-int8", "e2m1, INT8 scale per 32: ablation", two_level(kE2M1, 32, scale_type("int8"))},
};
}  // namespace

std::span<const FormatEntry> formats() { return kFormats; }

const FormatEntry* find_format(std::string_view name) { return find_named(kFormats, name); }

std::vector<std::string> format_names() { return names_of(kFormats); }

}  // namespace fp4lab
