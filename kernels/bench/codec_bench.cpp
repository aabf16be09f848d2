// The CPU codecs on a 4096 x 4096 float32 matrix of N(0,1). Useful bytes per element: fake_quantize 4 read +
// 4 written, quantize 4 read + bits/8 written, dequantize bits/8 read + 4 written. The ceiling is memcpy by
// the same threads.
#include <omp.h>

#include <cstdio>
#include <cstring>

#include "core/random.h"
#include "formats/quantize.h"
#include "formats/registry.h"
#include "formats/row_kernels.h"
#include "kernels/bench/harness.h"

namespace fp4lab {

namespace {

constexpr int64_t kSide = 4096;

Matrix normal_matrix() {
  Matrix x(kSide, kSide);
  const Stream stream(1, "bench");
#pragma omp parallel for schedule(static)
  for (int64_t i = 0; i < x.size() / 2; ++i) {
    const auto pair = normal_pair(stream.block(uint64_t(i)));
    x.data()[2 * i] = float(pair[0]), x.data()[2 * i + 1] = float(pair[1]);
  }
  return x;
}

void copy(const Matrix& from, Matrix& to) {
#pragma omp parallel
  {
    const int64_t threads = omp_get_num_threads(), t = omp_get_thread_num();
    const int64_t begin = from.size() * t / threads, end = from.size() * (t + 1) / threads;
    std::memcpy(to.data() + begin, from.data() + begin, size_t(end - begin) * sizeof(float));
  }
}

void print_conditions(const char* what) {
  std::printf("%s, %lld x %lld float32 N(0,1), %d threads, %s\n", what, static_cast<long long>(kSide),
              static_cast<long long>(kSide), omp_get_max_threads(), row_kernels().name);
}

}  // namespace

void bench_codecs(int rounds) {
  const Matrix x = normal_matrix();
  Matrix y = Matrix::zeros(kSide, kSide);
  const double n = double(x.size());
  std::vector<Subject> subjects = {{"copy (memcpy)", [&] { copy(x, y); }, 8 * n, n}};
  std::vector<QuantizedMatrix> quantized;
  const char* names[] = {"mxfp4", "nvfp4", "mxfp4-paper", "int4", "mxfp8-e4m3", "nf4"};
  for (const char* name : names) quantized.push_back(quantize(find_format(name)->spec, x));
  for (size_t i = 0; i < quantized.size(); ++i) {
    const FormatSpec& f = find_format(names[i])->spec;
    const double stored = bits_per_element(f, kSide) / 8;
    const std::string name = names[i];
    subjects.push_back({name + " fake_quantize", [&f, &x, &y] { fake_quantize(f, x, y); }, 8 * n, n});
    subjects.push_back({name + " quantize", [&f, &x] { quantize(f, x); }, (4 + stored) * n, n});
    subjects.push_back(
        {name + " dequantize", [&quantized, i, &y] { dequantize(quantized[i], y); }, (4 + stored) * n, n});
  }
  print_conditions("codecs");
  std::printf("| %-28s | %8s | %15s | %7s | %13s |\n| %s | %s: | %s: | %s: | %s: |\n", "operation", "ms",
              "quartiles", "GB/s", "share of copy", std::string(28, '-').c_str(), std::string(7, '-').c_str(),
              std::string(14, '-').c_str(), std::string(6, '-').c_str(), std::string(12, '-').c_str());
  const std::vector<Comparison> results = compare_to_first(subjects, rounds);
  for (size_t i = 0; i < subjects.size(); ++i) {
    const Timing& t = results[i].timing;
    std::printf("| %-28s | %8.2f | %6.2f - %6.2f | %7.2f | %13.2f |\n", subjects[i].name.c_str(),
                t.median * 1e3, t.low * 1e3, t.high * 1e3, subjects[i].bytes / t.median / 1e9,
                results[i].rate_ratio);
  }
}

void bench_searches(int rounds) {
  const Matrix x = normal_matrix();
  const MatrixView<const float> part = x.view().middle_rows(0, kSide / 4);
  const double n = double(part.size());
  FormatSpec best = kMxfp4;
  best.rule = {.kind = ScaleRule::search, .k = 3};
  const FormatSpec sweep = find_format("nvfp4-sweep")->spec, four = find_format("nvfp4-4over6")->spec,
                   paper = find_format("mxfp4-paper")->spec;
  const std::vector<Subject> subjects = {
      {"nvfp4 absmax", [&] { quantize(kNvfp4, part); }, 0, n},
      {"nvfp4 sweep [-3,+7]", [&] { quantize(sweep, part); }, 0, n},
      {"nvfp4 four_over_six", [&] { quantize(four, part); }, 0, n},
      {"mxfp4 search(3)", [&] { quantize(best, part); }, 0, n},
      {"nvfp4 alternate",
       [&] {
         quantize(kNvfp4, part, {WeightScales::alternate, {}});
       },
       0, n},
      {"nvfp4 mse_shrink",
       [&] {
         quantize(kNvfp4, part, {WeightScales::mse_shrink, {}});
       },
       0, n},
      {"mxfp4-paper mse_shrink",
       [&] {
         quantize(paper, part, {WeightScales::mse_shrink, {}});
       },
       0, n},
  };
  print_conditions("scale searches");
  std::printf("| %-24s | %8s | %18s |\n| %s | %s: | %s: |\n", "search", "ms", "M elements/s, core",
              std::string(24, '-').c_str(), std::string(7, '-').c_str(), std::string(17, '-').c_str());
  const std::vector<Timing> results = time_interleaved(subjects, rounds);
  for (size_t i = 0; i < subjects.size(); ++i)
    std::printf("| %-24s | %8.2f | %18.1f |\n", subjects[i].name.c_str(), results[i].median * 1e3,
                subjects[i].elements / results[i].median / omp_get_max_threads() / 1e6);
}

}  // namespace fp4lab
