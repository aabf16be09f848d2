// kernels/cuda/gpu.h - one GPU: its stream, on which everything runs in order, and its memory, which all
// comes from one pool. A process that uses several threads uses a Gpu from one of them at a time.
#pragma once
#include <cuda_runtime.h>

#include <memory>
#include <span>
#include <string>

#include "core/matrix.h"
#include "kernels/cuda/check.h"

namespace fp4lab::cuda {

/// GPU memory ran out: the cell at hand fails, the sweep goes on.
struct OutOfMemory : Error {
  using Error::Error;
};

/// Elements in GPU memory; the memory goes back to the pool with the last copy, after what was launched
/// before.
template <class T>
class GpuArray {
 public:
  GpuArray() = default;
  GpuArray(std::shared_ptr<T> data, int64_t size) : data_(std::move(data)), size_(size) {}
  T* data() const { return data_.get(); }
  int64_t size() const { return size_; }
  const std::shared_ptr<T>& shared() const { return data_; }

 private:
  std::shared_ptr<T> data_;
  int64_t size_ = 0;
};

class Gpu {
 public:
  /// GPU `index` among the visible ones, opened at first use and current for this thread afterwards.
  /// ConfigError when there is none of that number.
  static Gpu& get(int index);
  static int count();  // 0 without a driver
  ~Gpu();

  int index() const { return index_; }
  cudaStream_t stream() const { return stream_; }
  int multiprocessors() const { return properties_.multiProcessorCount; }
  const cudaDeviceProp& properties() const { return properties_; }

  /// Uninitialized. OutOfMemory with what was asked for and what is left.
  template <class T>
  GpuArray<T> allocate(int64_t size) {
    return {std::static_pointer_cast<T>(allocate_bytes(size * int64_t(sizeof(T)))), size};
  }
  template <class T>
  GpuArray<T> upload(std::span<const T> host) {
    GpuArray<T> a = allocate<T>(int64_t(host.size()));
    copy(host.data(), a.data(), int64_t(host.size_bytes()));
    return a;
  }
  /// The same for many bytes of pageable memory, a mapped file say: by way of pinned memory, all threads
  /// copying.
  void send(const void* host, void* to, int64_t bytes);
  /// Waits for the copy.
  template <class T>
  void download(const T* from, std::span<T> host) {
    copy(from, host.data(), int64_t(host.size_bytes()));
    wait();
  }
  /// Between any two memories, in the order of the stream. From or to pageable host memory it is over (or
  /// staged) when this returns.
  void copy(const void* from, void* to, int64_t bytes);
  void copy_rows(const void* from, int64_t from_stride, void* to, int64_t to_stride, int64_t row_bytes,
                 int64_t rows);  // strides in bytes
  void fill(void* at, int byte, int64_t bytes);
  /// Until everything asked for so far is done; Error for what went wrong on the way.
  void wait();

  /// Bytes in use now and at most so far; what may be used at most (FP4LAB_GPU_MEMORY, in MB, or all of it).
  int64_t bytes_in_use() const { return used_; }
  int64_t peak_bytes() const { return peak_; }
  int64_t limit() const { return limit_; }
  int64_t free_bytes() const;

 private:
  explicit Gpu(int index);
  std::shared_ptr<void> allocate_bytes(int64_t bytes);

  int index_;
  cudaStream_t stream_ = nullptr;
  cudaDeviceProp properties_{};
  cudaMemPool_t pool_ = nullptr;
  int64_t used_ = 0, peak_ = 0, limit_ = 0;
  struct Staging;
  std::unique_ptr<Staging> staging_;
};

/// Grid size for `work` items in blocks of `block`, at most `waves` times what the GPU holds at once: kernels
/// go on in strides.
inline unsigned blocks_for(int64_t work, int block, int64_t most = 1 << 20) {
  const int64_t n = (work + block - 1) / block;
  return unsigned(n < 1 ? 1 : n < most ? n : most);
}

}  // namespace fp4lab::cuda
