// GPTQ on a GPU: from the CPU's factor its codes to the last one; from its own, the share that differs.
#include "kernels/ops.h"
#include "tests/catch.h"
#include "tests/methods/gptq_cases.h"

#if defined(FP4LAB_WITH_CUDA)
#include "formats/registry.h"
#include "kernels/cuda/gptq.h"

using namespace fp4lab;
using gptq_cases::rounding;

namespace {

struct Case {
  Matrix W;
  MatrixD H;  // upper triangle
};
/// K channels of which neighbours are correlated and each tenth is eight times as large.
Case made(int64_t N, int64_t K, uint64_t seed) {
  std::mt19937_64 random(seed);
  std::normal_distribution<float> normal;
  Case c{Matrix(N, K), MatrixD::zeros(K, K)};
  for (int64_t i = 0; i < c.W.size(); ++i) c.W.data()[i] = normal(random);
  Matrix X(2 * K + 50, K);
  for (int64_t t = 0; t < X.rows(); ++t) {
    float last = 0;
    for (int64_t k = 0; k < K; ++k) {
      last = 0.7f * last + normal(random);
      X(t, k) = last * (k % 10 == 3 ? 8.0f : 1.0f);
    }
  }
  syrk(X, c.H);
  return c;
}

cuda::DeviceFactor uploaded(cuda::Gpu& gpu, const HessianFactor& f) {
  cuda::DeviceFactor d;
  d.ok = f.ok, d.damping = f.damping, d.added = f.added, d.condition = f.condition;
  d.dead_channels = f.dead_channels, d.order = f.order, d.dead = f.dead, d.weight = f.weight;
  d.weight_unit = f.weight_unit;
  d.coefficients = gpu.upload(std::span<const float>(f.coefficients.data(), size_t(f.coefficients.size())));
  return d;
}

/// The GPU's loop on a given factor.
GptqResult on_gpu(cuda::Gpu& gpu, const FormatSpec& format, const WeightScales& search, const Matrix& W,
                  const cuda::DeviceFactor& factor) {
  const auto w = gpu.upload(std::span<const float>(W.data(), size_t(W.size())));
  const auto live = cuda::without_dead(gpu, {w.data(), W.rows(), W.cols(), W.cols()}, factor);
  const MatrixView<const float> view{live.data(), W.rows(), W.cols(), W.cols()};
  cuda::GptqCodes codes = cuda::gptq(gpu, view, factor, cuda::choose_scales(gpu, format, view, search));
  return {cuda::download(gpu, codes.q), codes.loss};
}

int64_t differing_codes(const QuantizedMatrix& a, const QuantizedMatrix& b) {
  std::vector<uint8_t> x(size_t(a.cols())), y(size_t(a.cols()));
  int64_t count = 0;
  for (int64_t r = 0; r < a.rows(); ++r) {
    unpack_codes(a, r, x.data()), unpack_codes(b, r, y.data());
    for (size_t c = 0; c < x.size(); ++c) count += x[c] != y[c];
  }
  return count;
}

}  // namespace

TEST_CASE("cuda: GPTQ gives the CPU's codes from the CPU's factor", "[methods][cuda]") {
  if (visible_gpus() == 0) FP4LAB_SKIP("no CUDA device, or built without CUDA");
  cuda::Gpu& gpu = cuda::Gpu::get(0);
  for (const auto& [N, K] : {std::pair<int64_t, int64_t>{1, 64}, {37, 128}, {100, 384}, {65, 1024}}) {
    Case c = made(N, K, uint64_t(K));
    for (const int64_t dead : {5, 40})
      for (int64_t i = 0; i < K; ++i) c.H(std::min(i, dead), std::max(i, dead)) = 0;
    for (const char* name :
         {"nvfp4", "mxfp4-even", "mxfp4-paper", "int4", "int4-asym", "nf4", "mxfp8-e4m3", "int8"})
      for (const Rounding::Order order : {Rounding::natural, Rounding::static_activation})
        for (const WeightScales::Kind kind : {WeightScales::rule, WeightScales::paper}) {
          const FormatSpec& format = find_format(name)->spec;
          const WeightScales search = weight_scales_for({.kind = kind}, format);
          if (!weight_scales_problem(search, format).empty()) continue;
          INFO(name << ", " << N << " x " << K << ", order " << int(order) << ", scales " << int(kind));
          const Rounding r = rounding(Rounding::gptq, order);
          const HessianFactor factor = factor_hessian(c.H, r);
          const GptqResult want = gptq(format, search, r, c.W, c.H, {}, factor),
                           got = on_gpu(gpu, format, search, c.W, uploaded(gpu, factor));
          CHECK(differing_codes(got.q, want.q) == 0);
          CHECK(got.q.digest() == want.q.digest());
          CHECK(got.q.format == want.q.format);
          CHECK(got.loss == Approx(want.loss).epsilon(1e-12));
        }
  }
}

TEST_CASE("cuda: GPTQ from the GPU's own factor", "[methods][cuda]") {
  if (visible_gpus() == 0) FP4LAB_SKIP("no CUDA device, or built without CUDA");
  cuda::Gpu& gpu = cuda::Gpu::get(0);
  for (const double damping : {0.01, 0.0}) {
    const Case c = made(256, 1000, 7);
    for (const Rounding::Order order : {Rounding::natural, Rounding::static_activation}) {
      Rounding r = rounding(Rounding::gptq, order);
      r.damping = damping;
      const FormatSpec format{kE2M1, 20, kE4M3, {}, {TensorScale::dynamic}};
      const HessianFactor cpu = factor_hessian(c.H, r);
      const auto H = gpu.upload(std::span<const double>(c.H.data(), size_t(c.H.size())));
      const cuda::DeviceFactor own = cuda::factor_hessian(gpu, {H.data(), 1000, 1000, 1000},
                                                          order == Rounding::static_activation, damping);
      REQUIRE(own.ok);
      CHECK(own.order == cpu.order);
      CHECK(own.damping == cpu.damping);
      CHECK(own.added == cpu.added);
      CHECK(own.condition == Approx(cpu.condition).epsilon(1e-6));
      Matrix coefficients(1000, 1000);
      gpu.download<float>(own.coefficients.data(), {coefficients.data(), size_t(coefficients.size())});
      double worst = 0;
      int64_t differ = 0;
      for (int64_t i = 0; i < coefficients.size(); ++i) {
        worst =
            std::max(worst, std::fabs(double(coefficients.data()[i]) - double(cpu.coefficients.data()[i])));
        differ += coefficients.data()[i] != cpu.coefficients.data()[i];
      }
      CHECK(worst < 1e-6);
      const GptqResult want = gptq(format, {}, r, c.W, c.H, {}, cpu), got = on_gpu(gpu, format, {}, c.W, own);
      const int64_t codes = differing_codes(got.q, want.q);
      WARN("damping " << damping << ", order " << int(order) << ": " << differ
                      << " of 1000000 coefficients and " << codes << " of 256000 codes differ; loss "
                      << got.loss / want.loss - 1 << " off");
      CHECK(codes < 256);  // 0.1 %
      CHECK(got.loss == Approx(want.loss).epsilon(1e-4));
    }
  }
}

TEST_CASE("cuda: Hessians that are not positive definite, dead or not finite", "[methods][cuda]") {
  if (visible_gpus() == 0) FP4LAB_SKIP("no CUDA device, or built without CUDA");
  cuda::Gpu& gpu = cuda::Gpu::get(0);
  const auto both = [&](const MatrixD& H, double damping) {
    Rounding r = rounding(Rounding::gptq);
    r.damping = damping;
    const auto h = gpu.upload(std::span<const double>(H.data(), size_t(H.size())));
    return std::pair(factor_hessian(H, r),
                     cuda::factor_hessian(gpu, {h.data(), H.rows(), H.cols(), H.cols()}, false, damping));
  };
  for (const double off : {0.5, 1.02, 1.5, 50.0}) {  // pairs of channels, indefinite above 1
    MatrixD H = MatrixD::zeros(32, 32);
    for (int64_t i = 0; i < 32; ++i) H(i, i) = 1;
    for (int64_t i = 0; i < 32; i += 2) H(i, i + 1) = off;
    const auto [cpu, own] = both(H, 0.01);
    INFO(off);
    CHECK(own.ok == cpu.ok);
    CHECK(own.damping == cpu.damping);
  }
  MatrixD H = MatrixD::zeros(16, 16);
  for (int64_t i = 0; i < 16; ++i) H(i, i) = i % 4 ? 2 : 0;
  const auto [cpu, own] = both(H, 0.01);
  CHECK(own.dead_channels == 4);
  CHECK(own.dead == cpu.dead);
  CHECK(own.condition == Approx(cpu.condition));
  H(3, 9) = INFINITY, H(5, 6) = NAN;
  CHECK_THROWS_WITH(both(H, 0.01), "the Hessian of the inputs is infinite at row 3, column 9");
  const auto h = gpu.upload(std::span<const double>(H.data(), 256));
  CHECK_THROWS_WITH(cuda::factor_hessian(gpu, {h.data(), 16, 16, 16}, false, 0.01),
                    "the Hessian of the inputs is infinite at row 3, column 9");
}
#endif
