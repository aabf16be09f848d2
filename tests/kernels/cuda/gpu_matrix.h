// tests/kernels/cuda/gpu_matrix.h - matrices in both memories, and what differs between two results.
#pragma once
#include <cmath>
#include <cstring>
#include <random>
#include <string>

#include "core/errors.h"
#include "core/matrix.h"
#include "kernels/cuda/gpu.h"
#include "tests/catch.h"

#define FP4LAB_NEEDS_GPU() \
  if (fp4lab::cuda::Gpu::count() == 0) FP4LAB_SKIP("no CUDA device")

namespace fp4lab::test {

inline cuda::Gpu& gpu() { return cuda::Gpu::get(0); }

/// Normal numbers; with `extremes` one in 8 is a zero of either sign, a subnormal, tiny or large.
template <class T = float>
MatrixOf<T> numbers(int64_t rows, int64_t cols, uint64_t seed, bool extremes = false) {
  std::mt19937_64 random(seed);
  std::normal_distribution<float> normal;
  MatrixOf<T> m(rows, cols);
  for (int64_t i = 0; i < m.size(); ++i) {
    const float x = normal(random);
    const float kinds[] = {0.0f, -0.0f, x * 1e-40f, x * 1e-30f, x * 1e18f, x * 1000, x * 1e-20f, 1.0f};
    const uint64_t kind = random() % 64;
    m.data()[i] = T(extremes && kind < 8 ? kinds[kind] : x);
  }
  return m;
}

template <class T>
MatrixView<T> part(MatrixView<T> x, int64_t column, int64_t cols) {
  return {x.data + column, x.rows, cols, x.stride};
}

/// A host matrix's copy on the GPU.
template <class T>
class OnGpu {
 public:
  explicit OnGpu(const MatrixOf<T>& host)
      : rows_(host.rows()),
        cols_(host.cols()),
        data_(gpu().upload(std::span<const T>(host.data(), size_t(host.size())))) {}
  MatrixView<T> view() const { return {data_.data(), rows_, cols_, cols_}; }
  MatrixOf<T> host() const {
    MatrixOf<T> out(rows_, cols_);
    gpu().template download<T>(data_.data(), std::span(out.data(), size_t(out.size())));
    return out;
  }

 private:
  int64_t rows_, cols_;
  cuda::GpuArray<T> data_;
};

/// "" or the first element whose bits differ (NaNs are all alike), and how many do.
template <class T>
std::string difference(const MatrixOf<T>& got, const MatrixOf<T>& want) {
  int64_t count = 0, first = -1;
  for (int64_t i = 0; i < want.size(); ++i) {
    const T a = got.data()[i], b = want.data()[i];
    if (std::memcmp(&a, &b, sizeof a) == 0 || (std::isnan(a) && std::isnan(b))) continue;
    if (count++ == 0) first = i;
  }
  if (count == 0) return "";
  char text[200];
  std::snprintf(text, sizeof text, "%lld of %lld differ, the first at (%lld, %lld): %a, CPU %a",
                (long long)count, (long long)want.size(), (long long)(first / want.cols()),
                (long long)(first % want.cols()), double(got.data()[first]), double(want.data()[first]));
  return text;
}

}  // namespace fp4lab::test
