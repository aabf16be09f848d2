// kernels/cuda/quantize.h - formats/quantize.h on a GPU: the same bytes. Each group is coded by 16 threads,
// which are the 16 lanes of the CPU's sums.
#pragma once
#include <vector>

#include "formats/quantize.h"
#include "kernels/cuda/gpu.h"

namespace fp4lab::cuda {

/// A QuantizedMatrix whose bytes are in GPU memory.
struct DeviceQuantized {
  FormatSpec format;
  int64_t rows = 0, cols = 0;
  GpuArray<uint8_t> codes, bytes, zero_points;  // as QuantizedMatrix and Scales have them
  std::vector<float> factors;                   // on the host
};
QuantizedMatrix download(Gpu& gpu, const DeviceQuantized& q);
DeviceQuantized upload(Gpu& gpu, const QuantizedMatrix& q);

/// X in GPU memory, contiguous rows or strided. DataError and ConfigError as formats/quantize.h.
DeviceQuantized quantize(Gpu& gpu, const FormatSpec& format, MatrixView<const float> X,
                         const WeightScales& search = {});
/// Scales alone: codes are empty.
DeviceQuantized choose_scales(Gpu& gpu, const FormatSpec& format, MatrixView<const float> X,
                              const WeightScales& search = {});
/// Codes of X under given scales, whose own codes are not looked at.
DeviceQuantized round(Gpu& gpu, const FormatSpec& format, MatrixView<const float> X,
                      const DeviceQuantized& scales);
/// out (rows, cols), in GPU memory.
void dequantize(Gpu& gpu, const DeviceQuantized& q, MatrixView<float> out);
/// The FP32 scale of every group, (rows, groups), from its stored bytes.
void effective_scales(Gpu& gpu, const DeviceQuantized& q, MatrixView<float> out);

/// Codes of up to 4 bits, one per byte, (rows, cols) -> two per byte.
void pack_codes(Gpu& gpu, const uint8_t* codes, int64_t rows, int64_t cols, uint8_t* bytes);

/// out = dequantize(quantize(X)), each `rows_per_tensor` rows a tensor of their own; X is finite, out may be
/// X. Waits for nothing but under the rule `fitted`.
void fake_quantize(Gpu& gpu, const FormatSpec& format, MatrixView<const float> X, int64_t rows_per_tensor,
                   MatrixView<float> out);

}  // namespace fp4lab::cuda
