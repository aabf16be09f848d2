// kernels/ops.h - the heavy operations behind one interface, so that what is written on it (the forward pass,
// the calibration walk) is written once for every machine.
//   An Ops owns its memory: matrices come from `allocate`, and every view and span given to an operation
//   points into it, except where "host" is said. No operation mixes machines.
//   CPU: bits depend on the inputs alone (kernels/cpu/*.h say how each operation sums).
#pragma once
#include <memory>
#include <optional>
#include <span>
#include <string_view>

#include "core/io/tensor_file.h"
#include "core/linear_map.h"
#include "core/matrix.h"
#include "formats/quantize.h"
#include "kernels/token_scores.h"

namespace fp4lab {

/// A matrix in an Ops' memory, dense; the memory goes with the last copy of the Array.
template <class T>
class ArrayOf {
 public:
  ArrayOf() = default;
  ArrayOf(std::shared_ptr<T> data, int64_t rows, int64_t cols)
      : data_(std::move(data)), rows_(rows), cols_(cols) {}

  int64_t rows() const { return rows_; }
  int64_t cols() const { return cols_; }
  bool empty() const { return rows_ * cols_ == 0; }
  MatrixView<T> view() const { return {data_.get(), rows_, cols_, cols_}; }
  /// The first `rows` rows as a dense (rows, cols) matrix of fewer columns: one workspace serves several
  /// shapes.
  MatrixView<T> shaped(int64_t rows, int64_t cols) const {
    FP4LAB_CHECK(rows * cols <= rows_ * cols_, rows, " x ", cols, " in ", rows_, " x ", cols_);
    return {data_.get(), rows, cols, cols};
  }
  std::span<const T> flat() const { return {data_.get(), size_t(rows_ * cols_)}; }

 private:
  std::shared_ptr<T> data_;
  int64_t rows_ = 0, cols_ = 0;
};
using Array = ArrayOf<float>;
using ArrayD = ArrayOf<double>;

/// Where a cell runs, and the arithmetic of its products.
struct Machine {
  bool cuda = false;
  int gpu = -1;  // "cuda:1"; -1: the one that this process was given
  enum Compute : uint8_t {
    float32,
    bfloat16  // cuda only: operands of products and of attention rounded to bf16, sums in float32
  };
  Compute compute = float32;

  bool operator==(const Machine&) const = default;
};

/// GPTQ of a site's weights with scales chosen up front (methods/rounding/gptq.h).
struct GptqRequest {
  const FormatSpec& format;
  const WeightScales& search;  // one that does not look at the Hessian
  bool by_activation;          // static order: channels by descending diag(H)
  double damping;
};
struct GptqAnswer {
  bool ok = false;  // false: H was not positive definite after every rise of the damping; nothing else is set
                    // but damping and dead_channels
  QuantizedMatrix q;
  double loss = 0, damping = 0, condition = 0;
  int64_t dead_channels = 0;
};

class Ops {
 public:
  virtual ~Ops() = default;
  virtual std::string_view name() const = 0;  // "cpu", "cuda"
  /// Whether views of its memory can be read and written by the program itself.
  virtual bool on_host() const = 0;
  /// Bytes of a memory of its own that can still be taken; 0 on the host.
  virtual int64_t room() const = 0;
  /// Whether this is an address in a memory of its own; never on the host.
  virtual bool holds(const void* address) const = 0;
  /// How many tokens are worth taking through a block at a time.
  virtual int64_t chunk_tokens() const = 0;

  /// Uninitialized; std::bad_alloc (a GPU's: Error) when memory is short.
  virtual Array allocate(int64_t rows, int64_t cols) = 0;
  virtual ArrayD zeros_double(int64_t rows, int64_t cols) = 0;
  virtual void upload(MatrixView<const float> host, MatrixView<float> to) = 0;
  virtual void upload(MatrixView<const double> host, MatrixView<double> to) = 0;
  /// A tensor's bytes (F32, F16 or BF16) as floats.
  virtual void upload(DType dtype, std::span<const std::byte> host, MatrixView<float> to) = 0;
  virtual void download(MatrixView<const float> from, MatrixView<float> host) = 0;
  virtual void download(MatrixView<const double> from, MatrixView<double> host) = 0;
  virtual void copy(MatrixView<const float> from, MatrixView<float> to) = 0;
  /// A host matrix in this memory; the CPU takes it over without a copy.
  virtual Array adopt(Matrix host) = 0;
  /// A host matrix to be read here while it lives; the CPU reads it where it is.
  virtual Array borrow(const Matrix& host) = 0;

  /// Y (M, N) = X (M, K) W (N, K)^T, or added to what Y holds.
  virtual void gemm(MatrixView<const float> X, MatrixView<const float> W, MatrixView<float> Y,
                    bool accumulate) = 0;
  /// H (K, K) += X^T X in double, upper triangle.
  virtual void syrk(MatrixView<const float> X, MatrixView<double> H) = 0;
  /// D (K, N) += X^T Y in double, whole, for X (T, K), Y (T, N).
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
  /// X -> X T^-T, W -> W T and back, H -> T^-1 H T^-T (upper triangle), in place.
  virtual void map_activations(const LinearMap& map, MatrixView<float> X) = 0;
  virtual void map_weights(const LinearMap& map, MatrixView<float> W) = 0;
  virtual void unmap_weights(const LinearMap& map, MatrixView<float> W) = 0;
  virtual void map_hessian(const LinearMap& map, MatrixView<double> H) = 0;
  /// formats/quantize.h, with the result on the host; the same errors. Searches that look at a Hessian are
  /// not its.
  virtual QuantizedMatrix quantize(const FormatSpec& format, MatrixView<const float> X,
                                   const WeightScales& search) = 0;
  virtual void dequantize(const QuantizedMatrix& q, MatrixView<float> out) = 0;
  /// Nothing where this machine has no version of its own. W (N, K), H (K, K) upper triangle. DataErrors as
  /// methods/rounding/ has them.
  virtual std::optional<GptqAnswer> gptq(const GptqRequest&, MatrixView<const float>,
                                         MatrixView<const double>) {
    return {};
  }
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
/// ConfigError when there is no such GPU, or the program was built without CUDA.
std::unique_ptr<Ops> make_ops(const Machine& machine);

/// GPUs that can be used; 0 when built without CUDA. Asks in a process of its own, since one that has used
/// CUDA cannot fork into workers that do.
int visible_gpus();
bool built_with_cuda();
/// The GPU that "cuda" means in this process from now on (0 before).
void give_gpu(int index);

}  // namespace fp4lab
