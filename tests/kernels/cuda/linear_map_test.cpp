// The GPU's maps beside the CPU's, bit for bit, on strided views; whole buffers are compared.
#include "kernels/cuda/linear_map.h"

#include "kernels/cpu/linear_map.h"
#include "tests/kernels/cuda/gpu_matrix.h"

using namespace fp4lab;
using namespace fp4lab::test;

namespace {

std::vector<float> signs(int64_t K) {
  std::mt19937_64 random(7);
  std::vector<float> out;
  for (int64_t c = 0; c < K; ++c) out.push_back(random() % 2 ? 1.0f : -1.0f);
  return out;
}
std::vector<float> normals(int64_t n, uint64_t seed) {
  const Matrix m = numbers(1, n, seed, true);
  return {m.data(), m.data() + n};
}
DiagonalFactor diagonal(int64_t K) {
  DiagonalFactor f;
  for (const float x : normals(K, 5)) f.scale.push_back(std::fabs(x) + 1e-3f);
  return f;
}
PermutationFactor permutation(int64_t K) {
  PermutationFactor f;
  for (int64_t c = 0; c < K; ++c) f.from.push_back(int32_t(c));
  std::shuffle(f.from.begin(), f.from.end(), std::mt19937_64(3));
  return f;
}
/// n blocks, orthogonal or not as far as the code can tell.
BlocksFactor blocks(int64_t k, int64_t n, bool pair) {
  return {k, normals(n * k * k, 11), pair ? normals(n * k * k, 12) : std::vector<float>{}};
}

/// "" or the function and how it differs from the CPU's.
std::string compare(const LinearMap& map, int64_t K, int64_t rows) {
  using Cpu = void (*)(const LinearMap&, MatrixView<float>);
  using Gpu = void (*)(cuda::Gpu&, const cuda::DeviceMap&, MatrixView<float>);
  const cuda::DeviceMap there(gpu(), map, K);
  struct Row {
    const char* name;
    Cpu cpu;
    Gpu gpu;
  };
  for (const Row& f : {Row{"map_weights", map_weights, cuda::map_weights},
                       {"map_activations", map_activations, cuda::map_activations},
                       {"unmap_weights", unmap_weights, cuda::unmap_weights},
                       {"unmap_activations", unmap_activations, cuda::unmap_activations}}) {
    Matrix X = numbers(rows, K + 3, 1, true);
    const OnGpu<float> x(X);
    f.gpu(gpu(), there, part(x.view(), 2, K));
    f.cpu(map, part(X.view(), 2, K));
    if (const std::string d = difference(x.host(), X); !d.empty()) return str(f.name, ": ", d);
  }
  return "";
}
std::string compare_hessian(const LinearMap& map, int64_t K) {
  MatrixD H = numbers<double>(K, K + 2, 2, true);
  for (int64_t i = 0; i < H.size(); ++i) H.data()[i] *= 1.0 + 1e-10 * double(i % 1000);
  const OnGpu<double> h(H);
  cuda::map_hessian(gpu(), map, part(h.view(), 1, K));
  map_hessian(map, part(H.view(), 1, K));
  return difference(h.host(), H);
}

}  // namespace

TEST_CASE("cuda: maps: every factor has the CPU's bits", "[kernels][cuda]") {
  FP4LAB_NEEDS_GPU();
  struct Row {
    std::string name;
    int64_t K;
    Factor factor;
  };
  std::vector<Row> factors;
  const auto hadamard = [&](int64_t K, int64_t k, int64_t stride) {
    for (const bool signed_ : {false, true})
      factors.push_back(
          {str("Hadamard ", k, signed_ ? " signed" : "", ", stride ", stride, ", ", K, " channels"), K,
           HadamardFactor{k, signed_ ? signs(K) : std::vector<float>{}, stride}});
  };
  for (const int64_t k : {1, 2, 4, 8, 16, 32, 64, 128, 256}) hadamard(768, k, 1);
  for (const int64_t k : {12, 20, 24, 28, 36, 384})
    hadamard(k == 28 ? 84 : k == 20 || k == 36 ? 180 : 768, k, 1);
  hadamard(2, 2, 1), hadamard(12, 4, 1), hadamard(10, 2, 1), hadamard(8192, 8192, 1), hadamard(6144, 2048, 1);
  hadamard(768, 2, 64), hadamard(768, 4, 3), hadamard(768, 8, 32), hadamard(768, 256, 3), hadamard(765, 1, 5);
  hadamard(720, 12, 5), hadamard(768, 12, 32), hadamard(70, 2, 35), hadamard(4160, 64, 65);
  factors.push_back({"diagonal", 777, diagonal(777)});
  factors.push_back({"permutation", 777, permutation(777)});
  for (const int64_t k : {1, 2, 3, 16, 17, 32, 48, 63, 64, 65, 96, 130})
    for (const bool pair : {false, true}) {
      factors.push_back({str("blocks of ", k, " paired ", pair), 3 * k, blocks(k, 3, pair)});
      factors.push_back({str("one block of ", k, " paired ", pair), 5 * k, blocks(k, 1, pair)});
    }
  for (const Row& f : factors) {
    INFO(f.name);
    const LinearMap map{{f.factor}};
    for (const int64_t rows : {1, 53, 300})
      if (rows * f.K <= 1000000) CHECK(compare(map, f.K, rows) == "");
    if (f.K <= 1000) CHECK(compare_hessian(map, f.K) == "");
  }
}

TEST_CASE("cuda: maps: several factors, none, no rows, misfits", "[kernels][cuda]") {
  FP4LAB_NEEDS_GPU();
  const LinearMap several{{diagonal(96), permutation(96), HadamardFactor{12, signs(96), 2},
                           blocks(16, 6, true), HadamardFactor{32, signs(96), 1}}};
  for (const LinearMap& map : {several, LinearMap{}}) {
    CHECK(compare(map, 96, 70) == "");
    CHECK(compare_hessian(map, 96) == "");
    cuda::map_weights(gpu(), map, {nullptr, 0, 96, 96});
  }
  for (const int64_t K : {1, 31, 32, 33, 64, 65}) CHECK(compare_hessian({{diagonal(K)}}, K) == "");
  gpu().wait();
  CHECK_THROWS(cuda::DeviceMap(gpu(), several, 95));
  CHECK_THROWS(cuda::map_weights(gpu(), cuda::DeviceMap(gpu(), several, 96), {nullptr, 0, 95, 95}));
}

TEST_CASE("cuda: maps: runs longer than shared memory, rows in several parts", "[kernels][cuda]") {
  FP4LAB_NEEDS_GPU();
  // Shared memory holds spans of 32768 floats (131072 bytes) and 16384 doubles.
  for (const auto& [k, stride] :
       {std::pair<int64_t, int64_t>{65536, 1}, {524288, 1}, {4, 30000}, {2, 100000}})
    for (const bool signed_ : {false, true}) {
      const int64_t K = k * stride;
      INFO("Hadamard " << k << ", stride " << stride << " signed " << signed_);
      CHECK(compare({{HadamardFactor{k, signed_ ? signs(K) : std::vector<float>{}, stride}}}, K, 3) == "");
    }
  // 32 MiB of a row's copy are 1092 rows of 7680 channels.
  CHECK(compare({{permutation(7680), blocks(40, 1, true)}}, 7680, 2200) == "");
}

TEST_CASE("cuda: maps: a Hessian whose runs are longer than shared memory", "[.][slow][kernels][cuda]") {
  FP4LAB_NEEDS_GPU();
  CHECK(compare_hessian({{HadamardFactor{32768, signs(32768), 1}}}, 32768) == "");
}
