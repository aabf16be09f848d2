#include "experiments/sources/synthetic.h"

#include <algorithm>
#include <cmath>
#include <nlohmann/json.hpp>

#include "core/text.h"

namespace fp4lab {

namespace {

/// The two uniform numbers in (0, 1) of a block.
std::array<double, 2> uniforms(const std::array<uint32_t, 4>& b) {
  return {uniform_open(b[0], b[1]), uniform_open(b[2], b[3])};
}

std::array<double, 2> normal(const SyntheticStreams& s, uint64_t i, double) {
  return normal_pair(s.first.block(i));
}

/// By inversion; both tails reach -log(2^-53) = 36.7.
double laplace_of(double u) { return u < 0.5 ? std::log(2 * u) : -std::log(2 * (1 - u)); }
std::array<double, 2> laplace(const SyntheticStreams& s, uint64_t i, double) {
  const auto u = uniforms(s.first.block(i));
  return {laplace_of(u[0]), laplace_of(u[1])};
}

/// Bailey, "Polar generation of random variates with the t-distribution", Math. Comp. 62 (1994): with u, v
/// uniform, sqrt(nu (u^(-2/nu) - 1)) cos(2 pi v) has nu degrees of freedom. Its sine twin depends on it (they
/// share u), so each number takes a pair u, v of its own.
double student_t_of(double u, double v, double nu) {
  return std::sqrt(nu * std::expm1(-2 / nu * std::log(u))) * std::cos(6.283185307179586476925 * v);
}
std::array<double, 2> student_t(const SyntheticStreams& s, uint64_t i, double nu) {
  const auto u = uniforms(s.first.block(i)), v = uniforms(s.second.block(i));
  return {student_t_of(u[0], v[0], nu), student_t_of(u[1], v[1], nu)};
}

std::array<double, 2> uniform(const SyntheticStreams& s, uint64_t i, double) {
  const auto u = uniforms(s.first.block(i));
  return {2 * u[0] - 1, 2 * u[1] - 1};
}

constexpr Distribution kDistributions[] = {
    {"normal", "N(0, 1)", false, &normal},
    {"laplace", "density exp(-|x|) / 2, variance 2", false, &laplace},
    {"student_t", "Student's t with nu degrees of freedom, variance nu / (nu - 2)", true, &student_t},
    {"uniform", "uniform on [-1, 1], variance 1 / 3", false, &uniform},
};

SyntheticStreams streams_of(const Distribution& d, uint64_t seed) {
  const std::string what = str("synthetic/", d.name);
  return {Stream(seed, what), Stream(seed, what, 1)};
}

/// Calls take(j, number first + j) for j in [0, n), from the pairs that hold them.
template <class Pair, class Take>
void for_numbers(uint64_t first, int64_t n, Pair pair, Take take) {
  int64_t j = 0;
  if (first % 2 == 1 && n > 0) take(j++, pair(first / 2)[1]);
  for (; j < n; j += 2) {
    const std::array<double, 2> two = pair((first + uint64_t(j)) / 2);
    take(j, two[0]);
    if (j + 1 < n) take(j + 1, two[1]);
  }
}

class SyntheticSource : public Source {
 public:
  SyntheticSource(const SyntheticSpec& spec, uint64_t seed)
      : spec_(spec), seed_(seed), tensors_{{std::string(spec.distribution->name), spec.rows, spec.cols}} {}
  const std::vector<SourceTensor>& tensors() const override { return tensors_; }

  Matrix load(size_t i) const override {
    FP4LAB_CHECK(i == 0, "tensor ", i, " of 1");
    Matrix X(spec_.rows, spec_.cols);
    int64_t bad_row = spec_.rows;
#pragma omp parallel for schedule(static) reduction(min : bad_row)
    for (int64_t r = 0; r < spec_.rows; ++r) {
      const std::span<float> row(X.row(r), size_t(spec_.cols));
      synthetic_row(spec_, seed_, r, row);
      for (const float x : row)
        if (!std::isfinite(x)) bad_row = std::min(bad_row, r);
    }
    if (bad_row < spec_.rows) {
      int64_t c = 0;
      while (std::isfinite(X(bad_row, c))) ++c;
      throw DataError(str("synthetic ", spec_.distribution->name, ": row ", bad_row, ", column ", c, " is ",
                          std::isnan(X(bad_row, c)) ? "NaN" : "Inf",
                          "; expected float32 values: raise nu or lower log_normal_sigma"));
    }
    return X;
  }

 private:
  SyntheticSpec spec_;
  uint64_t seed_;
  std::vector<SourceTensor> tensors_;
};

}  // namespace

std::span<const Distribution> distributions() { return kDistributions; }

const Distribution* find_distribution(std::string_view name) { return find_named(kDistributions, name); }

SyntheticSpec read_synthetic(Params& p) {
  const std::vector<std::string> names = names_of(kDistributions);
  SyntheticSpec spec{};
  const std::string name = p.choice("distribution", names, {"what each element is drawn from"});
  spec.distribution = p.is_declaring() ? &kDistributions[0] : find_distribution(name);
  spec.nu = 5;
  if (spec.distribution->has_nu || p.is_declaring()) {
    spec.nu = p.number("nu", 5, {"student_t: degrees of freedom, > 0", 0});
    if (!(spec.nu > 0)) p.fail("nu", "expected a number above 0, found 0");
  }
  const std::vector<int64_t> shape = p.integers("shape", {"rows, cols", 1});
  spec.log_normal_sigma =
      p.number("log_normal_sigma", 0, {"each group times exp(sigma N(0,1)); 0 leaves it out", 0});
  spec.log_normal_group =
      p.integer("log_normal_group", 32, {"elements of such a group, a divisor of cols", 1});
  p.done();
  if (p.is_declaring()) return spec;
  constexpr int64_t kMostElements = int64_t{1} << 40;
  if (shape.size() != 2) p.fail("shape", str("expected [rows, cols], found ", shape.size(), " numbers"));
  spec.rows = shape[0], spec.cols = shape[1];
  if (spec.rows > kMostElements / spec.cols)
    p.fail("shape", str("expected at most 2^40 elements, found [", spec.rows, ", ", spec.cols, "]"));
  if (spec.log_normal_sigma == 0) {
    p.drop_resolved("log_normal_group");  // it changes nothing
    spec.log_normal_group = spec.cols;
  } else if (spec.cols % spec.log_normal_group != 0) {
    p.fail("log_normal_group", str(spec.log_normal_group, " does not divide the ", spec.cols, " columns"));
  }
  return spec;
}

void synthetic_row(const SyntheticSpec& spec, uint64_t seed, int64_t r, std::span<float> out) {
  FP4LAB_CHECK(int64_t(out.size()) == spec.cols && r >= 0 && r < spec.rows, "row ", r, ", ", out.size(),
               " columns");
  const SyntheticStreams streams = streams_of(*spec.distribution, seed);
  const auto pair = [&](uint64_t i) { return spec.distribution->pair(streams, i, spec.nu); };
  const uint64_t start = uint64_t(r) * uint64_t(spec.cols);
  if (spec.log_normal_sigma == 0)
    return for_numbers(start, spec.cols, pair, [&](int64_t c, double x) { out[size_t(c)] = float(x); });
  const Stream factors(seed, "synthetic/log_normal");
  const auto factor_pair = [&](uint64_t i) { return normal_pair(factors.block(i)); };
  const int64_t g = spec.log_normal_group, groups = spec.cols / g;
  for_numbers(uint64_t(r) * uint64_t(groups), groups, factor_pair, [&](int64_t k, double z) {
    const double factor = std::exp(spec.log_normal_sigma * z);
    for_numbers(start + uint64_t(k * g), g, pair,
                [&](int64_t c, double x) { out[size_t(k * g + c)] = float(factor * x); });
  });
}

std::unique_ptr<Source> make_synthetic_source(Params& p, const SourceContext& context) {
  const Json& object = p.raw("synthetic", {"distribution, shape, and how groups spread"});
  if (p.is_declaring()) {
    p.done();
    return nullptr;
  }
  Params inner(object, p.place("synthetic"), "a synthetic source");
  const SyntheticSpec spec = read_synthetic(inner);
  p.set_resolved("synthetic", inner.resolved());
  p.done();
  return std::make_unique<SyntheticSource>(spec, context.seed);
}

}  // namespace fp4lab
