// The GPU's Ops. In float32 every operation gives the CPU's bits (each file of kernels/cuda says how); with
// bfloat16 products and attention do not.
#include "kernels/ops.h"

#include <chrono>
#include <cstdio>
#include <cstdlib>
#include <map>

#include "kernels/cuda/attention.h"
#include "kernels/cuda/attention_bf16.h"
#include "kernels/cuda/elementwise.h"
#include "kernels/cuda/floats.h"
#include "kernels/cuda/gemm.h"
#include "kernels/cuda/gptq.h"
#include "kernels/cuda/linear_map.h"
#include "kernels/cuda/products_bf16.h"
#include "kernels/cuda/quantize.h"
#include "kernels/cuda/scores.h"

namespace fp4lab::cuda {

namespace {

class CudaOps final : public Ops {
 public:
  CudaOps(Gpu& gpu, Machine::Compute compute)
      : gpu_(gpu), bf16_(compute == Machine::bfloat16), profiled_(std::getenv("FP4LAB_PROFILE") != nullptr) {}
  ~CudaOps() override {
    if (!profiled_) return;
    double all = 0;
    for (const auto& [name, spent] : spent_) {
      std::fprintf(stderr, "profile: %-16s %8lld calls %9.3f s\n", name.c_str(), spent.calls, spent.seconds);
      all += spent.seconds;
    }
    std::fprintf(stderr, "profile: %-16s %14s %9.3f s of %.3f s\n", "all", "", all, seconds() - opened_);
  }

  std::string_view name() const override { return "cuda"; }
  bool on_host() const override { return false; }
  int64_t room() const override { return gpu_.free_bytes(); }
  bool holds(const void* address) const override {
    cudaPointerAttributes attributes{};
    FP4LAB_CUDA_CALL(cudaPointerGetAttributes(&attributes, address), "asking where an address is");
    return attributes.type == cudaMemoryTypeDevice;
  }
  int64_t chunk_tokens() const override { return 16384; }

  Array allocate(int64_t rows, int64_t cols) override {
    return {gpu_.allocate<float>(rows * cols).shared(), rows, cols};
  }
  ArrayD zeros_double(int64_t rows, int64_t cols) override {
    const GpuArray<double> a = gpu_.allocate<double>(rows * cols);
    gpu_.fill(a.data(), 0, rows * cols * int64_t(sizeof(double)));
    return {a.shared(), rows, cols};
  }
  Array borrow(const Matrix& host) override {
    Array a = allocate(host.rows(), host.cols());
    upload(host, a.view());
    return a;
  }
  Array adopt(Matrix host) override { return borrow(host); }
  void upload(MatrixView<const double> host, MatrixView<double> to) override {
    const Timed timed(*this, "upload");
    copy_rows(host, to);
  }
  void upload(DType dtype, std::span<const std::byte> host, MatrixView<float> to) override {
    const Timed timed(*this, "upload");
    upload_floats(gpu_, dtype, host, to);
  }
  void upload(MatrixView<const float> host, MatrixView<float> to) override {
    const Timed timed(*this, "upload");
    copy_rows(host, to);
  }
  void copy(MatrixView<const float> from, MatrixView<float> to) override {
    const Timed timed(*this, "copy");
    copy_rows(from, to);
  }
  void download(MatrixView<const float> from, MatrixView<float> host) override {
    const Timed timed(*this, "download");
    copy_rows(from, host);
    gpu_.wait();
  }
  void download(MatrixView<const double> from, MatrixView<double> host) override {
    const Timed timed(*this, "download");
    copy_rows(from, host);
    gpu_.wait();
  }

  void gemm(MatrixView<const float> X, MatrixView<const float> W, MatrixView<float> Y,
            bool accumulate) override {
    const Timed timed(*this, "gemm");
    bf16_ ? gemm_bf16(gpu_, X, W, Y, accumulate) : cuda::gemm(gpu_, X, W, Y, accumulate);
  }
  void syrk(MatrixView<const float> X, MatrixView<double> H) override {
    const Timed timed(*this, "syrk");
    bf16_ ? syrk_bf16(gpu_, X, H) : cuda::syrk(gpu_, X, H);
  }
  void cross(MatrixView<const float> X, MatrixView<const float> Y, MatrixView<double> D) override {
    const Timed timed(*this, "cross");
    cuda::cross(gpu_, X, Y, D);
  }
  void column_stats(MatrixView<const float> X, std::span<float> amax, std::span<double> sum_abs) override {
    const Timed timed(*this, "column_stats");
    cuda::column_stats(gpu_, X, amax, sum_abs);
  }
  void rms_norm(MatrixView<const float> X, std::span<const float> weight, float eps,
                MatrixView<float> out) override {
    const Timed timed(*this, "rms_norm");
    cuda::rms_norm(gpu_, X, weight, eps, out);
  }
  void rope(MatrixView<float> X, int64_t head_dim, MatrixView<const float> table, int64_t length) override {
    const Timed timed(*this, "rope");
    cuda::rope(gpu_, X, head_dim, table, length);
  }
  void attention(MatrixView<const float> q, MatrixView<const float> k, MatrixView<const float> v,
                 int64_t head_dim, int64_t length, float scale, MatrixView<float> out) override {
    const Timed timed(*this, "attention");
    bf16_ ? attention_bf16(gpu_, q, k, v, head_dim, length, scale, out)
          : cuda::attention(gpu_, q, k, v, head_dim, length, scale, out);
  }
  void swiglu(MatrixView<const float> gate_up, MatrixView<float> out) override {
    const Timed timed(*this, "swiglu");
    cuda::swiglu(gpu_, gate_up, out);
  }
  void map_activations(const LinearMap& map, MatrixView<float> X) override {
    const Timed timed(*this, "map_activations");
    cuda::map_activations(gpu_, map, X);
  }
  void map_weights(const LinearMap& map, MatrixView<float> W) override {
    const Timed timed(*this, "map_weights");
    cuda::map_weights(gpu_, map, W);
  }
  void unmap_weights(const LinearMap& map, MatrixView<float> W) override {
    const Timed timed(*this, "unmap_weights");
    cuda::unmap_weights(gpu_, map, W);
  }
  void map_hessian(const LinearMap& map, MatrixView<double> H) override {
    const Timed timed(*this, "map_hessian");
    cuda::map_hessian(gpu_, map, H);
  }
  QuantizedMatrix quantize(const FormatSpec& format, MatrixView<const float> X,
                           const WeightScales& search) override {
    const Timed timed(*this, "quantize");
    return cuda::download(gpu_, cuda::quantize(gpu_, format, X, search));
  }
  void dequantize(const QuantizedMatrix& q, MatrixView<float> out) override {
    const Timed timed(*this, "dequantize");
    cuda::dequantize(gpu_, cuda::upload(gpu_, q), out);
  }
  std::optional<GptqAnswer> gptq(const GptqRequest& r, MatrixView<const float> W,
                                 MatrixView<const double> H) override {
    const Timed timed(*this, "gptq");
    const DeviceFactor factor = factor_hessian(gpu_, H, r.by_activation, r.damping);
    GptqAnswer out{factor.ok, {}, 0, factor.damping, factor.condition, factor.dead_channels};
    if (!factor.ok) return out;
    const GpuArray<float> live = without_dead(gpu_, W, factor);
    const MatrixView<const float> view{live.data(), W.rows, W.cols, W.cols};
    const GptqCodes codes = cuda::gptq(gpu_, view, factor, choose_scales(gpu_, r.format, view, r.search));
    out.q = cuda::download(gpu_, codes.q), out.loss = codes.loss;
    return out;
  }
  void fake_quantize(const FormatSpec& format, MatrixView<const float> X, int64_t rows_per_tensor,
                     MatrixView<float> out) override {
    const Timed timed(*this, "fake_quantize");
    cuda::fake_quantize(gpu_, format, X, rows_per_tensor, out);
  }
  int64_t first_nonfinite(MatrixView<const float> X) override {
    const Timed timed(*this, "first_nonfinite");
    return cuda::first_nonfinite(gpu_, X);
  }
  int64_t count_above(MatrixView<const float> X, float limit) override {
    const Timed timed(*this, "count_above");
    return cuda::count_above(gpu_, X, limit);
  }
  void update_scores(MatrixView<const float> full, MatrixView<const float> quantized, int64_t first,
                     std::span<const int32_t> labels, std::span<TokenScores> scores) override {
    const Timed timed(*this, "update_scores");
    cuda::update_scores(gpu_, full, quantized, first, labels, scores);
  }

 private:
  static double seconds() {
    return std::chrono::duration<double>(std::chrono::steady_clock::now().time_since_epoch()).count();
  }
  /// With FP4LAB_PROFILE set: the time of an operation, on the host and on the GPU, is waited for and noted.
  struct Spent {
    long long calls = 0;
    double seconds = 0;
  };
  class Timed {
   public:
    Timed(CudaOps& ops, const char* name) : ops_(ops), name_(name), begin_(ops.profiled_ ? seconds() : 0) {}
    Timed(const Timed&) = delete;
    Timed& operator=(const Timed&) = delete;
    ~Timed() {
      if (!ops_.profiled_) return;
      cudaStreamSynchronize(ops_.gpu_.stream());  // what went wrong, the next call says
      Spent& spent = ops_.spent_[name_];
      ++spent.calls, spent.seconds += seconds() - begin_;
    }

   private:
    CudaOps& ops_;
    const char* name_;
    double begin_;
  };

  template <class T>
  void copy_rows(MatrixView<const T> from, MatrixView<T> to) {
    FP4LAB_CHECK(from.rows == to.rows && from.cols == to.cols, from.rows, " x ", from.cols, " to ", to.rows,
                 " x ", to.cols);
    gpu_.copy_rows(from.data, from.stride * int64_t(sizeof(T)), to.data, to.stride * int64_t(sizeof(T)),
                   from.cols * int64_t(sizeof(T)), from.rows);
  }

  Gpu& gpu_;
  bool bf16_, profiled_;
  double opened_ = seconds();
  std::map<std::string, Spent> spent_;
};

}  // namespace

std::unique_ptr<Ops> make_cuda_ops(int gpu, Machine::Compute compute) {
  return std::make_unique<CudaOps>(Gpu::get(gpu), compute);
}

}  // namespace fp4lab::cuda
