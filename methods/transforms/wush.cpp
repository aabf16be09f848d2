#include "methods/transforms/wush.h"

#include <Eigen/Cholesky>
#include <Eigen/SVD>
#include <algorithm>
#include <bit>
#include <cmath>
#include <nlohmann/json.hpp>

#include "kernels/cpu/gemm.h"
#include "methods/transforms/block_size.h"

namespace fp4lab {

namespace {

using Eigen::MatrixXd;

constexpr int64_t kLargest = 256;  // a Jacobi SVD of 256 takes about a second
constexpr const char* kWhyLargest = "its dense blocks are fitted up to 256";

/// H_k / sqrt(k) in natural order: symmetric, its own inverse.
MatrixXd hadamard(int64_t k) {
  MatrixXd h(k, k);
  for (int64_t i = 0; i < k; ++i)
    for (int64_t j = 0; j < k; ++j)
      h(i, j) = (std::popcount(uint64_t(i & j)) % 2 ? -1.0 : 1.0) / std::sqrt(double(k));
  return h;
}

/// The upper triangle of `sum` / count, mirrored and damped.
MatrixXd moment(MatrixView<const double> sum, int64_t count, double damping) {
  const int64_t k = sum.rows;
  MatrixXd m(k, k);
  for (int64_t i = 0; i < k; ++i)
    for (int64_t j = i; j < k; ++j) m(i, j) = m(j, i) = sum(i, j) / double(std::max<int64_t>(count, 1));
  const double mean = m.trace() / double(k);
  if (mean == 0) return MatrixXd::Identity(k, k);
  m.diagonal().array() += damping * mean;
  return m;
}

/// T_b and T_b^-T of a block; false when a moment is not positive definite.
bool block_maps(const MatrixXd& weights, const MatrixXd& inputs, const MatrixXd& H, MatrixXd& T,
                MatrixXd& inverse_transposed) {
  const Eigen::LLT<MatrixXd> weight_llt(weights), input_llt(inputs);
  if (weight_llt.info() != Eigen::Success || input_llt.info() != Eigen::Success) return false;
  const MatrixXd w = weight_llt.matrixL(), x = input_llt.matrixL();
  // lazyProduct: one sum per entry in a fixed order. Eigen's blocked product may follow the thread count.
  const MatrixXd product = w.transpose().lazyProduct(x);
  if (!product.allFinite()) return false;
  const Eigen::JacobiSVD<MatrixXd> svd(product, Eigen::ComputeFullU | Eigen::ComputeFullV);
  const MatrixXd mix = svd.singularValues().cwiseSqrt().cwiseInverse().asDiagonal() * H;
  const MatrixXd left = x.lazyProduct(svd.matrixV()), right = w.lazyProduct(svd.matrixU());
  T = left.lazyProduct(mix);
  inverse_transposed = right.lazyProduct(mix);
  const MatrixXd identity = T.transpose().lazyProduct(inverse_transposed);
  return (identity - MatrixXd::Identity(H.rows(), H.cols())).cwiseAbs().maxCoeff() < 1e-6;
}

void store(const MatrixXd& block, float* out) {
  for (int64_t i = 0; i < block.rows(); ++i)
    for (int64_t j = 0; j < block.cols(); ++j) *out++ = float(block(i, j));
}

}  // namespace

TransformSpec read_wush(Params& p) {
  TransformSpec spec{TransformSpec::wush};
  spec.k = read_block_size(p, BlockSizes::powers_of_two, {},
                           "channels per block, a power of two up to 256; 0: the format's group size");
  if (spec.k > kLargest) p.fail("k", str(spec.k, " is above ", kLargest, "; ", kWhyLargest));
  spec.damping = p.number("damping", 0.01, {"fraction of a moment's mean diagonal added to it", 1e-6, 1});
  return spec;
}

void write_wush(const TransformSpec& spec, Json& object) {
  object["k"] = block_size_json(spec.k);
  object["damping"] = spec.damping;
}

std::string wush_problem(const TransformSpec& spec, const TransformFit& fit) {
  const std::string problem = block_size_problem(spec, fit, BlockSizes::powers_of_two);
  if (!problem.empty()) return problem;
  const int64_t k = block_size(spec, fit);
  return k <= kLargest ? ""
                       : str("wush: blocks of ", k, " channels; ", kWhyLargest, ": give a smaller \"k\"");
}

void fit_wush(const TransformSpec& spec, const TransformInput& input, LinearMap& map) {
  const MatrixView<const float> W = input.W;
  const SiteStats& stats = *input.stats;
  const int64_t k = block_size(spec, input.fit), blocks = W.cols / k;
  FP4LAB_CHECK(stats.H.rows() == W.cols && stats.H.cols() == W.cols, "wush: W has ", W.cols, " channels, H ",
               stats.H.rows());
  BlocksFactor factor{k, std::vector<float>(size_t(W.cols * k)), std::vector<float>(size_t(W.cols * k))};
  const MatrixXd H = hadamard(k);
  const MatrixView<const double> hessian{stats.H.data(), W.cols, W.cols, W.cols};
  int64_t bad = blocks;  // the first block that failed: nothing may be thrown out of a parallel loop
#pragma omp parallel for schedule(dynamic) reduction(min : bad)
  for (int64_t b = 0; b < blocks; ++b) {
    MatrixD sum = MatrixD::zeros(k, k);
    syrk({W.data + b * k, W.rows, k, W.stride}, sum);
    const MatrixXd weights = moment({sum.data(), k, k, k}, W.rows, spec.damping);
    const MatrixXd inputs = moment({hessian.row(b * k) + b * k, k, k, W.cols}, stats.tokens, spec.damping);
    MatrixXd T, inverse_transposed;
    if (!block_maps(weights, inputs, H, T, inverse_transposed)) {
      bad = std::min(bad, b);
      continue;
    }
    store(T, factor.weights.data() + b * k * k);
    store(inverse_transposed, factor.activations.data() + b * k * k);
  }
  if (bad < blocks)
    throw DataError(str("wush: the second moments of channels ", bad * k, "..", bad * k + k - 1,
                        " are not positive definite with damping ", spec.damping));
  map.factors.emplace_back(std::move(factor));
}

}  // namespace fp4lab
