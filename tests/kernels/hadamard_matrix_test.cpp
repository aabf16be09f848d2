#include <bit>
#include <set>

#include "kernels/cpu/linear_map.h"
#include "tests/catch.h"

using namespace fp4lab;

namespace {

/// Rows as text: "++-+".
std::string text(const std::vector<int8_t>& H, int64_t k) {
  std::string out;
  for (size_t i = 0; i < H.size(); ++i) {
    out += H[i] > 0 ? '+' : '-';
    if (int64_t(i) % k == k - 1) out += '\n';
  }
  return out;
}

/// Rows whose product with an earlier row or with themselves is wrong, and entries that are not +-1.
int64_t mistakes(const std::vector<int8_t>& H, int64_t k) {
  int64_t wrong = 0;
  for (const int8_t h : H) wrong += h != 1 && h != -1;
  for (int64_t i = 0; i < k; ++i)
    for (int64_t j = 0; j <= i; ++j) {
      int sum = 0;
      for (int64_t c = 0; c < k; ++c) sum += H[size_t(i * k + c)] * H[size_t(j * k + c)];
      wrong += sum != (i == j ? k : 0);
    }
  return wrong;
}

/// Multiples of 4 to 512 that neither Paley's constructions nor doubling reaches (OEIS A046116).
const std::set<int64_t> kLacking = {92,  116, 156, 172, 184, 188, 232, 236, 260, 268, 292, 324,
                                    356, 372, 376, 404, 412, 428, 436, 452, 472, 476, 508};

}  // namespace

TEST_CASE("hadamard matrix: every order to 512", "[kernels][hadamard_matrix]") {
  for (int64_t k = -4; k <= 512; ++k) {
    const bool expected = k == 1 || k == 2 || (k > 0 && k % 4 == 0 && !kLacking.contains(k));
    const std::vector<int8_t> H = hadamard_matrix(k);
    CAPTURE(k);
    CHECK(has_hadamard_matrix(k) == expected);
    REQUIRE(int64_t(H.size()) == (expected ? k * k : 0));
    if (expected) CHECK(mistakes(H, k) == 0);
  }
}

TEST_CASE("hadamard matrix: powers of two are Sylvester's", "[kernels][hadamard_matrix]") {
  for (int64_t k = 1; k <= 512; k *= 2) {
    const std::vector<int8_t> H = hadamard_matrix(k);
    int64_t wrong = 0;
    for (int64_t i = 0; i < k; ++i)
      for (int64_t j = 0; j < k; ++j)
        wrong += H[size_t(i * k + j)] != (std::popcount(uint64_t(i & j)) % 2 ? -1 : 1);
    CAPTURE(k);
    CHECK(wrong == 0);
  }
}

TEST_CASE("hadamard matrix: the smallest Paley matrices", "[kernels][hadamard_matrix]") {
  // The squares of GF(11) are 1, 3, 4, 5, 9: element (i + 1, j + 1) is + where i - j is one of them or 0.
  CHECK(text(hadamard_matrix(12), 12) ==
        "++++++++++++\n"
        "-+-+---+++-+\n"
        "-++-+---+++-\n"
        "--++-+---+++\n"
        "-+-++-+---++\n"
        "-++-++-+---+\n"
        "-+++-++-+---\n"
        "--+++-++-+--\n"
        "---+++-++-+-\n"
        "----+++-++-+\n"
        "-+---+++-++-\n"
        "--+---+++-++\n");
  // 24 is 12 doubled, not Paley's matrix of GF(23).
  const std::vector<int8_t> half = hadamard_matrix(12), H = hadamard_matrix(24);
  int64_t wrong = 0;
  for (int64_t i = 0; i < 24; ++i)
    for (int64_t j = 0; j < 24; ++j)
      wrong += H[size_t(i * 24 + j)] != (i >= 12 && j >= 12 ? -1 : 1) * half[size_t(i % 12 * 12 + j % 12)];
  CHECK(wrong == 0);
}

TEST_CASE("hadamard matrix: the widths of common models", "[kernels][hadamard_matrix]") {
  struct Row {
    int64_t width, largest_power, order;  // width = largest_power * order, which has a matrix
  };
  const Row rows[] = {
      {768, 64, 12},     {1536, 128, 12},   {2560, 128, 20},  {3072, 256, 12},   {3584, 128, 28},
      {5120, 256, 20},   {8960, 64, 140},   {9728, 128, 76},  {11008, 32, 344},  {12288, 1024, 12},
      {13824, 128, 108}, {14336, 512, 28},  {17408, 256, 68}, {18944, 128, 148}, {25600, 256, 100},
      {27648, 256, 108}, {28672, 1024, 28}, {29568, 32, 924},
  };
  for (const Row& row : rows) {
    CAPTURE(row.width);
    REQUIRE(row.largest_power * row.order == row.width);
    CHECK(has_hadamard_matrix(row.width));
    int64_t power = 1;
    for (int64_t p = 1; row.width % p == 0; p *= 2)
      if (has_hadamard_matrix(row.width / p)) power = p;
    CHECK(power == row.largest_power);
    const std::vector<int8_t> H = hadamard_matrix(row.order);
    REQUIRE(int64_t(H.size()) == row.order * row.order);
    CHECK(mistakes(H, row.order) == 0);
  }
}
