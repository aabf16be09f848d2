#include "methods/transforms/random_orthogonal.h"

#include <algorithm>
#include <cmath>
#include <nlohmann/json.hpp>

#include "core/matrix.h"
#include "core/random.h"
#include "methods/transforms/block_size.h"

namespace fp4lab {

namespace {

/// Sums in eight lanes and then their sum: a fixed order that fills the vector registers.
double dot(const double* a, const double* b, int64_t n) {
  double lanes[8] = {};
  int64_t i = 0;
  for (; i + 8 <= n; i += 8)
    for (int64_t l = 0; l < 8; ++l) lanes[l] += a[i + l] * b[i + l];
  for (; i < n; ++i) lanes[i % 8] += a[i] * b[i];
  return ((lanes[0] + lanes[4]) + (lanes[2] + lanes[6])) + ((lanes[1] + lanes[5]) + (lanes[3] + lanes[7]));
}

/// The reflections of one block: row n holds, from element n on, v with |v|^2 = 2 (I - v v^T reflects); signs
/// (k) go to the columns of the product.
struct Reflections {
  MatrixD v;
  std::vector<double> signs;
};
Reflections draw(const Stream& stream, uint64_t first, int64_t k) {
  Reflections r{MatrixD::zeros(k, k), std::vector<double>(size_t(k))};
  for (int64_t n = 0; n < k; ++n) {
    double* const x = r.v.row(n);
    for (int64_t c = n; c < k; ++c) {
      const uint64_t i = uint64_t(n * k + c);
      x[c] = normal_pair(stream.block(first + i / 2))[i % 2];
    }
    // v = x + sign(x_n) |x| e_n takes x to -sign(x_n) |x| e_n: the diagonal of R; its sign moves to the
    // column.
    const double length = std::sqrt(dot(x + n, x + n, k - n)), sign = x[n] < 0 ? -1 : 1;
    r.signs[size_t(n)] = -sign;
    x[n] += sign * length;
    const double scale = std::sqrt(2 / dot(x + n, x + n, k - n));
    for (int64_t c = n; c < k; ++c) x[c] *= scale;
  }
  return r;
}

/// Q (k, k) = the product of the reflections times the signs.
void multiply(const Reflections& r, int64_t k, float* Q, bool parallel) {
  constexpr int64_t kRows = 8;  // that take a reflection together
#pragma omp parallel for schedule(static) if (parallel)
  for (int64_t row = 0; row < k; row += kRows) {
    const int64_t rows = std::min(kRows, k - row);
    MatrixD q = MatrixD::zeros(rows, k);
    for (int64_t i = 0; i < rows; ++i) q(i, row + i) = 1;
    for (int64_t n = 0; n < k; ++n)
      for (int64_t i = 0; i < rows; ++i) {
        const double* v = r.v.row(n);
        const double d = dot(q.row(i) + n, v + n, k - n);
        for (int64_t c = n; c < k; ++c) q(i, c) -= d * v[c];
      }
    for (int64_t i = 0; i < rows; ++i)
      for (int64_t c = 0; c < k; ++c) Q[(row + i) * k + c] = float(q(i, c) * r.signs[size_t(c)]);
  }
}

}  // namespace

TransformSpec read_random_orthogonal(Params& p) {
  TransformSpec spec{TransformSpec::random_orthogonal};
  spec.k = read_block_size(p, BlockSizes::any, {"full"},
                           "channels per block; 0: the format's group size; \"full\": every channel");
  return spec;
}

void write_random_orthogonal(const TransformSpec& spec, Json& object) {
  object["k"] = block_size_json(spec.k);
}

std::string random_orthogonal_problem(const TransformSpec& spec, const TransformFit& fit) {
  return block_size_problem(spec, fit, BlockSizes::any);
}

void fit_random_orthogonal(const TransformSpec& spec, const TransformInput& input, LinearMap& map) {
  const TransformFit& fit = input.fit;
  const int64_t k = block_size(spec, fit), blocks = fit.channels / k;
  const Stream stream(fit.seed, "random orthogonal", fit.index);
  BlocksFactor factor{k, std::vector<float>(size_t(fit.channels * k)), {}};
#pragma omp parallel for schedule(dynamic) if (blocks > 1)
  for (int64_t b = 0; b < blocks; ++b) {
    // Two numbers to a block of random bits; the place in the list is far above any of them.
    const uint64_t first = (uint64_t(input.position) << 56) + uint64_t(b) * uint64_t((k * k + 1) / 2);
    multiply(draw(stream, first, k), k, factor.weights.data() + b * k * k, blocks == 1);
  }
  map.factors.push_back(std::move(factor));
}

}  // namespace fp4lab
