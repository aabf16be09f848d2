// kernels/forward/hidden_states.h - the hidden states of many windows while a model is walked block by block.
#pragma once
#include <functional>

#include "core/io/spill.h"
#include "kernels/ops.h"

namespace fp4lab {

/// (tokens, hidden_size): in a GPU's memory where they leave half of what is free, otherwise on the host, in
/// a file above the policy's limit. run_layer takes its view either way.
class HiddenStates {
 public:
  HiddenStates() = default;
  HiddenStates(Ops& ops, int64_t tokens, int64_t hidden_size, const SpillPolicy& spill);

  MatrixView<float> view() { return on_gpu_.empty() ? host_.view() : on_gpu_.view(); }
  /// Sets rows [begin, begin + rows.rows) by write(begin, rows), a chunk at a time.
  void fill(Ops& ops, const std::function<void(int64_t begin, MatrixView<float> rows)>& write);

 private:
  SpilledMatrix host_;
  Array on_gpu_;
};

}  // namespace fp4lab
