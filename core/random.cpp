#include "core/random.h"

#include <algorithm>
#include <cmath>
#include <numeric>

#include "core/errors.h"

namespace fp4lab {

Stream::Stream(uint64_t seed, std::string_view what, uint64_t index) : index_(index) {
  uint64_t h = 0xcbf29ce484222325u;  // FNV-1a, 64 bits
  auto mix = [&h](uint8_t byte) { h = (h ^ byte) * 0x100000001b3u; };
  for (int i = 0; i < 8; ++i) mix(uint8_t(seed >> (8 * i)));
  for (char c : what) mix(uint8_t(c));
  key_ = {uint32_t(h), uint32_t(h >> 32)};
}

uint64_t Stream::below(uint64_t i, uint64_t n) const {
  FP4LAB_CHECK(n >= 1);
  // floor(f * n) for a fraction f of 64 bits: the bias is below n * 2^-64.
  const auto b = block(i);
  const uint64_t hi = b[0], lo = b[1], nh = n >> 32, nl = n & 0xffffffffu;
  const uint64_t middle = hi * nl + ((lo * nl) >> 32), low = lo * nh + (middle & 0xffffffffu);
  return hi * nh + (middle >> 32) + (low >> 32);
}

std::array<double, 2> normal_pair(const std::array<uint32_t, 4>& block) {
  const double radius = std::sqrt(-2 * std::log(uniform_open(block[0], block[1])));
  const double angle = 6.283185307179586476925 * uniform_open(block[2], block[3]);
  return {radius * std::cos(angle), radius * std::sin(angle)};
}

std::vector<int64_t> sample_without_replacement(const Stream& stream, int64_t population, int64_t count) {
  std::vector<int64_t> all(static_cast<size_t>(population));
  std::iota(all.begin(), all.end(), int64_t{0});
  if (count >= population) return all;
  // The first `count` steps of a Fisher-Yates shuffle.
  for (int64_t i = 0; i < count; ++i)
    std::swap(all[size_t(i)], all[size_t(i) + size_t(stream.below(uint64_t(i), uint64_t(population - i)))]);
  all.resize(size_t(count));
  std::sort(all.begin(), all.end());
  return all;
}

}  // namespace fp4lab
