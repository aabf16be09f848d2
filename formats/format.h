// formats/format.h - a format as a value: element x group x scale type x scale rule x tensor scale.
//   decode   x^ = s * element(code), s = s_T * scale(bits) rounded to FP32 (s = scale(bits) without s_T)
//   Everything derivable (bits, bytes for a shape) is computed from it. Named formats: formats/registry.h.
#pragma once
#include <string>
#include <vector>

#include "formats/scale_rules.h"
#include "formats/scale_types.h"

namespace fp4lab {

/// The FP32 factor above the group scales.
struct TensorScale {
  enum Mode : uint8_t {
    none,
    dynamic,    // from the matrix's own amax: a weight, or one window of activations
    per_token,  // one per row
    fixed       // `value`, from a calibration: later overflow saturates
  };
  Mode mode = none;
  float value = 0;

  bool operator==(const TensorScale&) const = default;
};

/// Lower bound of a non-zero group's stored scale (minifloat scales).
enum class ScaleFloor : uint8_t { none, min_subnormal, min_normal };

inline constexpr int kWholeRow = 0;  // group_size: one group per row

struct FormatSpec {
  Element element;
  int group_size;  // 2 to 4096, or kWholeRow
  ScaleType scale;
  ScaleRule rule{};
  TensorScale tensor_scale{};
  ScaleFloor scale_floor = ScaleFloor::none;

  bool operator==(const FormatSpec&) const = default;
  int64_t group(int64_t cols) const { return group_size == kWholeRow ? cols : group_size; }
  int64_t groups(int64_t cols) const { return cols / group(cols); }
  bool has_zero_points() const { return element.kind == ElementKind::int_asym; }
  /// Codes of up to 4 bits are stored two per byte (element 2i in the low nibble), wider ones one per byte.
  bool packed() const { return element.bits <= 4; }
  int64_t code_bytes(int64_t cols) const { return packed() ? (cols + 1) / 2 : cols; }  // of one row
};

/// Element, scale and zero-point bits per element of a row of `cols`; with per_token also its 32. What a
/// whole tensor shares (s_T, fitted a and b) is not counted.
constexpr double bits_per_element(const FormatSpec& f, int64_t cols) {
  const double group = double(f.group_size == kWholeRow ? cols : f.group_size);
  const int zero_bits = f.element.kind == ElementKind::int_asym ? f.element.bits : 0;
  return f.element.bits + (8.0 * f.scale.bytes + zero_bits) / group +
         (f.tensor_scale.mode == TensorScale::per_token ? 32.0 / double(cols) : 0.0);
}

/// Why this combination cannot work, or "": a rule that is not for this scale type, a group size out of
/// range...
std::string format_problem(const FormatSpec& f);

/// Why rows of `cols` elements cannot be cut into this format's groups, or "":
/// `K = 48 is not a multiple of the group size 32; 16 divides it`.
std::string shape_problem(const FormatSpec& f, int64_t cols);

/// How an offline search overrides the format's own rule, for weights only.
struct WeightScales {
  enum Kind : uint8_t {
    rule,           // the format's own
    replace,        // `replacement` instead: sweep, four_over_six, search, grid
    alternate,      // the paper's: best s_G per group, closed-form s_T, in turn
    mse_shrink,     // FP-Quant's observer: unrounded scale x (1 - 0.008 i), i < 100, error norm 2.4, then
                    // rounded
    local_hessian,  // every code (ue8m0: search(4)) by d^T H_k d, H_k the group's diagonal block of the
                    // Hessian
    paper,  // as MR-GPTQ has them: alternate under 8-bit scales and s_T, the rule of power-of-two scales,
            // mse_shrink for the others
    nearby  // the codes near absmax: sweep(-8, 7), search(4), or a grid for wide scales
  };
  enum Metric : uint8_t {
    mse,
    hessian_diagonal
  };  // what the candidates of replace and nearby are compared by
  Kind kind = rule;
  ScaleRule replacement{};
  Metric metric = mse;

  bool needs_hessian() const { return kind == local_hessian || metric == hessian_diagonal; }
  /// The format's rule, or the search's.
  const ScaleRule& rule_for(const FormatSpec& f) const { return kind == replace ? replacement : f.rule; }

  bool operator==(const WeightScales&) const = default;
};
/// The search itself where its kind follows the format (paper, nearby).
WeightScales weight_scales_for(const WeightScales& w, const FormatSpec& f);
/// Why this search cannot serve this format, or "".
std::string weight_scales_problem(const WeightScales& w, const FormatSpec& f);

inline constexpr FormatSpec kMxfp4{kE2M1, 32, kUE8M0, {.kind = ScaleRule::floor}};
inline constexpr FormatSpec kNvfp4{kE2M1, 16, kE4M3, {}, {TensorScale::dynamic}};
static_assert(bits_per_element(kMxfp4, 4096) == 4.25 && bits_per_element(kNvfp4, 4096) == 4.5);

}  // namespace fp4lab
