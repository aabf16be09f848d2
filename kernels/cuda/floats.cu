#include "kernels/cuda/floats.h"

namespace fp4lab::cuda {

namespace {

template <class T>
__global__ void widen_kernel(const T* from, MatrixView<float> to) {
  for (int64_t at = int64_t(blockIdx.x) * blockDim.x + threadIdx.x; at < to.rows * to.cols;
       at += int64_t(gridDim.x) * blockDim.x)
    to(at / to.cols, at % to.cols) = to_float(from[at]);
}

template <class T>
void widen(Gpu& gpu, std::span<const std::byte> host, MatrixView<float> to) {
  FP4LAB_CHECK(int64_t(host.size()) == to.size() * int64_t(sizeof(T)), host.size(), " bytes for ", to.rows,
               " x ", to.cols);
  if (to.size() == 0) return;
  const GpuArray<std::byte> bytes = gpu.allocate<std::byte>(int64_t(host.size()));
  gpu.send(host.data(), bytes.data(), bytes.size());
  widen_kernel<<<blocks_for(to.size(), 256, 16 * gpu.multiprocessors()), 256, 0, gpu.stream()>>>(
      reinterpret_cast<const T*>(bytes.data()), to);
  FP4LAB_CUDA_LAUNCHED("widening ", to.rows, " x ", to.cols);
}

}  // namespace

void upload_floats(Gpu& gpu, DType dtype, std::span<const std::byte> host, MatrixView<float> to) {
  switch (dtype) {
    case DType::F32: return widen<float>(gpu, host, to);
    case DType::BF16: return widen<bf16>(gpu, host, to);
    case DType::F16: return widen<f16>(gpu, host, to);
    default: FP4LAB_CHECK(false, "weights of dtype ", name(dtype));
  }
}

}  // namespace fp4lab::cuda
