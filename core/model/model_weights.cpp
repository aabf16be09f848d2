#include "core/model/model_weights.h"

namespace fp4lab {

namespace {
constexpr std::string_view kLinearNames[kLinears] = {
    "self_attn.q_proj", "self_attn.k_proj", "self_attn.v_proj", "self_attn.o_proj",
    "mlp.gate_proj",    "mlp.up_proj",      "mlp.down_proj"};
constexpr Linear kQkv[] = {Linear::q, Linear::k, Linear::v}, kO[] = {Linear::o},
                 kGateUp[] = {Linear::gate, Linear::up}, kDown[] = {Linear::down};
}  // namespace

std::array<int64_t, 2> linear_shape(const ModelConfig& c, Linear l) {
  const int64_t q = c.heads * c.head_dim, kv = c.kv_heads * c.head_dim;
  switch (l) {
    case Linear::q: return {q, c.hidden_size};
    case Linear::k:
    case Linear::v: return {kv, c.hidden_size};
    case Linear::o: return {c.hidden_size, q};
    case Linear::gate:
    case Linear::up: return {c.intermediate_size, c.hidden_size};
    case Linear::down: return {c.hidden_size, c.intermediate_size};
  }
  FP4LAB_CHECK(false, int(l));
  return {};
}

std::string_view name(SiteKind s) {
  constexpr std::string_view kNames[kSites] = {"qkv", "o", "gate_up", "down"};
  return kNames[size_t(s)];
}

std::span<const Linear> linears_of(SiteKind s) {
  switch (s) {
    case SiteKind::qkv: return kQkv;
    case SiteKind::o: return kO;
    case SiteKind::gate_up: return kGateUp;
    case SiteKind::down: return kDown;
  }
  FP4LAB_CHECK(false, int(s));
  return {};
}

SiteKind site_of(Linear l) {
  for (int s = 0; s < kSites; ++s)
    for (const Linear each : linears_of(SiteKind(s)))
      if (each == l) return SiteKind(s);
  FP4LAB_CHECK(false, int(l));
  return {};
}

std::string linear_name(int64_t layer, Linear l) {
  return str("layers.", layer, ".", kLinearNames[size_t(l)]);
}
std::string site_name(int64_t layer, SiteKind s) { return str("layers.", layer, ".", name(s)); }

}  // namespace fp4lab
