// Every task fp4lab knows. To add one, write its file and add its row.
#include "experiments/tasks/tasks.h"

namespace fp4lab {

const std::vector<TaskKind>& task_kinds() {
  static const std::vector<TaskKind> kinds = {tensor_error_task(), layer_task(),        model_task(),
                                              lemma_task(),        distribution_task(), scale_range_task()};
  return kinds;
}

}  // namespace fp4lab
