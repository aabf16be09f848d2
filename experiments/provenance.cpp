#include "experiments/provenance.h"

#include <sys/utsname.h>
#include <unistd.h>

#include <boost/version.hpp>
#include <ctime>
#include <fstream>
#include <nlohmann/json.hpp>

#include "core/io/hdf5.h"
#include "formats/row_kernels.h"
#include "fp4lab_version.h"

namespace fp4lab {

namespace {

/// The value of the first line of a file that starts with `key` ("model name\t: X" gives X).
std::string line_of(const char* path, const std::string& key) {
  std::ifstream in(path);
  for (std::string line; std::getline(in, line);)
    if (line.starts_with(key)) {
      const size_t colon = line.find_first_of(":=");
      const size_t begin = line.find_first_not_of(" \t\"", colon + 1);
      if (colon == std::string::npos || begin == std::string::npos) return "unknown";
      const size_t end = line.find_last_not_of(" \t\"");
      return line.substr(begin, end - begin + 1);
    }
  return "unknown";
}

}  // namespace

Provenance provenance(int threads) {
  utsname system{};
  uname(&system);
  const std::string gpu = line_of("/proc/driver/nvidia/gpus/0/information", "Model");
  const std::string driver = line_of("/proc/driver/nvidia/version", "NVRM version");
  return {{"host", system.nodename},
          {"os", line_of("/etc/os-release", "PRETTY_NAME") + ", Linux " + system.release},
          {"cpu", line_of("/proc/cpuinfo", "model name")},
          {"isa", row_kernels().name},
          {"threads", std::to_string(threads)},
          {"gpu", gpu == "unknown" ? "none" : gpu},
          {"driver", driver == "unknown" ? "none" : driver},
          {"compiler", "g++ " __VERSION__},
          {"flags", FP4LAB_FLAGS},
          {"libraries", "HDF5 " + h5::library_version() + ", nlohmann_json " +
                            std::to_string(NLOHMANN_JSON_VERSION_MAJOR) + "." +
                            std::to_string(NLOHMANN_JSON_VERSION_MINOR) + "." +
                            std::to_string(NLOHMANN_JSON_VERSION_PATCH) + ", Boost " BOOST_LIB_VERSION},
          {"fp4lab_version", version_text()},
          {"git_commit", git_commit()},
          {"git_dirty", git_dirty() ? "yes" : "no"}};
}

std::string version_text() { return FP4LAB_VERSION; }
std::string git_commit() { return FP4LAB_GIT_COMMIT; }
bool git_dirty() { return FP4LAB_GIT_DIRTY != 0; }

std::string utc_now() {
  const std::time_t now = std::time(nullptr);
  std::tm t{};
  gmtime_r(&now, &t);
  char text[32];
  std::strftime(text, sizeof text, "%Y-%m-%dT%H:%M:%SZ", &t);
  return text;
}

}  // namespace fp4lab
