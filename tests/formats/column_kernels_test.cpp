// Column kernels: both instruction sets against the loops that the header states, bit for bit.
#include "formats/column_kernels.h"

#include "tests/catch.h"
#include "tests/formats/helpers.h"

using namespace fp4lab;

namespace {

std::vector<const ColumnKernels*> both() {
  std::vector<const ColumnKernels*> sets = {&column_kernels_v3()};
  if (column_kernels_v4()) sets.push_back(column_kernels_v4());
  return sets;
}

std::vector<float> draws(std::string_view what, size_t count, double scale = 1) {
  const Stream stream(71, what);
  std::vector<float> out;
  for (size_t i = 0; i < count; ++i) out.push_back(float(scale * normal_pair(stream.block(i))[0]));
  return out;
}

/// A chain of fused multiply-adds that goes on from c.
float chain(const float* e, int64_t count, int64_t stride, const float* coefficients, float c) {
  for (int64_t i = 0; i < count; ++i) c = std::fma(e[i * stride], coefficients[i], c);
  return c;
}

struct Rounded {
  float q;
  uint8_t code;
};
Rounded rounded(const spec::Grid& grid, float v, float s, int zero) {
  if (!(s > 0)) return {0, uint8_t(grid.kind == spec::Grid::asym ? uint32_t(zero) : grid.zero_code())};
  const uint32_t code = grid.encode(v / s, zero);
  return {s * float(grid.decode(code, zero)), uint8_t(code)};
}

constexpr float kUntouched = -777;

}  // namespace

TEST_CASE("column kernels: accumulate", "[formats][column_kernels]") {
  for (const int64_t n : {16, 48, 64, 80})
    for (const int64_t m : {1, 3, 4, 5, 9})
      for (const int64_t count : {0, 1, 7, 40}) {
        const int64_t stride = n + 16, width = count + 3;
        const auto e = draws("e", size_t((count + 1) * stride)), a = draws("a", size_t(m * width));
        const auto start = draws("c", size_t(m * stride));
        for (const ColumnKernels* kernels : both()) {
          auto c = start;
          kernels->accumulate(e.data(), count, a.data(), width, n, m, stride, c.data());
          auto want = start;
          for (int64_t k = 0; k < m; ++k)
            for (int64_t r = 0; r < n; ++r)
              want[size_t(k * stride + r)] =
                  chain(&e[size_t(r)], count, stride, &a[size_t(k * width)], start[size_t(k * stride + r)]);
          CAPTURE(kernels->name, n, m, count);
          CHECK(spec::difference(c, want) == "");  // lanes beyond n are left alone
        }
      }
}

TEST_CASE("column kernels: round", "[formats][column_kernels]") {
  const int64_t m = 21, stride = 96;
  for (const Element& element : kElements) DYNAMIC_SECTION(element.name) {
      const spec::Grid grid = spec::grid(element.name);
      const bool asym = grid.kind == spec::Grid::asym;
      for (const int64_t n : {16, 64, 80})
        for (const double spread : {0.3, 3.0, 40.0}) {
          auto target = draws("t", size_t(m * stride), spread), scales = draws("s", size_t(m * stride));
          const auto correction = draws("c", size_t(m * stride), spread / 4);
          const auto a = draws("a", size_t(m * (m + 2)), 0.2);
          std::vector<uint8_t> zeros;
          for (size_t i = 0; i < scales.size(); ++i) {
            // Powers of two make ties of eighths; some scales are 0.
            scales[i] = i % 7 == 0 ? 0.0f : i % 3 == 0 ? 0.25f : std::fabs(scales[i]);
            if (i % 3 == 0) target[i] = std::nearbyint(target[i] * 8) / 8;
            zeros.push_back(uint8_t(i * 5 % (size_t(1) << element.bits)));
          }
          std::vector<float> value(target.size(), kUntouched), error = value;
          std::vector<uint8_t> codes(target.size(), 0xee);
          auto want_value = value, want_error = error;
          auto want_codes = codes;
          for (int64_t r = 0; r < n; ++r)
            for (int64_t k = 0; k < m; ++k) {
              const size_t at = size_t(k * stride + r);
              const float c =
                  chain(&want_error[size_t(r)], k, stride, &a[size_t(k * (m + 2))], correction[at]);
              const float v = target[at] + c;
              const Rounded q = rounded(grid, v, scales[at], asym ? zeros[at] : 0);
              want_value[at] = v, want_error[at] = target[at] - q.q, want_codes[at] = q.code;
            }
          std::vector<const float*> scale;
          std::vector<const uint8_t*> zero;
          for (int64_t k = 0; k < m; ++k)
            scale.push_back(&scales[size_t(k * stride)]), zero.push_back(&zeros[size_t(k * stride)]);
          for (const ColumnKernels* kernels : both()) {
            auto v = value, e = error;
            auto found = codes;
            RoundPanel p;
            p.n = n, p.m = m, p.stride = stride;
            p.target = target.data(), p.correction = correction.data(), p.coefficients = a.data();
            p.coefficient_stride = m + 2;
            p.scale = scale.data(), p.zero = asym ? zero.data() : nullptr;
            p.value = v.data(), p.error = e.data(), p.codes = found.data();
            kernels->round(element, p);
            CAPTURE(kernels->name, n, spread);
            CHECK(spec::difference(v, want_value) == "");
            CHECK(spec::difference(e, want_error) == "");
            CHECK(spec::difference(found, want_codes) == "");
          }
        }
    }
}

TEST_CASE("column kernels: group_loss", "[formats][column_kernels]") {
  const int64_t n = 48, stride = 64;
  for (const Element& element : kElements) DYNAMIC_SECTION(element.name) {
      const spec::Grid grid = spec::grid(element.name);
      const bool asym = grid.kind == spec::Grid::asym;
      for (const int64_t g : {2, 16, 33})
        for (int form = 0; form < 8; ++form) {
          const bool with_coefficients = form & 1, with_weight = form & 2, compensated = form & 4;
          const auto value = draws("v", size_t(g * stride), 3), a = draws("a", size_t(g * (g + 1)), 0.3);
          auto weight = draws("w", size_t(g)), scale = draws("s", size_t(n));
          std::vector<uint8_t> zero;
          for (float& w : weight) w = std::fabs(w);
          for (size_t r = 0; r < scale.size(); ++r) {
            scale[r] = r % 9 == 0 ? 0.0f : std::fabs(scale[r]);
            zero.push_back(uint8_t(r % (size_t(1) << element.bits)));
          }
          std::vector<float> want;
          for (int64_t r = 0; r < n; ++r) {
            std::vector<float> errors;
            float sum = 0;
            for (int64_t k = 0; k < g; ++k) {
              const float v = value[size_t(k * stride + r)];
              const float u = with_coefficients ? chain(errors.data(), k, 1, &a[size_t(k * (g + 1))], v) : v;
              const float q =
                  rounded(grid, compensated ? u : v, scale[size_t(r)], asym ? zero[size_t(r)] : 0).q;
              errors.push_back(v - q);
              const float d = u - q;
              sum = std::fma(with_weight ? d * weight[size_t(k)] : d, d, sum);
            }
            want.push_back(sum);
          }
          for (const ColumnKernels* kernels : both()) {
            std::vector<float> loss(static_cast<size_t>(n), kUntouched);
            GroupLoss p;
            p.n = n, p.g = g, p.stride = stride, p.value = value.data(), p.scale = scale.data();
            p.coefficients = with_coefficients ? a.data() : nullptr, p.coefficient_stride = g + 1;
            p.weight = with_weight ? weight.data() : nullptr, p.zero = asym ? zero.data() : nullptr;
            p.compensated = compensated;
            kernels->group_loss(element, p, loss.data());
            CAPTURE(kernels->name, g, form);
            CHECK(spec::difference(loss, want) == "");
          }
        }
    }
}

TEST_CASE("column kernels: the set in use is one of the two", "[formats][column_kernels]") {
  CHECK(std::string(column_kernels_v3().name) == "x86-64-v3");
  if (column_kernels_v4()) CHECK(std::string(column_kernels_v4()->name) == "x86-64-v4");
  const bool known = &column_kernels() == &column_kernels_v3() || &column_kernels() == column_kernels_v4();
  CHECK(known);
}
