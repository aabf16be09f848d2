// experiments/sweep_file.h - the sweeps of a file as written: lists, files that name other files, settings.
#pragma once
#include <nlohmann/json_fwd.hpp>
#include <string>
#include <vector>

#include "core/params.h"
#include "experiments/sweep.h"

namespace fp4lab {

struct WrittenSweep {
  Place place;                    // its file, and where it stands there
  std::string text;               // what the result file keeps: the file's own text for a lone sweep that
                                  // nothing was set in, otherwise the sweep it came to
  std::shared_ptr<Json> object;   // settings applied
  std::vector<std::string> axes;  // their key paths in the order written
};

/// Reads a sweep, a list, or a list some of whose entries name other sweep files ("lemmas.json", or {"file":
/// "table1_tiny.json", "set": {key path: value}}, relative to the naming file's folder), and applies the
/// settings. In a list a setting changes the sweeps that have its key; one that no sweep takes is an error,
/// as are files that name each other in a circle. ConfigError with file and place.
std::vector<WrittenSweep> read_sweep_file(const std::string& path, const std::vector<Setting>& settings);

}  // namespace fp4lab
