#include "kernels/forward/hidden_states.h"

#include <algorithm>

namespace fp4lab {

HiddenStates::HiddenStates(Ops& ops, int64_t tokens, int64_t hidden_size, const SpillPolicy& spill) {
  if (2 * tokens * hidden_size * int64_t(sizeof(float)) <= ops.room())
    on_gpu_ = ops.allocate(tokens, hidden_size);
  else
    host_ = make_spilled(tokens, hidden_size, spill);
}

void HiddenStates::fill(Ops& ops, const std::function<void(int64_t begin, MatrixView<float> rows)>& write) {
  constexpr int64_t kChunk = 4096;
  const MatrixView<float> all = view();
  Matrix chunk(on_gpu_.empty() ? 0 : std::min(kChunk, all.rows), all.cols);
  for (int64_t begin = 0; begin < all.rows; begin += kChunk) {
    const MatrixView<float> rows = all.middle_rows(begin, std::min(kChunk, all.rows - begin));
    if (on_gpu_.empty()) {
      write(begin, rows);
    } else {
      const MatrixView<float> part = chunk.view().middle_rows(0, rows.rows);
      write(begin, part);
      ops.upload(part, rows);
    }
  }
}

}  // namespace fp4lab
