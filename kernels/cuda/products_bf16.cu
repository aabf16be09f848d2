#include "kernels/cuda/products_bf16.h"

#include <cublasLt.h>

#include <map>
#include <tuple>

#include "kernels/cuda/bf16_matrix.h"

namespace fp4lab::cuda {

namespace {

void check(cublasStatus_t status, const char* what) {
  if (status != CUBLAS_STATUS_SUCCESS) throw Error(str(what, ": ", cublasLtGetStatusString(status)));
}

constexpr size_t kWorkspace = 64 << 20;
constexpr int64_t kTile =
    4096;  // rows of H at a time: the part below the diagonal that is computed for nothing

/// H(first + i, j) += S(i, j - first) for j >= first + i.
__global__ void add_upper_kernel(const float* S, int64_t first, int64_t rows, MatrixView<double> H) {
  const int64_t width = H.cols - first;
  for (int64_t i = blockIdx.y; i < rows; i += gridDim.y)
    for (int64_t j = i + int64_t(blockIdx.x) * blockDim.x + threadIdx.x; j < width;
         j += int64_t(gridDim.x) * blockDim.x)
      H(first + i, first + j) += double(S[i * width + j]);
}

class Layout {
 public:
  Layout(cudaDataType type, int64_t rows, int64_t cols, int64_t ld) {
    check(cublasLtMatrixLayoutCreate(&layout_, type, uint64_t(rows), uint64_t(cols), ld), "cublasLt layout");
  }
  Layout(const Layout&) = delete;
  Layout& operator=(const Layout&) = delete;
  ~Layout() { cublasLtMatrixLayoutDestroy(layout_); }
  operator cublasLtMatrixLayout_t() const { return layout_; }

 private:
  cublasLtMatrixLayout_t layout_ = nullptr;
};

/// Column-major D (m, n) = op(A) op(B) + beta D with bf16 operands, and what cuBLASLt found best for its
/// shape.
class Lt {
 public:
  static Lt& get(Gpu& gpu) {
    static auto& all = *new std::map<int, std::unique_ptr<Lt>>;  // lives as long as the Gpu: for ever
    std::unique_ptr<Lt>& lt = all[gpu.index()];
    if (!lt) lt.reset(new Lt(gpu));
    return *lt;
  }

  struct Operand {
    const __nv_bfloat16* data;
    int64_t ld;
    bool transposed;
  };
  void multiply(const Operand& A, const Operand& B, int64_t m, int64_t n, int64_t k, float* D, int64_t ldd,
                bool accumulate) {
    if (m == 0 || n == 0) return;
    const Layout a(CUDA_R_16BF, A.transposed ? k : m, A.transposed ? m : k, A.ld),
        b(CUDA_R_16BF, B.transposed ? n : k, B.transposed ? k : n, B.ld), d(CUDA_R_32F, m, n, ldd);
    cublasLtMatmulDesc_t& desc = descs_[A.transposed][B.transposed];
    const auto key = std::make_tuple(m, n, k, A.ld, B.ld, ldd, A.transposed, B.transposed, accumulate,
                                     uintptr_t(D) % 16 == 0);
    auto found = best_.find(key);
    if (found == best_.end()) {
      cublasLtMatmulHeuristicResult_t result{};
      int count = 0;
      const uint32_t aligned = uintptr_t(D) % 16 == 0 ? 16 : 4;
      for (const auto which :
           {CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_C_BYTES, CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_D_BYTES})
        check(cublasLtMatmulPreferenceSetAttribute(preference_, which, &aligned, sizeof aligned),
              "cublasLt preference");
      check(cublasLtMatmulAlgoGetHeuristic(handle_, desc, a, b, d, d, preference_, 1, &result, &count),
            "cublasLt heuristic");
      if (count == 0) throw Error(str("cublasLt has no product for ", m, " x ", n, " x ", k));
      found = best_.emplace(key, result.algo).first;
    }
    const float one = 1, beta = accumulate ? 1.0f : 0.0f;
    check(cublasLtMatmul(handle_, desc, &one, A.data, a, B.data, b, &beta, D, d, D, d, &found->second,
                         workspace_.data(), kWorkspace, gpu_.stream()),
          "cublasLt product");
  }

 private:
  explicit Lt(Gpu& gpu) : gpu_(gpu), workspace_(gpu.allocate<uint8_t>(kWorkspace)) {
    check(cublasLtCreate(&handle_), "cublasLt");
    check(cublasLtMatmulPreferenceCreate(&preference_), "cublasLt preference");
    const size_t bytes = kWorkspace;
    check(cublasLtMatmulPreferenceSetAttribute(preference_, CUBLASLT_MATMUL_PREF_MAX_WORKSPACE_BYTES, &bytes,
                                               sizeof bytes),
          "cublasLt preference");
    for (int i = 0; i < 2; ++i)
      for (int j = 0; j < 2; ++j) {
        check(cublasLtMatmulDescCreate(&descs_[i][j], CUBLAS_COMPUTE_32F, CUDA_R_32F), "cublasLt descriptor");
        const cublasOperation_t ta = i ? CUBLAS_OP_T : CUBLAS_OP_N, tb = j ? CUBLAS_OP_T : CUBLAS_OP_N;
        check(cublasLtMatmulDescSetAttribute(descs_[i][j], CUBLASLT_MATMUL_DESC_TRANSA, &ta, sizeof ta),
              "cublasLt descriptor");
        check(cublasLtMatmulDescSetAttribute(descs_[i][j], CUBLASLT_MATMUL_DESC_TRANSB, &tb, sizeof tb),
              "cublasLt descriptor");
      }
  }

  Gpu& gpu_;
  GpuArray<uint8_t> workspace_;
  cublasLtHandle_t handle_ = nullptr;
  cublasLtMatmulPreference_t preference_ = nullptr;
  cublasLtMatmulDesc_t descs_[2][2] = {};
  std::map<std::tuple<int64_t, int64_t, int64_t, int64_t, int64_t, int64_t, bool, bool, bool, bool>,
           cublasLtMatmulAlgo_t>
      best_;
};

}  // namespace

void gemm_bf16(Gpu& gpu, MatrixView<const float> X, MatrixView<const float> W, MatrixView<float> Y,
               bool accumulate) {
  FP4LAB_CHECK(X.cols == W.cols && X.rows == Y.rows && W.rows == Y.cols, X.rows, " x ", X.cols, ", ", W.rows,
               " x ", W.cols);
  const Bf16Matrix x = to_bf16(gpu, X), w = to_bf16(gpu, W);
  // Row-major Y is column-major Y^T (N, M) = W X^T; both operands are read as their transposes (stride,
  // rows).
  Lt::get(gpu).multiply({w.data.data(), w.stride, true}, {x.data.data(), x.stride, false}, W.rows, X.rows,
                        X.cols, Y.data, Y.stride, accumulate);
}

void syrk_bf16(Gpu& gpu, MatrixView<const float> X, MatrixView<double> H) {
  FP4LAB_CHECK(H.rows == X.cols && H.cols == X.cols, X.cols, " columns, H ", H.rows, " x ", H.cols);
  if (X.rows == 0) return;
  const Bf16Matrix x = to_bf16(gpu, X);
  const int64_t K = X.cols;
  const GpuArray<float> S = gpu.allocate<float>(std::min(kTile, K) * K);
  for (int64_t first = 0; first < K; first += kTile) {
    const int64_t rows = std::min(kTile, K - first), width = K - first;
    // Row-major S (rows, width) is column-major (width, rows): X[:, first:]^T X[:, first : first + rows].
    // Row-major X (T, K) read as column-major is X^T (K, T).
    Lt::get(gpu).multiply({x.data.data() + first, x.stride, false}, {x.data.data() + first, x.stride, true},
                          width, rows, X.rows, S.data(), width, false);
    const dim3 grid(blocks_for(width, 256, 64), unsigned(std::min<int64_t>(rows, 65535)));
    add_upper_kernel<<<grid, 256, 0, gpu.stream()>>>(S.data(), first, rows, H);
    FP4LAB_CUDA_LAUNCHED("adding to a Hessian of ", K, " channels");
  }
}

}  // namespace fp4lab::cuda
