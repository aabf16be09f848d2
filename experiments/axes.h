// experiments/axes.h - the axes of a sweep and what `exclude` takes out of their product; and dotted key
// paths, which name where a value of an axis (or of --set) goes.
#pragma once
#include <nlohmann/json_fwd.hpp>
#include <set>
#include <string>
#include <utility>
#include <vector>

#include "core/params.h"
#include "experiments/store.h"

namespace fp4lab {

/// "calibration.windows" as its parts.
std::vector<std::string> split_path(const std::string& path);
/// The same as a JSON pointer.
std::string pointer_of(const std::string& path);
/// Puts a value at a dotted key path, making objects on the way. False when something there is not an object.
bool put_at(Json& root, const std::string& path, const Json& value);
/// Whether a dotted key path stands in the object.
bool has_path(const Json& root, const std::string& path);

struct Axis {
  std::string path;
  std::vector<Json> values;
  std::vector<AxisValue> shown;  // what the rows of the table carry
};

/// Reads `axes`, in the order that `written_order` (key paths) has them. ConfigError for what
/// is not a list, an axis without values, the same value twice, and an axis that would overwrite an earlier
/// one's values.
std::vector<Axis> read_axes(const Json& object, const Place& place,
                            const std::vector<std::string>& written_order);

/// One entry of `exclude`: the cells it takes out are those that agree with all of its axes.
struct Exclude {
  std::vector<std::pair<size_t, std::set<std::string>>> wanted;  // axis index, texts
  bool used = false;
};
/// ConfigError for unknown axes and values.
std::vector<Exclude> read_excludes(const Json& list, const Place& place, const std::vector<Axis>& axes);

}  // namespace fp4lab
