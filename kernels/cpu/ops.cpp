// The CPU's Ops: each operation is a function of kernels/cpu or formats.
#include "kernels/ops.h"

#include <algorithm>
#include <cmath>
#include <cstring>

#include "formats/quantize.h"
#include "kernels/cpu/attention.h"
#include "kernels/cpu/elementwise.h"
#include "kernels/cpu/gemm.h"
#include "kernels/cpu/linear_map.h"

namespace fp4lab {

namespace {

template <class T>
void copy_rows(MatrixView<const T> from, MatrixView<T> to) {
  FP4LAB_CHECK(from.rows == to.rows && from.cols == to.cols, from.rows, " x ", from.cols, " to ", to.rows,
               " x ", to.cols);
  for (int64_t r = 0; r < from.rows; ++r) std::memcpy(to.row(r), from.row(r), size_t(from.cols) * sizeof(T));
}

class CpuOps final : public Ops {
 public:
  std::string_view name() const override { return "cpu"; }
  bool on_host() const override { return true; }
  int64_t room() const override { return 0; }
  bool holds(const void*) const override { return false; }
  int64_t chunk_tokens() const override { return 2048; }

  Array allocate(int64_t rows, int64_t cols) override { return adopt(Matrix(rows, cols)); }
  Array adopt(Matrix host) override {
    const auto owner = std::make_shared<Matrix>(std::move(host));
    return {std::shared_ptr<float>(owner, owner->data()), owner->rows(), owner->cols()};
  }
  Array borrow(const Matrix& host) override {
    return {std::shared_ptr<float>(std::shared_ptr<void>(), const_cast<float*>(host.data())), host.rows(),
            host.cols()};
  }
  ArrayD zeros_double(int64_t rows, int64_t cols) override {
    const auto owner = std::make_shared<MatrixD>(MatrixD::zeros(rows, cols));
    return {std::shared_ptr<double>(owner, owner->data()), rows, cols};
  }
  void upload(MatrixView<const float> host, MatrixView<float> to) override { copy_rows(host, to); }
  void upload(MatrixView<const double> host, MatrixView<double> to) override { copy_rows(host, to); }
  void upload(DType, std::span<const std::byte>, MatrixView<float>) override {
    FP4LAB_CHECK(false, "on the host a checkpoint loads its tensors");
  }
  void download(MatrixView<const float> from, MatrixView<float> host) override { copy_rows(from, host); }
  void download(MatrixView<const double> from, MatrixView<double> host) override { copy_rows(from, host); }
  void copy(MatrixView<const float> from, MatrixView<float> to) override { copy_rows(from, to); }

  void gemm(MatrixView<const float> X, MatrixView<const float> W, MatrixView<float> Y,
            bool accumulate) override {
    fp4lab::gemm(X, W, Y, accumulate);
  }
  void syrk(MatrixView<const float> X, MatrixView<double> H) override { fp4lab::syrk(X, H); }
  void cross(MatrixView<const float> X, MatrixView<const float> Y, MatrixView<double> D) override {
    fp4lab::cross(X, Y, D);
  }
  void column_stats(MatrixView<const float> X, std::span<float> amax, std::span<double> sum_abs) override {
    fp4lab::column_stats(X, amax, sum_abs);
  }
  void rms_norm(MatrixView<const float> X, std::span<const float> weight, float eps,
                MatrixView<float> out) override {
    fp4lab::rms_norm(X, weight, eps, out);
  }
  void rope(MatrixView<float> X, int64_t head_dim, MatrixView<const float> table, int64_t length) override {
    fp4lab::rope(X, head_dim, table, length);
  }
  void attention(MatrixView<const float> q, MatrixView<const float> k, MatrixView<const float> v,
                 int64_t head_dim, int64_t length, float scale, MatrixView<float> out) override {
    fp4lab::attention(q, k, v, head_dim, length, scale, out);
  }
  void swiglu(MatrixView<const float> gate_up, MatrixView<float> out) override {
    fp4lab::swiglu(gate_up, out);
  }
  void map_activations(const LinearMap& map, MatrixView<float> X) override {
    fp4lab::map_activations(map, X);
  }
  void map_weights(const LinearMap& map, MatrixView<float> W) override { fp4lab::map_weights(map, W); }
  void unmap_weights(const LinearMap& map, MatrixView<float> W) override { fp4lab::unmap_weights(map, W); }
  void map_hessian(const LinearMap& map, MatrixView<double> H) override { fp4lab::map_hessian(map, H); }
  QuantizedMatrix quantize(const FormatSpec& format, MatrixView<const float> X,
                           const WeightScales& search) override {
    return fp4lab::quantize(format, X, search);
  }
  void dequantize(const QuantizedMatrix& q, MatrixView<float> out) override { fp4lab::dequantize(q, out); }
  void fake_quantize(const FormatSpec& format, MatrixView<const float> X, int64_t rows_per_tensor,
                     MatrixView<float> out) override {
    // Only these two look beyond a row.
    const bool whole =
        format.tensor_scale.mode == TensorScale::dynamic || format.rule.kind == ScaleRule::fitted;
    const int64_t step = whole ? rows_per_tensor : X.rows;
    for (int64_t begin = 0; begin < X.rows; begin += step) {
      const int64_t n = std::min(step, X.rows - begin);
      fp4lab::fake_quantize(format, X.middle_rows(begin, n), out.middle_rows(begin, n));
    }
  }
  int64_t first_nonfinite(MatrixView<const float> X) override { return fp4lab::first_nonfinite(X); }
  int64_t count_above(MatrixView<const float> X, float limit) override {
    int64_t count = 0;
#pragma omp parallel for schedule(static) reduction(+ : count)
    for (int64_t r = 0; r < X.rows; ++r)
      for (int64_t c = 0; c < X.cols; ++c) count += std::fabs(X(r, c)) > limit;
    return count;
  }
  void update_scores(MatrixView<const float> full, MatrixView<const float> quantized, int64_t first,
                     std::span<const int32_t> labels, std::span<TokenScores> scores) override {
    fp4lab::update_scores(full, quantized, first, labels, scores);
  }
};

}  // namespace

std::unique_ptr<Ops> make_cpu_ops() { return std::make_unique<CpuOps>(); }

}  // namespace fp4lab
