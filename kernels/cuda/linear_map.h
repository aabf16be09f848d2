// kernels/cuda/linear_map.h - kernels/cpu/linear_map.h on a GPU, with the CPU's bits: butterflies in the same
// stages, dense blocks as the same chains of fused multiply-adds from 0, the same single multiplications.
// Matrices are in GPU memory; views may be strided.
#pragma once
#include <variant>
#include <vector>

#include "core/linear_map.h"
#include "kernels/cuda/gpu.h"

namespace fp4lab::cuda {

/// A LinearMap with its vectors in a GPU's memory, for rows of `channels`: made once, applied often.
class DeviceMap {
 public:
  /// Stops as the CPU's functions do when `map` does not fit rows of `channels`.
  DeviceMap(Gpu& gpu, const LinearMap& map, int64_t channels);

  struct Hadamard {
    int64_t k, stride;
    GpuArray<float> signs;   // (channels), or empty
    GpuArray<float> matrix;  // (k, k), when k is no power of two
  };
  struct Diagonal {
    GpuArray<float> scale;  // (channels)
  };
  struct Permutation {
    GpuArray<int32_t> from;  // (channels)
  };
  struct Blocks {
    int64_t k;
    bool shared;                           // one block for all
    GpuArray<float> weights, activations;  // (1 or channels / k, k, k)
    bool orthogonal;                       // activations are empty, and are the weights'
  };
  using Factor = std::variant<Hadamard, Diagonal, Permutation, Blocks>;

  const std::vector<Factor>& factors() const { return factors_; }
  int64_t channels() const { return channels_; }

 private:
  std::vector<Factor> factors_;
  int64_t channels_;
};

/// W (N, K) -> W T, X (T, K) -> X T^-T, and back, in place; K is the map's channels. Permutations and dense
/// blocks take up to 32 MiB beside.
void map_weights(Gpu& gpu, const DeviceMap& map, MatrixView<float> W);
void map_activations(Gpu& gpu, const DeviceMap& map, MatrixView<float> X);
void unmap_weights(Gpu& gpu, const DeviceMap& map, MatrixView<float> W);
void unmap_activations(Gpu& gpu, const DeviceMap& map, MatrixView<float> X);

/// H (K, K) = X^T X, upper triangle -> T^-1 H T^-T, in place, in double: the Hessian of X T^-T. The lower
/// triangle is not read and becomes 0.
void map_hessian(Gpu& gpu, const DeviceMap& map, MatrixView<double> H);

/// The same with a map that is on the host.
void map_weights(Gpu& gpu, const LinearMap& map, MatrixView<float> W);
void map_activations(Gpu& gpu, const LinearMap& map, MatrixView<float> X);
void unmap_weights(Gpu& gpu, const LinearMap& map, MatrixView<float> W);
void unmap_activations(Gpu& gpu, const LinearMap& map, MatrixView<float> X);
void map_hessian(Gpu& gpu, const LinearMap& map, MatrixView<double> H);

}  // namespace fp4lab::cuda
