// kernels/bench/harness.h - timing that a shared, noisy machine cannot spoil: everything is a ratio to a
// ceiling measured in the same process, runs of all subjects are interleaved, and medians are reported.
#pragma once
#include <functional>
#include <string>
#include <string_view>
#include <vector>

#include "core/matrix.h"

namespace fp4lab {

/// Something to time. `bytes` is what it must move (useful bytes), `elements` what it works on.
struct Subject {
  std::string name;
  std::function<void()> run;
  double bytes = 0, elements = 0;
};

struct Timing {
  double median = 0, low = 0, high = 0;  // seconds; low, high: quartiles
};

/// Runs all subjects in turn, `rounds` times after one warm-up each. One Timing per subject.
std::vector<Timing> time_interleaved(const std::vector<Subject>& subjects, int rounds);

/// The medians of the per-round ratios time(reference) / time(i): noise that lasts longer than a round
/// cancels. Subject 0 is the reference.
struct Comparison {
  Timing timing;
  double rate_ratio = 0;  // median of (bytes_i / t_i) / (bytes_0 / t_0), round by round
};
std::vector<Comparison> compare_to_first(const std::vector<Subject>& subjects, int rounds);

/// N(0,1) numbers to work on, (rows, cols), the same for the same seed.
Matrix normal_matrix(int64_t rows, int64_t cols, uint64_t seed);

/// A named benchmark: prints its table to stdout.
struct Benchmark {
  std::string_view name, description;
  void (*run)(int rounds);
};
const std::vector<Benchmark>& benchmarks();

void bench_codecs(int rounds);
void bench_searches(int rounds);
void bench_gemm(int rounds);
void bench_forward(int rounds);
void bench_gpu(int rounds);

}  // namespace fp4lab
