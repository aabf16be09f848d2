// experiments/cli/cli.h - the command line: `fp4lab <command> [arguments]`.
#pragma once
#include <string>
#include <string_view>
#include <vector>

namespace fp4lab {

/// Runs one command and returns the exit code: 0, 2 (sweep or command line), 3 (data), 4 (some cells failed),
/// 130 (interrupted), 1 (a fault of ours). Messages go to stderr, results to stdout.
int run_cli(int argc, char** argv);

struct Command {
  std::string_view name, arguments, description;
  int (*run)(const std::vector<std::string>& arguments);
};
/// Every command, in the order `help` shows them.
const std::vector<Command>& commands();

int command_plan(const std::vector<std::string>& arguments);
int command_run(const std::vector<std::string>& arguments);
int command_check(const std::vector<std::string>& arguments);
int command_table(const std::vector<std::string>& arguments);
int command_report(const std::vector<std::string>& arguments);
int command_export(const std::vector<std::string>& arguments);
int command_import(const std::vector<std::string>& arguments);
int command_convert(const std::vector<std::string>& arguments);
int command_merge(const std::vector<std::string>& arguments);
int command_list(const std::vector<std::string>& arguments);
int command_schema(const std::vector<std::string>& arguments);
int command_bench(const std::vector<std::string>& arguments);

}  // namespace fp4lab
