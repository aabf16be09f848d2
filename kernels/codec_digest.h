// kernels/codec_digest.h - one number that says whether two machines encode and decode alike.
//   digest = sum over float bit patterns b in [begin, end) of mix(b, code(b), value(code(b))) mod 2^64, NaN
//   patterns left out; the sum does not depend on the order, so a CPU loop and a GPU grid must give the same
//   number.
#pragma once
#include <cstdint>

#include "formats/elements.h"
#include "formats/scale_types.h"

namespace fp4lab {

FP4LAB_HD uint64_t codec_mix(uint32_t bits, uint32_t code, uint32_t value) {
  uint64_t h = (uint64_t(bits) << 32 | code) * 0x9e3779b97f4a7c15u ^ value;
  h ^= h >> 29;
  h *= 0xbf58476d1ce4e5b9u;
  return h ^ (h >> 32);
}
FP4LAB_HD bool codec_skips(uint32_t bits) { return (bits & 0x7fffffffu) > 0x7f800000u; }

FP4LAB_HD uint64_t element_digest_at(const Element& e, uint32_t bits) {
  if (codec_skips(bits)) return 0;
  const uint32_t code = encode_element(e, bits_float(bits), 3.0f);
  return codec_mix(bits, code, float_bits(decode_element(e, code, 3.0f)));
}
/// Scales are never negative: the sign bit is dropped.
FP4LAB_HD uint64_t scale_digest_at(const ScaleType& t, uint32_t bits) {
  if (codec_skips(bits)) return 0;
  const uint32_t code = encode_scale(t, bits_float(bits & 0x7fffffffu));
  return codec_mix(bits, code, float_bits(decode_scale(t, code)));
}

/// Patterns [begin, end), end up to 2^32, all threads.
uint64_t element_digest_cpu(const Element& e, uint64_t begin, uint64_t end);
uint64_t scale_digest_cpu(const ScaleType& t, uint64_t begin, uint64_t end);

/// Number of CUDA devices that can be used; 0 without CUDA.
int cuda_devices();
/// The same sums on the current CUDA device. Error when a call fails or the program was built without CUDA.
uint64_t element_digest_cuda(const Element& e, uint64_t begin, uint64_t end);
uint64_t scale_digest_cuda(const ScaleType& t, uint64_t begin, uint64_t end);

}  // namespace fp4lab
