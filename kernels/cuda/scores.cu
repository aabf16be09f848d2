#include "kernels/cuda/scores.h"

#include <cmath>
#include <vector>

#include "kernels/cuda/lanes.cuh"

namespace fp4lab::cuda {

namespace {

constexpr int kThreads = 256;
constexpr int kRowsOfBlock = kThreads / kLanes;

/// What one model's tile of logits says of a token.
struct Found {
  float largest;  // NaNs passed over
  int32_t at;     // its first place in the tile; -1 when it is nowhere (all NaN)
  float label;    // the logit of the token that follows, if it is in the tile
};

__global__ void find_kernel(MatrixView<const float> logits, int64_t first, const int32_t* labels,
                            Found* found) {
  const int lane = threadIdx.x % kLanes;
  const unsigned threads = half_warp();
  for (int64_t t = int64_t(blockIdx.x) * kRowsOfBlock + threadIdx.x / kLanes; t < logits.rows;
       t += int64_t(gridDim.x) * kRowsOfBlock) {
    const float* l = logits.row(t);
    float top = -INFINITY;
    int64_t at = INT64_MAX;
    for (int64_t i = lane; i < logits.cols; i += kLanes) {
      const float x = l[i];
      if (x > top || (x == top && i < at)) top = x, at = i;
    }
#pragma unroll
    for (int half = 8; half >= 1; half /= 2) {
      const float other = __shfl_xor_sync(threads, top, half, 16);
      const int64_t place = __shfl_xor_sync(threads, at, half, 16);
      if (other > top || (other == top && place < at)) top = other, at = place;
    }
    const int64_t label = int64_t(labels[t]) - first;
    if (lane == 0)
      found[t] = {top, at == INT64_MAX ? -1 : int32_t(at),
                  label >= 0 && label < logits.cols ? l[label] : 0.0f};
  }
}

/// sums[t] = sum of w = exp(l - base), crosses[t] = sum of w (l - other).
__global__ void sum_kernel(MatrixView<const float> logits, MatrixView<const float> other, const float* bases,
                           double* sums, double* crosses) {
  const int lane = threadIdx.x % kLanes;
  const unsigned threads = half_warp();
  for (int64_t t = int64_t(blockIdx.x) * kRowsOfBlock + threadIdx.x / kLanes; t < logits.rows;
       t += int64_t(gridDim.x) * kRowsOfBlock) {
    const float base = bases[t];
    double sum = 0, cross = 0;
    for (int64_t i = lane; i < logits.cols; i += kLanes) {
      const float x = logits(t, i);
      const double w = double(exp_lanes(x - base));
      sum += w;
      if (other.data) cross += w == 0.0 ? 0.0 : w * (double(x) - double(other(t, i)));
    }
    sum = add_lanes(sum, threads), cross = add_lanes(cross, threads);
    if (lane == 0) sums[t] = sum, crosses[t] = cross;
  }
}

/// kernels/cpu/elementwise_scores.cpp: begin_tile.
double begin_tile(LogitSums& s, const Found& tile, int64_t count, int64_t first, int32_t label) {
  if (label >= first && label < first + count) s.label = tile.label;
  const float old = s.max, found = tile.largest;
  if ((found > old || s.best < 0) && tile.at >= 0) s.best = int32_t(first + tile.at);
  if (!(found > old)) return 1;
  s.max = found;
  const double factor = std::exp(double(old) - double(found));
  s.sum *= factor;
  return factor;
}

class Tile {
 public:
  Tile(Gpu& gpu, MatrixView<const float> logits, int64_t first, const int32_t* labels)
      : gpu_(gpu), logits_(logits), found_(size_t(logits.rows)) {
    const GpuArray<Found> found = gpu.allocate<Found>(logits.rows);
    find_kernel<<<grid(), kThreads, 0, gpu.stream()>>>(logits, first, labels, found.data());
    FP4LAB_CUDA_LAUNCHED("largest logits of ", logits.rows, " x ", logits.cols);
    gpu.download<Found>(found.data(), found_);
  }
  const Found& found(size_t t) const { return found_[t]; }

  struct Sums {
    std::vector<double> sum, cross;
  };
  Sums sums(const std::vector<float>& bases, MatrixView<const float> other) {
    Sums out{std::vector<double>(bases.size()), std::vector<double>(bases.size())};
    const GpuArray<float> base = gpu_.upload<float>(bases);
    const GpuArray<double> sum = gpu_.allocate<double>(logits_.rows),
                           cross = gpu_.allocate<double>(logits_.rows);
    sum_kernel<<<grid(), kThreads, 0, gpu_.stream()>>>(logits_, other, base.data(), sum.data(), cross.data());
    FP4LAB_CUDA_LAUNCHED("sums of logits of ", logits_.rows, " x ", logits_.cols);
    gpu_.download<double>(sum.data(), out.sum);
    gpu_.download<double>(cross.data(), out.cross);
    return out;
  }

 private:
  unsigned grid() const { return blocks_for(logits_.rows, kRowsOfBlock, 16 * gpu_.multiprocessors()); }

  Gpu& gpu_;
  MatrixView<const float> logits_;
  std::vector<Found> found_;
};

float base_of(const LogitSums& s) { return s.max == -INFINITY ? 0.0f : s.max; }

}  // namespace

void update_scores(Gpu& gpu, MatrixView<const float> full, MatrixView<const float> quantized, int64_t first,
                   std::span<const int32_t> labels, std::span<TokenScores> scores) {
  FP4LAB_CHECK(int64_t(labels.size()) == full.rows && int64_t(scores.size()) == full.rows, full.rows,
               " tokens, ", labels.size(), " labels, ", scores.size(), " scores");
  FP4LAB_CHECK(!quantized.data || (quantized.rows == full.rows && quantized.cols == full.cols), "full (",
               full.rows, ", ", full.cols, "), quantized (", quantized.rows, ", ", quantized.cols, ")");
  if (full.rows == 0) return;
  const GpuArray<int32_t> next = gpu.upload<int32_t>(labels);
  std::vector<float> bases(labels.size());
  Tile own(gpu, full, first, next.data());
  for (size_t t = 0; t < scores.size(); ++t) {
    TokenScores& s = scores[t];
    const double factor = begin_tile(s.full, own.found(t), full.cols, first, labels[t]);
    if (std::isfinite(s.cross)) s.cross *= factor;
    bases[t] = base_of(s.full);
  }
  const Tile::Sums sums = own.sums(bases, quantized);
  for (size_t t = 0; t < scores.size(); ++t)
    scores[t].full.sum += sums.sum[t], scores[t].cross += sums.cross[t];
  if (!quantized.data) return;
  Tile other(gpu, quantized, first, next.data());
  for (size_t t = 0; t < scores.size(); ++t) {
    begin_tile(scores[t].quantized, other.found(t), full.cols, first, labels[t]);
    bases[t] = base_of(scores[t].quantized);
  }
  const std::vector<double> more = other.sums(bases, {}).sum;
  for (size_t t = 0; t < scores.size(); ++t) scores[t].quantized.sum += more[t];
}

}  // namespace fp4lab::cuda
