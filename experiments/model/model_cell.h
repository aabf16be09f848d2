// experiments/model/model_cell.h - a cell whose result is a quantized model: what `fp4lab export` writes.
#pragma once
#include <functional>
#include <string>
#include <vector>

#include "experiments/model/quantized_model.h"

namespace fp4lab {

class ModelCell {
 public:
  virtual ~ModelCell() = default;
  virtual const SharedModel& model() const = 0;
  virtual const ModelPlan& plan() const = 0;
  using BlockMade = std::function<void(int64_t layer, std::vector<MadePart> parts)>;
  /// Quantizes the model again, with its calibration and without its evaluation, block by block. Returns the
  /// digest: that of the cell's record. Errors as CellTask::run.
  virtual std::string make(const BlockMade& see) = 0;
};

}  // namespace fp4lab
