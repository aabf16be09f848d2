// Every operation of a GPU's Ops gives the bits of the CPU's.
#include <algorithm>
#include <array>
#include <cmath>
#include <cstring>
#include <random>

#include "formats/registry.h"
#include "kernels/ops.h"
#include "tests/catch.h"

using namespace fp4lab;

namespace {

#define FP4LAB_NEEDS_GPU() \
  if (visible_gpus() == 0) FP4LAB_SKIP("no CUDA device, or built without CUDA")

Ops& cpu() {
  static const std::unique_ptr<Ops> ops = make_cpu_ops();
  return *ops;
}
Ops& gpu() {
  static const std::unique_ptr<Ops> ops = make_ops({.cuda = true});
  return *ops;
}

/// Normal numbers of several magnitudes, with zeros of both signs, denormals and large ones among them.
Matrix numbers(int64_t rows, int64_t cols, uint64_t seed, bool extremes = false) {
  std::mt19937_64 random(seed);
  std::normal_distribution<float> normal;
  Matrix m(rows, cols);
  for (int64_t i = 0; i < m.size(); ++i) {
    m.data()[i] = normal(random);
    if (!extremes) continue;
    switch (random() % 64) {
      case 0: m.data()[i] = 0; break;
      case 1: m.data()[i] = -0.0f; break;
      case 2: m.data()[i] *= 1e-40f; break;
      case 3: m.data()[i] *= 1e-30f; break;
      case 4: m.data()[i] *= 1e30f; break;
      case 5: m.data()[i] *= 100; break;
      default: break;
    }
  }
  return m;
}

Matrix on_host(Ops& ops, MatrixView<const float> a) {
  Matrix out(a.rows, a.cols);
  ops.download(a, out);
  return out;
}

/// "" or the first element whose bits differ (NaNs are all alike), and how many do.
template <class T>
std::string difference(const MatrixOf<T>& got, const MatrixOf<T>& want) {
  if (got.rows() != want.rows() || got.cols() != want.cols()) return "shapes";
  int64_t count = 0, first = -1;
  for (int64_t i = 0; i < got.size(); ++i) {
    const T a = got.data()[i], b = want.data()[i];
    if (std::memcmp(&a, &b, sizeof a) == 0 || (std::isnan(a) && std::isnan(b))) continue;
    if (count++ == 0) first = i;
  }
  if (count == 0) return "";
  char text[200];
  std::snprintf(text, sizeof text, "%lld of %lld differ, the first at (%lld, %lld): %a, CPU %a",
                (long long)count, (long long)got.size(), (long long)(first / got.cols()),
                (long long)(first % got.cols()), double(got.data()[first]), double(want.data()[first]));
  return text;
}

/// What `run(ops, X)` leaves in X, or returns, on both machines.
template <class Run>
std::string in_place(const Matrix& X, const Run& run) {
  const auto result = [&](Ops& ops) {
    const Array a = ops.adopt(X.clone());
    run(ops, a.view());
    return on_host(ops, a.view());
  };
  return difference(result(gpu()), result(cpu()));
}

}  // namespace

TEST_CASE("cuda: gemm", "[kernels][cuda]") {
  FP4LAB_NEEDS_GPU();
  const int64_t shapes[][3] = {{1, 1, 1},        {1, 128, 64},     {3, 5, 7},      {64, 64, 16},
                               {65, 129, 33},    {128, 128, 8},    {130, 257, 50}, {512, 96, 1536},
                               {2048, 512, 513}, {1500, 1700, 260}};
  for (const auto& [M, N, K] : shapes) {
    INFO(M << " x " << N << " x " << K);
    const Matrix X = numbers(M, K, 1, true), W = numbers(N, K, 2), Y = numbers(M, N, 3);
    for (const bool accumulate : {false, true})
      CHECK(in_place(Y, [&](Ops& ops, MatrixView<float> y) {
              ops.gemm(ops.borrow(X).view(), ops.borrow(W).view(), y, accumulate);
            }) == "");
  }
  // A part of wider matrices, at an odd column.
  const Matrix wide = numbers(70, 301, 4), Y = numbers(70, 200, 5);
  CHECK(in_place(Y, [&](Ops& ops, MatrixView<float> y) {
          const Array a = ops.borrow(wide);
          const MatrixView<float> x{a.view().data + 3, 70, 111, 301}, w{a.view().data + 150, 60, 111, 301};
          ops.gemm(x, w, {y.data + 5, 70, 60, 200}, true);
        }) == "");
}

TEST_CASE("cuda: syrk and cross", "[kernels][cuda]") {
  FP4LAB_NEEDS_GPU();
  for (const auto& [T, K, N] :
       {std::array<int64_t, 3>{1, 1, 1}, {5, 3, 9}, {100, 64, 64}, {333, 129, 65}, {1000, 256, 200}}) {
    INFO(T << " tokens, " << K << " and " << N << " channels");
    const Matrix X = numbers(T, K, 1, true), Y = numbers(T, N, 2);
    const auto both = [&](Ops& ops, bool square) {
      const ArrayD D = ops.zeros_double(K, square ? K : N);
      for (int64_t begin = 0; begin < T; begin += 300) {  // sums go on
        const Array x = ops.borrow(X), y = ops.borrow(Y);
        const int64_t n = std::min<int64_t>(300, T - begin);
        if (square)
          ops.syrk(x.view().middle_rows(begin, n), D.view());
        else
          ops.cross(x.view().middle_rows(begin, n), y.view().middle_rows(begin, n), D.view());
      }
      MatrixD out(D.rows(), D.cols());
      ops.download(D.view(), out);
      return out;
    };
    CHECK(difference(both(gpu(), true), both(cpu(), true)) == "");
    CHECK(difference(both(gpu(), false), both(cpu(), false)) == "");
  }
}

TEST_CASE("cuda: norms, rope, swiglu", "[kernels][cuda]") {
  FP4LAB_NEEDS_GPU();
  for (const int64_t n : {8, 16, 100, 128, 1536, 4096}) {
    const Matrix X = numbers(37, 2 * n, uint64_t(n), true), w = numbers(1, n, 9);
    INFO(n);
    CHECK(in_place(X, [&](Ops& ops, MatrixView<float> x) {
            const Array weight = ops.borrow(w);
            ops.rms_norm(x, weight.flat(), 1e-5f, x);
          }) == "");
    if (n % 16 == 0)
      CHECK(in_place(X, [&](Ops& ops, MatrixView<float> x) {
              ops.rope(x, n, ops.borrow(numbers(12, n, 3)).view(), 12);
            }) == "");
    CHECK(in_place(numbers(37, n, 5),
                   [&](Ops& ops, MatrixView<float> out) { ops.swiglu(ops.borrow(X).view(), out); }) == "");
  }
  // exp over its whole range.
  Matrix gates(1, 2 * 100000);
  for (int64_t i = 0; i < 100000; ++i) gates(0, i) = float(i - 50000) * 0.002f, gates(0, i + 100000) = 1;
  CHECK(in_place(Matrix::zeros(1, 100000),
                 [&](Ops& ops, MatrixView<float> out) { ops.swiglu(ops.borrow(gates).view(), out); }) == "");
}

TEST_CASE("cuda: attention", "[kernels][cuda]") {
  FP4LAB_NEEDS_GPU();
  const std::unique_ptr<Ops> rounded = make_ops({.cuda = true, .compute = Machine::bfloat16});
  struct Case {
    int64_t heads, kv_heads, head_dim, length, windows;
  };
  for (const Case& c : {Case{1, 1, 8, 1, 1},
                        {2, 1, 16, 5, 3},
                        {4, 2, 32, 64, 2},
                        {6, 2, 64, 65, 2},
                        {4, 4, 64, 192, 3},
                        {8, 2, 128, 300, 2},
                        {2, 1, 80, 129, 1},
                        {2, 1, 256, 130, 1}}) {
    INFO(c.heads << " heads, " << c.kv_heads << " of keys, " << c.head_dim << " channels, " << c.windows
                 << " x " << c.length);
    const int64_t tokens = c.length * c.windows, q = c.heads * c.head_dim, kv = c.kv_heads * c.head_dim;
    const Matrix qkv = numbers(tokens, q + 2 * kv, uint64_t(c.head_dim));
    const auto run = [&](Ops& ops) {
      const Array a = ops.borrow(qkv), out = ops.adopt(Matrix::zeros(tokens, q));
      const int64_t stride = q + 2 * kv;
      const MatrixView<float> Q{a.view().data, tokens, q, stride}, K{Q.data + q, tokens, kv, stride},
          V{Q.data + q + kv, tokens, kv, stride};
      ops.attention(Q, K, V, c.head_dim, c.length, float(1 / std::sqrt(double(c.head_dim))), out.view());
      return on_host(ops, out.view());
    };
    const Matrix want = run(cpu()), near = run(*rounded);
    CHECK(difference(run(gpu()), want) == "");
    double worst = 0;
    for (int64_t i = 0; i < want.size(); ++i)
      worst = std::max(worst, std::fabs(double(near.data()[i]) - double(want.data()[i])));
    CHECK(worst < 5 * 0x1p-6);  // values reach about 5
  }
}

TEST_CASE("cuda: counts and column statistics", "[kernels][cuda]") {
  FP4LAB_NEEDS_GPU();
  Matrix X = numbers(300, 70, 1, true);
  const auto first = [&](Ops& ops) { return ops.first_nonfinite(ops.borrow(X).view()); };
  CHECK(first(gpu()) == -1);
  X(299, 69) = INFINITY;
  CHECK(first(gpu()) == 299 * 70 + 69);
  X(120, 3) = -NAN;
  CHECK(first(gpu()) == 120 * 70 + 3);
  const auto above = [&](Ops& ops) { return ops.count_above(ops.borrow(X).view(), 1.5f); };
  CHECK(above(gpu()) == above(cpu()));
  X(299, 69) = 1, X(120, 3) = 2;
  std::vector<float> amax(70, 0.25f), amax_gpu = amax;
  std::vector<double> sums(70, 1.0 / 3), sums_gpu = sums;
  cpu().column_stats(X, amax, sums);
  gpu().column_stats(gpu().borrow(X).view(), amax_gpu, sums_gpu);
  CHECK(amax == amax_gpu);
  CHECK(sums == sums_gpu);
}

TEST_CASE("cuda: scores", "[kernels][cuda]") {
  FP4LAB_NEEDS_GPU();
  for (const int64_t vocab : {5, 16, 1000, 4099}) {
    const int64_t tokens = 50, tile = std::max<int64_t>(1, vocab / 3);
    Matrix full = numbers(tokens, vocab, 1), other = numbers(tokens, vocab, 2);
    for (int64_t t = 0; t < tokens; ++t)
      full(t, t % vocab) = -INFINITY, full(t, (t + 1) % vocab) = full(t, (t + 2) % vocab);
    std::vector<int32_t> labels;
    for (int64_t t = 0; t < tokens; ++t) labels.push_back(t % 7 ? int32_t(t * 13 % vocab) : -1);
    const auto run = [&](Ops& ops, bool two) {
      std::vector<TokenScores> scores(static_cast<size_t>(tokens));
      for (int64_t first = 0; first < vocab; first += tile) {
        const int64_t n = std::min(tile, vocab - first);
        const Array a = ops.borrow(full), b = ops.borrow(other);
        ops.update_scores({a.view().data + first, tokens, n, vocab},
                          two ? MatrixView<const float>{b.view().data + first, tokens, n, vocab}
                              : MatrixView<const float>{},
                          first, labels, scores);
      }
      MatrixD out(tokens, 9);
      for (int64_t t = 0; t < tokens; ++t) {
        const TokenScores& s = scores[size_t(t)];
        const double row[] = {s.full.max,      s.full.sum,      s.full.label,      double(s.full.best),
                              s.quantized.max, s.quantized.sum, s.quantized.label, double(s.quantized.best),
                              s.cross};
        std::copy_n(row, 9, out.row(t));
      }
      return out;
    };
    INFO(vocab);
    CHECK(difference(run(gpu(), true), run(cpu(), true)) == "");
    CHECK(difference(run(gpu(), false), run(cpu(), false)) == "");
  }
}

TEST_CASE("cuda: maps", "[kernels][cuda]") {
  FP4LAB_NEEDS_GPU();
  constexpr int64_t K = 384;
  std::mt19937_64 random(7);
  std::vector<float> signs(K), scale(K), blocks(K * 48), others(K * 48), shared(48 * 48);
  for (float& s : signs) s = random() % 2 ? 1.0f : -1.0f;
  for (float& s : scale) s = 0.5f + float(random() % 1000) / 500;
  const Matrix dense = numbers(3, K * 48, 8);
  for (size_t i = 0; i < blocks.size(); ++i)
    blocks[i] = dense(0, int64_t(i)), others[i] = dense(1, int64_t(i));
  for (size_t i = 0; i < shared.size(); ++i) shared[i] = dense(2, int64_t(i));
  std::vector<int32_t> from(K);
  for (int64_t c = 0; c < K; ++c) from[size_t(c)] = int32_t(c);
  std::shuffle(from.begin(), from.end(), random);
  std::vector<std::pair<std::string, LinearMap>> maps;
  for (const int64_t k : {1, 2, 4, 8, 16, 32, 64, 128, 12, 24, 384})
    for (const bool signed_ : {false, true})
      maps.push_back({str("hadamard ", k, signed_ ? " signed" : ""),
                      {{HadamardFactor{k, signed_ ? signs : std::vector<float>{}, 1}}}});
  maps.push_back({"hadamard 2 x 64", {{HadamardFactor{2, signs, 64}}}});
  maps.push_back({"hadamard 4 x 3", {{HadamardFactor{4, {}, 3}}}});
  maps.push_back({"hadamard 12 x 32", {{HadamardFactor{12, signs, 32}}}});
  maps.push_back({"diagonal", {{DiagonalFactor{scale}}}});
  maps.push_back({"permutation", {{PermutationFactor{from}}}});
  maps.push_back({"blocks", {{BlocksFactor{48, blocks, others}}}});
  maps.push_back({"one block for all", {{BlocksFactor{48, shared, {}}}}});
  maps.push_back(
      {"several", {{DiagonalFactor{scale}, PermutationFactor{from}, HadamardFactor{32, signs, 1}}}});
  for (const auto& [name, map] : maps) {
    INFO(name);
    const Matrix X = numbers(53, K, 3, true);
    CHECK(in_place(X, [&, &m = map](Ops& ops, MatrixView<float> x) { ops.map_activations(m, x); }) == "");
    CHECK(in_place(X, [&, &m = map](Ops& ops, MatrixView<float> x) { ops.map_weights(m, x); }) == "");
    CHECK(in_place(X, [&, &m = map](Ops& ops, MatrixView<float> x) { ops.unmap_weights(m, x); }) == "");
    const auto hessian = [&, &m = map](Ops& ops) {
      const ArrayD H = ops.zeros_double(K, K);
      ops.syrk(ops.borrow(numbers(100, K, 4)).view(), H.view());
      ops.map_hessian(m, H.view());
      MatrixD out(K, K);
      ops.download(H.view(), out);
      return out;
    };
    CHECK(difference(hessian(gpu()), hessian(cpu())) == "");
  }
}

namespace {

/// "" or how the two machines' bytes differ.
std::string same_bytes(const FormatSpec& f, const Matrix& X, const WeightScales& search = {}) {
  const QuantizedMatrix want = cpu().quantize(f, X, search),
                        got = gpu().quantize(f, gpu().borrow(X).view(), search);
  const auto first = [](const auto& a, const auto& b) {
    for (size_t i = 0; i < std::min(a.size(), b.size()); ++i)
      if (a[i] != b[i]) return str("at ", i, " of ", a.size(), ": ", int(a[i]), ", CPU ", int(b[i]));
    return a.size() == b.size() ? std::string() : str(a.size(), " instead of ", b.size());
  };
  if (got.scales.factors.size() != want.scales.factors.size()) return "factors";
  for (size_t i = 0; i < got.scales.factors.size(); ++i)
    if (float_bits(got.scales.factors[i]) != float_bits(want.scales.factors[i])) return str("factor ", i);
  if (const std::string d = first(got.scales.bytes, want.scales.bytes); !d.empty()) return "scales " + d;
  if (const std::string d = first(got.scales.zero_points, want.scales.zero_points); !d.empty())
    return "zeros " + d;
  if (const std::string d = first(got.codes, want.codes); !d.empty()) return "codes " + d;
  if (!(got.format == want.format)) return "format";
  const auto values = [&](Ops& ops) {
    const Array out = ops.allocate(X.rows(), X.cols());
    ops.dequantize(want, out.view());
    return on_host(ops, out.view());
  };
  return difference(values(gpu()), values(cpu()));
}

Matrix scaled(Matrix X, float factor) {
  for (int64_t i = 0; i < X.size(); ++i) X.data()[i] *= factor;
  return X;
}

/// Matrices that every format should code alike on both machines.
std::vector<Matrix> matrices(int64_t cols) {
  std::vector<Matrix> out;
  out.push_back(numbers(21, cols, 1));
  out.push_back(numbers(9, cols, 2, true));
  out.push_back(scaled(numbers(7, cols, 3), 1e-38f));
  out.push_back(scaled(numbers(7, cols, 4), 1e37f));
  Matrix zeros = numbers(5, cols, 5);
  for (int64_t c = 0; c < cols; ++c) zeros(2, c) = 0, zeros(3, c) = c % 2 ? -0.0f : 0.0f;
  out.push_back(std::move(zeros));
  Matrix steps(6, cols);  // ties
  for (int64_t i = 0; i < steps.size(); ++i) steps.data()[i] = float(i * 7 % 53 - 26) * 0.25f;
  out.push_back(std::move(steps));
  return out;
}

}  // namespace

TEST_CASE("cuda: quantize, every named format", "[kernels][cuda]") {
  FP4LAB_NEEDS_GPU();
  for (const FormatEntry& named : formats()) {
    INFO(named.name);
    for (const Matrix& X : matrices(384)) {
      CHECK(same_bytes(named.spec, X) == "");
      for (const int64_t window : {4, 100})
        CHECK(in_place(X, [&](Ops& ops, MatrixView<float> x) {
                ops.fake_quantize(named.spec, x, window, x);
              }) == "");
    }
  }
}

TEST_CASE("cuda: quantize, elements x scales x groups", "[kernels][cuda]") {
  FP4LAB_NEEDS_GPU();
  const std::vector<Matrix> all = matrices(240);
  for (const Element& e : kElements)
    for (const ScaleType& t : kScaleTypes)
      for (const int group : {2, 3, 5, 16, 48, 80, 240, kWholeRow}) {
        FormatSpec f{e, group, t};
        if (t.kind == ScaleKind::exponent) f.rule.kind = ScaleRule::even;
        if (t.two_level()) f.tensor_scale.mode = group % 2 ? TensorScale::per_token : TensorScale::dynamic;
        if (!format_problem(f).empty() || !shape_problem(f, 240).empty()) continue;
        for (size_t i = 0; i < all.size(); ++i) {
          const std::string found = same_bytes(f, all[i]);
          if (!found.empty()) {
            INFO(e.name << ", " << t.name << ", groups of " << group << ", matrix " << i);
            CHECK(found == "");
          }
        }
      }
}

TEST_CASE("cuda: quantize, every rule and search", "[kernels][cuda]") {
  FP4LAB_NEEDS_GPU();
  const std::vector<Matrix> all = matrices(256);
  const auto check = [&](const FormatSpec& f, const WeightScales& search, const std::string& what) {
    if (!format_problem(f).empty() || !weight_scales_problem(search, f).empty()) return;
    for (size_t i = 0; i < all.size(); ++i) {
      const std::string found = same_bytes(f, all[i], search);
      INFO(what << ", " << f.element.name << ", " << f.scale.name << ", groups of " << f.group_size
                << ", matrix " << i);
      CHECK(found == "");
    }
  };
  for (const char* element : {"e2m1", "int4", "int4-full", "nf4", "e4m3", "int4-asym"})
    for (const char* scale : {"ue8m0", "e4m3", "e5m2", "int8", "fp16", "fp32"})
      for (const int group : {16, 32, 128}) {
        FormatSpec f{*find_element(element), group, *find_scale_type(scale)};
        if (f.scale.two_level()) f.tensor_scale.mode = TensorScale::dynamic;
        for (const ScaleRuleEntry& rule : scale_rules()) {
          FormatSpec with = f;
          with.rule.kind = rule.kind;
          check(with, {}, std::string(rule.name));
        }
        if (f.scale.kind == ScaleKind::exponent) f.rule.kind = ScaleRule::floor;
        for (const ScaleFloor floor : {ScaleFloor::min_subnormal, ScaleFloor::min_normal}) {
          FormatSpec with = f;
          with.scale_floor = floor;
          check(with, {}, "floor");
        }
        for (const WeightScales::Kind kind :
             {WeightScales::alternate, WeightScales::mse_shrink, WeightScales::paper, WeightScales::nearby})
          check(f, {.kind = kind}, str("search ", int(kind)));
        for (const ScaleRule::Kind kind :
             {ScaleRule::sweep, ScaleRule::four_over_six, ScaleRule::search, ScaleRule::grid})
          check(f, {.kind = WeightScales::replace, .replacement = {.kind = kind}},
                str("replace ", int(kind)));
      }
}

TEST_CASE("cuda: quantize names NaN and Inf as the CPU does", "[kernels][cuda]") {
  FP4LAB_NEEDS_GPU();
  for (const FormatSpec& f : {kMxfp4, kNvfp4}) {
    Matrix X = numbers(40, 64, 1);
    X(30, 5) = INFINITY, X(17, 33) = -INFINITY, X(17, 40) = NAN;
    CHECK_THROWS_WITH(gpu().quantize(f, gpu().borrow(X).view(), {}), "row 17, column 33 is -Inf");
    CHECK_THROWS_WITH(cpu().quantize(f, X, {}), "row 17, column 33 is -Inf");
  }
}

TEST_CASE("cuda: bfloat16 products are within their bound", "[kernels][cuda]") {
  FP4LAB_NEEDS_GPU();
  const std::unique_ptr<Ops> rounded = make_ops({.cuda = true, .compute = Machine::bfloat16});
  for (const auto& [M, N, K] :
       {std::array<int64_t, 3>{1, 1, 1}, {33, 65, 50}, {256, 300, 512}, {1000, 128, 1000}}) {
    INFO(M << " x " << N << " x " << K);
    const Matrix X = numbers(M, K, 1), W = numbers(N, K, 2), Y = numbers(M, N, 3);
    const auto product = [&](Ops& ops, const Matrix& x, const Matrix& w) {
      const Array y = ops.adopt(Y.clone());
      ops.gemm(ops.borrow(x).view(), ops.borrow(w).view(), y.view(), true);
      return on_host(ops, y.view());
    };
    Matrix x = X.clone(), w = W.clone();
    for (Matrix* m : {&x, &w})
      for (int64_t i = 0; i < m->size(); ++i) m->data()[i] = std::fabs(m->data()[i]);
    const Matrix got = product(*rounded, X, W), want = product(cpu(), X, W), sums = product(cpu(), x, w);
    int64_t outside = 0;
    for (int64_t i = 0; i < got.size(); ++i) {
      const double bound =
          (std::fabs(sums.data()[i] - Y.data()[i])) * (0x1.01p-8 + double(K) * 0x1p-23) + 1e-6;
      outside += !(std::fabs(double(got.data()[i]) - double(want.data()[i])) <= bound);
    }
    CHECK(outside == 0);
    const auto hessian = [&](Ops& ops) {
      const ArrayD H = ops.zeros_double(K, K);
      ops.syrk(ops.borrow(X).view(), H.view());
      MatrixD out(K, K);
      ops.download(H.view(), out);
      return out;
    };
    const MatrixD a = hessian(*rounded), b = hessian(cpu());
    double error = 0, energy = 0;
    bool lower = false;
    for (int64_t i = 0; i < K; ++i)
      for (int64_t j = 0; j < K; ++j) {
        error += (a(i, j) - b(i, j)) * (a(i, j) - b(i, j)), energy += b(i, j) * b(i, j);
        lower = lower || (j < i && a(i, j) != 0);
      }
    CHECK(error <= 0.005 * 0.005 * energy);
    CHECK(!lower);
  }
}
