// formats/group_coder.h - a format bound to one matrix: its tensor factors are known, and runs of groups can
// be coded.
//   Internal to formats/: quantize.cpp drives it over rows, tensor_factors.cpp finds the factors that need
//   the whole tensor.
#pragma once
#include <functional>
#include <memory>
#include <span>
#include <vector>

#include "formats/group_scale.h"
#include "formats/quantize.h"
#include "formats/row_kernels.h"

namespace fp4lab {

/// Working memory of one thread for runs of up to `groups` groups.
struct GroupScratch {
  std::vector<float> amax, low, unrounded, chosen, candidates, error;
  std::vector<float> values;                // room for decoded runs; grown by whoever uses it
  std::vector<uint8_t> codes, bytes, zero;  // the same for codes, scale bytes, zero points
  std::vector<int32_t> best;
  std::vector<uint32_t> candidate_codes;
  explicit GroupScratch(int64_t groups, int candidates_per_group);
};

class GroupCoder {
 public:
  /// `factors` as in Scales: empty, {s_T}, one per row, or fitted {a, b}.
  GroupCoder(const FormatSpec& format, const WeightScales& search, int64_t cols, std::vector<float> factors);

  /// Chooses the stored scales of `groups` groups of row `row` and their effective FP32 values. False when a
  /// NaN or Inf is among them (the scales mean nothing then).
  ///   x (groups * g) floats; known_amax (groups), finite, or null: they are found here; bytes (groups *
  ///   scale.bytes); zero (groups) for int_asym, else null
  bool choose(const float* x, int64_t row, int64_t groups, const float* known_amax, uint8_t* bytes,
              uint8_t* zero, float* effective, GroupScratch& scratch) const;
  /// scratch.amax of each group; false when a NaN or Inf is among them.
  bool measure(const float* x, int64_t groups, GroupScratch& scratch) const;
  /// Effective FP32 values of stored scales (a group of zeros is not known here: its scale may be positive).
  void effective(const uint8_t* bytes, int64_t row, int64_t groups, float* effective) const;

  int candidates_per_group() const { return rule_.candidates(); }
  /// The stored codes that the search tries for a group of this amax, candidates_per_group() of them,
  /// ascending, with their effective values (all 0 for a group of zeros). Not for int_asym, fitted, quest.
  void candidates(float amax, int64_t row, uint32_t* codes, float* effective) const;
  int top_code() const { return rule_.top; }  // the largest code of an 8-bit scale
  int64_t group() const { return g_; }
  const FormatSpec& format() const { return format_; }
  const std::vector<float>& factors() const { return factors_; }

 private:
  float tensor_scale(int64_t row) const;
  void choose_e8m0(const float* x, int64_t row, int64_t groups, uint8_t* bytes, float* effective,
                   GroupScratch& s) const;
  void choose_rounded(const float* x, int64_t row, int64_t groups, uint8_t* bytes, float* effective,
                      GroupScratch& s) const;
  void choose_asym(const float* x, int64_t groups, uint8_t* bytes, uint8_t* zero, float* effective,
                   GroupScratch& s) const;
  void pick_best(const float* x, int64_t row, int64_t groups, uint8_t* bytes, float* effective,
                 GroupScratch& s) const;

  FormatSpec format_;
  WeightScales::Kind search_;
  int64_t g_;
  std::vector<float> factors_;
  GroupRule rule_;
  std::shared_ptr<const FittedScales> fitted_;  // fitted alone
  const RowKernels& kernels_;
};

/// The constant that s_T is divided by: s_T = amax(tensor) / (scale max * Qmax); 448 * 6 = 2688 for NVFP4,
/// 256 * 6 for four_over_six.
float tensor_scale_divisor(const FormatSpec& format);

/// The factors that a format needs from the whole matrix, and on the way, where it looks at X at all, the
/// amax of every group (rows, groups), so that nobody has to look for them again. Factors: s_T, one s_T per
/// row, fitted a and b, or none. DataError for NaN and Inf where it looks at X at all; `choose` finds the
/// others.
std::vector<float> tensor_factors(const FormatSpec& format, const WeightScales& search,
                                  MatrixView<const float> X, Floats* group_amax = nullptr);

/// DataError "row r, column c is NaN" for the first NaN or Inf of a row that has one.
[[noreturn]] void report_nonfinite(MatrixView<const float> X, int64_t row);
/// The same of a row's values.
[[noreturn]] void report_nonfinite(std::span<const float> values, int64_t row);

/// sum (x - x^)^2, sum x u and sum u^2, u = x^ / s_T, over a tensor with the best group scales under s_T.
struct AlternateSums {
  double error = 0, xu = 0, uu = 0;
};
/// The paper's alternating search (SPEC section 2): the s_T of the least error it saw.
float alternate_tensor_scale(float first, const std::function<AlternateSums(float s_t)>& sums);
float alternate_tensor_scale(const FormatSpec& format, MatrixView<const float> X, float first);

}  // namespace fp4lab
