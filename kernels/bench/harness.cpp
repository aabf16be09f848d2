#include "kernels/bench/harness.h"

#include <algorithm>
#include <chrono>

#include "core/random.h"

namespace fp4lab {

namespace {

double now() {
  return std::chrono::duration<double>(std::chrono::steady_clock::now().time_since_epoch()).count();
}

double quantile(std::vector<double> v, double q) {
  std::sort(v.begin(), v.end());
  return v[size_t(q * double(v.size() - 1) + 0.5)];
}

/// Seconds of each subject in each round.
std::vector<std::vector<double>> rounds_of(const std::vector<Subject>& subjects, int rounds) {
  std::vector<std::vector<double>> seconds(subjects.size());
  for (const Subject& s : subjects) s.run();
  for (int r = 0; r < rounds; ++r)
    for (size_t i = 0; i < subjects.size(); ++i) {
      const double start = now();
      subjects[i].run();
      seconds[i].push_back(now() - start);
    }
  return seconds;
}

Timing timing_of(const std::vector<double>& s) {
  return {quantile(s, 0.5), quantile(s, 0.25), quantile(s, 0.75)};
}

}  // namespace

std::vector<Timing> time_interleaved(const std::vector<Subject>& subjects, int rounds) {
  std::vector<Timing> timings;
  for (const auto& s : rounds_of(subjects, rounds)) timings.push_back(timing_of(s));
  return timings;
}

std::vector<Comparison> compare_to_first(const std::vector<Subject>& subjects, int rounds) {
  const auto seconds = rounds_of(subjects, rounds);
  std::vector<Comparison> result;
  for (size_t i = 0; i < subjects.size(); ++i) {
    std::vector<double> ratios;
    for (size_t r = 0; r < seconds[i].size(); ++r)
      ratios.push_back(subjects[i].bytes / seconds[i][r] / (subjects[0].bytes / seconds[0][r]));
    result.push_back({timing_of(seconds[i]), quantile(ratios, 0.5)});
  }
  return result;
}

const std::vector<Benchmark>& benchmarks() {
  static const std::vector<Benchmark> list = {
      {"codecs", "fake_quantize, quantize, dequantize against a copy of the same memory", &bench_codecs},
      {"searches", "scale searches, elements per second and core", &bench_searches},
      {"gemm", "matrix products beside Eigen's for AVX-512, with one thread and all", &bench_gemm},
      {"forward", "a language model's forward pass beside the products it is made of", &bench_forward},
      {"gpu", "the GPU's kernels beside a copy and cuBLAS; GPTQ of large layers", bench_gpu},
  };
  return list;
}

Matrix normal_matrix(int64_t rows, int64_t cols, uint64_t seed) {
  Matrix x(rows, cols);
  const Stream stream(seed, "bench");
#pragma omp parallel for schedule(static)
  for (int64_t i = 0; i < x.size() / 2; ++i) {
    const auto pair = normal_pair(stream.block(uint64_t(i)));
    x.data()[2 * i] = float(pair[0]), x.data()[2 * i + 1] = float(pair[1]);
  }
  return x;
}

}  // namespace fp4lab
