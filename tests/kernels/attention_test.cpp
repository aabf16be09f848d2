#include "kernels/cpu/attention.h"

#include <omp.h>

#include <cmath>
#include <cstring>
#include <functional>
#include <limits>
#include <vector>

#include "core/random.h"
#include "kernels/cpu/attention_kernels.h"
#include "tests/catch.h"
#include "tests/kernels/faults.h"

using namespace fp4lab;
using namespace fp4lab::test;

namespace {

constexpr float kNan = std::numeric_limits<float>::quiet_NaN(), kInf = std::numeric_limits<float>::infinity();

std::vector<const AttentionKernels*> sets() {
  std::vector<const AttentionKernels*> out = {&attention_kernels_v3()};
  if (attention_kernels_v4()) out.push_back(attention_kernels_v4());
  return out;
}

struct Shape {
  int64_t length, windows, heads, kv_heads, head_dim;
};

/// q, k and v side by side in one matrix, as the stacked product leaves them, with a column of NaN after
/// them; and an output with a column to its right that nothing may touch.
struct Problem {
  Shape s;
  Matrix qkv, result;
  float scale;

  Problem(const Shape& shape, uint64_t seed)
      : s(shape),
        qkv(rows(), (s.heads + 2 * s.kv_heads) * s.head_dim + 1),
        result(rows(), s.heads * s.head_dim + 1),
        scale(1 / std::sqrt(float(s.head_dim))) {
    const Stream stream(seed, "attention test");
    for (int64_t i = 0; i < qkv.size(); ++i)
      qkv.data()[i] = 1.5f * float(normal_pair(stream.block(uint64_t(i)))[0]);
    for (int64_t t = 0; t < rows(); ++t) qkv(t, qkv.cols() - 1) = kNan;
  }
  int64_t rows() const { return s.length * s.windows; }
  int64_t q_cols() const { return s.heads * s.head_dim; }
  int64_t kv_cols() const { return s.kv_heads * s.head_dim; }
  MatrixView<float> q() { return {qkv.data(), rows(), q_cols(), qkv.cols()}; }
  MatrixView<float> k() { return {qkv.data() + q_cols(), rows(), kv_cols(), qkv.cols()}; }
  MatrixView<float> v() { return {qkv.data() + q_cols() + kv_cols(), rows(), kv_cols(), qkv.cols()}; }
  MatrixView<float> out() { return {result.data(), rows(), q_cols(), result.cols()}; }
  void run(const AttentionKernels& kernels) {
    for (int64_t i = 0; i < result.size(); ++i) result.data()[i] = 77;
    attention_with(kernels, q(), k(), v(), s.head_dim, s.length, scale, out());
  }
  Matrix run_copy(const AttentionKernels& kernels) {
    run(kernels);
    return result.clone();
  }
};

bool same_bits(const float* a, const float* b, int64_t n) {
  return std::memcmp(a, b, size_t(n) * sizeof(float)) == 0;
}
bool same_bits(const Matrix& a, const Matrix& b) { return same_bits(a.data(), b.data(), a.size()); }

/// Row t, head h in double, straight from the definition; and by how much float32 may miss it. With u =
/// 2^-24: a score is off by at most e = u ((d + 1) scale sum |q k| + |s| + |s - max|), a weight by the factor
/// 1 + e + 3u (exp is within 1 ulp), and up to u per key and per rescaling are added by each of the two sums.
void check_row(Problem& p, int64_t t, int64_t h) {
  const int64_t d = p.s.head_dim, first = t / p.s.length * p.s.length, n = t - first + 1;
  const int64_t kv = h / (p.s.heads / p.s.kv_heads);
  const double u = 0x1p-24;
  std::vector<double> score(static_cast<size_t>(n)), size = score;
  double max = -INFINITY, least = INFINITY, largest = 0;
  for (int64_t j = 0; j < n; ++j) {
    double s = 0, a = 0;
    for (int64_t i = 0; i < d; ++i) {
      const double x = double(p.q()(t, h * d + i)) * double(p.k()(first + j, kv * d + i));
      s += x, a += std::fabs(x);
    }
    score[size_t(j)] = s * double(p.scale);
    largest = std::max(largest, a * double(p.scale));
    max = std::max(max, score[size_t(j)]), least = std::min(least, score[size_t(j)]);
  }
  const double e = u * (double(d + 2) * largest + max - least);
  const double relative = 2 * (e + 3 * u) + u * double(2 * n + n / 16 + 4);
  double sum = 0;
  for (double& s : score) sum += s = std::exp(s - max);
  for (int64_t c = 0; c < d; ++c) {
    double want = 0, magnitude = 0;
    for (int64_t j = 0; j < n; ++j) {
      const double x = score[size_t(j)] / sum * double(p.v()(first + j, kv * d + c));
      want += x, magnitude += std::fabs(x);
    }
    const double got = double(p.out()(t, h * d + c));
    if (!(std::fabs(got - want) <= relative * magnitude)) {
      CAPTURE(t, h, c, got, want, relative * magnitude);
      FAIL_CHECK("attention is off");
      return;
    }
  }
}

const Shape kShapes[] = {{1, 1, 1, 1, 1},    {1, 3, 2, 1, 16},  {2, 2, 1, 1, 5},    {5, 4, 2, 2, 3},
                         {63, 1, 1, 1, 17},  {64, 2, 2, 2, 32}, {65, 2, 4, 1, 64},  {70, 1, 1, 1, 512},
                         {128, 1, 2, 1, 80}, {130, 2, 4, 2, 8}, {133, 1, 3, 3, 33}, {200, 1, 8, 2, 128}};

std::string name_of(const Shape& s) {
  return str("length ", s.length, " windows ", s.windows, " heads ", s.heads, "/", s.kv_heads, " of ",
             s.head_dim);
}

}  // namespace

TEST_CASE("attention: every shape against the definition in double", "[kernels][attention]") {
  for (const Shape& s : kShapes) DYNAMIC_SECTION(name_of(s)) {
      for (const AttentionKernels* k : sets()) {
        CAPTURE(k->name);
        Problem p(s, 71);
        p.run(*k);
        for (int64_t t = 0; t < p.rows(); ++t) {
          for (int64_t h = 0; h < s.heads; ++h) check_row(p, t, h);
          CHECK(p.result(t, p.q_cols()) == 77);
        }
      }
    }
}

TEST_CASE("attention: the same bits for threads, instruction sets, batch and length",
          "[kernels][attention]") {
  const int before = omp_get_max_threads();
  for (const Shape& s : kShapes) DYNAMIC_SECTION(name_of(s)) {
      Problem p(s, 72);
      const Matrix want = p.run_copy(attention_kernels_v3());
      for (const AttentionKernels* k : sets())
        for (int threads : {1, 2, 3}) {
          omp_set_num_threads(threads);
          CAPTURE(k->name, threads);
          CHECK(same_bits(p.run_copy(*k), want));
        }
      omp_set_num_threads(before);
      p.run(attention_kernels());
      attention(p.q(), p.k(), p.v(), s.head_dim, s.length, p.scale, p.out());
      CHECK(same_bits(p.result, want));
      // One window alone, and cut short: nothing of the rest is needed.
      for (int64_t length : {s.length, (s.length + 1) / 2}) {
        const int64_t first = (s.windows - 1) * s.length;
        Matrix out(length, p.q_cols());
        attention(p.q().middle_rows(first, length), p.k().middle_rows(first, length),
                  p.v().middle_rows(first, length), s.head_dim, length, p.scale, out);
        for (int64_t t = 0; t < length; ++t) CHECK(same_bits(out.row(t), want.row(first + t), p.q_cols()));
      }
    }
}

TEST_CASE("attention: windows too large to be packed together", "[kernels][attention]") {
  Problem p({16, 120, 4, 4, 512}, 73);  // 655 kB of packed keys and values per window: 102 at a time
  p.run(attention_kernels());
  for (int64_t t : {0, 15, 16 * 102 - 1, 16 * 102, 16 * 120 - 1})
    for (int64_t h = 0; h < 4; ++h) check_row(p, t, h);
}

TEST_CASE("attention: what comes later does not reach back", "[kernels][attention]") {
  for (const AttentionKernels* k : sets())
    for (const int64_t at : {1, 5, 6, 7, 63, 64, 65, 100, 127, 128, 149})
      for (const float x : {kNan, kInf, -kInf, 1e38f, 0.0f}) {
        Problem p({150, 2, 2, 1, 20}, 74);
        const Matrix want = p.run_copy(*k);
        for (int64_t t = at; t < 150; ++t)
          for (int64_t c = 0; c < p.qkv.cols(); ++c) p.qkv(t, c) = x;
        p.run(*k);
        CAPTURE(k->name, at, x);
        CHECK(same_bits(p.result.data(), want.data(), at * want.cols()));
        CHECK(same_bits(p.result.row(150), want.row(150), 150 * want.cols()));  // the other window
      }
}

TEST_CASE("attention: a NaN is where it belongs", "[kernels][attention]") {
  for (const AttentionKernels* k : sets())
    for (const int64_t at : {0, 3, 64, 90})
      for (const char* what : {"q", "k", "v"}) {
        Problem p({100, 1, 2, 1, 20}, 75);
        (what[0] == 'q' ? p.q() : what[0] == 'k' ? p.k() : p.v())(at, 7) = kNan;
        p.run(*k);
        for (int64_t t = 0; t < 100; ++t)
          for (int64_t c = 0; c < 40; ++c) {
            const bool want = what[0] == 'q'   ? t == at && c < 20  // channel 7 of head 0
                              : what[0] == 'k' ? t >= at            // both heads read this key
                                               : t >= at && c % 20 == 7;
            CAPTURE(k->name, what, at, t, c);
            CHECK(std::isnan(p.out()(t, c)) == want);
          }
      }
}

TEST_CASE("attention: huge, equal and infinite scores", "[kernels][attention]") {
  for (const AttentionKernels* k : sets()) {
    CAPTURE(k->name);
    for (const float size : {1e4f, -1e4f, 3e38f, 0.0f}) {  // equal scores of any size: the mean, exactly here
      Problem p({140, 1, 1, 1, 1}, 76);
      float sum = 0;
      for (int64_t t = 0; t < 140; ++t)
        p.q()(t, 0) = 1, p.k()(t, 0) = size, p.v()(t, 0) = float((t * 37) % 64 - 31);
      p.run(*k);
      for (int64_t t = 0; t < 140; ++t) {
        sum += p.v()(t, 0);
        CAPTURE(size, t);
        CHECK(p.out()(t, 0) == sum / float(t + 1));
      }
    }
    // Scores 1e4 apart: all weight is on the largest so far, rising through some rows and falling in others.
    for (const float step : {1e4f, -1e4f}) {
      Problem p({140, 1, 1, 1, 1}, 77);
      for (int64_t t = 0; t < 140; ++t) p.q()(t, 0) = 1, p.k()(t, 0) = step * float(t);
      p.run(*k);
      for (int64_t t = 0; t < 140; ++t) CHECK(p.out()(t, 0) == p.v()(step > 0 ? t : 0, 0));
    }
    // Keys of score -inf have no weight, even a whole tile of them; where there is nothing else, 0 / 0.
    Problem p({140, 1, 1, 1, 1}, 78);
    for (int64_t t = 0; t < 140; ++t) p.q()(t, 0) = 1, p.k()(t, 0) = t == 70 ? 2.0f : -kInf;
    p.run(*k);
    for (int64_t t = 0; t < 140; ++t)
      CHECK((t < 70 ? std::isnan(p.out()(t, 0)) : p.out()(t, 0) == p.v()(70, 0)));
  }
}

TEST_CASE("attention: shapes that do not fit are named", "[kernels][attention]") {
  const auto fault = [](int64_t rows, int64_t q, int64_t k, int64_t v, int64_t out, int64_t head_dim,
                        int64_t length) {
    const Matrix Q = Matrix::zeros(rows, q), K = Matrix::zeros(rows, k), V = Matrix::zeros(rows, v);
    Matrix O = Matrix::zeros(rows, out);
    return fault_of([&] { attention(Q, K, V, head_dim, length, 1, O); });
  };
  CHECK(fault(6, 16, 8, 8, 16, 4, 3) == "no fault");
  CHECK(fault(0, 16, 8, 8, 16, 4, 3) == "no fault");
  CHECK(contains(fault(7, 16, 8, 8, 16, 4, 3), "7, 7, 7, 7 rows, windows of 3"));
  CHECK(contains(fault(6, 12, 8, 8, 12, 4, 3), "q has 12 columns, k 8, heads of 4"));
  CHECK(contains(fault(6, 16, 8, 8, 16, 5, 3), "heads of 5"));
  CHECK(contains(fault(6, 16, 8, 4, 16, 4, 3), "k, v: 8, 4; q, out: 16, 16 columns"));
  CHECK(contains(fault(6, 16, 8, 8, 12, 4, 3), "q, out: 16, 12 columns"));
  CHECK(contains(fault(6, 16, 8, 8, 16, 0, 3), "head_dim 0"));
  CHECK(contains(fault(6, 16, 8, 8, 16, 4, 0), "length 0"));
  CHECK(contains(fault(6, 16, 0, 0, 16, 4, 3), "16 and 0 columns"));
}
