#include "kernels/cuda/scores.h"

#include <cmath>

#include "kernels/cuda/lanes.cuh"

namespace fp4lab::cuda {

namespace {

constexpr int kThreads = 128;
constexpr int kTokensOfBlock = kThreads / kLanes;
constexpr int kRegister = 8;  // lanes of the CPU's maximum, which is compiled for 8

struct Largest {
  float value;
  int32_t at;
};

/// kernels/cpu/elementwise_scores.cpp: largest_of, and the place of the first that equals it. Every thread of
/// the 16 gets both. Which of two zeros is kept follows the CPU's order: the first in a lane, between lanes
/// the later one, the rest below a register last.
__device__ Largest largest_of(const float* l, int n, int lane, unsigned threads) {
  Largest top{-INFINITY, INT32_MAX};
  const int whole = n / kRegister * kRegister;
#pragma unroll 8
  for (int i = lane; i < whole; i += kLanes) {
    const float x = __ldg(l + i);
    if (x > top.value || (x == top.value && i < top.at)) top = {x > top.value ? x : top.value, i};
  }
#pragma unroll
  for (int half = 8; half >= 1; half /= 2) {
    const Largest other{__shfl_xor_sync(threads, top.value, half, 16),
                        __shfl_xor_sync(threads, top.at, half, 16)};
    if (other.value > top.value) {
      top = other;
    } else if (other.value == top.value) {
      const bool theirs = half == kRegister ? other.at < top.at : (lane & half) == 0;
      top = {theirs ? other.value : top.value, min(other.at, top.at)};
    }
  }
  for (int i = whole; i < n; ++i) {
    const float x = __ldg(l + i);
    if (x > top.value || (x == top.value && top.at == INT32_MAX)) top = {x > top.value ? x : top.value, i};
  }
  return top;
}

struct Sums {
  double sum, cross;
};

/// kernels/cpu/elementwise_scores.cpp: tile_sums, in every thread of the 16.
template <bool kCross>
__device__ Sums tile_sums(const float* l, const float* other, int n, float base, int lane, unsigned threads) {
  Sums s{0, 0};
#pragma unroll 4
  for (int i = lane; i < n; i += kLanes) {
    const float x = __ldg(l + i);
    const double w = double(exp_lanes(x - base));
    s.sum += w;
    if constexpr (kCross) {
      const double difference = double(x) - double(__ldg(other + i));
      s.cross += w == 0.0 ? 0.0 : w * difference;
    }
  }
  return {add_lanes(s.sum, threads), kCross ? add_lanes(s.cross, threads) : 0.0};
}

/// 16 threads take a token. `maxima` (tokens, 2), labels and found begin with the tile's first token.
__global__ void __launch_bounds__(kThreads)
    tile_kernel(MatrixView<const float> full, MatrixView<const float> quantized, int64_t first,
                const int32_t* labels, float* maxima, TileScores* found) {
  const int lane = threadIdx.x % kLanes, n = int(full.cols);
  const unsigned threads = half_warp();
  const int64_t t = int64_t(blockIdx.x) * kTokensOfBlock + threadIdx.x / kLanes;
  if (t >= full.rows) return;
  const int64_t label = labels[t] - first;
  TileScores out{};
  // The largest logit of one model, and where its exponents are taken from: while all logits are -inf,
  // nothing may be subtracted.
  const auto begin = [&](int model, const float* l) {
    const Largest top = largest_of(l, n, lane, threads);
    const float old = maxima[2 * t + model], now = top.value > old ? top.value : old;
    __syncwarp(threads);  // the others have read it too
    if (lane == 0) maxima[2 * t + model] = now;
    out.largest[model] = top.value;
    out.at[model] = top.at == INT32_MAX ? -1 : top.at;
    out.label[model] = label >= 0 && label < n ? l[label] : 0.0f;
    return now == -INFINITY ? 0.0f : now;
  };
  const float* const l = full.row(t);
  const float base = begin(0, l);
  if (quantized.data) {
    const float* const other = quantized.row(t);
    const Sums s = tile_sums<true>(l, other, n, base, lane, threads);
    out.sum[0] = s.sum, out.cross = s.cross;
    out.sum[1] = tile_sums<false>(other, nullptr, n, begin(1, other), lane, threads).sum;
  } else {
    out.sum[0] = tile_sums<false>(l, nullptr, n, base, lane, threads).sum;
  }
  if (lane == 0) found[t] = out;
}

/// kernels/cpu/elementwise_scores.cpp: begin_tile, with what the GPU found.
double begin_tile(LogitSums& s, const TileScores& tile, int model, int64_t n, int64_t first, int32_t label) {
  if (label >= first && label < first + n) s.label = tile.label[model];
  const float old = s.max, found = tile.largest[model];
  if ((found > old || s.best < 0) && tile.at[model] >= 0) s.best = int32_t(first + tile.at[model]);
  if (!(found > old)) return 1;
  s.max = found;
  const double factor = std::exp(double(old) - double(found));
  s.sum *= factor;
  return factor;
}

}  // namespace

ScoreTiles::ScoreTiles(Gpu& gpu, std::span<const int32_t> labels, std::span<const TokenScores> scores)
    : gpu_(gpu), labels_(labels.begin(), labels.end()) {
  FP4LAB_CHECK(labels.size() == scores.size(), labels.size(), " labels, ", scores.size(), " scores");
  std::vector<float> maxima;
  for (const TokenScores& s : scores) maxima.insert(maxima.end(), {s.full.max, s.quantized.max});
  labels_there_ = gpu.upload<int32_t>(labels);
  maxima_ = gpu.upload<float>(maxima);
}

void ScoreTiles::update(MatrixView<const float> full, MatrixView<const float> quantized, int64_t first,
                        int64_t begin) {
  FP4LAB_CHECK(begin >= 0 && begin + full.rows <= int64_t(labels_.size()), full.rows, " tokens from ", begin,
               " on, ", labels_.size(), " labels");
  FP4LAB_CHECK(!quantized.data || (quantized.rows == full.rows && quantized.cols == full.cols), "full (",
               full.rows, ", ", full.cols, "), quantized (", quantized.rows, ", ", quantized.cols, ")");
  FP4LAB_CHECK(first >= 0 && first + full.cols <= INT32_MAX - kLanes, full.cols, " entries from ", first);
  if (full.rows == 0) return;
  tiles_.push_back(
      {gpu_.allocate<TileScores>(full.rows), begin, first, full.cols, quantized.data != nullptr});
  tile_kernel<<<blocks_for(full.rows, kTokensOfBlock, INT32_MAX), kThreads, 0, gpu_.stream()>>>(
      full, quantized, first, labels_there_.data() + begin, maxima_.data() + 2 * begin,
      tiles_.back().found.data());
  FP4LAB_CUDA_LAUNCHED("scores of ", full.rows, " x ", full.cols);
}

void ScoreTiles::finish(std::span<TokenScores> scores) {
  FP4LAB_CHECK(scores.size() == labels_.size(), labels_.size(), " labels, ", scores.size(), " scores");
  std::vector<TileScores> found;
  for (const Tile& tile : tiles_) {
    found.resize(size_t(tile.found.size()));
    gpu_.download<TileScores>(tile.found.data(), found);
    for (size_t i = 0; i < found.size(); ++i) {
      const size_t t = size_t(tile.begin) + i;
      TokenScores& s = scores[t];
      const double factor = begin_tile(s.full, found[i], 0, tile.count, tile.first, labels_[t]);
      if (std::isfinite(s.cross)) s.cross *= factor;
      s.full.sum += found[i].sum[0];
      s.cross += found[i].cross;
      if (!tile.two) continue;
      begin_tile(s.quantized, found[i], 1, tile.count, tile.first, labels_[t]);
      s.quantized.sum += found[i].sum[1];
    }
  }
  tiles_.clear();
}

void update_scores(Gpu& gpu, MatrixView<const float> full, MatrixView<const float> quantized, int64_t first,
                   std::span<const int32_t> labels, std::span<TokenScores> scores) {
  FP4LAB_CHECK(int64_t(labels.size()) == full.rows, full.rows, " tokens, ", labels.size(), " labels");
  ScoreTiles tiles(gpu, labels, scores);
  tiles.update(full, quantized, first);
  tiles.finish(scores);
}

}  // namespace fp4lab::cuda
