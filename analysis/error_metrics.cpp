#include <cmath>
#include <limits>

#include "analysis/tensor_errors.h"

namespace fp4lab {

namespace {

double ratio(double sum, double count) {
  return count > 0 ? sum / count : std::numeric_limits<double>::quiet_NaN();
}
double energetic_groups(const ErrorSums& s) { return double(s.groups - s.zero_groups); }

double mse_rel_tensor(const ErrorSums& s) { return ratio(s.error, s.energy); }

}  // namespace

const std::vector<ErrorMetric>& error_metrics() {
  using S = const ErrorSums&;
  static const std::vector<ErrorMetric> metrics = {
      {"mse", "x^2", "mean (x-x^)^2", "mean squared error",
       [](S s) { return ratio(s.error, double(s.elements)); }},
      {"mse_rel", "1", "mean_g sum (x-x^)^2 / sum x^2",
       "relative squared error, mean over groups with energy",
       [](S s) { return ratio(s.group_relative, energetic_groups(s)); }},
      {"mse_rel_tensor", "1", "||x-x^||^2 / ||x||^2", "relative squared error of the whole tensor",
       &mse_rel_tensor},
      {"mse_top", "x^2", "mean_g (x-x^)^2 at argmax_g |x|", "squared error of each group's largest element",
       [](S s) { return ratio(s.top, energetic_groups(s)); }},
      {"mse_top_rel", "1", "mean_g (x-x^)^2 / x^2 at argmax_g |x|",
       "relative squared error of each group's largest element",
       [](S s) { return ratio(s.top_relative, energetic_groups(s)); }},
      {"outlier_mape", "1", "mean |x-x^| / |x| over the top p of |x|", "relative error of the outliers",
       [](S s) { return ratio(s.outlier_ape, double(s.outliers)); }},
      {"outlier_mse_rel", "1", "mean (x-x^)^2 / x^2 over the top p of |x|",
       "relative squared error of the outliers", [](S s) { return ratio(s.outlier_se, double(s.outliers)); }},
      {"qsnr_db", "dB", "-10 log10(||x-x^||^2 / ||x||^2)", "signal to quantization noise; inf when x^ = x",
       [](S s) { return -10 * std::log10(mse_rel_tensor(s)); }},
      {"dead_zone_share", "1", "#(x^ = 0, x != 0) / #(x != 0)",
       "share of the non-zero elements coded as zero",
       [](S s) { return ratio(double(s.dead), double(s.nonzero)); }},
      {"clipped_share", "1", "#(|x| > Qmax s) / n", "share of the elements beyond the largest value",
       [](S s) { return ratio(double(s.clipped), double(s.elements)); }},
      {"overflow_share", "1", "#(groups with |x| > Qmax s) / #groups",
       "share of the groups with a clipped element",
       [](S s) { return ratio(double(s.overflowing_groups), double(s.groups)); }},
      {"crest_factor", "1", "mean_g max|x| / rms(x)",
       "largest magnitude over rms, mean over groups with energy",
       [](S s) { return ratio(s.crest, double(s.crest_groups)); }},
      {"zero_group_share", "1", "#(groups with all x = 0) / #groups", "share of the groups without energy",
       [](S s) { return ratio(double(s.zero_groups), double(s.groups)); }},
      {"bits_per_element", "bits", "element bits + (scale and zero-point bits) / group",
       "storage per element", [](S s) { return ratio(s.bits, double(s.elements)); }},
  };
  return metrics;
}

}  // namespace fp4lab
