// experiments/export/read_back.h - compares every shard of an export with what was to be written, through the
// second decoder.
#pragma once
#include <memory>
#include <string>
#include <vector>

#include "experiments/export/scheme.h"

namespace fp4lab {

class ReadBack {
 public:
  explicit ReadBack(const Scheme& scheme) : scheme_(scheme) {}

  /// Rows [begin, begin + count) of a quantized matrix, stored as the linear `prefix`.
  struct Linear {
    std::string prefix;
    std::shared_ptr<const QuantizedMatrix> q;
    int64_t begin, count;
  };
  void expect(Linear linear) { expected_.push_back(std::move(linear)); }
  /// All that is expected and in this file, and no longer expected then. DataError naming linear, row and
  /// column (or group) where codes or scale bits differ, or the tensor scale by more than an ulp.
  void compare(const std::string& file);
  /// Nothing is left.
  void all_compared() const;

 private:
  Scheme scheme_;
  std::vector<Linear> expected_;
};

}  // namespace fp4lab
