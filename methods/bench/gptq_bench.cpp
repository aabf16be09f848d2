// GPTQ of a square layer, its Hessian given, beside one float32 product of rows x cols^2 multiply-adds (the
// loop itself makes half as many). The Cholesky is timed by itself.
#include "methods/bench/gptq_bench.h"

#include <omp.h>

#include <cstdio>

#include "formats/registry.h"
#include "kernels/cpu/gemm.h"
#include "methods/rounding/gptq.h"

namespace fp4lab {

namespace {

constexpr int64_t kSize = 4096, kTokens = 8192;

struct Row {
  const char *what, *format;
  WeightScales search;
  Rounding rounding;
};
const Row kRows[] = {
    {"gptq", "nvfp4", {}, {.kind = Rounding::gptq}},
    {"gptq", "mxfp4", {}, {.kind = Rounding::gptq}},
    {"gptq, static order", "nvfp4", {}, {.kind = Rounding::gptq, .order = Rounding::static_activation}},
    {"gptq, alternate first", "nvfp4", {.kind = WeightScales::alternate}, {.kind = Rounding::gptq}},
    {"gptq, local_hessian first", "nvfp4", {.kind = WeightScales::local_hessian}, {.kind = Rounding::gptq}},
    {"gptq, in_loop sweep(-8, 7)",
     "nvfp4",
     {.kind = WeightScales::nearby},
     {.kind = Rounding::gptq, .scales = Rounding::in_loop}},
    {"gptq, in_loop search(4)",
     "mxfp4",
     {.kind = WeightScales::nearby},
     {.kind = Rounding::gptq, .scales = Rounding::in_loop}},
};

void bench_gptq(int rounds) {
  const Matrix W = normal_matrix(kSize, kSize, 1), X = normal_matrix(kTokens, kSize, 2);
  MatrixD H = MatrixD::zeros(kSize, kSize);
  const MatrixD none;
  syrk(X, H);
  const HessianFactor natural = factor_hessian(H, {.kind = Rounding::gptq});
  const HessianFactor ordered =
      factor_hessian(H, {.kind = Rounding::gptq, .order = Rounding::static_activation});
  Matrix Y(kSize, kSize);
  std::vector<Subject> subjects = {
      {"gemm of rows x cols^2 multiply-adds", [&] { gemm(W, X.view().middle_rows(0, kSize), Y); }, 1, 0},
      {"Cholesky (double, one thread)", [&] { factor_hessian(H, {.kind = Rounding::gptq}); }, 1, 0}};
  for (const Row& row : kRows) {
    const FormatSpec& format = find_format(row.format)->spec;
    subjects.push_back({str(row.format, " ", row.what),
                        [&, row] {
                          gptq(format, weight_scales_for(row.search, format), row.rounding, W, H, none,
                               row.rounding.order == Rounding::static_activation ? ordered : natural);
                        },
                        1, 0});
  }
  const std::vector<Comparison> results = compare_to_first(subjects, rounds);
  std::printf("GPTQ of a (%lld, %lld) layer, Hessian and factor given, float32, %d threads\n",
              static_cast<long long>(kSize), static_cast<long long>(kSize), omp_get_max_threads());
  std::printf("| %-36s | %8s | %17s | %12s |\n", "", "ms", "quartiles", "time of gemm");
  std::printf("|--------------------------------------|---------:|------------------:|-------------:|\n");
  for (size_t i = 0; i < results.size(); ++i) {
    const Timing& t = results[i].timing;
    std::printf("| %-36s | %8.0f | %8.0f - %6.0f | %12.2f |\n", subjects[i].name.c_str(), t.median * 1e3,
                t.low * 1e3, t.high * 1e3, 1 / results[i].rate_ratio);
  }
}

}  // namespace

std::span<const Benchmark> method_benchmarks() {
  static constexpr Benchmark kBenchmarks[] = {
      {"gptq", "GPTQ of a 4096 x 4096 layer beside one product of rows x cols^2 multiply-adds", &bench_gptq}};
  return kBenchmarks;
}

}  // namespace fp4lab
