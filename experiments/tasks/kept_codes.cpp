#include "experiments/tasks/kept_codes.h"

namespace fp4lab {

namespace {
std::vector<uint8_t> plain(const Bytes& b) { return {b.begin(), b.end()}; }

}  // namespace

void keep_codes(Record& record, const std::string& tensor, const QuantizedMatrix& q) {
  const int64_t code_bytes = q.format.code_bytes(q.cols()), groups = q.format.groups(q.cols());
  record.bytes.push_back(
      {"codes/" + tensor,
       plain(q.codes),
       {q.rows(), code_bytes},
       q.format.packed() ? "(rows, cols/2): element 2i in the low nibble" : "(rows, cols)"});
  record.bytes.push_back({"scales/" + tensor,
                          plain(q.scales.bytes),
                          {q.rows(), groups * q.format.scale.bytes},
                          str("(rows, groups * ", q.format.scale.bytes, " bytes), ", q.format.scale.name)});
  if (!q.scales.zero_points.empty())
    record.bytes.push_back(
        {"zero_points/" + tensor, plain(q.scales.zero_points), {q.rows(), groups}, "(rows, groups)"});
  if (!q.scales.factors.empty())
    record.arrays.push_back({"factors/" + tensor,
                             std::vector<double>(q.scales.factors.begin(), q.scales.factors.end()),
                             {int64_t(q.scales.factors.size())},
                             "(tensor scale; one per row if per_token; fitted: a, b)",
                             {"1", "s = s_T * scale"}});
}

}  // namespace fp4lab
