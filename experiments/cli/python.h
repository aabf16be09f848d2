// experiments/cli/python.h - running the Python parts of the project: which Python, how, and what it says.
#pragma once
#include <string>
#include <string_view>
#include <vector>

namespace fp4lab {

struct ProcessResult {
  int code = 0;              // its exit code; 128 + the signal that ended it
  std::string output;        // what it wrote
  bool interrupted = false;  // Ctrl-C or SIGTERM came, was passed on, and the process has ended
};

/// Runs a program without a shell: `command` is its path and its arguments, `input` its standard input; its
/// standard output is collected. Its messages go to ours, or, with `collect_errors`, into the output. Until
/// it has ended, SIGINT and SIGTERM are passed on to it. DataError when it cannot be started.
ProcessResult run_process(const std::vector<std::string>& command, std::string_view input,
                          bool collect_errors = false);

/// The executable files called `name` in the folders of PATH, in its order; `name` itself when it has a '/'.
std::vector<std::string> find_programs(const std::string& name);

/// The root of the source tree that this program was built from, where `wanted` (a path below it) exists:
/// above the program's own folder (a tree that was moved with its build in it), else where it was compiled.
/// DataError naming both places.
std::string source_root(const std::string& wanted);

/// A Python that `script --check` is content with: FP4LAB_PYTHON if it is set, else the first fitting python3
/// in PATH. DataError with what each said, and what to install.
std::string find_python(const std::string& script);

}  // namespace fp4lab
