#include "kernels/cuda/gpu.h"

#include <algorithm>
#include <cstdlib>
#include <cstring>
#include <map>
#include <mutex>

namespace fp4lab::cuda {

namespace {
std::string megabytes(int64_t bytes) { return str(int64_t(double(bytes) / 1e6), " MB"); }
}  // namespace

int Gpu::count() {
  int n = 0;
  if (cudaGetDeviceCount(&n) == cudaSuccess) return n;
  cudaGetLastError();  // no driver is an answer here, not an error for the next call
  return 0;
}

Gpu& Gpu::get(int index) {
  static std::mutex mutex;
  // Never destroyed: at exit the driver may be gone before us.
  static auto& open = *new std::map<int, std::unique_ptr<Gpu>>;
  const std::lock_guard lock(mutex);
  std::unique_ptr<Gpu>& gpu = open[index];
  if (!gpu) {
    const int n = count();
    if (index < 0 || index >= n)
      throw ConfigError(n == 0 ? str("device cuda:", index, ": no CUDA device is visible")
                               : str("device cuda:", index, ": visible are cuda:0 to cuda:", n - 1));
    gpu.reset(new Gpu(index));
  }
  FP4LAB_CUDA_CALL(cudaSetDevice(index), "choosing cuda:", index);
  return *gpu;
}

Gpu::Gpu(int index) : index_(index) {
  FP4LAB_CUDA_CALL(cudaSetDevice(index), "opening cuda:", index);
  FP4LAB_CUDA_CALL(cudaGetDeviceProperties(&properties_, index), "properties of cuda:", index);
  FP4LAB_CUDA_CALL(cudaStreamCreateWithFlags(&stream_, cudaStreamNonBlocking), "stream of cuda:", index);
  cudaMemPoolProps props{};
  props.allocType = cudaMemAllocationTypePinned;
  props.location = {cudaMemLocationTypeDevice, index};
  FP4LAB_CUDA_CALL(cudaMemPoolCreate(&pool_, &props), "memory pool of cuda:", index);
  uint64_t keep =
      UINT64_MAX;  // what is freed stays in the pool: returning it to the driver costs milliseconds
  FP4LAB_CUDA_CALL(cudaMemPoolSetAttribute(pool_, cudaMemPoolAttrReleaseThreshold, &keep), "memory pool");
  limit_ = int64_t(properties_.totalGlobalMem);
  if (const char* megabytes_allowed = std::getenv("FP4LAB_GPU_MEMORY")) {
    char* end = nullptr;
    const long long mb = std::strtoll(megabytes_allowed, &end, 10);
    if (*end != '\0' || mb <= 0)
      throw ConfigError(
          str("FP4LAB_GPU_MEMORY is \"", megabytes_allowed, "\"; expected megabytes, as 20000"));
    limit_ = std::min<int64_t>(limit_, mb * 1000000);
  }
}

std::shared_ptr<void> Gpu::allocate_bytes(int64_t bytes) {
  if (bytes == 0) return {};
  FP4LAB_CHECK(bytes > 0, bytes);
  void* p = nullptr;
  cudaError_t status = cudaErrorMemoryAllocation;
  if (used_ + bytes <= limit_) {
    status = cudaMallocFromPoolAsync(&p, size_t(bytes), pool_, stream_);
    if (status ==
        cudaErrorMemoryAllocation) {  // freed memory may lie in the wrong pieces: give it back, again
      cudaGetLastError();
      wait();
      cudaMemPoolTrimTo(pool_, 0);
      status = cudaMallocFromPoolAsync(&p, size_t(bytes), pool_, stream_);
    }
  }
  if (status == cudaErrorMemoryAllocation) {
    cudaGetLastError();
    throw OutOfMemory(str("out of memory on cuda:", index_, ": ", megabytes(bytes), " asked for, ",
                          megabytes(used_), " in use, ", megabytes(free_bytes()), " free"));
  }
  FP4LAB_CUDA_CALL(status, "allocating ", megabytes(bytes), " on cuda:", index_);
  used_ += bytes;
  peak_ = std::max(peak_, used_);
  return {p, [this, bytes](void* q) {
            cudaFreeAsync(
                q, stream_);  // it cannot be refused but for an earlier fault, which its own call reports
            used_ -= bytes;
          }};
}

int64_t Gpu::free_bytes() const {
  size_t free = 0, total = 0;
  FP4LAB_CUDA_CALL(cudaMemGetInfo(&free, &total), "memory of cuda:", index_);
  uint64_t reserved = 0;
  FP4LAB_CUDA_CALL(cudaMemPoolGetAttribute(pool_, cudaMemPoolAttrReservedMemCurrent, &reserved),
                   "memory pool");
  // What the pool holds and nobody uses is free too.
  return std::min(limit_ - used_, int64_t(free) + int64_t(reserved) - used_);
}

/// Two pieces of pinned memory: one is filled while the other is on its way.
struct Gpu::Staging {
  static constexpr int64_t kBytes = 32 << 20;
  void* piece[2] = {};
  cudaEvent_t sent[2] = {};
  int next = 0;

  Staging() {
    for (int i = 0; i < 2; ++i) {
      FP4LAB_CUDA_CALL(cudaMallocHost(&piece[i], kBytes), "pinned memory");
      FP4LAB_CUDA_CALL(cudaEventCreateWithFlags(&sent[i], cudaEventDisableTiming), "an event");
    }
  }
};

Gpu::~Gpu() = default;

void Gpu::send(const void* host, void* to, int64_t bytes) {
  if (bytes < Staging::kBytes / 8) return copy(host, to, bytes);
  if (!staging_) staging_ = std::make_unique<Staging>();
  for (int64_t begin = 0; begin < bytes; begin += Staging::kBytes) {
    const int64_t count = std::min(Staging::kBytes, bytes - begin), part = (count + 63) / 64;
    const int i = staging_->next;
    staging_->next ^= 1;
    FP4LAB_CUDA_CALL(cudaEventSynchronize(staging_->sent[i]), "waiting for pinned memory");
    const auto* from = static_cast<const char*>(host) + begin;
    auto* piece = static_cast<char*>(staging_->piece[i]);
#pragma omp parallel for schedule(dynamic)
    for (int64_t at = 0; at < count; at += part)
      std::memcpy(piece + at, from + at, size_t(std::min(part, count - at)));
    copy(piece, static_cast<char*>(to) + begin, count);
    FP4LAB_CUDA_CALL(cudaEventRecord(staging_->sent[i], stream_), "an event");
  }
}

void Gpu::copy(const void* from, void* to, int64_t bytes) {
  if (bytes == 0) return;
  FP4LAB_CUDA_CALL(cudaMemcpyAsync(to, from, size_t(bytes), cudaMemcpyDefault, stream_), "copy of ",
                   megabytes(bytes));
}

void Gpu::copy_rows(const void* from, int64_t from_stride, void* to, int64_t to_stride, int64_t row_bytes,
                    int64_t rows) {
  if (rows == 0 || row_bytes == 0) return;
  if (rows == 1 || (from_stride == row_bytes && to_stride == row_bytes))
    return copy(from, to, rows * row_bytes);
  FP4LAB_CUDA_CALL(cudaMemcpy2DAsync(to, size_t(to_stride), from, size_t(from_stride), size_t(row_bytes),
                                     size_t(rows), cudaMemcpyDefault, stream_),
                   "copy of ", rows, " rows of ", row_bytes, " bytes");
}

void Gpu::fill(void* at, int byte, int64_t bytes) {
  if (bytes == 0) return;
  FP4LAB_CUDA_CALL(cudaMemsetAsync(at, byte, size_t(bytes), stream_), "filling ", megabytes(bytes));
}

void Gpu::wait() { FP4LAB_CUDA_CALL(cudaStreamSynchronize(stream_), "waiting for cuda:", index_); }

}  // namespace fp4lab::cuda
