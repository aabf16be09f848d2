// The commands that show what there is: list, schema.
#include <algorithm>
#include <functional>
#include <iostream>
#include <limits>
#include <nlohmann/json.hpp>

#include "analysis/table.h"
#include "analysis/tensor_errors.h"
#include "core/schema.h"
#include "core/text.h"
#include "experiments/cli/cli.h"
#include "experiments/cli/options.h"
#include "experiments/sources/synthetic.h"
#include "experiments/task.h"
#include "formats/registry.h"
#include "methods/method.h"

namespace fp4lab {

namespace {

struct Item {
  std::string name, description;
};
/// One kind of thing: its items, and the keys that its factory reads ("" items have none).
struct Kind {
  std::string name, description;
  std::function<std::vector<Item>()> items;
  std::function<std::vector<KeyInfo>(const std::string& item)> keys;
};

std::string shape(const Element& e) {
  switch (e.kind) {
    case ElementKind::minifloat: return str(e.bits, " bits, sign and magnitude, largest ", e.scale_max);
    case ElementKind::int_sym:
    case ElementKind::int_full:
    case ElementKind::int_asym:
      return str(e.bits, " bits, ", e.lowest(), "..", e.highest(),
                 e.kind == ElementKind::int_asym ? " with a zero point" : "", ", scale from ", e.scale_max);
    case ElementKind::table: return "the 16 NormalFloat levels, largest 1";
  }
  return "";
}

std::vector<KeyInfo> no_keys(const std::string&) { return {}; }

std::vector<KeyInfo> task_keys(const std::string& item) {
  for (const TaskKind& t : task_kinds())
    if (t.name == item || item.empty())
      return declared_keys([&](Params& p) {
        SourceCache sources;
        TaskContext context{"", {}, &sources, nullptr, "", {}};
        t.make(p, context);
      });
  return {};
}

std::vector<KeyInfo> source_keys(const std::string& item) {
  for (const SourceKind& s : source_kinds())
    if (s.key == item) {
      if (item == "synthetic")
        return declared_keys([](Params& p) { read_synthetic(p); });  // the object under its key
      return declared_keys([&](Params& p) { s.make(p, SourceContext{"", 0, {}}); });
    }
  return {};
}

const std::vector<Kind>& kinds() {
  static const std::vector<Kind> list = {
      {"formats", "named formats; an object composes others",
       [] {
         std::vector<Item> v;
         for (const auto& f : formats())
           v.push_back({std::string(f.name),
                        str(format_number(bits_per_element(f.spec, 4096), 5), " bits",
                            f.spec.group_size == kWholeRow ? " at K = 4096: " : ": ", f.description)});
         return v;
       },
       [](const std::string&) { return declared_keys(declare_format); }},
      {"elements", "what a code stands for",
       [] {
         std::vector<Item> v;
         for (const auto& e : kElements) v.push_back({std::string(e.name), shape(e)});
         return v;
       },
       no_keys},
      {"scale_types", "how a group's scale is stored",
       [] {
         std::vector<Item> v;
         for (const auto& t : kScaleTypes)
           v.push_back({std::string(t.name), str(8 * t.bytes, " bits, largest ", t.max)});
         return v;
       },
       no_keys},
      {"rules", "how a group's amax becomes its scale",
       [] {
         std::vector<Item> v;
         for (const auto& r : scale_rules())
           v.push_back({std::string(r.name), str(r.for_e8m0 ? "[ue8m0] " : "", r.description,
                                                 r.for_activations ? "" : " (weights only)")});
         return v;
       },
       [](const std::string&) { return declared_keys(declare_rule); }},
      {"scales", "offline searches for weights' scales (weight_scales)",
       [] {
         return std::vector<Item>{
             {"rule", "the format's own rule"},
             {"alternate", "the paper's: best group scales and closed-form tensor scale in turn"},
             {"mse_shrink", "FP-Quant's: unrounded scale x (1 - 0.008 i), error norm 2.4, then rounded"},
             {"four_over_six", "amax on 4 or on 6 by MSE"},
             {"sweep", "codes around the absmax code by MSE"},
             {"search", "powers of two around floor by MSE"},
             {"grid", "a grid of fractions of the absmax scale by MSE; any scale but ue8m0"},
             {"paper", "MR-GPTQ's per format: alternate, the rule of power-of-two scales, or mse_shrink"},
             {"nearby", "the codes near absmax, by the scale type: sweep(-8, 7), search(4) or grid"},
             {"local_hessian", "every code by d^T H d with the group's block of the Hessian"}};
       },
       [](const std::string&) { return declared_keys(declare_rule); }},
      {"methods", "named methods",
       [] {
         std::vector<Item> v;
         for (const auto& m : methods()) v.push_back({std::string(m.name), std::string(m.description)});
         return v;
       },
       [](const std::string&) { return declared_keys(declare_method); }},
      {"transforms", "changes of coordinates before quantizing (a method's transform)",
       [] {
         std::vector<Item> v;
         for (const auto& t : transforms()) v.push_back({std::string(t.name), std::string(t.description)});
         return v;
       },
       [](const std::string& item) {
         return item.empty() ? std::vector<KeyInfo>{}
                             : declared_keys([&](Params& p) { declare_transform(item, p); });
       }},
      {"roundings", "how the codes of weights are found (a method's rounding)",
       [] {
         std::vector<Item> v;
         for (const auto& r : roundings()) v.push_back({std::string(r.name), std::string(r.description)});
         return v;
       },
       [](const std::string& item) {
         return item.empty() ? std::vector<KeyInfo>{}
                             : declared_keys([&](Params& p) { declare_rounding(item, p); });
       }},
      {"tasks", "what a cell does",
       [] {
         std::vector<Item> v;
         for (const auto& t : task_kinds()) v.push_back({std::string(t.name), std::string(t.description)});
         return v;
       },
       task_keys},
      {"sources", "where tensors come from",
       [] {
         std::vector<Item> v;
         for (const auto& s : source_kinds()) v.push_back({std::string(s.key), std::string(s.description)});
         return v;
       },
       source_keys},
      {"distributions", "synthetic tensors",
       [] {
         std::vector<Item> v;
         for (const auto& d : distributions()) v.push_back({std::string(d.name), std::string(d.description)});
         return v;
       },
       no_keys},
      {"metrics", "what tensor_error measures",
       [] {
         std::vector<Item> v;
         for (const auto& m : error_metrics())
           v.push_back({std::string(m.name), str(m.description, " [", m.units, "]: ", m.source_equation)});
         return v;
       },
       no_keys},
  };
  return list;
}

void print_keys(const std::vector<KeyInfo>& keys) {
  for (const KeyInfo& k : keys) {
    std::string limits;
    if (k.min > -std::numeric_limits<double>::infinity()) limits += ", at least " + format_number(k.min, 17);
    if (k.max < std::numeric_limits<double>::infinity()) limits += ", at most " + format_number(k.max, 17);
    if (!k.choices.empty() && k.choices.size() <= 8) limits += ": " + join(k.choices);
    std::cout << "    " << k.key << " (" << k.type << limits
              << (k.required           ? ", required"
                  : k.fallback.empty() ? ""
                                       : ", default " + k.fallback)
              << ")  " << k.doc << "\n";
  }
}

}  // namespace

int command_list(const std::vector<std::string>& arguments) {
  if (arguments.empty() || arguments[0] == "--help" || arguments[0] == "-h") {
    std::cout << "fp4lab list KIND [NAME]\n\n";
    for (const Kind& k : kinds())
      std::cout << "  " << k.name << std::string(15 - k.name.size(), ' ') << k.description << "\n";
    return kExitOk;
  }
  std::vector<std::string> known;
  for (const Kind& k : kinds()) {
    known.push_back(k.name);
    if (k.name != arguments[0]) continue;
    const std::vector<Item> items = k.items();
    std::vector<std::string> names;
    size_t widest = 0;
    for (const Item& i : items) names.push_back(i.name), widest = std::max(widest, i.name.size());
    const std::string wanted = arguments.size() > 1 ? arguments[1] : "";
    if (!wanted.empty() && std::find(names.begin(), names.end(), wanted) == names.end())
      throw ConfigError("list: " + unknown_name(k.name.substr(0, k.name.size() - 1), wanted, names));
    for (const Item& i : items)
      if (wanted.empty() || i.name == wanted)
        std::cout << "  " << i.name << std::string(widest - i.name.size() + 2, ' ') << i.description << "\n";
    if (k.name == "formats" && !wanted.empty())
      std::cout << "  the same as " << format_json(find_format(wanted)->spec).dump() << "\n";
    const std::vector<KeyInfo> keys = wanted.empty() && (k.name == "sources" || k.name == "tasks")
                                          ? std::vector<KeyInfo>{}
                                          : k.keys(wanted);
    if (!keys.empty()) {
      std::cout << "  keys of an object:\n";
      print_keys(keys);
    }
    return kExitOk;
  }
  throw ConfigError("list: " + unknown_name("kind", arguments[0], known));
}

int command_schema(const std::vector<std::string>& arguments) {
  if (!arguments.empty() && arguments[0] != "--help") throw ConfigError("schema: takes no arguments");
  std::cout << sweep_schema() << "\n";
  return kExitOk;
}

}  // namespace fp4lab
