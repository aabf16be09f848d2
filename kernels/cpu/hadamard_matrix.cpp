// Hadamard matrices of orders that are no power of two (Paley 1933), and their doubling (Sylvester 1867).
#include <bit>
#include <optional>
#include <utility>

#include "kernels/cpu/linear_map.h"

namespace fp4lab {

namespace {

/// q = prime^degree, prime odd.
struct PrimePower {
  int64_t q, prime;
  int degree;
};
std::optional<PrimePower> odd_prime_power(int64_t q) {
  if (q < 3 || q % 2 == 0) return std::nullopt;
  int64_t p = 3;
  while (p * p <= q && q % p != 0) p += 2;
  if (q % p != 0) p = q;
  int degree = 0;
  int64_t rest = q;
  for (; rest % p == 0; rest /= p) ++degree;
  if (rest != 1) return std::nullopt;
  return PrimePower{q, p, degree};
}

/// The quadratic character of GF(q): +1 for squares, -1 for the rest, 0 for 0. Element sum_i d_i x^i is the
/// number sum_i d_i p^i. The field is F_p[x] with x^e = sum_i c_i x^i, for the first c under which the powers
/// of x run through every element but 0: the even ones are the squares. (For e = 1, x is a primitive root.)
std::vector<int8_t> quadratic_character(const PrimePower& f) {
  const int64_t top = f.q / f.prime;
  for (int64_t c = 1; c < f.q; ++c) {
    std::vector<int8_t> chi(size_t(f.q), 0);
    int64_t element = 1, found = 0;
    while (element != 0 && chi[size_t(element)] == 0) {
      chi[size_t(element)] = found++ % 2 == 0 ? 1 : -1;
      // Times x: the digits move up, the one that leaves comes back as that many times c.
      const int64_t leaving = element / top;
      int64_t moved = element % top * f.prime, sum = 0;
      for (int64_t place = 1, rest = c; place < f.q; place *= f.prime, rest /= f.prime, moved /= f.prime)
        sum += (moved % f.prime + leaving * (rest % f.prime)) % f.prime * place;
      element = sum;
    }
    if (found == f.q - 1) return chi;
  }
  FP4LAB_CHECK(false, "GF(", f.q, ") has a primitive element");
  return {};
}

/// a - b, digit by digit.
int64_t difference(int64_t a, int64_t b, const PrimePower& f) {
  int64_t sum = 0;
  for (int64_t place = 1; place < f.q; place *= f.prime, a /= f.prime, b /= f.prime)
    sum += (a % f.prime - b % f.prime + f.prime) % f.prime * place;
  return sum;
}

/// (q + 1, q + 1): 0 and a border of ones (the first column -1 when q = 3 mod 4) around chi(i - j).
std::vector<int8_t> conference_matrix(const PrimePower& f) {
  const std::vector<int8_t> chi = quadratic_character(f);
  const int64_t n = f.q + 1;
  std::vector<int8_t> C(size_t(n * n), 1);
  for (int64_t i = 0; i < n; ++i)
    for (int64_t j = 0; j < n; ++j)
      if (i == 0)
        C[size_t(j)] = j > 0;
      else if (j == 0)
        C[size_t(i * n)] = f.q % 4 == 3 ? -1 : 1;
      else
        C[size_t(i * n + j)] = chi[size_t(difference(i - 1, j - 1, f))];
  return C;
}

/// H = C + I, q = 3 mod 4.
std::vector<int8_t> paley_1(const PrimePower& f) {
  std::vector<int8_t> H = conference_matrix(f);
  for (int64_t i = 0; i <= f.q; ++i) H[size_t(i * (f.q + 1) + i)] = 1;
  return H;
}

/// Each 0 of C becomes (1 -1; -1 -1), each +-1 becomes +-(1 1; 1 -1), q = 1 mod 4.
std::vector<int8_t> paley_2(const PrimePower& f) {
  const std::vector<int8_t> C = conference_matrix(f);
  const int64_t n = f.q + 1;
  std::vector<int8_t> H(C.size() * 4);
  for (int64_t i = 0; i < n; ++i)
    for (int64_t j = 0; j < n; ++j) {
      const int8_t c = C[size_t(i * n + j)];
      int8_t* h = &H[size_t(4 * i * n + 2 * j)];
      h[0] = c ? c : 1, h[1] = c ? c : -1;
      h[2 * n] = c ? c : -1, h[2 * n + 1] = c ? int8_t(-c) : -1;
    }
  return H;
}

/// What the matrix of order k is built from: Sylvester's doubling of a matrix of this order, by this field
/// (none: of order 1).
struct Construction {
  int64_t order;
  std::optional<PrimePower> field;
};
/// The one that doubles most.
std::optional<Construction> construction(int64_t k) {
  if (k < 1) return std::nullopt;
  if (std::has_single_bit(uint64_t(k))) return Construction{1, {}};
  for (int64_t order = k / (k & -k) * 4; order <= k; order *= 2) {
    if (const auto f = odd_prime_power(order - 1); f && f->q % 4 == 3) return Construction{order, f};
    if (const auto f = odd_prime_power(order / 2 - 1); f && f->q % 4 == 1) return Construction{order, f};
  }
  return std::nullopt;
}

}  // namespace

bool has_hadamard_matrix(int64_t k) { return construction(k).has_value(); }

std::vector<int8_t> hadamard_matrix(int64_t k) {
  const std::optional<Construction> found = construction(k);
  if (!found) return {};
  int64_t n = found->order;
  std::vector<int8_t> H = {1};
  if (found->field) H = found->field->q % 4 == 3 ? paley_1(*found->field) : paley_2(*found->field);
  for (; n < k; n *= 2) {  // (H H; H -H)
    std::vector<int8_t> twice(size_t(4 * n * n));
    for (int64_t i = 0; i < 2 * n; ++i)
      for (int64_t j = 0; j < 2 * n; ++j)
        twice[size_t(i * 2 * n + j)] = int8_t((i >= n && j >= n ? -1 : 1) * H[size_t(i % n * n + j % n)]);
    H = std::move(twice);
  }
  return H;
}

}  // namespace fp4lab
