// methods/bench/gptq_bench.h - GPTQ beside one matrix product of its nominal cost.
#pragma once
#include <span>

#include "kernels/bench/harness.h"

namespace fp4lab {

/// Benchmarks of methods, as benchmarks() lists those of kernels.
std::span<const Benchmark> method_benchmarks();

}  // namespace fp4lab
