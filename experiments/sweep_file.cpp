#include "experiments/sweep_file.h"

#include <algorithm>
#include <filesystem>
#include <nlohmann/json.hpp>

#include "core/text.h"
#include "experiments/axes.h"
#include "experiments/sources/source.h"

namespace fp4lab {

namespace {

struct ListedSweeps {
  std::vector<WrittenSweep> sweeps;
  bool is_list = false;
};

std::vector<std::string> axes_in_order(const nlohmann::ordered_json& sweep) {
  std::vector<std::string> axes;
  if (sweep.is_object() && sweep.contains("axes") && sweep["axes"].is_object())
    for (const auto& [path, values] : sweep["axes"].items()) axes.push_back(path);
  return axes;
}

/// Puts `value` at a key path of every sweep that has it; a lone sweep need not. `who` begins the messages.
void set_in(ListedSweeps& list, const std::string& key, const Json& value, const std::string& who,
            const std::string& path) {
  // An axis' path may hold dots of its own: what follows "axes." is one key.
  const bool axis = key.starts_with("axes.");
  bool taken = false;
  for (WrittenSweep& written : list.sweeps) {
    Json& sweep = *written.object;
    if (!sweep.is_object()) continue;
    const bool has_axes = sweep.contains("axes");
    // "device" is a key of every task's cells.
    if (list.is_list && key != "device" &&
        !(axis ? has_axes && sweep["axes"].is_object() && sweep["axes"].contains(key.substr(5))
               : has_path(sweep, key)))
      continue;
    if (axis && has_axes && !sweep["axes"].is_object())
      throw ConfigError(who + ": \"axes\" is not an object");
    if (axis)
      sweep["axes"][key.substr(5)] = value;
    else if (!put_at(sweep, key, value))
      throw ConfigError(who + ": leads through something that is not an object");
    written.text = sweep.dump(2);
    taken = true;
  }
  if (!taken) throw ConfigError(who + ": no sweep of " + path + " has this key");
}

ListedSweeps read_listed(const std::string& path, std::vector<std::string>& open);

/// The sweeps of the file that an entry of a list names.
std::vector<WrittenSweep> read_entry(const Json& entry, const Place& place, std::vector<std::string>& open) {
  const Json named = entry.is_string() ? Json{{"file", entry}} : entry;
  Params p(named, place, "an entry that names a file");
  const std::string file = p.text("file", {"another sweep file"});
  const Json& set = p.raw("set", {"{key path: value}"});
  p.done();
  if (!set.is_null() && !set.is_object()) p.fail("set", "expected an object, found " + describe(set));
  const std::string path = expand_path(file, std::filesystem::path(place.file).parent_path().string());
  if (std::find(open.begin(), open.end(), path) != open.end())
    throw ConfigError(place.text() + ": " + path + " names itself, by way of " + join(open));
  ListedSweeps list = [&] {
    try {
      return read_listed(path, open);
    } catch (const ConfigError& e) {
      if (std::filesystem::exists(path)) throw;
      throw ConfigError(place.text() + ": " + e.what());
    }
  }();
  if (set.is_object())
    for (const auto& [key, value] : set.items())
      set_in(list, key, value, place.child("set").child(key).text(), path);
  return std::move(list.sweeps);
}

ListedSweeps read_listed(const std::string& path, std::vector<std::string>& open) {
  std::string text;
  Json file = parse_json_file(path, &text);
  // The same text again, for the order of its axes; parse_json has already vouched for it.
  const nlohmann::ordered_json ordered = nlohmann::ordered_json::parse(text, nullptr, true, true);
  if (!file.is_array())
    return {{{{path, "", nullptr}, text, std::make_shared<Json>(std::move(file)), axes_in_order(ordered)}},
            false};
  if (file.empty()) throw ConfigError(path + ": an empty list of sweeps");
  open.push_back(path);
  ListedSweeps list{{}, true};
  for (size_t i = 0; i < file.size(); ++i) {
    const Place place{path, "/" + std::to_string(i), nullptr};
    if (file[i].is_string() ||
        (file[i].is_object() && file[i].contains("file") && !file[i].contains("task"))) {
      std::vector<WrittenSweep> named = read_entry(file[i], place, open);
      std::move(named.begin(), named.end(), std::back_inserter(list.sweeps));
    } else {
      list.sweeps.push_back(
          {place, file[i].dump(2), std::make_shared<Json>(file[i]), axes_in_order(ordered[i])});
    }
  }
  open.pop_back();
  return list;
}

/// A setting's value is JSON; what is not JSON is text ("--set format=mxfp4").
Json setting_value(const std::string& text) {
  try {
    return parse_json(text, "--set");
  } catch (const ConfigError&) {
    return text;
  }
}

}  // namespace

Setting parse_setting(const std::string& text) {
  const size_t equals = text.find('=');
  if (equals == std::string::npos || equals == 0)
    throw ConfigError("--set " + text + ": expected key.path=value, as in --set axes.seed=[1,2]");
  return {text.substr(0, equals), text.substr(equals + 1)};
}

std::vector<WrittenSweep> read_sweep_file(const std::string& path, const std::vector<Setting>& settings) {
  std::vector<std::string> open;
  ListedSweeps list = read_listed(path, open);
  for (const auto& [key, value] : settings) set_in(list, key, setting_value(value), "--set " + key, path);
  return std::move(list.sweeps);
}

}  // namespace fp4lab
