// formats/scale_rules.h - from a group's amax to its scale. With m = amax, Qmax the element's scale_max:
//   E8M0 rules that look at m alone are all one thing: floor(log2 m) plus an offset, one more when m's
//   mantissa reaches a threshold (PowerOfTwoRule). They differ only in those two numbers:
//     floor      amax/scale lands in [2^emax, 2^(emax+1)); e2m1: [4, 8)       OCP MX v1.0
//     even       one octave up when the mantissa of m >= 2 - 2^-(M+1): [3.5, 7) compressed-tensors, Quark
//     ceil       2^ceil(log2(m / Qmax)): (3, 6]                                ModelOpt, cuBLAS
//     ceil_pow2  2^(ceil(log2 m) - emax): (2, 4]                               torchao CEIL
//     map(c)     amax/scale in [c, 2c)
//     nearest    2^round(log2(m / Qmax)) = map(Qmax / sqrt 2)                  eq. (1) of arXiv 2509.23202
//     App. H fpq        byte floor(log2 m) + 127 with the constant tensor factor 2 / Qmax: [3, 6)   FP-Quant,
//     QuTLASS
//   fitted, quest and search(k) need more than m; absmax, four_over_six, sweep and grid choose the other
//   scale types.
#pragma once
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "formats/elements.h"

namespace fp4lab {

struct ScaleRule {
  enum Kind : uint8_t {
    absmax,
    four_over_six,
    sweep,
    floor,
    even,
    ceil,
    ceil_pow2,
    map,
    nearest,
    fpq,
    fitted,
    quest,
    search,
    grid
  };
  Kind kind = absmax;
  double c = 3.6;       // map: amax/scale lands in [c, 2c)
  int k = 2;            // search: powers of two tried: f = floor, 2f, f/2, 4f, f/4...
  int lo = -3, hi = 7;  // sweep: codes tried around the absmax code
  int steps = 16;       // grid: scales tried, from `lowest` to 1 times the absmax scale
  double lowest = 0.6;

  bool operator==(const ScaleRule&) const = default;
};

/// Every rule: name, what it does, and what scales it can choose.
struct ScaleRuleEntry {
  ScaleRule::Kind kind;
  std::string_view name, description;
  bool for_e8m0;         // a rule for power-of-two scales; the others are for all the rest
  bool for_activations;  // cheap and causal enough to run on line
};
std::span<const ScaleRuleEntry> scale_rules();
const ScaleRuleEntry* find_scale_rule(std::string_view name);
const ScaleRuleEntry& entry_of(ScaleRule::Kind kind);
std::vector<std::string> scale_rule_names();

/// byte = clamp(floor(log2 m) + 127 + offset + (mantissa bits of m >= threshold), 0, 254); m = 0: byte 0.
struct PowerOfTwoRule {
  int offset;
  uint32_t threshold;  // of the 23 stored mantissa bits; 2^23 means never

  template <class F>
  FP4LAB_HD constexpr typename Lanes<F>::Bits byte(F m) const {
    using L = Lanes<F>;
    using U = typename L::Bits;
    // Subnormals are made normal first, exactly, so that the exponent field is floor(log2); 512 keeps it
    // positive.
    const auto tiny = m < L::all(0x1p-126f);
    const U b = L::bits(tiny ? m * 0x1p24f : m);
    const U up = (b & 0x7fffffu) >= L::all_bits(threshold) ? L::all_bits(1) : L::all_bits(0);
    const U e = (b >> 23) + up + uint32_t(512 + offset) - (tiny ? L::all_bits(24) : L::all_bits(0));
    const U low = e < L::all_bits(512) ? L::all_bits(512) : e;
    const U byte = low > L::all_bits(766) ? L::all_bits(254) : low - 512u;
    return m == L::all(0.0f) ? L::all_bits(0) : byte;
  }
};

/// The two numbers of a rule for an element. Only for floor .. fpq (`search` and `quest` start from `floor`).
PowerOfTwoRule power_of_two_rule(const ScaleRule& rule, const Element& element);

}  // namespace fp4lab
