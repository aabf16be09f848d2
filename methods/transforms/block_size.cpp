#include "methods/transforms/block_size.h"

#include <bit>
#include <nlohmann/json.hpp>

#include "core/text.h"

namespace fp4lab {

namespace {

constexpr int64_t kLargest = int64_t(1) << 30;

bool serves(int64_t k, BlockSizes sizes) {
  return k >= 2 && (sizes == BlockSizes::any || std::has_single_bit(uint64_t(k)));
}
/// The largest power of two that divides n > 0.
int64_t power_of_two_in(int64_t n) { return n & -n; }

/// "2, 4, 8, 16": the sizes of blocks that these channels divide into.
std::string possible_sizes(int64_t channels, BlockSizes sizes) {
  std::vector<std::string> list;
  for (int64_t k = 2; k <= channels; ++k)
    if (channels % k == 0 && serves(k, sizes)) list.push_back(std::to_string(k));
  return join(list);
}

}  // namespace

int64_t read_block_size(Params& p, BlockSizes sizes, const std::vector<std::string>& words,
                        std::string_view doc) {
  const Json& value = p.raw("k", {doc});
  if (value.is_null() && !p.has("k")) {
    p.set_resolved("k", kGroupSize);
    return kGroupSize;
  }
  for (const std::string& word : words)
    if (value == word) return word == "full" ? kFullWidth : kHeads;
  if (value.is_string() && !words.empty()) p.fail("k", unknown_name("k", value.get<std::string>(), words));
  const double number = value.is_number() ? value.get<double>() : -1;
  if (!(number >= 0 && number <= double(kLargest) && number == double(int64_t(number))))
    p.fail("k", str("expected an integer in [0, ", kLargest, "]",
                    words.empty() ? "" : " or one of: ", join(words), ", found ", describe(value)));
  const int64_t k = int64_t(number);
  p.set_resolved("k", k);
  if (k != kGroupSize && !serves(k, sizes))
    p.fail("k", str(k, sizes == BlockSizes::any ? " is no block; blocks have 2 channels or more"
                                                : " is not a power of two from 2 on"));
  return k;
}

Json block_size_json(int64_t k) {
  if (k == kFullWidth) return "full";
  if (k == kHeads) return "heads";
  return k;
}

int64_t block_size(const TransformSpec& spec, const TransformFit& fit) {
  FP4LAB_CHECK(spec.k != kHeads, "blocks of channels, not heads");
  if (spec.k == kFullWidth) return fit.channels;
  if (spec.k != kGroupSize) return spec.k;
  return fit.group_size != 0 ? fit.group_size : power_of_two_in(fit.channels);
}

std::string block_size_problem(const TransformSpec& spec, const TransformFit& fit, BlockSizes sizes) {
  const std::string_view name = entry_of(spec.kind).name;
  const int64_t k = block_size(spec, fit);
  const std::string possible = possible_sizes(fit.channels, sizes);
  if (possible.empty())
    return str(name, ": ", sizes == BlockSizes::any ? "no block of 2 or more" : "no power of two",
               " divides ", fit.channels, " channels");
  const std::string what = spec.k == kFullWidth   ? str("the full width ", k)
                           : spec.k != kGroupSize ? str("k = ", k)
                           : fit.group_size != 0  ? str("the format's group size ", k)
                                                  : str("the largest power of two, ", k, ",");
  if (!serves(k, sizes))
    return str(name, ": ", what, sizes == BlockSizes::any ? " is no block" : " is not a power of two",
               "; those that divide ", fit.channels, " channels as \"k\": ", possible);
  if (fit.channels % k != 0)
    return str(name, ": ", what, " does not divide ", fit.channels, " channels; ",
               sizes == BlockSizes::any ? "blocks" : "powers of two", " that do: ", possible);
  return "";
}

}  // namespace fp4lab
