// experiments/tasks/tasks.h - the rows of the task registry, one file each.
#pragma once
#include "experiments/task.h"

namespace fp4lab {

TaskKind tensor_error_task();
TaskKind layer_task();
TaskKind model_task();
TaskKind lemma_task();
TaskKind distribution_task();
TaskKind scale_range_task();

}  // namespace fp4lab
