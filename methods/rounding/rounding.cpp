#include "methods/rounding/rounding.h"

#include <algorithm>
#include <nlohmann/json.hpp>

#include "core/text.h"

namespace fp4lab {

namespace {

constexpr RoundingEntry kRoundings[] = {
    {Rounding::rtn, "rtn", "round to nearest", {}},
    {Rounding::gptq,
     "gptq",
     "column by column; later columns make up for the errors of earlier ones",
     {.hessian = true}},
    {Rounding::gptaq,
     "gptaq",
     "gptq towards the outputs of the full-precision model (arXiv 2504.02692)",
     {.hessian = true, .cross = true}},
    {Rounding::qronos,
     "qronos",
     "gptq from the weights that best repeat the full-precision outputs (arXiv "
     "2505.11695)",
     {.hessian = true, .cross = true}},
};
const std::vector<std::string> kOrders = {"natural", "static_activation", "dynamic_activation"};
const std::vector<std::string> kScales = {"up_front", "at_group_start", "in_loop"};

/// The keys of the roundings that go from column to column.
void read_loop_keys(Params& p, bool with_alpha, Rounding& r) {
  const auto index = [](const std::vector<std::string>& list, const std::string& chosen) {
    return size_t(std::find(list.begin(), list.end(), chosen) - list.begin());
  };
  r.order = Rounding::Order(index(
      kOrders, p.choice("order", kOrders[size_t(r.order)], kOrders,
                        {"of the columns: as stored, by descending diag(H) inside the loop alone, or moved "
                         "there at run time too"})));
  r.scales = Rounding::Scales(
      index(kScales, p.choice("scales", kScales[size_t(r.scales)], kScales,
                              {"when group scales are chosen: before the loop, from the compensated weights "
                               "when a group's turn comes, or by the compensated loss"})));
  r.damping = p.number("damping", r.damping, {"added to diag(H), fraction of its mean", 0, 1e6});
  if (with_alpha) r.alpha = p.number("alpha", r.alpha, {"gptaq: weight of the asymmetric term", 0, 1});
}

}  // namespace

std::span<const RoundingEntry> roundings() { return kRoundings; }

const RoundingEntry& entry_of(Rounding::Kind kind) {
  for (const RoundingEntry& r : kRoundings)
    if (r.kind == kind) return r;
  FP4LAB_CHECK(false, "rounding ", int(kind));
  std::abort();
}

std::vector<std::string> rounding_names() { return names_of(kRoundings); }

Rounding read_rounding(Params& p, const Rounding& base) {
  const std::string name = p.choice("rounding", entry_of(base.kind).name, rounding_names(),
                                    {"how codes are found (fp4lab list roundings); default the base's"});
  Rounding r = base;
  r.kind = find_named(kRoundings, name)->kind;
  const bool all = p.is_declaring();
  if (r.kind == Rounding::rtn && !all) {
    for (const char* key : {"order", "scales", "damping", "alpha"})
      if (p.has(key))
        p.fail(key, str("\"", key, "\" belongs to gptq, gptaq and qronos; the rounding is rtn"));
    return {};
  }
  read_loop_keys(p, r.kind == Rounding::gptaq || all, r);
  if (r.scales != Rounding::up_front && r.order == Rounding::static_activation && !all)
    p.fail("scales", str(kScales[size_t(r.scales)],
                         " meets a group's columns together: order natural or dynamic_activation"));
  return r;
}

void declare_rounding(std::string_view name, Params& p) {
  p.choice("rounding", {std::string(name)}, {"the rounding's name"});
  const RoundingEntry* entry = find_named(kRoundings, name);
  Rounding unused;
  if (entry && entry->kind != Rounding::rtn) read_loop_keys(p, entry->kind == Rounding::gptaq, unused);
}

void write_rounding(const Rounding& r, Json& object) {
  if (r.kind == Rounding::rtn) return;
  object["rounding"] = std::string(entry_of(r.kind).name);
  object["order"] = kOrders[size_t(r.order)];
  object["scales"] = kScales[size_t(r.scales)];
  object["damping"] = r.damping;
  if (r.kind == Rounding::gptaq) object["alpha"] = r.alpha;
}

std::string rounding_problem(const Rounding& r, const WeightScales& search, const FormatSpec& format) {
  if (r.kind == Rounding::rtn || r.scales == Rounding::up_front) return "";
  if (format.group_size == kWholeRow)
    return str("scales ", kScales[size_t(r.scales)], " needs groups of columns, not whole rows");
  if (r.scales == Rounding::at_group_start) return "";
  const ScaleRule::Kind kind = search.rule_for(format).kind;
  if (search.kind == WeightScales::alternate || search.kind == WeightScales::mse_shrink)
    return "in_loop compares candidates by its own loss: weight_scales sweep, four_over_six, search, grid or "
           "local_hessian";
  if (search.kind != WeightScales::local_hessian && kind != ScaleRule::sweep &&
      kind != ScaleRule::four_over_six && kind != ScaleRule::search && kind != ScaleRule::grid)
    return "in_loop needs candidates: weight_scales sweep, four_over_six, search, grid or local_hessian";
  if (format.has_zero_points()) return "zero points have no scale search";
  return "";
}

}  // namespace fp4lab
