// The products of kernels/cpu/gemm.h beside Eigen's for AVX-512, in the shapes of a large layer and of a
// small Llama, with one thread and with all. Both work on N(0,1).
#include <omp.h>

#include <cstdio>
#include <vector>

#include "formats/row_kernels.h"
#include "kernels/bench/eigen_gemm.h"
#include "kernels/bench/harness.h"
#include "kernels/cpu/gemm.h"

namespace fp4lab {

namespace {

struct Shape {
  int64_t m, n, k;
};
// Tokens x (in, out): a 4096 x 4096 layer, then a small Llama's linears in two widths.
constexpr Shape kShapes[] = {{512, 4096, 4096}, {2048, 1024, 512}, {2048, 512, 512},  {2048, 3072, 512},
                             {2048, 512, 1536}, {2048, 512, 256},  {2048, 1536, 256}, {2048, 256, 768}};
constexpr Shape kGram = {1024, 1024, 2048};  // H (1024, 1024) over 2048 tokens
constexpr double kLeastFlops = 2e9;          // per timed run: a short product is repeated

/// Times ours against the peer (where this processor runs it) and prints one row.
template <class Ours, class Peer>
void row(const char* what, const Shape& s, int threads, double flops, int rounds, Ours ours, Peer peer) {
  const int repeats = flops < kLeastFlops ? int(kLeastFlops / flops) + 1 : 1;
  auto repeated = [repeats](auto product) {
    return [repeats, product] {
      for (int i = 0; i < repeats; ++i) product();
    };
  };
  const double work = flops * repeats;  // the harness compares rates of `bytes`; here they are flops
  std::vector<Subject> subjects = {{"fp4lab", repeated(ours), work, 0}};
  if (row_kernels_v4()) subjects.insert(subjects.begin(), Subject{"Eigen", repeated(peer), work, 0});
  const std::vector<Comparison> results = compare_to_first(subjects, rounds);
  const Comparison& our = results.back();
  std::printf("| %-4s | %5lld x %4lld x %4lld | %7d | %8.2f | %7.1f |", what, static_cast<long long>(s.m),
              static_cast<long long>(s.k), static_cast<long long>(s.n), threads,
              our.timing.median / repeats * 1e3, work / our.timing.median / 1e9);
  if (results.size() == 2)
    std::printf(" %7.1f | %8.2f |\n", work / results[0].timing.median / 1e9, our.rate_ratio);
  else
    std::printf(" %7s | %8s |\n", "-", "-");
}

void rows(int threads, int rounds) {
  omp_set_num_threads(threads);
  for (const Shape& s : kShapes) {
    const Matrix X = normal_matrix(s.m, s.k, 1), W = normal_matrix(s.n, s.k, 2);
    Matrix Y(s.m, s.n), Z(s.m, s.n);
    row(
        "gemm", s, threads, 2.0 * double(s.m) * double(s.n) * double(s.k), rounds, [&] { gemm(X, W, Y); },
        [&] { eigen_gemm(X, W, Z); });
  }
  const Matrix X = normal_matrix(kGram.k, kGram.n, 3);
  MatrixD wide(kGram.k, kGram.n), H = MatrixD::zeros(kGram.n, kGram.n), G = H.clone();
  for (int64_t i = 0; i < X.size(); ++i) wide.data()[i] = double(X.data()[i]);
  row(
      "syrk", kGram, threads, double(kGram.k) * double(kGram.n) * double(kGram.n + 1), rounds,
      [&] { syrk(X, H); }, [&] { eigen_syrk(wide, G); });
}

}  // namespace

void bench_gemm(int rounds) {
  const int threads = omp_get_max_threads();
  std::printf("gemm (M x K)(N x K)^T float32, syrk X^T X of (T, K) = (%lld, %lld) in double; %s\n",
              static_cast<long long>(kGram.k), static_cast<long long>(kGram.n), row_kernels().name);
  std::printf("| %-4s | %-19s | %7s | %8s | %7s | %7s | %8s |\n", "", "M x K x N", "threads", "ms", "GFLOP/s",
              "Eigen", "to Eigen");
  std::printf("|------|---------------------|--------:|---------:|--------:|--------:|---------:|\n");
  rows(1, rounds);
  if (threads > 1) rows(threads, rounds);
  omp_set_num_threads(threads);
}

}  // namespace fp4lab
