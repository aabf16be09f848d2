#include "formats/row_kernels.h"

#include <limits>

#include "formats/scale_rules.h"
#include "formats/scale_types.h"
#include "tests/catch.h"
#include "tests/formats/reference.h"

using namespace fp4lab;

namespace {

const int64_t kGroups[] = {1, 2, 3, 5, 7, 8, 9, 15, 16, 17, 24, 31, 32, 33, 64, 100, 128};

/// Every kernel's outputs on one run, end to end; two sets of kernels must give the same bytes.
std::vector<uint8_t> everything(const RowKernels& k, const Element& e, const Matrix& X, int64_t g) {
  const int64_t groups = X.size() / g, n = groups * g;
  const float* x = X.data();
  std::vector<uint8_t> all;
  auto keep = [&](const auto& v) {
    const auto* bytes = reinterpret_cast<const uint8_t*>(v.data());
    all.insert(all.end(), bytes, bytes + v.size() * sizeof(v[0]));
  };
  std::vector<float> amax(static_cast<size_t>(groups)), low = amax, high = amax, scale = amax, error = amax,
                                                        out(static_cast<size_t>(n));
  std::vector<uint8_t> codes(static_cast<size_t>(n)), zero(static_cast<size_t>(groups)),
      bytes(static_cast<size_t>(groups)), packed(static_cast<size_t>((n + 1) / 2));
  std::vector<int32_t> best(static_cast<size_t>(groups));
  keep(std::vector<uint32_t>{k.max_magnitude(x, n)});
  k.group_amax(x, groups, g, amax.data()), keep(amax);
  k.group_range(x, groups, g, low.data(), high.data()), keep(low), keep(high);
  for (size_t i = 0; i < scale.size(); ++i) {
    scale[i] = i % 7 == 3 ? 0.0f : amax[i] / (e.scale_max * (i % 3 ? 1.0f : 1.37f));
    zero[i] = e.kind == ElementKind::int_asym ? uint8_t(i % (1u << e.bits)) : uint8_t(0);
  }
  k.encode(e, x, scale.data(), zero.data(), groups, g, codes.data(), x), keep(codes);
  k.decode(e, codes.data(), scale.data(), zero.data(), groups, g, out.data()), keep(out);
  k.fake(e, x, scale.data(), zero.data(), groups, g, out.data(), x), keep(out);
  if (e.bits <= 4) {
    k.pack(codes.data(), n, packed.data()), keep(packed);
    k.unpack(packed.data(), n, codes.data()), keep(codes);
  }
  if (e.kind != ElementKind::int_asym) {
    std::vector<float> candidates;
    for (float s : scale)
      for (float f : {0.0f, 0.5f, 0.7f, 1.0f, 1.3f}) candidates.push_back(s * f);
    k.best_candidate(e, x, groups, g, candidates.data(), 5, best.data(), error.data()), keep(best),
        keep(error);
    k.best_shrink(e, x, groups, g, scale.data(), best.data()), keep(best);
  }
  k.power_of_two_scales(-2, 0x600000, 0.3333f, amax.data(), groups, bytes.data(), scale.data()), keep(bytes),
      keep(scale);
  for (const ScaleType& t : kScaleTypes)
    if (t.kind == ScaleKind::minifloat)
      k.minifloat_scales(t.mini, 0.37f, 0.11f, 1, amax.data(), groups, bytes.data(), scale.data()),
          keep(bytes), keep(scale);
  k.stream_copy(x, n, out.data()), keep(out);
  return all;
}

std::vector<const RowKernels*> sets() {
  std::vector<const RowKernels*> out = {&row_kernels_v3()};
  if (row_kernels_v4()) out.push_back(row_kernels_v4());
  return out;
}

}  // namespace

TEST_CASE("row kernels: both instruction sets give the same bytes", "[formats][row_kernels]") {
  if (!row_kernels_v4()) FP4LAB_SKIP("this processor has no AVX-512");
  for (const Element& e : kElements)
    for (int64_t g : kGroups)
      for (const std::string& kind : spec::kKinds) {
        CAPTURE(e.name, g, kind);
        const Matrix X = spec::sample(kind, 1, g * 13, 61);
        CHECK(spec::difference(everything(row_kernels_v3(), e, X, g),
                               everything(*row_kernels_v4(), e, X, g)) == "");
      }
  for (const Element& e : kElements)
    for (int64_t g : {16, 20}) {
      const Matrix X = spec::edges(80);
      CHECK(spec::difference(everything(row_kernels_v3(), e, X, g), everything(*row_kernels_v4(), e, X, g)) ==
            "");
    }
}

TEST_CASE("row kernels: encode, decode and fake against the scalar tables", "[formats][row_kernels]") {
  for (const RowKernels* k : sets())
    for (const Element& e : kElements)
      for (int64_t g : {3, 16, 21, 32}) {
        const spec::Grid grid = spec::grid(e.name);
        const Matrix X = spec::sample("mixed", 1, g * 6, 62);
        const float scale[6] = {1, 0.3f, 0x1p-20f, 0, 0x1p30f, 1e-3f};
        const uint8_t zero[6] = {0, 1, 2, 3, 1, 0};
        std::vector<uint8_t> codes(size_t(6 * g)), want = codes;
        std::vector<float> out(size_t(6 * g)), values = out, fake = out;
        k->encode(e, X.data(), scale, zero, 6, g, codes.data(), X.data());
        k->decode(e, codes.data(), scale, zero, 6, g, out.data());
        k->fake(e, X.data(), scale, zero, 6, g, fake.data(), X.data());
        for (int64_t i = 0; i < 6 * g; ++i) {
          const float s = scale[i / g];
          const int z = grid.kind == spec::Grid::asym ? zero[i / g] : 0;
          const uint32_t code = s > 0 ? grid.encode(X.data()[i] / s, z) : grid.zero_code() + uint32_t(z);
          want[size_t(i)] = uint8_t(code);
          values[size_t(i)] = s > 0 ? s * float(grid.decode(code, z)) : 0.0f;
        }
        CAPTURE(k->name, e.name, g);
        CHECK(spec::difference(codes, want) == "");
        CHECK(spec::difference(out, values) == "");
        CHECK(spec::difference(fake, values) == "");
      }
}

TEST_CASE("row kernels: decode of every code", "[formats][row_kernels]") {
  for (const RowKernels* k : sets())
    for (const Element& e : kElements) {
      const spec::Grid grid = spec::grid(e.name);
      std::vector<uint8_t> codes;
      for (uint32_t code = 0; code < (1u << e.bits); ++code)
        if (grid.kind != spec::Grid::minifloat || (code & ((1u << (e.bits - 1)) - 1)) < grid.values.size())
          codes.push_back(uint8_t(code));
      std::vector<float> out(codes.size());
      const float scale = 0.75f;
      const uint8_t zero = 2;
      k->decode(e, codes.data(), &scale, &zero, 1, int64_t(codes.size()), out.data());
      for (size_t i = 0; i < codes.size(); ++i) {
        CAPTURE(k->name, e.name, int(codes[i]));
        CHECK(out[i] == scale * float(grid.decode(codes[i], 2)));
      }
    }
}

TEST_CASE("row kernels: amax, range and the largest magnitude at every length and place",
          "[formats][row_kernels]") {
  const float nan = std::numeric_limits<float>::quiet_NaN(), inf = std::numeric_limits<float>::infinity();
  for (const RowKernels* k : sets())
    for (int64_t n = 1; n <= 70; ++n)
      for (int64_t at = 0; at < n; ++at) {
        std::vector<float> x(size_t(n), -0.0f);
        float amax = -1, low = 1, high = -1;
        x[size_t(at)] = -3.5f;
        CHECK(k->max_magnitude(x.data(), n) == float_bits(3.5f));
        k->group_amax(x.data(), 1, n, &amax), k->group_range(x.data(), 1, n, &low, &high);
        CHECK((amax == 3.5f && low == -3.5f && high == 0.0f));
        x[size_t(at)] = 0x1p-149f;
        k->group_amax(x.data(), 1, n, &amax);
        CHECK(amax == 0x1p-149f);
        x[size_t(at)] = -inf;
        CHECK(k->max_magnitude(x.data(), n) == 0x7f800000u);
        x[size_t(at)] = -nan;
        CHECK(k->max_magnitude(x.data(), n) > 0x7f800000u);
      }
}

TEST_CASE("row kernels: pack and unpack at every length, nothing beyond", "[formats][row_kernels]") {
  const Stream stream(63, "nibbles");
  for (const RowKernels* k : sets())
    for (int64_t n = 0; n <= 130; ++n) {
      std::vector<uint8_t> codes(size_t(n) + 1, 0xee), packed(size_t((n + 1) / 2) + 1, 0xee), back = codes;
      for (int64_t i = 0; i < n; ++i)
        codes[size_t(i)] = uint8_t(stream.block(uint64_t(i + 1000 * n))[0] & 15);
      k->pack(codes.data(), n, packed.data());
      for (int64_t b = 0; b < (n + 1) / 2; ++b) {
        const int high = 2 * b + 1 < n ? codes[size_t(2 * b + 1)] : 0;
        CHECK(int(packed[size_t(b)]) == (codes[size_t(2 * b)] | high << 4));
      }
      CHECK(packed.back() == 0xee);
      k->unpack(packed.data(), n, back.data());
      CHECK(back == codes);
    }
}

TEST_CASE("row kernels: the error of a candidate is summed in the stated order", "[formats][row_kernels]") {
  for (const RowKernels* k : sets())
    for (const char* name : {"e2m1", "int4", "nf4", "e3m2"})
      for (int64_t g : kGroups) {
        const spec::Grid e = spec::grid(name);
        const Matrix X = spec::sample("heavy", 1, g * 9, 64);
        std::vector<float> candidates, error(9);
        for (int64_t i = 0; i < 9; ++i)
          for (float f : {0.3f, 0.6f, 1.0f, 1.0f, 0.0f})
            candidates.push_back(spec::amax_of(X.data() + i * g, g) / float(e.qmax) * f);
        std::vector<int32_t> best(9);
        k->best_candidate(*find_element(name), X.data(), 9, g, candidates.data(), 5, best.data(),
                          error.data());
        for (int64_t i = 0; i < 9; ++i) {
          int32_t want = 0;
          float least = INFINITY;
          for (int32_t j = 0; j < 5; ++j)
            if (const float l = spec::group_error(e, X.data() + i * g, g, candidates[size_t(5 * i + j)]);
                l < least)
              want = j, least = l;
          CAPTURE(k->name, name, g, i);
          CHECK(best[size_t(i)] == want);
          const float unit = spec::error_unit(X.data() + i * g, g);
          CHECK(error[size_t(i)] == least / unit / unit);
        }
      }
}

TEST_CASE("row kernels: minifloat scales, their floor and zero groups", "[formats][row_kernels]") {
  std::vector<float> amax = {0,   0x1p-149f, 1e-30f, 1e-3f,           0.5f, 1, 6, 447, 448, 449,
                             464, 465,       1e30f,  0x1.fffffep127f, 0};
  for (const RowKernels* k : sets())
    for (const ScaleType& t : kScaleTypes) {
      if (t.kind != ScaleKind::minifloat) continue;
      const spec::Stored s = spec::stored(t.name);
      for (uint32_t least : {0u, 1u, 1u << t.mini.man_bits})
        for (float divisor : {1.0f, 0.7f}) {
          std::vector<uint8_t> codes(amax.size(), 0xee);
          std::vector<float> effective(amax.size());
          k->minifloat_scales(t.mini, divisor, 0.1f, least, amax.data(), int64_t(amax.size()), codes.data(),
                              effective.data());
          for (size_t i = 0; i < amax.size(); ++i) {
            const uint32_t want = amax[i] == 0 ? 0 : std::max(least, s.encode(double(amax[i] / divisor)));
            CAPTURE(k->name, t.name, least, amax[i]);
            CHECK(uint32_t(codes[i]) == want);
            CHECK(effective[i] == (amax[i] == 0 ? 0.0f : float(s.decode(want)) * 0.1f));
          }
        }
    }
}

TEST_CASE("row kernels: decoding scales of one byte", "[formats][row_kernels]") {
  for (const RowKernels* k : sets())
    for (const ScaleType& t : kScaleTypes) {
      if (t.bytes != 1) continue;
      std::vector<uint8_t> bytes;
      const size_t codes = t == kUE8M0 ? 255 : spec::stored(t.name).values.size();
      for (size_t i = 0; i < codes; ++i) bytes.push_back(uint8_t(i));
      for (float s_t : {1.0f, 0.3f}) {
        std::vector<float> out(codes);
        k->decode_byte_scales(t, bytes.data(), int64_t(codes), s_t, out.data());
        for (size_t i = 0; i < codes; ++i) {
          CAPTURE(k->name, t.name, i);
          CHECK(out[i] == s_t * (t == kUE8M0 ? spec::e8m0_value(int(i))
                                             : float(spec::stored(t.name).decode(uint32_t(i)))));
        }
      }
    }
}

TEST_CASE("row kernels: stream_copy at any alignment", "[formats][row_kernels]") {
  const Matrix X = spec::sample("normal", 1, 200, 65);
  for (const RowKernels* k : sets())
    for (int64_t shift = 0; shift < 16; ++shift)
      for (int64_t n : {0, 1, 7, 8, 9, 31, 100}) {
        Matrix to = Matrix::zeros(1, 200);
        k->stream_copy(X.data() + 3, n, to.data() + 1 + shift);
        CHECK(spec::difference(X.data() + 3, to.data() + 1 + shift, n) == "");
        CHECK(to.data()[shift] == 0);
        CHECK(to.data()[1 + shift + n] == 0);
      }
}

TEST_CASE("row kernels: the chosen set is one of the two", "[formats][row_kernels]") {
  CHECK(std::string(row_kernels_v3().name) == "x86-64-v3");
  if (row_kernels_v4()) CHECK(std::string(row_kernels_v4()->name) == "x86-64-v4");
  CHECK((&row_kernels() == &row_kernels_v3() || &row_kernels() == row_kernels_v4()));
}
