#include "kernels/codec_digest.h"

#include "kernels/cuda/gpu.h"

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
  cuda::Gpu& gpu = cuda::Gpu::get(0);
  const cuda::GpuArray<unsigned long long> sum = gpu.allocate<unsigned long long>(1);
  gpu.fill(sum.data(), 0, sizeof(unsigned long long));
  digest_kernel<<<1024, 256, 0, gpu.stream()>>>(codec, begin, end, sum.data(), at);
  FP4LAB_CUDA_LAUNCHED("codec_digest of ", codec.name, ", patterns ", begin, " to ", end);
  unsigned long long result = 0;
  gpu.download(sum.data(), std::span(&result, 1));
  return result;
}

}  // namespace

int cuda_devices() { return cuda::Gpu::count(); }

uint64_t element_digest_cuda(const Element& e, uint64_t begin, uint64_t end) {
  return digest(e, begin, end, ElementAt{});
}
uint64_t scale_digest_cuda(const ScaleType& t, uint64_t begin, uint64_t end) {
  return digest(t, begin, end, ScaleAt{});
}

}  // namespace fp4lab
