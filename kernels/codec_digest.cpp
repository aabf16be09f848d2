#include "kernels/codec_digest.h"

#include "core/errors.h"

namespace fp4lab {

uint64_t element_digest_cpu(const Element& e, uint64_t begin, uint64_t end) {
  uint64_t sum = 0;
#pragma omp parallel for reduction(+ : sum) schedule(static)
  for (uint64_t b = begin; b < end; ++b) sum += element_digest_at(e, uint32_t(b));
  return sum;
}

uint64_t scale_digest_cpu(const ScaleType& t, uint64_t begin, uint64_t end) {
  uint64_t sum = 0;
#pragma omp parallel for reduction(+ : sum) schedule(static)
  for (uint64_t b = begin; b < end; ++b) sum += scale_digest_at(t, uint32_t(b));
  return sum;
}

#if !defined(FP4LAB_WITH_CUDA)
int cuda_devices() { return 0; }
uint64_t element_digest_cuda(const Element&, uint64_t, uint64_t) { throw Error("built without CUDA"); }
uint64_t scale_digest_cuda(const ScaleType&, uint64_t, uint64_t) { throw Error("built without CUDA"); }
#endif

}  // namespace fp4lab
