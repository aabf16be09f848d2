// kernels/cuda/scores.h - update_scores of kernels/cpu/elementwise.h on a GPU, with the CPU's bits. Maxima,
// places and sums of a tile of logits are found there, in the CPU's lanes; they depend on earlier tiles
// through the running maximum alone, which stays there. What joins the tiles is done by the host, because its
// exp in double is the math library's.
#pragma once
#include <span>
#include <vector>

#include "kernels/cuda/gpu.h"
#include "kernels/token_scores.h"

namespace fp4lab::cuda {

/// What one tile says of a token. [0] is the full model, [1] the quantized one.
struct TileScores {
  double sum[2];     // of exp(l - max), max being the largest logit up to this tile
  double cross;      // sum of exp(l_full - max_full) (l_full - l_quantized)
  float largest[2];  // of the tile, NaNs passed over; -inf when nothing else is there
  float label[2];    // logit of the token that follows, if it is in the tile
  int32_t at[2];     // the first column that equals `largest`; -1: none, all are NaN
};

/// Gathers tokens' scores over tiles of the vocabulary without waiting for the GPU in between: 48 bytes of
/// GPU memory per token and tile.
class ScoreTiles {
 public:
  /// labels[t] is the id that follows token t, or -1; `scores` is what the tokens have from earlier tiles.
  /// Both are the host's, and are read here.
  ScoreTiles(Gpu& gpu, std::span<const int32_t> labels, std::span<const TokenScores> scores);

  /// The vocabulary entries [first, first + full.cols) of tokens [begin, begin + full.rows), in GPU memory; a
  /// token's tiles come in ascending order. `quantized` is empty (no data) when there is one model only.
  void update(MatrixView<const float> full, MatrixView<const float> quantized, int64_t first,
              int64_t begin = 0);
  /// Waits, and takes all tiles into the host's scores, which are as at the beginning.
  void finish(std::span<TokenScores> scores);

 private:
  struct Tile {
    GpuArray<TileScores> found;  // of tokens begin, ...
    int64_t begin, first, count;
    bool two;
  };

  Gpu& gpu_;
  std::vector<int32_t> labels_;
  GpuArray<int32_t> labels_there_;
  GpuArray<float> maxima_;  // (tokens, 2), so far
  std::vector<Tile> tiles_;
};

/// One tile into host scores; waits for it.
void update_scores(Gpu& gpu, MatrixView<const float> full, MatrixView<const float> quantized, int64_t first,
                   std::span<const int32_t> labels, std::span<TokenScores> scores);

}  // namespace fp4lab::cuda
