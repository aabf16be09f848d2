#include "formats/quantize.h"

#include <algorithm>

#include "core/hash.h"
#include "formats/group_coder.h"

namespace fp4lab {

namespace {

void check_arguments(const FormatSpec& format, const WeightScales& search, int64_t cols) {
  FP4LAB_CHECK(!search.needs_hessian(), "a search that looks at the Hessian is not choose_scales'");
  for (const std::string& problem :
       {format_problem(format), weight_scales_problem(search, format), shape_problem(format, cols)})
    if (!problem.empty()) throw ConfigError(problem);
}

/// A run of groups: about 1024 elements, an even number unless the row ends. This run, the next one on its
/// way from memory and the codes then share the first-level cache (4096 was a quarter slower for nvfp4).
int64_t run_length(int64_t g, int64_t groups) {
  const int64_t run = std::max<int64_t>(2, 1024 / g / 2 * 2);
  return std::min(run, groups);
}

/// Outputs larger than this are written past the caches: they would be gone before anyone reads them.
constexpr int64_t kStreamBytes = 16 << 20;

Scales empty_scales(const FormatSpec& f, MatrixView<const float> X, std::vector<float> factors) {
  const size_t groups = size_t(X.rows * f.groups(X.cols));
  return {X.rows, X.cols, Bytes(groups * size_t(f.scale.bytes)), Bytes(f.has_zero_points() ? groups : 0),
          std::move(factors)};
}

/// Addresses of a run within the stored scales.
uint8_t* bytes_at(Scales& s, const FormatSpec& f, int64_t row, int64_t group) {
  return s.bytes.data() + (row * f.groups(s.cols) + group) * f.scale.bytes;
}
const uint8_t* bytes_at(const Scales& s, const FormatSpec& f, int64_t row, int64_t group) {
  return s.bytes.data() + (row * f.groups(s.cols) + group) * f.scale.bytes;
}
uint8_t* zero_at(Scales& s, const FormatSpec& f, int64_t row, int64_t group) {
  return f.has_zero_points() ? s.zero_points.data() + row * f.groups(s.cols) + group : nullptr;
}
const uint8_t* zero_at(const Scales& s, const FormatSpec& f, int64_t row, int64_t group) {
  return f.has_zero_points() ? s.zero_points.data() + row * f.groups(s.cols) + group : nullptr;
}

/// Where the amax of a run's groups is known from the pass over the whole tensor, or null.
const float* amax_at(const Floats& group_amax, const FormatSpec& f, MatrixView<const float> X, int64_t row,
                     int64_t group) {
  return group_amax.empty() ? nullptr : group_amax.data() + row * f.groups(X.cols) + group;
}

/// Calls body(row, first group, groups in the run, next run's data, scratch) for every run of every row, rows
/// spread over threads. The body says whether its run was finite; DataError names the first NaN or Inf of X.
template <class Body>
void for_each_run(const GroupCoder& coder, MatrixView<const float> X, Body body) {
  const int64_t groups = X.cols / coder.group(), run = run_length(coder.group(), groups);
  int64_t bad_row = X.rows;
#pragma omp parallel
  {
    GroupScratch scratch(run, coder.candidates_per_group());
#pragma omp for schedule(static) reduction(min : bad_row)
    for (int64_t r = 0; r < X.rows; ++r) {
      for (int64_t k = 0; k < groups; k += run) {
        const bool row_ends = k + run >= groups;
        const float* next =
            row_ends ? X.row(std::min(r + 1, X.rows - 1)) : X.row(r) + (k + run) * coder.group();
        if (!body(r, k, std::min(run, groups - k), next, scratch)) bad_row = std::min(bad_row, r);
      }
    }
  }
  if (bad_row < X.rows) report_nonfinite(X, bad_row);
}

/// Codes of one run, packed to where they belong.
void encode_run(const RowKernels& kernels, const FormatSpec& f, const float* x, const float* effective,
                const uint8_t* zero, int64_t row, int64_t group, int64_t groups, QuantizedMatrix& q,
                const float* next, std::vector<uint8_t>& codes) {
  const int64_t g = f.group(q.cols()), n = groups * g;
  uint8_t* out = q.codes.data() + row * f.code_bytes(q.cols());
  if (!f.packed()) return kernels.encode(f.element, x, effective, zero, groups, g, out + group * g, next);
  if (int64_t(codes.size()) < n) codes.resize(size_t(n));
  kernels.encode(f.element, x, effective, zero, groups, g, codes.data(), next);
  kernels.pack(codes.data(), n, out + group * g / 2);
}

QuantizedMatrix empty_quantized(const FormatSpec& f, Scales scales) {
  const size_t bytes = size_t(scales.rows * f.code_bytes(scales.cols));
  return {f, std::move(scales), Bytes(bytes)};
}

/// The format as a quantized matrix carries it: fixed and dynamic tensor scales are factors by then.
FormatSpec stored_format(const FormatSpec& format, const WeightScales& search) {
  FormatSpec f = format;
  if (search.kind == WeightScales::replace) f.rule = search.replacement;
  return f;
}

}  // namespace

Scales choose_scales(const FormatSpec& format, MatrixView<const float> X, const WeightScales& asked) {
  const WeightScales search = weight_scales_for(asked, format);
  check_arguments(format, search, X.cols);
  Floats group_amax;
  const GroupCoder coder(format, search, X.cols, tensor_factors(format, search, X, &group_amax));
  Scales scales = empty_scales(format, X, coder.factors());
  for_each_run(coder, X, [&](int64_t r, int64_t k, int64_t n, const float*, GroupScratch& scratch) {
    return coder.choose(X.row(r) + k * coder.group(), r, n, amax_at(group_amax, format, X, r, k),
                        bytes_at(scales, format, r, k), zero_at(scales, format, r, k), scratch.chosen.data(),
                        scratch);
  });
  return scales;
}

QuantizedMatrix round(const FormatSpec& format, MatrixView<const float> X, Scales scales) {
  check_arguments(format, {}, X.cols);
  FP4LAB_CHECK(scales.rows == X.rows && scales.cols == X.cols, "scales of (", scales.rows, ", ", scales.cols,
               ") for X (", X.rows, ", ", X.cols, ")");
  const GroupCoder coder(format, {}, X.cols, scales.factors);
  const RowKernels& kernels = row_kernels();
  QuantizedMatrix q = empty_quantized(format, std::move(scales));
  for_each_run(coder, X, [&](int64_t r, int64_t k, int64_t n, const float* next, GroupScratch& scratch) {
    const float* x = X.row(r) + k * coder.group();
    const bool finite = coder.measure(x, n, scratch);
    coder.effective(bytes_at(q.scales, format, r, k), r, n, scratch.chosen.data());
    for (int64_t i = 0; i < n; ++i)
      if (scratch.amax[size_t(i)] == 0) scratch.chosen[size_t(i)] = 0;
    encode_run(kernels, format, x, scratch.chosen.data(), zero_at(q.scales, format, r, k), r, k, n, q, next,
               scratch.codes);
    return finite;
  });
  return q;
}

QuantizedMatrix quantize(const FormatSpec& format, MatrixView<const float> X, const WeightScales& asked) {
  const WeightScales search = weight_scales_for(asked, format);
  check_arguments(format, search, X.cols);
  Floats group_amax;
  const GroupCoder coder(format, search, X.cols, tensor_factors(format, search, X, &group_amax));
  const RowKernels& kernels = row_kernels();
  QuantizedMatrix q =
      empty_quantized(stored_format(format, search), empty_scales(format, X, coder.factors()));
  for_each_run(coder, X, [&](int64_t r, int64_t k, int64_t n, const float* next, GroupScratch& scratch) {
    const float* x = X.row(r) + k * coder.group();
    uint8_t* zero = zero_at(q.scales, format, r, k);
    if (!coder.choose(x, r, n, amax_at(group_amax, format, X, r, k), bytes_at(q.scales, format, r, k), zero,
                      scratch.chosen.data(), scratch))
      return false;
    encode_run(kernels, format, x, scratch.chosen.data(), zero, r, k, n, q, next, scratch.codes);
    return true;
  });
  return q;
}

namespace {

/// Decodes rows [begin, begin + out.rows) into `out`.
void decode_rows(const GroupCoder& coder, const QuantizedMatrix& q, int64_t begin, MatrixView<float> out,
                 GroupScratch& scratch) {
  const FormatSpec& f = q.format;
  const RowKernels& kernels = row_kernels();
  const int64_t g = coder.group(), groups = f.groups(q.cols()), run = run_length(g, groups);
  scratch.codes.resize(size_t(f.packed() ? run * g : 0));
  for (int64_t r = begin; r < begin + out.rows; ++r)
    for (int64_t k = 0; k < groups; k += run) {
      const int64_t n = std::min(run, groups - k);
      coder.effective(bytes_at(q.scales, f, r, k), r, n, scratch.chosen.data());
      const uint8_t* from = q.codes.data() + r * f.code_bytes(q.cols()) + (f.packed() ? k * g / 2 : k * g);
      if (f.packed()) kernels.unpack(from, n * g, scratch.codes.data());
      kernels.decode(f.element, f.packed() ? scratch.codes.data() : from, scratch.chosen.data(),
                     zero_at(q.scales, f, r, k), n, g, out.row(r - begin) + k * g);
    }
}

GroupScratch decoding_scratch(const GroupCoder& coder, const QuantizedMatrix& q) {
  return GroupScratch(run_length(coder.group(), q.format.groups(q.cols())), 0);
}

}  // namespace

RowReader::RowReader(const QuantizedMatrix& q)
    : q_(q), coder_(std::make_unique<GroupCoder>(q.format, WeightScales{}, q.cols(), q.scales.factors)) {}
RowReader::~RowReader() = default;

void RowReader::dequantize(int64_t begin, MatrixView<float> out) const {
  FP4LAB_CHECK(out.cols == q_.cols() && begin >= 0 && begin + out.rows <= q_.rows());
  GroupScratch scratch = decoding_scratch(*coder_, q_);
  decode_rows(*coder_, q_, begin, out, scratch);
}

void RowReader::effective_scales(int64_t row, float* out) const {
  coder_->effective(bytes_at(q_.scales, q_.format, row, 0), row, q_.format.groups(q_.cols()), out);
}

void dequantize(const QuantizedMatrix& q, MatrixView<float> out) {
  FP4LAB_CHECK(out.rows == q.rows() && out.cols == q.cols());
  const GroupCoder coder(q.format, {}, q.cols(), q.scales.factors);
  const bool stream = out.size() * int64_t(sizeof(float)) > kStreamBytes;
#pragma omp parallel
  {
    GroupScratch scratch = decoding_scratch(coder, q);
    Matrix row(1, stream ? q.cols() : 0);
#pragma omp for schedule(static)
    for (int64_t r = 0; r < out.rows; ++r) {
      decode_rows(coder, q, r, stream ? row.view() : out.middle_rows(r, 1), scratch);
      if (stream) row_kernels().stream_copy(row.data(), q.cols(), out.row(r));
    }
  }
}

void unpack_codes(const QuantizedMatrix& q, int64_t row, uint8_t* out) {
  const uint8_t* from = q.codes.data() + row * q.format.code_bytes(q.cols());
  if (q.format.packed())
    row_kernels().unpack(from, q.cols(), out);
  else
    std::copy(from, from + q.cols(), out);
}

void fake_quantize(const FormatSpec& format, MatrixView<const float> X, MatrixView<float> out,
                   const WeightScales& asked) {
  const WeightScales search = weight_scales_for(asked, format);
  check_arguments(format, search, X.cols);
  FP4LAB_CHECK(out.rows == X.rows && out.cols == X.cols);
  Floats group_amax;
  const GroupCoder coder(format, search, X.cols, tensor_factors(format, search, X, &group_amax));
  const RowKernels& kernels = row_kernels();
  const int64_t g = coder.group();
  const bool stream = out.size() * int64_t(sizeof(float)) > kStreamBytes;
  for_each_run(coder, X, [&](int64_t r, int64_t k, int64_t n, const float* next, GroupScratch& scratch) {
    scratch.bytes.resize(size_t(n * format.scale.bytes)), scratch.zero.resize(size_t(n));
    const float* x = X.row(r) + k * g;
    if (!coder.choose(x, r, n, amax_at(group_amax, format, X, r, k), scratch.bytes.data(),
                      scratch.zero.data(), scratch.chosen.data(), scratch))
      return false;
    float* to = out.row(r) + k * g;
    if (stream) scratch.values.resize(size_t(n * g)), to = scratch.values.data();
    kernels.fake(format.element, x, scratch.chosen.data(), scratch.zero.data(), n, g, to, next);
    if (stream) kernels.stream_copy(to, n * g, out.row(r) + k * g);
    return true;
  });
}

std::string QuantizedMatrix::digest() const {
  const auto floats = std::as_bytes(std::span(scales.factors));
  return Sha256()
      .update(std::span(codes))
      .update(std::span(scales.bytes))
      .update(std::span(scales.zero_points))
      .update(floats)
      .hex();
}

}  // namespace fp4lab
