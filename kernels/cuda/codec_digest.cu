#include "kernels/codec_digest.h"

#include "kernels/cuda/check.h"

namespace fp4lab {

namespace {

// Element and ScaleType hold a name for people (std::string_view); the kernel reads only their numbers.
template <class Codec, class At>
__global__ void digest_kernel(Codec codec, uint64_t begin, uint64_t end, unsigned long long* sum, At at) {
  unsigned long long mine = 0;
  const uint64_t step = uint64_t(gridDim.x) * blockDim.x;
  for (uint64_t b = begin + uint64_t(blockIdx.x) * blockDim.x + threadIdx.x; b < end; b += step)
    mine += at(codec, uint32_t(b));
  atomicAdd(sum, mine);
}

struct ElementAt {
  __device__ uint64_t operator()(const Element& e, uint32_t b) const { return element_digest_at(e, b); }
};
struct ScaleAt {
  __device__ uint64_t operator()(const ScaleType& t, uint32_t b) const { return scale_digest_at(t, b); }
};

template <class Codec, class At>
uint64_t digest(const Codec& codec, uint64_t begin, uint64_t end, At at) {
  const std::string what = str("codec_digest of ", codec.name, ", patterns ", begin, " to ", end);
  unsigned long long* sum = nullptr;
  check_cuda(cudaMalloc(&sum, sizeof *sum), what);
  check_cuda(cudaMemset(sum, 0, sizeof *sum), what);
  digest_kernel<<<1024, 256>>>(codec, begin, end, sum, at);
  check_launch(what);
  unsigned long long result = 0;
  check_cuda(cudaMemcpy(&result, sum, sizeof result, cudaMemcpyDeviceToHost), what);
  check_cuda(cudaFree(sum), what);
  return result;
}

}  // namespace

int cuda_devices() {
  int count = 0;
  if (cudaGetDeviceCount(&count) != cudaSuccess) {
    cudaGetLastError();  // no driver is an answer here, not an error for the next call
    return 0;
  }
  return count;
}

uint64_t element_digest_cuda(const Element& e, uint64_t begin, uint64_t end) {
  return digest(e, begin, end, ElementAt{});
}
uint64_t scale_digest_cuda(const ScaleType& t, uint64_t begin, uint64_t end) {
  return digest(t, begin, end, ScaleAt{});
}

}  // namespace fp4lab
