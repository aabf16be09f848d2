// experiments/tasks/machine.h - the keys "device" and "compute" of a cell.
#pragma once
#include <string>

#include "core/params.h"
#include "kernels/ops.h"

namespace fp4lab {

/// "cpu" (default), "cuda" or "cuda:1", with `products` also "compute": "float32" (default) or "bfloat16".
/// What is hashed is the kind of device, not its number. ConfigError for a device that this program or
/// machine has not.
Machine read_machine(Params& p, bool products = true);

/// What tells results of other bits apart: "" for float32, in which a GPU sums as the CPU does.
std::string arithmetic(const Machine& machine);

}  // namespace fp4lab
