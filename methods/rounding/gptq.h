// methods/rounding/gptq.h - GPTQ and its kin: the columns of W are quantized in order, and each takes over
// what the errors of the earlier ones leave to it.
#pragma once
#include "formats/quantize.h"
#include "methods/rounding/hessian_factor.h"

namespace fp4lab {

struct GptqResult {
  QuantizedMatrix q;  // (N, K) in stored order
  /// tr((T - Q) H (T - Q)^T), undamped, T the targets (GPTQ: W with dead channels 0). By the identity of SPEC
  /// section 5: sum over rows and k of R_kk^2 (v_k - q_k)^2 is the damped one.
  double loss = 0;
};

/// GPTQ (Frantar et al., ICLR 2023; SPEC section 5), with GPTAQ and Qronos on the same loop.
///   W       (N, K) float32, groups of the format along K
///   H       (K, K) double = X^T X, upper triangle, and `factor` of it; D = (X_fp - X)^T X for gptaq and
///           qronos, empty otherwise
///   search  how group scales are chosen; rounding.scales says when. up_front: from W, before the loop.
///           at_group_start: from the compensated columns of the group. in_loop: among the search's
///           candidates by the compensated loss (ScaleMetric::in_loop).
///   bits    every sum is one fma chain over ascending loop position, started from 0: the codes depend on
///           neither threads, vector width nor blocks
///   cost    N K^2 / 2 multiply-adds in float32
/// DataError for NaN and Inf in W. Tensor scales are those of W before the loop.
GptqResult gptq(const FormatSpec& format, const WeightScales& search, const Rounding& rounding,
                MatrixView<const float> W, const MatrixD& H, const MatrixD& D, const HessianFactor& factor);

}  // namespace fp4lab
