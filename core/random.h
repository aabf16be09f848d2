// core/random.h - counter-based random numbers: Philox4x32-10 (Salmon et al., SC 2011).
//   A stream is (seed, what is drawn, index); element i of a stream never depends on how many others were
//   drawn, in which order, or on which thread.
#pragma once
#include <array>
#include <cstdint>
#include <string_view>
#include <vector>

#include "core/portable.h"

namespace fp4lab {

/// One Philox4x32-10 block: 128 random bits from a 128-bit counter and a 64-bit key.
FP4LAB_HD constexpr std::array<uint32_t, 4> philox4x32(std::array<uint32_t, 4> counter,
                                                       std::array<uint32_t, 2> key) {
  for (int round = 0; round < 10; ++round) {
    const uint64_t a = uint64_t(0xD2511F53u) * counter[0], b = uint64_t(0xCD9E8D57u) * counter[2];
    counter = {uint32_t(b >> 32) ^ counter[1] ^ key[0], uint32_t(b), uint32_t(a >> 32) ^ counter[3] ^ key[1],
               uint32_t(a)};
    key[0] += 0x9E3779B9u;
    key[1] += 0xBB67AE85u;
  }
  return counter;
}

/// The stream of everything drawn for `what` ("windows", "hadamard_signs/layers.3.q") under `seed`. FNV-1a of
/// the text and the seed make the key.
class Stream {
 public:
  Stream(uint64_t seed, std::string_view what, uint64_t index = 0);
  /// 128 bits belonging to element i.
  std::array<uint32_t, 4> block(uint64_t i) const {
    return philox4x32({uint32_t(i), uint32_t(i >> 32), uint32_t(index_), uint32_t(index_ >> 32)}, key_);
  }
  /// Uniform in [0, n) for element i, its bias below n 2^-64. n >= 1.
  uint64_t below(uint64_t i, uint64_t n) const;

 private:
  std::array<uint32_t, 2> key_;
  uint64_t index_;
};

/// Uniform in (0, 1): the centre of one of 2^53 equal cells, never 0 or 1.
FP4LAB_HD constexpr double uniform_open(uint32_t hi, uint32_t lo) {
  return (double(((uint64_t(hi) << 32) | lo) >> 11) + 0.5) * 0x1p-53;
}

/// Two independent N(0,1) numbers from one block (Box and Muller).
std::array<double, 2> normal_pair(const std::array<uint32_t, 4>& block);

/// `count` different numbers of 0..population-1 in ascending order, every set equally likely; all of them
/// when count >= population.
std::vector<int64_t> sample_without_replacement(const Stream& stream, int64_t population, int64_t count);

}  // namespace fp4lab
