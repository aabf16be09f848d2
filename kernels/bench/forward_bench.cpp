// The forward pass beside the products it is made of: a block and the head of small Llamas with random
// weights, in full precision and with every linear W4A4, against the same products alone in the same process.
// What an evaluation of such a model costs is this, layers times.
#include <omp.h>

#include <cmath>
#include <cstdio>

#include "core/random.h"
#include "formats/quantize.h"
#include "formats/registry.h"
#include "kernels/bench/harness.h"
#include "kernels/forward/forward.h"

namespace fp4lab {

namespace {

struct Shape {
  const char* name;
  int64_t hidden, intermediate, layers, heads, kv_heads, head_dim, vocab, windows, length;
};
// tiny and small of the test data (the shipped model is `tiny`).
constexpr Shape kShapes[] = {{"tiny", 256, 768, 6, 4, 2, 64, 8192, 2, 1024},
                             {"small", 512, 1536, 9, 8, 4, 64, 8192, 2, 1024}};

Matrix normal(int64_t rows, int64_t cols, uint64_t index, double scale) {
  Matrix x(rows, cols);
  const Stream stream(1, "bench", index);
  for (int64_t i = 0; i < x.size(); i += 2) {
    const auto pair = normal_pair(stream.block(uint64_t(i)));
    x.data()[i] = float(scale * pair[0]);
    if (i + 1 < x.size()) x.data()[i + 1] = float(scale * pair[1]);
  }
  return x;
}

Array ones(Ops& ops, int64_t n) {
  Matrix x(1, n);
  for (int64_t i = 0; i < n; ++i) x.data()[i] = 1;
  return ops.adopt(std::move(x));
}

struct Bench {
  Bench(const Shape& s, Ops& o) : shape(s), ops(o) {
    config.hidden_size = s.hidden, config.intermediate_size = s.intermediate, config.layers = s.layers;
    config.heads = s.heads, config.kv_heads = s.kv_heads, config.head_dim = s.head_dim;
    config.vocab_size = s.vocab, config.max_positions = s.length, config.rms_norm_eps = 1e-5;
    config.qk_norms = false;
    const int64_t q = s.heads * s.head_dim, kv = s.kv_heads * s.head_dim;
    const int64_t sizes[kSites][2] = {
        {q + 2 * kv, s.hidden}, {s.hidden, q}, {2 * s.intermediate, s.hidden}, {s.hidden, s.intermediate}};
    block.input_norm = ones(ops, s.hidden), block.post_norm = ones(ops, s.hidden);
    for (int i = 0; i < kSites; ++i) {
      const auto [n, k] = sizes[i];
      block.sites[size_t(i)].parts.push_back(
          {{{"linear", n}}, 0, ops.adopt(normal(n, k, uint64_t(i), 1 / std::sqrt(double(k)))), {}, {}});
      products += 2.0 * double(tokens()) * double(n) * double(k);
      inputs.push_back(normal(tokens(), k, uint64_t(10 + i), 1));
      outputs.push_back(Matrix(tokens(), n));
    }
    // Of each window and head: half of T^2 scores, each two products of head_dim.
    attention = double(s.windows * s.heads * s.head_dim) * 2 * double(s.length) * double(s.length);
    head_weights = ops.adopt(normal(s.vocab, s.hidden, 20, 1 / std::sqrt(double(s.hidden))));
    head.final_norm = ones(ops, s.hidden);
    head.full = [this](int64_t begin, int64_t count) {
      return Array(std::shared_ptr<float>(std::shared_ptr<void>(), head_weights.view().row(begin)), count,
                   shape.hidden);
    };
    hidden = normal(tokens(), s.hidden, 21, 1);
    labels.assign(size_t(tokens()), 7);
  }
  int64_t tokens() const { return shape.windows * shape.length; }

  void multiply() {
    for (int layer = 0; layer < shape.layers; ++layer)
      for (int i = 0; i < kSites; ++i)
        ops.gemm(inputs[size_t(i)], block.sites[size_t(i)].parts[0].W.view(), outputs[size_t(i)], false);
  }
  void walk(const std::optional<FormatSpec>& activations) {
    for (SiteWeights& s : block.sites) s.parts[0].activations = activations;
    Matrix h = hidden.clone();
    Forward forward(ops, config, shape.windows, shape.length);
    for (int layer = 0; layer < shape.layers; ++layer) run_layer(ops, forward, block, h, [] {});
  }
  void score() {
    std::vector<TokenScores> scores(static_cast<size_t>(tokens()));
    score_tokens(ops, config, head, shape.length, hidden, hidden, labels, scores, [] {});
  }

  Shape shape;
  Ops& ops;
  ModelConfig config{};
  BlockWeights block;
  std::vector<Matrix> inputs, outputs;
  Array head_weights;
  Head head;
  Matrix hidden;
  std::vector<int32_t> labels;
  double products = 0, attention = 0;
};

void rows(const Shape& s, int threads, int rounds) {
  omp_set_num_threads(threads);
  const std::unique_ptr<Ops> ops = make_cpu_ops();
  Bench b(s, *ops);
  const double layers = double(s.layers), walk = layers * (b.products + b.attention),
               scores = 2 * 2.0 * double(b.tokens()) * double(s.vocab) * double(s.hidden);
  FormatSpec nvfp4 = find_format("nvfp4")->spec;
  nvfp4.tensor_scale = {TensorScale::per_token, 0};
  const std::vector<Subject> subjects = {
      {"products alone", [&] { b.multiply(); }, layers * b.products, 0},
      {"blocks, full precision", [&] { b.walk({}); }, walk, 0},
      {"blocks, activations nvfp4", [&] { b.walk(nvfp4); }, walk, 0},
      {"blocks, activations mxfp4", [&] { b.walk(find_format("mxfp4")->spec); }, walk, 0},
      {"head and scores, two models", [&] { b.score(); }, scores, 0}};
  const std::vector<Comparison> results = compare_to_first(subjects, rounds);
  for (size_t i = 0; i < subjects.size(); ++i)
    std::printf("| %-5s | %-27s | %7d | %8.1f | %7.1f | %11.2f |\n", s.name, subjects[i].name.c_str(),
                threads, results[i].timing.median * 1e3, subjects[i].bytes / results[i].timing.median / 1e9,
                results[i].rate_ratio);
}

}  // namespace

void bench_forward(int rounds) {
  const int threads = omp_get_max_threads();
  std::printf("2 windows of 1024 tokens; flops are those of products and causal attention\n");
  std::printf("| %-5s | %-27s | %7s | %8s | %7s | %11s |\n", "model", "", "threads", "ms", "GFLOP/s",
              "to products");
  std::printf("|-------|-----------------------------|--------:|---------:|--------:|------------:|\n");
  for (const Shape& s : kShapes) {
    rows(s, 1, rounds);
    if (threads > 1) rows(s, threads, rounds);
  }
  omp_set_num_threads(threads);
}

}  // namespace fp4lab
