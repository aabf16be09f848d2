// formats/column_kernels.h - the inner loops that go through a matrix column by column, one lane per row, so
// that a row's error can move to its later columns (GPTQ) and many rows try candidate scales at once.
// Compiled for x86-64-v3 and x86-64-v4 from one source (column_kernels.inc); both give the same bits: a lane
// is one row, and its sums are chains of fused multiply-adds in the order written.
//   Matrices here are column panels: column k of n rows is n floats at p + k * stride. n is a multiple of
//   kColumnLanes (rows beyond the matrix hold zeros).
#pragma once
#include "formats/elements.h"

namespace fp4lab {

inline constexpr int64_t kColumnLanes = 16;

/// A panel of m columns that is rounded in order.
struct RoundPanel {
  int64_t n = 0, m = 0, stride = 0;
  const float* target = nullptr;        // (m): t
  const float* correction = nullptr;    // (m): c, from the columns before the panel
  const float* coefficients = nullptr;  // (m, m), row k: what column k takes over of the errors of i < k
  int64_t coefficient_stride = 0;
  const float* const* scale = nullptr;   // m pointers to n effective scales
  const uint8_t* const* zero = nullptr;  // m pointers to n zero points; int_asym only, null otherwise
  float* value = nullptr;                // (m) out: v
  float* error = nullptr;                // (m) out: t - q
  uint8_t* codes = nullptr;              // (m) out, same stride
};

/// What a candidate scale costs each row of one group.
struct GroupLoss {
  int64_t n = 0, g = 0, stride = 0;
  const float* value = nullptr;         // (g): v before the errors of its own group
  const float* coefficients = nullptr;  // (g, g), row k, or null: none
  int64_t coefficient_stride = 0;
  const float* weight = nullptr;  // g weights of the squares, or null: all 1
  bool compensated = true;        // codes are those of u_k (the loop replayed); false: those of v_k
  const float* scale = nullptr;   // n effective scales
  const uint8_t* zero = nullptr;  // n zero points; int_asym only
};

struct ColumnKernels {
  const char* name;  // "x86-64-v3", "x86-64-v4"

  /// c_k += sum over i < count of e_i coefficients[k][i], i ascending, for k < m: fma chains.
  ///   e (count), c (m): panels
  void (*accumulate)(const float* e, int64_t count, const float* coefficients, int64_t coefficient_stride,
                     int64_t n, int64_t m, int64_t stride, float* c);
  /// For k = 0 .. m-1: c_k += sum over i < k of error_i coefficients[k][i] (a chain that goes on from
  /// `correction`), v_k = t_k + c_k, code = Q(v_k / s_k), q_k = s_k value(code), error_k = t_k - q_k.
  void (*round)(const Element& e, const RoundPanel& panel);
  /// loss[row] = sum over k of weight_k (u_k - q_k)^2, u_k = v_k + sum over i < k of (v_i - q_i)
  /// coefficients[k][i]: every term one fma, in the order of k.
  void (*group_loss)(const Element& e, const GroupLoss& group, float* loss);
};

/// The kernels for this processor; FP4LAB_ISA=x86-64-v3 asks for the smaller set.
const ColumnKernels& column_kernels();
/// Both sets; the v4 one is null when this processor cannot run it.
const ColumnKernels& column_kernels_v3();
const ColumnKernels* column_kernels_v4();

}  // namespace fp4lab
