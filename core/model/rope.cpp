// Rotary embedding, in the arithmetic of transformers: its tensors are float32 and its order of operations is
// kept, so that frequencies and angles are the same floats (torch's pow may differ by an ulp).
#include "core/model/rope.h"

#include <cmath>

namespace fp4lab {

namespace {
/// Llama 3.1 (transformers' _compute_llama3_parameters): wavelengths that the original context held less than
/// `low_freq_factor` times are stretched, those that it held more than `high_freq_factor` times are kept.
float llama3_frequency(const Rope& rope, float inverse) {
  const float original = float(rope.original_max_positions), factor = float(rope.factor);
  // torch divides a number by a tensor as reciprocal times number.
  const float wavelength = 1 / inverse * 6.283185307179586476925f;
  if (wavelength > float(double(rope.original_max_positions) / rope.low_freq_factor)) return inverse / factor;
  if (wavelength < float(double(rope.original_max_positions) / rope.high_freq_factor)) return inverse;
  const float smooth = (1 / wavelength * original - float(rope.low_freq_factor)) /
                       float(rope.high_freq_factor - rope.low_freq_factor);
  return (1 - smooth) * inverse / factor + smooth * inverse;
}
}  // namespace

std::vector<float> inverse_frequencies(const ModelConfig& config) {
  FP4LAB_CHECK(config.head_dim >= 2 && config.head_dim % 2 == 0, config.head_dim);
  std::vector<float> frequencies;
  for (int64_t i = 0; i < config.head_dim / 2; ++i) {
    const float exponent = float(2 * i) / float(config.head_dim);
    const float inverse = 1 / float(std::pow(double(float(config.rope.theta)), double(exponent)));
    frequencies.push_back(config.rope.type == Rope::llama3 ? llama3_frequency(config.rope, inverse)
                                                           : inverse);
  }
  return frequencies;
}

Matrix rope_table(std::span<const float> frequencies, int64_t positions) {
  FP4LAB_CHECK(positions >= 0, positions);
  const auto half = int64_t(frequencies.size());
  Matrix table(positions, 2 * half);
  for (int64_t t = 0; t < positions; ++t)
    for (int64_t i = 0; i < half; ++i) {
      const float angle = float(t) * frequencies[size_t(i)];
      table(t, i) = float(std::cos(double(angle)));
      table(t, half + i) = float(std::sin(double(angle)));
    }
  return table;
}

Matrix rope_table(const ModelConfig& config, int64_t positions) {
  return rope_table(inverse_frequencies(config), positions);
}

}  // namespace fp4lab
