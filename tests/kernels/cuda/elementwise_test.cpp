// The GPU's elementwise operations beside the CPU's: the same bits in strided views, at odd sizes, around
// zeros, subnormals, large numbers, Inf and NaN. Whole buffers are compared, so that a write beside a view
// shows.
#include "kernels/cuda/elementwise.h"

#include "kernels/cpu/elementwise.h"
#include "tests/kernels/cuda/gpu_matrix.h"

using namespace fp4lab;
using namespace fp4lab::test;

namespace {
constexpr float kNan = std::numeric_limits<float>::quiet_NaN(), kInf = std::numeric_limits<float>::infinity();

std::span<const float> flat(MatrixView<const float> x) { return {x.data, size_t(x.cols)}; }
}  // namespace

TEST_CASE("cuda: elementwise: rms_norm has the CPU's bits", "[kernels][cuda]") {
  FP4LAB_NEEDS_GPU();
  for (const int64_t n : {1, 3, 15, 16, 17, 48, 64, 79, 100, 128, 1000, 4096, 8192})
    for (const int64_t parts : {1, 3})
      for (const bool in_place : {false, true}) {
        INFO(n << " channels, " << parts << " runs, in place " << in_place);
        Matrix X = numbers(21, n * parts + 5, uint64_t(n), true);
        if (n > 2) X(3, 2) = kNan, X(4, 3) = kInf;
        Matrix out = numbers(21, n * parts + 5, 7);
        const Matrix weight = numbers(1, n, 8);
        const OnGpu<float> x(X), y(out), w(weight);
        const auto run = [&](MatrixView<float> a, MatrixView<float> b) {
          return std::pair(part(a, 3, n * parts), part(in_place ? a : b, in_place ? 3 : 1, n * parts));
        };
        const auto [from, to] = run(x.view(), y.view());
        const auto [cpu_from, cpu_to] = run(X.view(), out.view());
        cuda::rms_norm(gpu(), from, flat(w.view()), 1e-6f, to);
        rms_norm(cpu_from, flat(weight.view()), 1e-6f, cpu_to);
        CHECK(difference(x.host(), X) == "");
        CHECK(difference(y.host(), out) == "");
      }
}

TEST_CASE("cuda: elementwise: rope has the CPU's bits", "[kernels][cuda]") {
  FP4LAB_NEEDS_GPU();
  for (const int64_t d : {2, 6, 64, 128, 256})
    for (const int64_t heads : {1, 5})
      for (const int64_t length : {1, 7, 40}) {
        INFO(heads << " heads of " << d << ", windows of " << length);
        Matrix X = numbers(83, d * heads + 3, uint64_t(d), true);
        const Matrix table = numbers(40, d, 9);
        const OnGpu<float> x(X), t(table);
        cuda::rope(gpu(), part(x.view(), 2, d * heads), d, t.view(), length);
        rope(part(X.view(), 2, d * heads), d, table, length);
        CHECK(difference(x.host(), X) == "");
      }
}

TEST_CASE("cuda: elementwise: swiglu has the CPU's bits over the whole range of exp", "[kernels][cuda]") {
  FP4LAB_NEEDS_GPU();
  for (const int64_t n : {1, 7, 31, 129, 1000, 20001}) {
    INFO(n);
    Matrix X = numbers(9, 2 * n + 2, uint64_t(n), true), out = numbers(9, n + 4, 3);
    const float odd[] = {0.0f,     -0.0f,  kInf,   -kInf,  kNan,    87.3f, -87.3366f, -87.3365f,
                         88.7228f, 88.73f, -88.8f, 1e-45f, -1e-45f, 3e38f, -3e38f};
    for (int64_t i = 0; i < n && i < 15; ++i) X(1, i + 1) = odd[i];
    for (int64_t i = 0; i < n; ++i) X(2, i + 1) = float(i - n / 2) * 0.01f;
    const OnGpu<float> x(X), y(out);
    cuda::swiglu(gpu(), part(x.view(), 1, 2 * n), part(y.view(), 2, n));
    swiglu(part(X.view(), 1, 2 * n), part(out.view(), 2, n));
    CHECK(difference(y.host(), out) == "");
  }
  // One in 509 of all floats as gates.
  constexpr int64_t kGates = (int64_t(1) << 32) / 509 / 8;
  Matrix X(8, 2 * kGates), out(8, kGates);
  for (int64_t r = 0; r < 8; ++r)
    for (int64_t i = 0; i < kGates; ++i)
      X(r, i) = bits_float(uint32_t((r * kGates + i) * 509)), X(r, kGates + i) = 1;
  const OnGpu<float> x(X), y(out);
  cuda::swiglu(gpu(), x.view(), y.view());
  swiglu(X, out);
  CHECK(difference(y.host(), out) == "");
}

TEST_CASE("cuda: elementwise: first_nonfinite and count_above", "[kernels][cuda]") {
  FP4LAB_NEEDS_GPU();
  for (const auto& [rows, cols] :
       {std::pair<int64_t, int64_t>{1, 1}, {3, 1}, {1, 4097}, {300, 70}, {7000, 129}}) {
    INFO(rows << " x " << cols);
    Matrix X = numbers(rows, cols + 2, 1, true);
    const auto check = [&] {
      const OnGpu<float> x(X);
      const auto there = part(x.view(), 1, cols), here = part(X.view(), 1, cols);
      CHECK(cuda::first_nonfinite(gpu(), there) == first_nonfinite(here));
      for (const float limit : {0.0f, 1.5f, 500.0f, kInf}) {
        int64_t above = 0;
        for (int64_t r = 0; r < rows; ++r)
          for (int64_t c = 0; c < cols; ++c) above += std::fabs(here(r, c)) > limit;
        CHECK(cuda::count_above(gpu(), there, limit) == above);
      }
    };
    check();
    X(0, 0) = kNan, X(rows - 1, cols + 1) = kInf;  // beside the view
    check();
    X(rows - 1, cols) = -kInf;
    check();
    X(rows / 2, cols / 2 + 1) = kNan;
    check();
    for (int64_t i = 0; i < X.size(); ++i) X.data()[i] = kNan;
    check();
  }
  CHECK(cuda::first_nonfinite(gpu(), {}) == -1);
  CHECK(cuda::count_above(gpu(), {}, 1) == 0);
}

TEST_CASE("cuda: elementwise: column_stats goes on from what it is given", "[kernels][cuda]") {
  FP4LAB_NEEDS_GPU();
  for (const auto& [rows, cols] :
       {std::pair<int64_t, int64_t>{1, 1}, {31, 5}, {32, 33}, {33, 64}, {1000, 700}}) {
    INFO(rows << " x " << cols);
    Matrix X = numbers(rows, cols + 2, 2, true);
    X(rows / 2, 1) = kNan;
    std::vector<float> amax(size_t(cols), 0.25f), amax_gpu = amax;
    std::vector<double> sums(size_t(cols), 1.0 / 3), sums_gpu = sums;
    for (int round = 0; round < 2; ++round) {
      const OnGpu<float> x(X);
      cuda::column_stats(gpu(), part(x.view(), 1, cols), amax_gpu, sums_gpu);
      column_stats(part(X.view(), 1, cols), amax, sums);
      for (int64_t i = 0; i < X.size(); ++i) X.data()[i] *= 1.7f;
    }
    CHECK(amax == amax_gpu);
    for (size_t c = 0; c < sums.size(); ++c)
      if (!(sums[c] == sums_gpu[c] || (std::isnan(sums[c]) && std::isnan(sums_gpu[c]))))
        FAIL_CHECK("column " << c << ": " << sums_gpu[c] << ", CPU " << sums[c]);
  }
}

TEST_CASE("cuda: elementwise: no rows are no work, more than 2^31 elements are counted", "[kernels][cuda]") {
  FP4LAB_NEEDS_GPU();
  const MatrixView<float> none{nullptr, 0, 64, 64};
  const OnGpu<float> w(numbers(1, 64, 1));
  cuda::rms_norm(gpu(), none, flat(w.view()), 1e-5f, none);
  cuda::rope(gpu(), none, 64, w.view(), 1);
  cuda::swiglu(gpu(), {nullptr, 0, 128, 128}, none);
  std::vector<float> amax(64);
  std::vector<double> sums(64);
  cuda::column_stats(gpu(), none, amax, sums);
  gpu().wait();

  const int64_t rows = 300000, cols = 8192, bytes = rows * cols * int64_t(sizeof(float));
  if (gpu().free_bytes() < bytes + (int64_t(1) << 30)) FP4LAB_SKIP("no room for 9.8 GB on the GPU");
  const auto big = gpu().allocate<float>(rows * cols);
  gpu().fill(big.data(), 0, bytes);
  const MatrixView<float> X{big.data(), rows, cols, cols};
  CHECK(cuda::first_nonfinite(gpu(), X) == -1);
  const float values[] = {kNan, 3.0f, -3.0f};
  gpu().copy(values, X.data + (rows - 1) * cols + 17, int64_t(sizeof values));
  CHECK(cuda::first_nonfinite(gpu(), X) == (rows - 1) * cols + 17);
  CHECK(cuda::count_above(gpu(), X, 2.5f) == 2);
}
