#include "experiments/axes.h"

#include <algorithm>
#include <nlohmann/json.hpp>

#include "core/text.h"

namespace fp4lab {

namespace {
AxisValue show(const std::string& axis, const Json& value) {
  AxisValue v{axis, label_of(value), {}};
  if (value.is_number()) v.number = value.get<double>();
  return v;
}
}  // namespace

std::vector<std::string> split_path(const std::string& path) {
  std::vector<std::string> parts(1);
  for (char c : path) {
    if (c == '.')
      parts.emplace_back();
    else
      parts.back() += c;
  }
  return parts;
}

bool put_at(Json& root, const std::string& path, const Json& value) {
  Json* at = &root;
  const std::vector<std::string> parts = split_path(path);
  for (size_t i = 0; i + 1 < parts.size(); ++i) {
    Json& next = (*at)[parts[i]];
    if (next.is_null()) next = Json::object();
    if (!next.is_object()) return false;
    at = &next;
  }
  (*at)[parts.back()] = value;
  return true;
}

bool has_path(const Json& root, const std::string& path) {
  const Json* at = &root;
  const std::vector<std::string> parts = split_path(path);
  for (size_t i = 0; i < parts.size(); ++i) {
    if (!at->is_object() || !at->contains(parts[i])) return false;
    at = &(*at)[parts[i]];
  }
  return true;
}

std::string pointer_of(const std::string& path) {
  std::string pointer;
  for (const std::string& part : split_path(path)) pointer = Place{"", pointer, nullptr}.child(part).pointer;
  return pointer;
}

std::vector<Axis> read_axes(const Json& object, const Place& place,
                            const std::vector<std::string>& written_order) {
  std::vector<Axis> axes;
  if (object.is_null()) return axes;
  if (!object.is_object())
    throw ConfigError(place.text() + ": expected an object of axes, found " + describe(object));
  // nlohmann::json sorts keys; cells are multiplied in the order written.
  std::vector<std::string> order = written_order;
  for (const auto& [key, value] : object.items())
    if (std::find(order.begin(), order.end(), key) == order.end()) order.push_back(key);
  for (const std::string& key : order) {
    if (!object.contains(key)) continue;
    const Json& values = object[key];
    const Place at = place.child(key);
    if (!values.is_array())
      throw ConfigError(at.text() + ": expected a list of values, found " + describe(values));
    if (values.empty())
      throw ConfigError(at.text() + ": the axis has no values; a sweep over nothing has no cells");
    Axis axis{key, {}, {}};
    std::set<std::string> seen;
    for (size_t i = 0; i < values.size(); ++i) {
      axis.values.push_back(values[i]);
      axis.shown.push_back(show(key, values[i]));
      const AxisValue& shown = axis.shown.back();
      bool fresh = seen.insert(shown.text).second;
      if (shown.number)  // 1 and 1.0 are the same value, too
        if (const std::string same = Json(*shown.number).dump(); same != shown.text)
          fresh = seen.insert(same).second && fresh;
      if (!fresh)
        throw ConfigError(at.child(i).text() + ": \"" + axis.shown.back().text +
                          "\" stands twice in this axis; give one a \"label\"");
    }
    for (const Axis& earlier : axes)
      if (earlier.path.starts_with(key + "."))
        throw ConfigError(at.text() + ": its values would replace what the axis \"" + earlier.path +
                          "\" before it puts there; write \"" + key + "\" first");
    axes.push_back(std::move(axis));
  }
  return axes;
}

std::vector<Exclude> read_excludes(const Json& list, const Place& place, const std::vector<Axis>& axes) {
  std::vector<Exclude> excludes;
  if (list.is_null()) return excludes;
  if (!list.is_array())
    throw ConfigError(place.text() + ": expected a list of {axis: value}, found " + describe(list));
  std::vector<std::string> known;
  for (const Axis& a : axes) known.push_back(a.path);
  for (size_t i = 0; i < list.size(); ++i) {
    const Place at = place.child(i);
    if (!list[i].is_object() || list[i].empty())
      throw ConfigError(at.text() + ": expected an object {axis: value}, found " + describe(list[i]));
    Exclude e;
    for (const auto& [key, value] : list[i].items()) {
      const auto axis = std::find(known.begin(), known.end(), key);
      if (axis == known.end()) throw ConfigError(at.text() + ": " + unknown_name("axis", key, known));
      std::vector<std::string> known_values;
      for (const AxisValue& v : axes[size_t(axis - known.begin())].shown) known_values.push_back(v.text);
      std::set<std::string> texts;
      for (const Json& v : value.is_array() ? value : Json::array({value})) {
        const std::string text = show(key, v).text;
        if (std::find(known_values.begin(), known_values.end(), text) == known_values.end())
          throw ConfigError(at.child(key).text() + ": " + unknown_name("value", text, known_values));
        texts.insert(text);
      }
      e.wanted.emplace_back(size_t(axis - known.begin()), std::move(texts));
    }
    excludes.push_back(std::move(e));
  }
  return excludes;
}

}  // namespace fp4lab
