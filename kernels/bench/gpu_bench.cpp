// The GPU's kernels beside its ceilings, which are measured in the same process: a copy within its memory,
// and cuBLAS' product in bf16. Times are CUDA events around a few launches in a row, inputs in rotation so
// that nothing is left of them in the cache; all subjects are interleaved, medians count.
#include "kernels/bench/harness.h"

#include "core/errors.h"

#if defined(FP4LAB_WITH_CUDA)
#include <algorithm>
#include <cstdio>

#include "formats/registry.h"
#include "kernels/cuda/attention.h"
#include "kernels/cuda/attention_bf16.h"
#include "kernels/cuda/gemm.h"
#include "kernels/cuda/gptq.h"
#include "kernels/cuda/linear_map.h"
#include "kernels/cuda/products_bf16.h"
#include "kernels/cuda/quantize.h"

namespace fp4lab {

namespace {

using namespace cuda;

class Event {
 public:
  Event() { FP4LAB_CUDA_CALL(cudaEventCreate(&event_), "an event"); }
  Event(const Event&) = delete;
  Event& operator=(const Event&) = delete;
  ~Event() { cudaEventDestroy(event_); }
  operator cudaEvent_t() const { return event_; }

 private:
  cudaEvent_t event_ = nullptr;
};

struct GpuSubject {
  std::string name;
  std::function<void(int turn)> run;  // turn: which of the inputs in rotation
  double bytes = 0, flops = 0;
  std::vector<double> seconds{};
};

/// Runs all in turn; the times of each.
void time_all(Gpu& gpu, std::vector<GpuSubject>& subjects, int rounds, int launches) {
  Event begin, end;
  for (int round = -1; round < rounds; ++round)
    for (GpuSubject& s : subjects) {
      FP4LAB_CUDA_CALL(cudaEventRecord(begin, gpu.stream()), "event");
      for (int i = 0; i < launches; ++i) s.run(i);
      FP4LAB_CUDA_CALL(cudaEventRecord(end, gpu.stream()), "event");
      FP4LAB_CUDA_CALL(cudaEventSynchronize(end), s.name);
      float ms = 0;
      FP4LAB_CUDA_CALL(cudaEventElapsedTime(&ms, begin, end), "event");
      if (round >= 0) s.seconds.push_back(double(ms) / 1e3 / launches);
    }
}
double median(std::vector<double> v) {
  std::nth_element(v.begin(), v.begin() + ptrdiff_t(v.size() / 2), v.end());
  return v[v.size() / 2];
}
/// Median of the ratios round by round.
double ratio(const GpuSubject& s, const GpuSubject& to, double s_work, double to_work) {
  std::vector<double> r;
  for (size_t i = 0; i < s.seconds.size(); ++i)
    r.push_back(s_work / s.seconds[i] / (to_work / to.seconds[i]));
  return median(r);
}

/// N(0,1) numbers, of which every copy is another part.
GpuArray<float> normal(Gpu& gpu, int64_t rows, int64_t cols, uint64_t seed) {
  const Matrix m = normal_matrix(rows, cols, seed);
  return gpu.upload(std::span<const float>(m.data(), size_t(m.size())));
}

void print_streams(const std::vector<GpuSubject>& subjects) {
  std::printf("| %-34s | %9s | %9s | %13s |\n|%s|%s|%s|%s|\n", "operation", "us", "GB/s", "share of copy",
              std::string(36, '-').c_str(), "----------:", "----------:", "--------------:");
  for (const GpuSubject& s : subjects)
    std::printf("| %-34s | %9.1f | %9.0f | %13.2f |\n", s.name.c_str(), median(s.seconds) * 1e6,
                s.bytes / median(s.seconds) / 1e9, ratio(s, subjects[0], s.bytes, subjects[0].bytes));
}

void bench_streams(Gpu& gpu, int rounds) {
  constexpr int64_t kRows = 8192, kCols = 8192;  // 256 MB of float32
  constexpr int kInputs = 3;
  const double n = double(kRows) * double(kCols);
  std::vector<GpuArray<float>> inputs;
  for (int i = 0; i < kInputs; ++i) inputs.push_back(normal(gpu, kRows, kCols, uint64_t(i)));
  const GpuArray<float> out = gpu.allocate<float>(kRows * kCols);
  const auto in = [&](int turn) {
    return MatrixView<float>{inputs[size_t(turn % kInputs)].data(), kRows, kCols, kCols};
  };
  const MatrixView<float> to{out.data(), kRows, kCols, kCols};
  std::vector<GpuSubject> subjects;
  subjects.push_back({"copy", [&](int t) { gpu.copy(in(t).data, out.data(), int64_t(n) * 4); }, 8 * n});
  std::vector<DeviceQuantized> quantized;
  const char* names[] = {"mxfp4", "nvfp4", "int4"};
  for (const char* name : names) quantized.push_back(quantize(gpu, find_format(name)->spec, in(0)));
  for (size_t i = 0; i < 3; ++i) {
    const FormatSpec& f = find_format(names[i])->spec;
    const double stored = bits_per_element(f, kCols) / 8;
    const std::string name = names[i];
    subjects.push_back({name + " quantize", [&, f](int t) { quantize(gpu, f, in(t)); }, (4 + stored) * n});
    subjects.push_back(
        {name + " dequantize", [&, i](int) { dequantize(gpu, quantized[i], to); }, (4 + stored) * n});
    subjects.push_back(
        {name + " fake_quantize", [&, f](int t) { fake_quantize(gpu, f, in(t), kRows, to); }, 8 * n});
  }
  for (const int64_t k : {16, 32, 64, 128}) {
    const LinearMap map{{HadamardFactor{k, {}, 1}}};
    subjects.push_back(
        {str("Hadamard ", k, ", in place"), [&, map](int t) { map_activations(gpu, map, in(t)); }, 8 * n});
  }
  time_all(gpu, subjects, rounds, kInputs);
  std::printf("\nfloat32, %lld x %lld, N(0,1)\n", (long long)kRows, (long long)kCols);
  print_streams(subjects);
}

void bench_products(Gpu& gpu, int rounds) {
  constexpr int64_t kSide = 4096;
  const GpuArray<float> a = normal(gpu, kSide, kSide, 1), b = normal(gpu, kSide, kSide, 2);
  const GpuArray<float> c = gpu.allocate<float>(kSide * kSide);
  const GpuArray<double> h = gpu.allocate<double>(kSide * kSide);
  gpu.fill(h.data(), 0, kSide * kSide * 8);
  const auto view = [](const GpuArray<float>& x) { return MatrixView<float>{x.data(), kSide, kSide, kSide}; };
  const MatrixView<double> H{h.data(), kSide, kSide, kSide};
  const double cube = 2 * double(kSide) * kSide * kSide;
  constexpr int64_t kTokens = 8192, kHeads = 32, kKv = 8, kDim = 128, kLength = 2048;
  const GpuArray<float> q = normal(gpu, kTokens, kHeads * kDim, 3),
                        kv = normal(gpu, kTokens, 2 * kKv * kDim, 4);
  const GpuArray<float> o = gpu.allocate<float>(kTokens * kHeads * kDim);
  const MatrixView<float> Q{q.data(), kTokens, kHeads * kDim, kHeads * kDim},
      K{kv.data(), kTokens, kKv * kDim, 2 * kKv * kDim},
      V{kv.data() + kKv * kDim, kTokens, kKv * kDim, 2 * kKv * kDim},
      O{o.data(), kTokens, kHeads * kDim, kHeads * kDim};
  const double attention_flops = 4.0 * kTokens * (kLength / 2.0) * kHeads * kDim;
  std::vector<GpuSubject> subjects = {
      {"bf16 gemm (cuBLASLt, rounding included)",
       [&](int) { gemm_bf16(gpu, view(a), view(b), view(c), false); }, 0, cube},
      {"float32 gemm, the CPU's bits", [&](int) { gemm(gpu, view(a), view(b), view(c)); }, 0, cube},
      {"bf16 Hessian", [&](int) { syrk_bf16(gpu, view(a), H); }, 0, cube / 2},
      {"double Hessian, the CPU's bits", [&](int) { syrk(gpu, view(a), H); }, 0, cube / 2},
      {"bf16 attention, windows of 2048", [&](int) { attention_bf16(gpu, Q, K, V, kDim, kLength, 0.09f, O); },
       0, attention_flops},
      {"float32 attention, the CPU's bits", [&](int) { attention(gpu, Q, K, V, kDim, kLength, 0.09f, O); }, 0,
       attention_flops}};
  time_all(gpu, subjects, rounds, 1);
  std::printf("\n4096 x 4096 x 4096; attention of %lld tokens, 32 heads (8 of keys) of 128\n",
              (long long)kTokens);
  std::printf("| %-40s | %9s | %9s |\n|%s|----------:|----------:|\n", "operation", "ms", "TFLOP/s",
              std::string(42, '-').c_str());
  for (const GpuSubject& s : subjects)
    std::printf("| %-40s | %9.3f | %9.1f |\n", s.name.c_str(), median(s.seconds) * 1e3,
                s.flops / median(s.seconds) / 1e12);
}

void bench_gptq_on_gpu(Gpu& gpu, int rounds) {
  std::printf("\nGPTQ of a layer, its Hessian given, nvfp4, static order\n");
  std::printf(
      "| %-14s | %9s | %9s | %9s | %9s "
      "|\n|----------------|----------:|----------:|----------:|----------:|\n",
      "N x K", "factor ms", "scales ms", "loop ms", "all ms");
  for (const auto& [N, K] :
       {std::pair<int64_t, int64_t>{4096, 4096}, {14336, 4096}, {4096, 14336}, {8192, 28672}}) {
    const GpuArray<float> w = normal(gpu, N, K, 1), x = normal(gpu, 4096, K, 2);
    const GpuArray<double> h = gpu.allocate<double>(K * K);
    gpu.fill(h.data(), 0, K * K * 8);
    const MatrixView<double> H{h.data(), K, K, K};
    for (int i = 0; i < 2; ++i) syrk_bf16(gpu, {x.data(), 4096, K, K}, H);
    const MatrixView<const float> W{w.data(), N, K, K};
    DeviceFactor factor;
    DeviceQuantized scales;
    std::vector<GpuSubject> subjects = {
        {"factor", [&](int) { factor = factor_hessian(gpu, H, true, 0.01); }},
        {"scales", [&](int) { scales = choose_scales(gpu, kNvfp4, W, {.kind = WeightScales::alternate}); }},
        {"loop", [&](int) { gptq(gpu, W, factor, scales); }}};
    time_all(gpu, subjects, std::min(rounds, 5), 1);
    double all = 0;
    for (const GpuSubject& s : subjects) all += median(s.seconds);
    std::printf("| %6lld x %-5lld | %9.2f | %9.2f | %9.2f | %9.2f |\n", (long long)N, (long long)K,
                median(subjects[0].seconds) * 1e3, median(subjects[1].seconds) * 1e3,
                median(subjects[2].seconds) * 1e3, all * 1e3);
    std::fflush(stdout);
  }
}

}  // namespace

void bench_gpu(int rounds) {
  Gpu& gpu = Gpu::get(0);
  std::printf("%s, %d multiprocessors, CUDA %d.%d\n", gpu.properties().name, gpu.multiprocessors(),
              CUDART_VERSION / 1000, CUDART_VERSION % 1000 / 10);
  bench_streams(gpu, rounds);
  bench_products(gpu, rounds);
  bench_gptq_on_gpu(gpu, rounds);
}

}  // namespace fp4lab

#else

namespace fp4lab {
void bench_gpu(int) { throw ConfigError("bench gpu: this program was built without CUDA"); }
}  // namespace fp4lab
#endif
