// The GPU's float32 attention beside the CPU's, bit for bit.
#include "kernels/cuda/attention.h"

#include "kernels/cpu/attention.h"
#include "tests/kernels/cuda/gpu_matrix.h"

using namespace fp4lab;
using namespace fp4lab::test;

namespace {

constexpr float kNan = std::numeric_limits<float>::quiet_NaN(), kInf = std::numeric_limits<float>::infinity();

struct Case {
  int64_t heads, kv_heads, head_dim, length, windows;
  int64_t shift = 0;  // of q, k, v from the row's start
  int64_t spare = 0;  // columns beside them
};

std::string name(const Case& c) {
  return str(c.heads, " heads, ", c.kv_heads, " of keys, of ", c.head_dim, " channels, ", c.windows, " x ",
             c.length, " tokens, shift ", c.shift, ", spare ", c.spare);
}

/// "" or how the GPU's result differs; `change` may spoil q | k | v, side by side from column c.shift on.
template <class Change>
std::string compare(const Case& c, float scale, const Change& change) {
  const int64_t tokens = c.length * c.windows, q = c.heads * c.head_dim, kv = c.kv_heads * c.head_dim;
  Matrix qkv = numbers(tokens, c.shift + q + 2 * kv + c.spare, uint64_t(c.head_dim));
  change(qkv);
  Matrix out = numbers(tokens, q + 3, 5);
  const OnGpu<float> a(qkv), b(out);
  const auto on = [&](auto&& attend, MatrixView<const float> x, MatrixView<float> y) {
    attend(part(x, c.shift, q), part(x, c.shift + q, kv), part(x, c.shift + q + kv, kv), part(y, 2, q));
  };
  on([&](auto Q, auto K, auto V, auto O) { cuda::attention(gpu(), Q, K, V, c.head_dim, c.length, scale, O); },
     a.view(), b.view());
  on([&](auto Q, auto K, auto V, auto O) { attention(Q, K, V, c.head_dim, c.length, scale, O); }, qkv.view(),
     out.view());
  return difference(b.host(), out);
}

}  // namespace

TEST_CASE("cuda: attention: the CPU's bits over heads, lengths, strides and alignments", "[kernels][cuda]") {
  FP4LAB_NEEDS_GPU();
  for (const Case& c :
       {Case{1, 1, 1, 3, 2}, Case{1, 1, 8, 1, 1},       {3, 1, 5, 70, 2},        {2, 1, 16, 5, 3},
        {4, 2, 32, 64, 2},   {4, 2, 32, 64, 2, 4, 4},   {4, 2, 32, 66, 2, 1, 0}, {6, 2, 64, 63, 2},
        {6, 2, 64, 65, 2},   {6, 2, 64, 129, 1, 0, 1},  {4, 4, 64, 192, 3},      {2, 2, 33, 100, 1},
        {2, 1, 36, 100, 1},  {2, 1, 65, 80, 1},         {2, 1, 80, 129, 1},      {2, 2, 96, 200, 1, 8, 0},
        {8, 2, 128, 300, 2}, {2, 1, 128, 130, 1, 3, 2}, {2, 1, 130, 70, 1},      {2, 1, 160, 128, 2},
        {2, 1, 256, 130, 1}, {1, 1, 256, 66, 1, 1, 0}}) {
    INFO(name(c));
    CHECK(compare(c, float(1 / std::sqrt(double(c.head_dim))), [](Matrix&) {}) == "");
  }
}

TEST_CASE("cuda: attention: sharp, flat, infinite and spoiled scores", "[kernels][cuda]") {
  FP4LAB_NEEDS_GPU();
  for (const Case& c : {Case{2, 1, 64, 200, 1}, {2, 1, 128, 140, 2}, {2, 2, 40, 70, 3}}) {
    INFO(name(c));
    const int64_t q = c.heads * c.head_dim, kv = c.kv_heads * c.head_dim;
    for (const float scale : {0.0f, 1e-30f, 1.0f, 30.0f, -1.0f}) {
      INFO("scale " << scale);
      CHECK(compare(c, scale, [](Matrix&) {}) == "");
    }
    CHECK(compare(c, 0.125f, [&](Matrix& x) {  // maxima that rise with every tile
            for (int64_t t = 0; t < x.rows(); ++t)
              for (int64_t i = 0; i < q + kv; ++i) x(t, i) = std::fabs(x(t, i)) * (1 + float(t) * 0.02f);
          }) == "");
    CHECK(compare(c, 0.125f, [&](Matrix& x) {  // scores of subnormals and of numbers near the largest
            const Matrix extremes = numbers(x.rows(), x.cols(), 3, true);
            for (int64_t i = 0; i < x.size(); ++i) x.data()[i] = extremes.data()[i];
          }) == "");
    CHECK(compare(c, 0.125f, [&](Matrix& x) {  // later rows must not reach back, not even as NaN
            const int64_t t = c.length / 2;
            x(t, 1) = kNan, x(t, q + 2) = kInf, x(t + 1, q + kv + 3) = kNan, x(t + 3, q + kv) = -kInf;
          }) == "");
    CHECK(compare(c, 1.0f, [&](Matrix& x) {  // whole keys of -inf and +inf
            for (int64_t t = 0; t < x.rows(); ++t)
              for (int64_t i = 0; i < q; ++i) x(t, i) = std::fabs(x(t, i)) + 0.1f;
            for (int64_t i = 0; i < kv; ++i)
              x(0, q + i) = x(1, q + i) = -kInf, x(40, q + i) = kInf, x(c.length - 1, q + i) = -kInf;
          }) == "");
  }
}

TEST_CASE("cuda: attention: what cannot be is said, nothing is no work", "[kernels][cuda]") {
  FP4LAB_NEEDS_GPU();
  cuda::attention(gpu(), {nullptr, 0, 64, 64}, {nullptr, 0, 64, 64}, {nullptr, 0, 64, 64}, 64, 5, 1,
                  {nullptr, 0, 64, 64});
  CHECK_THROWS_AS(cuda::attention(gpu(), {nullptr, 0, 512, 512}, {nullptr, 0, 512, 512},
                                  {nullptr, 0, 512, 512}, 512, 5, 1, {nullptr, 0, 512, 512}),
                  ConfigError);
  gpu().wait();
}
