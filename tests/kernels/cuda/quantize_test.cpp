// Quantization on a GPU gives the CPU's bytes: formats over the whole registry, views of every alignment,
// searches, windows.
#include "kernels/cuda/quantize.h"

#include <algorithm>
#include <cmath>
#include <cstring>

#include "formats/registry.h"
#include "kernels/cuda/quotient.h"
#include "tests/catch.h"
#include "tests/formats/helpers.h"

using namespace fp4lab;

namespace {

cuda::Gpu& gpu() { return cuda::Gpu::get(0); }

/// A matrix in GPU memory whose first element and whose rows lie where the caller wants them.
struct OnGpu {
  cuda::GpuArray<float> memory;
  MatrixView<float> view;
  OnGpu(int64_t rows, int64_t cols, int64_t offset = 0, int64_t pad = 0)
      : memory(gpu().allocate<float>(offset + rows * (cols + pad))),
        view{memory.data() + offset, rows, cols, cols + pad} {}
  explicit OnGpu(MatrixView<const float> X, int64_t offset = 0, int64_t pad = 0)
      : OnGpu(X.rows, X.cols, offset, pad) {
    gpu().copy_rows(X.data, X.stride * 4, view.data, view.stride * 4, X.cols * 4, X.rows);
    gpu().wait();
  }
  Matrix host() const {
    Matrix out(view.rows, view.cols);
    gpu().copy_rows(view.data, view.stride * 4, out.data(), view.cols * 4, view.cols * 4, view.rows);
    gpu().wait();
    return out;
  }
};

/// "" or the first of two sequences' differences.
template <class A, class B>
std::string first_difference(const char* what, const A& got, const B& want) {
  if (got.size() != want.size()) return str(what, ": ", got.size(), " instead of ", want.size());
  for (size_t i = 0; i < got.size(); ++i)
    if (std::memcmp(&got[i], &want[i], sizeof(got[i])) != 0)
      return str(what, " ", i, " of ", got.size(), ": ", double(got[i]), ", CPU ", double(want[i]));
  return "";
}
/// 0 * Inf, of a scale that overflowed, is a NaN of either sign: processors differ.
std::string difference(const Matrix& got, const Matrix& want) {
  for (int64_t i = 0; i < want.size(); ++i)
    if (float_bits(got.data()[i]) != float_bits(want.data()[i]) &&
        !(std::isnan(got.data()[i]) && std::isnan(want.data()[i]))) {
      char text[160];
      std::snprintf(text, sizeof text, "value (%lld, %lld): %a, CPU %a", (long long)(i / want.cols()),
                    (long long)(i % want.cols()), double(got.data()[i]), double(want.data()[i]));
      return text;
    }
  return "";
}
std::string difference(const QuantizedMatrix& got, const QuantizedMatrix& want) {
  for (const std::string& d :
       {first_difference("factor", got.scales.factors, want.scales.factors),
        first_difference("scale byte", got.scales.bytes, want.scales.bytes),
        first_difference("zero point", got.scales.zero_points, want.scales.zero_points),
        first_difference("code byte", got.codes, want.codes)})
    if (!d.empty()) return d;
  return got.format == want.format ? "" : "format";
}

struct Where {
  int64_t offset = 0, pad = 0;
};

/// What the GPU makes of X, in every way there is, against the CPU; "" or what differs first.
std::string check(const FormatSpec& f, const Matrix& X, const WeightScales& search = {}, Where where = {}) {
  const QuantizedMatrix want = quantize(f, X, search);
  const OnGpu x(X, where.offset, where.pad), values(X.rows(), X.cols(), where.offset, where.pad);
  const cuda::DeviceQuantized q = cuda::quantize(gpu(), f, x.view, search);
  if (const std::string d = difference(cuda::download(gpu(), q), want); !d.empty()) return "quantize: " + d;
  const cuda::DeviceQuantized scales = cuda::choose_scales(gpu(), f, x.view, search);
  const QuantizedMatrix rounded = cuda::download(gpu(), cuda::round(gpu(), q.format, x.view, scales)),
                        expected = round(q.format, X, choose_scales(f, X, search));
  if (const std::string d = difference(rounded, expected); !d.empty()) return "round: " + d;
  Matrix out(X.rows(), X.cols());
  dequantize(want, out);
  cuda::dequantize(gpu(), cuda::upload(gpu(), want), values.view);
  if (const std::string d = difference(values.host(), out); !d.empty()) return "dequantize: " + d;
  const int64_t groups = f.groups(X.cols());
  Matrix effective(X.rows(), groups);
  for (int64_t r = 0; r < X.rows(); ++r) effective_scales(want, r, effective.row(r));
  const OnGpu found(X.rows(), groups);
  cuda::effective_scales(gpu(), q, found.view);
  if (const std::string d = difference(found.host(), effective); !d.empty()) return "effective scales: " + d;
  return difference(x.host(), X).empty() ? "" : "X was written to";
}

/// The same of fake_quantize, in where and not, by windows of rows.
std::string check_fake(const FormatSpec& f, const Matrix& X, int64_t window, Where where = {}) {
  Matrix want(X.rows(), X.cols());
  for (int64_t begin = 0; begin < X.rows(); begin += window) {
    const int64_t n = std::min(window, X.rows() - begin);
    fake_quantize(f, X.view().middle_rows(begin, n), want.view().middle_rows(begin, n));
  }
  const OnGpu x(X, where.offset, where.pad), out(X.rows(), X.cols(), where.offset, where.pad);
  cuda::fake_quantize(gpu(), f, x.view, window, out.view);
  if (const std::string d = difference(out.host(), want); !d.empty()) return "fake_quantize: " + d;
  cuda::fake_quantize(gpu(), f, x.view, window, x.view);
  if (const std::string d = difference(x.host(), want); !d.empty()) return "fake_quantize in where: " + d;
  return "";
}

/// Matrices that ask for something: magnitudes, rows of zeros of both signs, ties, the largest and the
/// smallest floats. The index goes round.
Matrix matrix(size_t index, int64_t rows, int64_t cols) {
  const size_t kinds = spec::kKinds.size(), kind = index % (kinds + 3);
  if (kind < kinds) return spec::sample(spec::kKinds[kind], rows, cols, 100 + index);
  Matrix X = spec::sample("mixed", rows, cols, 100 + index);
  for (int64_t i = 0; i < X.size(); ++i) {
    float& x = X.data()[i];
    if (kind == kinds) x = float(i * 7 % 53 - 26) * 0.25f;  // ties
    if (kind == kinds + 1) x = i / cols % 2 ? (i % 3 ? 0.0f : -0.0f) : x;
    if (kind == kinds + 2) {
      const float some[] = {0x1.fffffep127f, -0x1p-149f, 0x1p-126f, -0x1.8p127f, 1, -0.0f, 0x1p-100f, 3e-39f};
      x = i % 5 == 0 ? some[i / 5 % 8] : x * 0x1p-60f;
    }
  }
  return X;
}

std::string name_of(const FormatSpec& f) {
  return str(f.element.name, ", ", f.scale.name, ", rule ", entry_of(f.rule.kind).name, ", groups of ",
             f.group_size, ", tensor scale ", int(f.tensor_scale.mode), ", scale floor ", int(f.scale_floor));
}

}  // namespace

#define FP4LAB_NEEDS_GPU() \
  if (cuda::Gpu::count() == 0) FP4LAB_SKIP("no CUDA device")

TEST_CASE("cuda: quantize: every named format, aligned and not", "[kernels][cuda]") {
  FP4LAB_NEEDS_GPU();
  for (const FormatEntry& named : formats())
    for (size_t i = 0; i < 8; ++i) {
      const Matrix X = matrix(i, 5, 384);
      for (const Where where : {Where{}, Where{4, 4}, Where{1, 0}, Where{0, 3}}) {
        INFO(named.name << ", matrix " << i << " at " << where.offset << ", rows " << where.pad << " apart");
        CHECK(check(named.spec, X, {}, where) == "");
        CHECK(check_fake(named.spec, X, 2, where) == "");
        CHECK(check_fake(named.spec, X, 100, where) == "");
      }
    }
}

TEST_CASE("cuda: quantize: elements x scales x rules x groups", "[kernels][cuda]") {
  FP4LAB_NEEDS_GPU();
  size_t turn = 0;
  for (const Element& e : kElements)
    for (const ScaleType& t : kScaleTypes)
      for (const ScaleRuleEntry& rule : scale_rules())
        for (const int group : {2, 16, 20, 32, 64, 128, 256, 1280, kWholeRow}) {
          FormatSpec f{e, group, t, {.kind = rule.kind}};
          const TensorScale modes[] = {
              {}, {TensorScale::dynamic}, {TensorScale::per_token}, {TensorScale::fixed, 0.01f}};
          f.tensor_scale = modes[turn % 4];
          if (!format_problem(f).empty()) f.tensor_scale = {};
          if (t.kind == ScaleKind::minifloat) f.scale_floor = ScaleFloor(turn % 3);
          if (!format_problem(f).empty()) continue;
          const Matrix X = matrix(turn++, 3, 1280);
          INFO(name_of(f) << ", matrix " << turn - 1);
          CHECK(check(f, X) == "");
          if (rule.for_activations) CHECK(check_fake(f, X, 2) == "");
        }
  CHECK(turn > 3000);
}

TEST_CASE("cuda: quantize: searches for weights", "[kernels][cuda]") {
  FP4LAB_NEEDS_GPU();
  std::vector<WeightScales> searches;
  for (const WeightScales::Kind kind :
       {WeightScales::alternate, WeightScales::mse_shrink, WeightScales::paper, WeightScales::nearby})
    searches.push_back({.kind = kind});
  for (const ScaleRule& rule :
       {ScaleRule{.kind = ScaleRule::sweep}, ScaleRule{.kind = ScaleRule::sweep, .lo = 0, .hi = 100},
        ScaleRule{.kind = ScaleRule::four_over_six}, ScaleRule{.kind = ScaleRule::search, .k = 1},
        ScaleRule{.kind = ScaleRule::search, .k = 9}, ScaleRule{.kind = ScaleRule::grid},
        ScaleRule{.kind = ScaleRule::grid, .steps = 2, .lowest = 0.3}})
    searches.push_back({.kind = WeightScales::replace, .replacement = rule});
  size_t turn = 0;
  for (const Element& e : kElements)
    for (const ScaleType& t : kScaleTypes)
      for (const WeightScales& search : searches) {
        const int groups[] = {16, 32, 24, 128, 3, kWholeRow};
        FormatSpec f{e, groups[turn % 6], t};
        if (t.kind == ScaleKind::exponent) f.rule.kind = turn % 2 ? ScaleRule::floor : ScaleRule::fpq;
        if (t.two_level()) f.tensor_scale.mode = TensorScale::dynamic;
        if (!format_problem(f).empty() || !weight_scales_problem(search, f).empty()) continue;
        const Matrix X = matrix(turn++, 3, 384);
        INFO(name_of(f) << ", search " << int(search.kind) << " " << int(search.replacement.kind)
                        << ", matrix " << turn - 1);
        CHECK(check(f, X, search) == "");
      }
  CHECK(turn > 1000);
}

TEST_CASE("cuda: quantize: many rows, odd shapes, none", "[kernels][cuda]") {
  FP4LAB_NEEDS_GPU();
  for (const char* name :
       {"mxfp4", "nvfp4", "nvfp4-4over6", "int4", "int4-asym", "mxfp8-e4m3", "int8", "nf4"}) {
    FormatSpec f = find_format(name)->spec;
    INFO(name);
    for (const int64_t rows : {0, 1, 2, 31, 33, 257}) {
      CAPTURE(rows);
      CHECK(check(f, matrix(0, rows, 128)) == "");
      CHECK(check_fake(f, matrix(4, rows, 128), 32) == "");
    }
    f.group_size = kWholeRow;
    if (f.rule.kind != ScaleRule::absmax && f.rule.kind != ScaleRule::floor) continue;
    for (const int64_t cols : {1, 2, 7, 15, 16, 17, 48, 256, 333, 5000}) {
      CAPTURE(cols);
      CHECK(check(f, matrix(0, 3, cols)) == "");
      CHECK(check_fake(f, matrix(4, 3, cols), 2) == "");
    }
  }
}

TEST_CASE("cuda: quantize: NaN and Inf are named as on the CPU", "[kernels][cuda]") {
  FP4LAB_NEEDS_GPU();
  for (const FormatEntry& named : formats()) {
    Matrix X = spec::sample("normal", 40, 384, 5);
    X(30, 5) = INFINITY, X(17, 333) = -INFINITY, X(17, 340) = NAN, X(16, 3) = 0x1.fffffep127f;
    for (const int64_t offset : {0, 1}) {
      INFO(named.name << " at " << offset);
      CHECK_THROWS_WITH(quantize(named.spec, X), "row 17, column 333 is -Inf");
      CHECK_THROWS_WITH(cuda::quantize(gpu(), named.spec, OnGpu(X, offset).view),
                        "row 17, column 333 is -Inf");
      CHECK_THROWS_WITH(cuda::choose_scales(gpu(), named.spec, OnGpu(X, offset).view),
                        "row 17, column 333 is -Inf");
    }
  }
  CHECK_THROWS_AS(cuda::quantize(gpu(), kMxfp4, OnGpu(2, 48).view), ConfigError);
}

TEST_CASE("cuda: quantize: every sign, mantissa and exponent under scales of every size", "[kernels][cuda]") {
  FP4LAB_NEEDS_GPU();
  // One group per row and power of two: its extreme sets the scale, the rest sweep the floats below it.
  Matrix X(512, 256);
  for (int64_t r = 0; r < 512; ++r) {
    const float top = bits_float(uint32_t(r % 255) << 23 | (uint32_t(r) * 0x9e3779b9u) >> 9);
    for (int64_t c = 0; c < 256; ++c) {
      const uint32_t down = uint32_t(c * c % 97) << (c % 2 ? 17 : 20), b = float_bits(top);
      const float x = c % 16 == 0 ? top : bits_float(b > down ? b - down : 0);
      X(r, c) = c % 3 == 1 ? -x : x;
    }
  }
  for (const FormatEntry& named : formats()) {
    INFO(named.name);
    FormatSpec f = named.spec;
    if (f.group_size != kWholeRow) f.group_size = std::min(f.group_size, 16);
    if (f.tensor_scale.mode == TensorScale::dynamic) f.tensor_scale.mode = TensorScale::per_token;
    CHECK(check(f, X) == "");
    if (entry_of(f.rule.kind).for_activations) CHECK(check_fake(f, X, 512) == "");
  }
}
