#include "experiments/export/read_back.h"

#include <cmath>
#include <cstring>
#include <limits>

#include "core/errors.h"
#include "experiments/export/layout_decoder.h"

namespace fp4lab {

namespace {

void compare_linear(const Scheme& scheme, const TensorFile& file, const ReadBack::Linear& want) {
  const QuantizedMatrix& q = *want.q;
  const int64_t cols = q.cols();
  const DecodedLinear d = decode_linear(scheme.layout, file, want.prefix, want.count, cols);
  const auto differs = [&](const std::string& what) {
    throw DataError(
        str(file.paths()[0], ": ", want.prefix, " reads back otherwise than it was written: ", what));
  };
  if (d.groups != q.format.groups(cols)) differs(str(d.groups, " groups, not ", q.format.groups(cols)));
  std::vector<uint8_t> codes(static_cast<size_t>(cols));
  const auto width = size_t(q.format.scale.bytes);
  for (int64_t r = 0; r < want.count; ++r) {
    unpack_codes(q, want.begin + r, codes.data());
    for (int64_t c = 0; c < cols; ++c)
      if (d.codes[size_t(r * cols + c)] != codes[size_t(c)]) differs(str("code at row ", r, ", column ", c));
    for (int64_t g = 0; g < d.groups; ++g) {
      uint32_t bits = 0;
      std::memcpy(&bits, q.scales.bytes.data() + size_t((want.begin + r) * d.groups + g) * width, width);
      if (d.scales[size_t(r * d.groups + g)] != bits) differs(str("scale at row ", r, ", group ", g));
    }
  }
  if (q.format.rule.kind == ScaleRule::fpq) {
    if (d.global != q.format.element.scale_max / 2) differs(str("global scale ", d.global));
  } else if (q.format.tensor_scale.mode != TensorScale::none) {
    const float s = q.scales.factors.at(0),
                ulp = std::nextafter(s, std::numeric_limits<float>::infinity()) - s;
    if (std::fabs(d.tensor_scale() - s) > ulp) differs(str("tensor scale ", d.tensor_scale(), ", not ", s));
  }
}

}  // namespace

void ReadBack::compare(const std::string& path) {
  const TensorFile file = TensorFile::open(path);
  std::erase_if(expected_, [&](const Linear& linear) {
    if (!file.find(str(linear.prefix, ".", codes_suffix(scheme_.layout)))) return false;  // of the next shard
    compare_linear(scheme_, file, linear);
    return true;
  });
}

void ReadBack::all_compared() const {
  if (!expected_.empty())
    throw DataError(
        str(expected_[0].prefix, " and ", expected_.size() - 1, " more linears were not written"));
}

}  // namespace fp4lab
