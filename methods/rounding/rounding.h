// methods/rounding/rounding.h - how the codes of a site's weights are found, as a value (SPEC section 5).
#pragma once
#include <cstdint>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "core/params.h"
#include "formats/format.h"
#include "methods/site_stats.h"

namespace fp4lab {

struct Rounding {
  enum Kind : uint8_t { rtn, gptq, gptaq, qronos } kind = rtn;
  enum Order : uint8_t {
    natural,
    static_activation,  // descending diag(H); group scales fixed before, nothing is permuted at run time
    dynamic_activation  // the classic act-order: a `permute` transform on diag(H), then natural
  } order = natural;
  enum Scales : uint8_t {
    up_front,        // after the transform, before the loop
    at_group_start,  // from the compensated weights
    in_loop          // the candidate of the least compensated loss
  } scales = up_front;
  double damping = 0.01;  // fraction of mean(diag H)
  double alpha = 0.25;    // gptaq: weight of the asymmetric term

  bool operator==(const Rounding&) const = default;
};

struct RoundingEntry {
  Rounding::Kind kind;
  std::string_view name, description;
  StatsNeeds needs;
};
/// Every rounding, in the order the docs show them.
std::span<const RoundingEntry> roundings();
const RoundingEntry& entry_of(Rounding::Kind kind);
std::vector<std::string> rounding_names();

/// Reads "rounding" and its keys (order, scales, damping, alpha) from a method's object; what is not named
/// stays as `base` has it. ConfigError for a key that the rounding does not have.
Rounding read_rounding(Params& p, const Rounding& base);
/// The keys of one rounding, for `fp4lab list roundings NAME`.
void declare_rounding(std::string_view name, Params& p);
/// Adds the keys that matter; nothing for rtn.
void write_rounding(const Rounding& rounding, Json& object);

/// Why this rounding cannot work with these scales and this format, or "".
std::string rounding_problem(const Rounding& rounding, const WeightScales& scales, const FormatSpec& format);

}  // namespace fp4lab
