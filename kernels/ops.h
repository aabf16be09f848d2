// kernels/ops.h - the heavy operations behind one interface, so that what is written on it (the forward pass,
// the calibration walk) is written once for every machine.
//   An Ops owns its memory: matrices come from `allocate`, and every view and span given to an operation
//   points into it, except where "host" is said. No operation mixes machines.
//   CPU: bits depend on the inputs alone (kernels/cpu/*.h say how each operation sums).
#pragma once
#include <memory>
#include <span>
#include <string_view>

#include "core/linear_map.h"
#include "core/matrix.h"
#include "formats/format.h"
#include "kernels/token_scores.h"

namespace fp4lab {

/// A float32 matrix in an Ops' memory, dense; the memory goes with the last copy of the Array.
class Array {
 public:
  Array() = default;
  Array(std::shared_ptr<float> data, int64_t rows, int64_t cols)
      : data_(std::move(data)), rows_(rows), cols_(cols) {}

  int64_t rows() const { return rows_; }
  int64_t cols() const { return cols_; }
  MatrixView<float> view() const { return {data_.get(), rows_, cols_, cols_}; }
  /// The first `rows` rows as a dense (rows, cols) matrix of fewer columns: one workspace serves several
  /// shapes.
  MatrixView<float> shaped(int64_t rows, int64_t cols) const {
    FP4LAB_CHECK(rows * cols <= rows_ * cols_, rows, " x ", cols, " in ", rows_, " x ", cols_);
    return {data_.get(), rows, cols, cols};
  }
  std::span<const float> flat() const { return {data_.get(), size_t(rows_ * cols_)}; }

 private:
  std::shared_ptr<float> data_;
  int64_t rows_ = 0, cols_ = 0;
};

class Ops {
 public:
  virtual ~Ops() = default;
  virtual std::string_view name() const = 0;  // "cpu"

  /// Uninitialized; std::bad_alloc when memory is short.
  virtual Array allocate(int64_t rows, int64_t cols) = 0;
  virtual void upload(MatrixView<const float> host, MatrixView<float> to) = 0;
  virtual void download(MatrixView<const float> from, MatrixView<float> host) = 0;
  virtual void copy(MatrixView<const float> from, MatrixView<float> to) = 0;
  /// A host matrix in this memory; the CPU takes it over without a copy.
  virtual Array adopt(Matrix host) = 0;

  /// Y (M, N) = X (M, K) W (N, K)^T, or added to what Y holds.
  virtual void gemm(MatrixView<const float> X, MatrixView<const float> W, MatrixView<float> Y,
                    bool accumulate) = 0;
  /// Host H (K, K) += X^T X in double, upper triangle.
  virtual void syrk(MatrixView<const float> X, MatrixView<double> H) = 0;
  /// Host D (K, N) += X^T Y in double, whole, for X (T, K), Y (T, N).
  virtual void cross(MatrixView<const float> X, MatrixView<const float> Y, MatrixView<double> D) = 0;
  /// Host amax[c] = max(amax[c], |x|), sum_abs[c] += |x| per column.
  virtual void column_stats(MatrixView<const float> X, std::span<float> amax, std::span<double> sum_abs) = 0;
  /// x / sqrt(mean(x^2) + eps) * weight over each run of weight.size() columns; out may be X.
  virtual void rms_norm(MatrixView<const float> X, std::span<const float> weight, float eps,
                        MatrixView<float> out) = 0;
  /// Rotary embedding in place; row t stands at position t % length.
  virtual void rope(MatrixView<float> X, int64_t head_dim, MatrixView<const float> table, int64_t length) = 0;
  /// Causal softmax attention within each window of `length` rows.
  virtual void attention(MatrixView<const float> q, MatrixView<const float> k, MatrixView<const float> v,
                         int64_t head_dim, int64_t length, float scale, MatrixView<float> out) = 0;
  /// silu(gate) * up, gate_up (T, 2 I): gates first.
  virtual void swiglu(MatrixView<const float> gate_up, MatrixView<float> out) = 0;
  /// X -> X T^-T in place.
  virtual void map_activations(const LinearMap& map, MatrixView<float> X) = 0;
  /// out = dequantize(quantize(X)), each `rows_per_tensor` rows as a tensor of their own (what a `dynamic`
  /// tensor scale ranges over). X is finite; out may be X.
  virtual void fake_quantize(const FormatSpec& format, MatrixView<const float> X, int64_t rows_per_tensor,
                             MatrixView<float> out) = 0;
  /// Row-major index of the first NaN or Inf, or -1.
  virtual int64_t first_nonfinite(MatrixView<const float> X) = 0;
  /// Elements with |x| > limit.
  virtual int64_t count_above(MatrixView<const float> X, float limit) = 0;
  /// Takes a tile of logits into host scores (kernels/cpu/elementwise.h: update_scores).
  virtual void update_scores(MatrixView<const float> full, MatrixView<const float> quantized, int64_t first,
                             std::span<const int32_t> labels, std::span<TokenScores> scores) = 0;
};

std::unique_ptr<Ops> make_cpu_ops();

}  // namespace fp4lab
