// Logits against an independent implementation: golden.safetensors, by transformers.
//
// How those were made, found by trying: their rotary frequencies went through bfloat16 (a model cast to
// bfloat16 and back keeps the rounded buffer), and those of `tiny` and `small` have matrix products with TF32
// inputs. With the same frequencies a float64 NumPy forward pass agrees with the two random models to 2e-6
// and with `tiny` to 8e-4, from the first token on, where a rotary embedding does nothing. So the test rounds
// the frequencies too, and the bound knows both roundings. tests/python/model_reference_test.py holds our own
// frequencies and float32 arithmetic to a float64 reference.
//
// The bound. A product of K terms in float32 is off by about sqrt(K) u of |x| |w|, u = 2^-24 (errors of
// either sign); with inputs rounded to TF32 by 2^-11 of each term, sqrt(2) 2^-11 of it. One block then moves
// the residual stream by at most about  e = sum over its four sites  of its norm, both implementations do,
// and errors of different products add up as a random walk at best and in step at worst; in step is what is
// allowed here. What a relative error becomes at the end is the model's own gain g, measured by disturbing
// the embeddings by a known relative amount. With L blocks, and the head's own product e_head:
//   |difference of logit (t, v)| <= (g L (e + e') + e_head + e_head') |h_t| |w_v|
#include "kernels/forward/forward.h"

#include <cmath>
#include <filesystem>

#include "core/model/checkpoint.h"
#include "core/model/rope.h"
#include "core/random.h"
#include "experiments/sources/source.h"
#include "formats/registry.h"
#include "kernels/cpu/elementwise.h"
#include "kernels/cpu/gemm.h"
#include "tests/catch.h"

using namespace fp4lab;

namespace {

const std::string kShipped = std::string(FP4LAB_SOURCE_DIR) + "/experiments/data/tiny-llama";

struct Golden {
  std::vector<int32_t> ids;
  std::vector<int64_t> rows;  // tokens whose logits are stored
  Matrix logits, hidden;      // (rows, vocab), (tokens, hidden): after the final norm
};

std::vector<int64_t> integers(const TensorFile& file, std::string_view name) {
  const TensorInfo& t = file.at(name);
  std::vector<float> values(size_t(t.elements));
  load_floats(file, t, values);  // exact for small integers
  return {values.begin(), values.end()};
}

Golden read_golden(const std::string& folder) {
  const TensorFile file = TensorFile::open(folder + "/golden.safetensors");
  Golden g;
  for (const int64_t id : integers(file, "ids")) g.ids.push_back(int32_t(id));
  g.logits = load_matrix(file, file.at("logits"));
  g.hidden = load_matrix(file, file.at("hidden_last"));
  if (file.find("logits_rows"))
    g.rows = integers(file, "logits_rows");
  else
    for (int64_t t = 0; t < g.logits.rows(); ++t) g.rows.push_back(t);
  return g;
}

/// Hidden states after the final norm, the embeddings disturbed by a relative `noise`.
Matrix final_states(Ops& ops, const Checkpoint& model, const std::vector<int32_t>& ids, const Matrix& rope,
                    double noise) {
  const ModelConfig& config = model.config();
  Matrix h(int64_t(ids.size()), config.hidden_size);
  model.embed(ids, h);
  const Stream stream(7, "noise");
  for (int64_t i = 0; i < h.size(); ++i) {
    const double sign = stream.below(uint64_t(i), 2) ? 1 : -1;
    h.data()[i] = float(h.data()[i] * (1 + sign * noise));
  }
  Forward forward(ops, config, 1, int64_t(ids.size()), rope);
  for (int64_t layer = 0; layer < config.layers; ++layer)
    run_layer(ops, forward, load_block(ops, model, layer), h, [] {});
  const std::vector<float> norm = model.load_final_norm();
  rms_norm(h, norm, float(config.rms_norm_eps), h);
  return h;
}

double norm(const float* x, int64_t n) {
  double sum = 0;
  for (int64_t i = 0; i < n; ++i) sum += double(x[i]) * double(x[i]);
  return std::sqrt(sum);
}

void check_golden(const std::string& folder, bool tf32) {
  const Checkpoint model = Checkpoint::open(folder);
  const ModelConfig& config = model.config();
  const Golden golden = read_golden(folder);
  const std::unique_ptr<Ops> ops = make_cpu_ops();
  std::vector<float> frequencies = inverse_frequencies(config);
  for (float& f : frequencies) f = to_float(bf16_from_float(f));
  const Matrix rope = rope_table(frequencies, int64_t(golden.ids.size()));
  const Matrix h = final_states(*ops, model, golden.ids, rope, 0);
  const int64_t width = h.cols();

  // The gain: the largest over tokens, since every token is held to the bound.
  const double noise = 0x1p-12;
  const Matrix disturbed = final_states(*ops, model, golden.ids, rope, noise);
  double gain = 0;
  for (int64_t t = 0; t < h.rows(); ++t) {
    double moved = 0;
    for (int64_t c = 0; c < width; ++c) moved += std::pow(double(h(t, c)) - double(disturbed(t, c)), 2);
    gain = std::max(gain, std::sqrt(moved) / norm(h.row(t), width) / noise);
  }
  const double u = 0x1p-24, theirs = tf32 ? std::sqrt(2.0) * 0x1p-11 : 0;
  double per_block = 0;
  for (int s = 0; s < kSites; ++s)
    per_block += 2 * u * std::sqrt(double(model.shape(linears_of(SiteKind(s))[0])[1])) + theirs;
  const double bound = gain * double(config.layers) * per_block + 2 * u * std::sqrt(double(width)) + theirs;

  const Matrix head = model.load_head(0, config.vocab_size);
  REQUIRE(golden.logits.cols() == config.vocab_size);
  double worst = 0, largest = 0, worst_state = 0;
  for (size_t i = 0; i < golden.rows.size(); ++i) {
    const int64_t t = golden.rows[i];
    Matrix logits(1, config.vocab_size);
    gemm(h.view().middle_rows(t, 1), head, logits);
    for (int64_t v = 0; v < config.vocab_size; ++v) {
      const double difference = std::fabs(double(logits(0, v)) - double(golden.logits(int64_t(i), v)));
      largest = std::max(largest, difference);
      worst = std::max(worst, difference / norm(h.row(t), width) / norm(head.row(v), width));
    }
  }
  for (int64_t t = 0; t < h.rows(); ++t) {
    double difference = 0;
    for (int64_t c = 0; c < width; ++c)
      difference += std::pow(double(h(t, c)) - double(golden.hidden(t, c)), 2);
    worst_state = std::max(worst_state, std::sqrt(difference) / norm(h.row(t), width));
  }
  INFO(folder << ": gain " << gain << ", bound " << bound << ", worst logit " << worst << " of |h||w| ("
              << largest << " absolute), worst state " << worst_state);
  CHECK(worst <= bound);
  CHECK(worst_state <= bound);
  CHECK(bound < (tf32 ? 0.05 : 2e-4));  // the bound says something
}

std::string data(const std::string& model) { return expand_path("${FP4LAB_DATA}/models/" + model, "."); }

}  // namespace

TEST_CASE("forward: logits of the shipped model are the golden ones", "[kernels][forward]") {
  check_golden(kShipped, true);
}

TEST_CASE("forward: logits of other models are the golden ones", "[kernels][forward]") {
  int64_t missing = 0;
  for (const char* name : {"small", "qwen3-random", "llama31-random"})
    if (std::filesystem::exists(data(name)))
      check_golden(data(name), std::string(name) == "small");
    else
      ++missing;
  if (missing == 3) FP4LAB_SKIP(data("*") + " are not there");
}

TEST_CASE("forward: bits depend on a window alone", "[kernels][forward]") {
  const Checkpoint model = Checkpoint::open(kShipped);
  const std::unique_ptr<Ops> ops = make_cpu_ops();
  const int64_t length = 48;
  std::vector<int32_t> ids;
  const Stream stream(1, "ids");
  for (uint64_t i = 0; i < 5 * length; ++i) ids.push_back(int32_t(stream.below(i, 8192)));
  const auto run = [&](std::span<const int32_t> tokens, int64_t chunk) {
    Matrix h(int64_t(tokens.size()), model.config().hidden_size);
    model.embed(tokens, h);
    Forward forward(*ops, model.config(), chunk, length);
    for (int64_t layer = 0; layer < 2; ++layer)
      run_layer(*ops, forward, load_block(*ops, model, layer), h, [] {});
    return h;
  };
  const Matrix all = run(ids, 5), pairs = run(ids, 2);
  const Matrix third = run(std::span(ids).subspan(2 * length, length), 1);
  for (int64_t t = 0; t < all.rows(); ++t)
    for (int64_t c = 0; c < all.cols(); ++c) {
      REQUIRE(all(t, c) == pairs(t, c));
      if (t / length == 2) REQUIRE(all(t, c) == third(t - 2 * length, c));
    }
  // A later token changes nothing before it.
  std::vector<int32_t> changed = ids;
  changed[30] = (changed[30] + 1) % 8192;
  const Matrix other = run(changed, 5);
  bool differs = false;
  for (int64_t t = 0; t < length; ++t)
    for (int64_t c = 0; c < all.cols(); ++c) {
      if (t < 30) REQUIRE(all(t, c) == other(t, c));
      differs = differs || all(t, c) != other(t, c);
    }
  CHECK(differs);
}

TEST_CASE("forward: to watch a layer shows what running it shows and changes nothing", "[kernels][forward]") {
  const Checkpoint model = Checkpoint::open(kShipped);
  const std::unique_ptr<Ops> ops = make_cpu_ops();
  const int64_t length = 16;
  std::vector<int32_t> ids;
  const Stream stream(2, "ids");
  for (uint64_t i = 0; i < 3 * length; ++i) ids.push_back(int32_t(stream.below(i, 8192)));
  Matrix hidden(3 * length, model.config().hidden_size);
  model.embed(ids, hidden);
  BlockWeights block = load_block(*ops, model, 0);
  for (SiteWeights& site : block.sites) site.parts[0].activations = find_format("nvfp4")->spec;
  for (const int64_t chunk : {1, 2, 3}) {
    Forward forward(*ops, model.config(), chunk, length);
    std::vector<std::pair<SiteKind, Matrix>> ran, seen;
    const auto keep = [](auto& list) {
      return [&list](SiteKind kind, MatrixView<const float> X) {
        Matrix copy(X.rows, X.cols);
        for (int64_t t = 0; t < X.rows; ++t) std::copy_n(X.row(t), X.cols, copy.row(t));
        list.emplace_back(kind, std::move(copy));
      };
    };
    Matrix moved = hidden.clone();
    const Matrix watched = hidden.clone();
    run_layer(
        *ops, forward, block, moved, [] {}, keep(ran));
    int64_t steps = 0;
    // down_proj is not multiplied with: its weights need not be there.
    BlockWeights without_down = block;
    without_down.sites[size_t(SiteKind::down)] = {};
    watch_layer(
        *ops, forward, without_down, watched, [&] { ++steps; }, keep(seen));
    CAPTURE(chunk);
    CHECK(steps == (3 + chunk - 1) / chunk);
    REQUIRE(seen.size() == ran.size());
    CHECK(seen.size() == size_t(steps * kSites));
    for (size_t i = 0; i < seen.size(); ++i) {
      CHECK(seen[i].first == ran[i].first);
      CHECK(seen[i].first == SiteKind(i % kSites));
      REQUIRE(seen[i].second.size() == ran[i].second.size());
      CHECK(std::equal(seen[i].second.data(), seen[i].second.data() + seen[i].second.size(),
                       ran[i].second.data()));
    }
    CHECK(std::equal(watched.data(), watched.data() + watched.size(), hidden.data()));
    CHECK_FALSE(std::equal(moved.data(), moved.data() + moved.size(), hidden.data()));
  }
}

TEST_CASE("forward: a NaN is named by block and linear", "[kernels][forward]") {
  const Checkpoint model = Checkpoint::open(kShipped);
  const std::unique_ptr<Ops> ops = make_cpu_ops();
  BlockWeights block = load_block(*ops, model, 1);
  Matrix h(16, model.config().hidden_size);
  const std::vector<int32_t> ids(16, 5);
  Forward forward(*ops, model.config(), 1, 16);
  const auto message = [&] {
    model.embed(ids, h);
    try {
      run_layer(*ops, forward, block, h, [] {});
    } catch (const DataError& e) {
      return std::string(e.what());
    }
    return std::string("nothing was wrong");
  };
  CHECK(message() == "nothing was wrong");
  // Row 300 of the stacked q (256), k (128), v (128) weights is k's row 44.
  const float kept = block.sites[0].parts[0].W.view()(300, 7);
  block.sites[0].parts[0].W.view()(300, 7) = INFINITY;
  CHECK(message().find(
            "layers.1.self_attn.k_proj: its output is NaN or infinite at token 0 of a window, channel 44") !=
        std::string::npos);
  block.sites[0].parts[0].W.view()(300, 7) = kept;
  block.sites[3].parts[0].W.view()(3, 0) = NAN;
  CHECK(message().find(
            "layers.1.mlp.down_proj: its output is NaN or infinite at token 0 of a window, channel 3") !=
        std::string::npos);
}
