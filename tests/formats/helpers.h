// tests/formats/helpers.h - elements and scale types once more, from the specification's tables and closed
// formulas in double, and matrices to try them on. Nothing here calls formats/: it is what formats/ is
// compared with.
#pragma once
#include <algorithm>
#include <cmath>
#include <cstring>
#include <string>
#include <string_view>
#include <vector>

#include "core/matrix.h"
#include "core/random.h"

namespace fp4lab::spec {

/// Values of a small unsigned float in code order: `man_bits` mantissa bits, exponent bias, subnormals.
inline std::vector<double> minifloat(int man_bits, int bias, int count) {
  std::vector<double> out;
  for (int code = 0; code < count; ++code) {
    const int e = code >> man_bits, m = code & ((1 << man_bits) - 1);
    out.push_back(e == 0 ? std::ldexp(m, 1 - bias - man_bits)
                         : std::ldexp((1 << man_bits) + m, e - bias - man_bits));
  }
  return out;
}

/// Index of the nearest of ascending values; ties to the even index; beyond the ends saturates.
inline uint32_t nearest_even(const std::vector<double>& values, double v) {
  const size_t above = size_t(std::upper_bound(values.begin(), values.end(), v) - values.begin());
  if (above == 0) return 0;
  if (above == values.size()) return uint32_t(values.size() - 1);
  const double middle = (values[above - 1] + values[above]) / 2;  // exact: few bits each
  if (v == middle) return uint32_t(above % 2 == 0 ? above : above - 1);
  return uint32_t(v > middle ? above : above - 1);
}

/// An element as SPEC section 1 states it.
struct Grid {
  enum Kind { minifloat, sym, full, asym, levels } kind{};
  int bits = 0, man_bits = 0, emax = 0;
  double qmax = 0;
  std::vector<double> values;  // minifloat: magnitudes; levels: all; integers: none
  double low = 0, high = 0;    // integers

  uint32_t zero_code() const { return kind == levels ? 7 : 0; }
  double decode(uint32_t code, int zero = 0) const {
    const uint32_t top = 1u << (bits - 1);
    switch (kind) {
      case minifloat: return (code & top ? -1.0 : 1.0) * values.at(code & (top - 1));
      case levels: return values.at(code);
      case asym: return double(code) - zero;
      default: return code & top ? double(code) - 2.0 * top : double(code);
    }
  }
  uint32_t encode(float v, int zero = 0) const {
    const uint32_t top = 1u << (bits - 1);
    switch (kind) {
      case minifloat: return nearest_even(values, std::fabs(double(v))) | (std::signbit(v) ? top : 0u);
      case levels: return nearest_even(values, double(v));
      case asym: return uint32_t(std::clamp(std::nearbyint(double(v)) + zero, low, high));
      default: return uint32_t(int32_t(std::nearbyint(std::clamp(double(v), low, high)))) & (2 * top - 1);
    }
  }
};

inline Grid grid(std::string_view name) {
  if (name == "e2m1") return {Grid::minifloat, 4, 1, 2, 6, {0, .5, 1, 1.5, 2, 3, 4, 6}};
  if (name == "e2m3") return {Grid::minifloat, 6, 3, 2, 7.5, minifloat(3, 1, 32)};
  if (name == "e3m2") return {Grid::minifloat, 6, 2, 4, 28, minifloat(2, 3, 32)};
  if (name == "e4m3") return {Grid::minifloat, 8, 3, 8, 448, minifloat(3, 7, 127)};
  if (name == "e5m2") return {Grid::minifloat, 8, 2, 15, 57344, minifloat(2, 15, 124)};
  if (name == "nf4") {
    std::vector<double> v;
    for (float x : {-1.0f, -0.6961928009986877f, -0.5250730514526367f, -0.39491748809814453f,
                    -0.28444138169288635f, -0.18477343022823334f, -0.09105003625154495f, 0.0f,
                    0.07958029955625534f, 0.16093020141124725f, 0.24611230194568634f, 0.33791524171829224f,
                    0.44070982933044434f, 0.5626170039176941f, 0.7229568362236023f, 1.0f})
      v.push_back(double(x));
    return {Grid::levels, 4, -1, 0, 1, v};
  }
  const int n = name[3] - '0';  // int4, int4-full, int4-asym
  const double top = std::ldexp(1.0, n - 1);
  if (name.ends_with("-full")) return {Grid::full, n, n - 2, n - 2, top - 0.5, {}, -top, top - 1};
  if (name.ends_with("-asym")) return {Grid::asym, n, n - 2, n - 1, 2 * top - 1, {}, 0, 2 * top - 1};
  return {Grid::sym, n, n - 2, n - 2, top - 1, {}, 1 - top, top - 1};
}

/// A scale type; the 8-bit ones but ue8m0 as the list of their values.
struct Stored {
  int bytes = 0;
  double max = 0;
  std::vector<double> values;
  int man_bits = 0;      // of the list, or of fp16 (10), bf16 (7), fp32 (23)
  int min_exponent = 0;  // of a normal fp16, bf16, fp32
  int exponent_bits = 0;

  double decode(uint32_t code) const {
    if (!values.empty()) return values.at(code);
    const int e = int(code >> man_bits);
    const double m = double(code & ((1u << man_bits) - 1));
    return std::ldexp(e ? m + std::ldexp(1, man_bits) : m, std::max(e, 1) - 1 + min_exponent - man_bits);
  }
  uint32_t encode(double v) const {
    if (!values.empty()) return nearest_even(values, v);
    if (v >= max) v = max;
    if (v == 0) return 0;
    const int e = std::max(std::ilogb(v), min_exponent);
    const double steps = std::nearbyint(std::ldexp(v, man_bits - e));  // of one ulp
    return uint32_t(steps +
                    std::ldexp(e - min_exponent, man_bits));  // the hidden bit adds one to the exponent
  }
};

inline Stored stored(std::string_view name) {
  auto list = [](std::vector<double> v, int man_bits) { return Stored{1, v.back(), v, man_bits}; };
  if (name == "e4m3") return list(minifloat(3, 7, 127), 3);    // 127 is NaN
  if (name == "e5m2") return list(minifloat(2, 15, 124), 2);   // 124 is Inf, above it NaN
  if (name == "ue5m3") return list(minifloat(3, 15, 255), 3);  // 255 is NaN
  if (name == "e1m6") return list(minifloat(6, 0, 128), 6);    // bias 2^(1-1) - 1
  if (name == "e2m5") return list(minifloat(5, 1, 128), 5);
  if (name == "e3m4") return list(minifloat(4, 3, 128), 4);
  if (name == "e6m1") return list(minifloat(1, 31, 128), 1);
  if (name == "e7m0") return list(minifloat(0, 63, 128), 0);
  if (name == "fp16") return {2, 65504, {}, 10, -14};
  if (name == "bf16") return {2, std::ldexp(255, 120), {}, 7, -126};
  if (name == "fp32") return {4, std::ldexp(16777215, 104), {}, 23, -126};
  std::vector<double> integers;
  for (int i = 0; i < 128; ++i) integers.push_back(i);
  return list(integers, 0);
}

inline const std::vector<std::string> kKinds = {"normal", "heavy", "tiny", "huge", "mixed"};

/// Random rows: "normal"; "heavy" (cubed); "tiny" and "huge" (near the ends of float); "mixed" (a power of
/// two for every 8 elements).
inline Matrix sample(std::string_view kind, int64_t rows, int64_t cols, uint64_t seed) {
  const Stream stream(seed, kind);
  Matrix X(rows, cols);
  for (int64_t i = 0; i < X.size(); i += 2)
    for (int64_t j = i; j < std::min(i + 2, X.size()); ++j) {
      double z = normal_pair(stream.block(uint64_t(i)))[size_t(j - i)];
      if (kind == "heavy") z = z * z * z;
      if (kind == "tiny") z *= 1e-37;
      if (kind == "huge") z *= 3e37;
      if (kind == "mixed")
        z = std::ldexp(z, int(stream.block(uint64_t(1'000'000'000 + j / 8))[0] % 121) - 60);
      X.data()[j] = float(z);
    }
  return X;
}

/// Rows that break things: zeros, -0, one non-zero, denormals, maxima at and beside the rules' thresholds,
/// the largest floats, ties on every grid.
inline Matrix edges(int64_t cols) {
  const float max = 0x1.fffffep127f, ulp = 0x1p-149f;
  const float tops[] = {1,         1.25f,      1.5f,       1.75f, 1.875f, 1.96875f,
                        1.984375f, 1.0606601f, 1.2374369f, 1.8f,  1.8125f};
  Matrix X = Matrix::zeros(11, cols);
  for (int64_t c = 0; c < cols; ++c) {
    const float sign = c % 3 ? 1.0f : -1.0f;
    X(1, c) = -0.0f;
    X(2, c) = c == cols / 2 ? -3.25f : c % 2 ? 0.0f : -0.0f;
    X(3, c) = sign * float(c % 29) * ulp;
    X(4, c) = c == cols - 1 ? ulp : 0.0f;
    X(5, c) = sign * max;
    X(6, c) = c % 5 ? 0.0f : sign * max / float(1 + c % 7);
    const float top = std::ldexp(tops[size_t(c / 2) % 11], int(c % 37) - 18);
    X(7, c) = sign * (c % 4 == 0 ? top : c % 4 == 1 ? std::nextafter(top, 0.0f) : std::nextafter(top, max));
    X(8, c) = sign * float(c % 57) / 8;  // ties of e2m1 and the integers when the scale is a power of two
    X(9, c) = sign * float(c % 449) * 0.25f;
    X(10, c) = c == 0 ? 0x1p-126f : sign * float(c % 3) * ulp;
  }
  return X;
}

/// Where two runs first differ bit by bit, as text; "" if nowhere.
template <class T>
std::string difference(const T* a, const T* b, int64_t n) {
  for (int64_t i = 0; i < n; ++i)
    if (std::memcmp(a + i, b + i, sizeof(T)) != 0) return str("at ", i, ": ", +a[i], " against ", +b[i]);
  return "";
}
template <class T, class A, class B>  // whatever their allocators
std::string difference(const std::vector<T, A>& a, const std::vector<T, B>& b) {
  if (a.size() != b.size()) return str("sizes ", a.size(), " and ", b.size());
  return difference(a.data(), b.data(), int64_t(a.size()));
}
inline std::string difference(const Matrix& a, const Matrix& b) {
  if (a.rows() != b.rows() || a.cols() != b.cols()) return "shapes differ";
  return difference(a.data(), b.data(), a.size());
}

}  // namespace fp4lab::spec
