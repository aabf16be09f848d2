// experiments/cli/options.h - options of one command, through Boost.Program_options, with our errors.
#pragma once
#include <boost/program_options.hpp>
#include <string>
#include <vector>

#include "experiments/runner.h"

namespace fp4lab {

/// Parses `arguments`; positional ones go to the option named `positional` ("" for none). Prints the help of
/// the command and returns false for --help. At most `most` positional ones; -1: any number. ConfigError for
/// unknown options (with the known ones) and bad values.
bool parse_options(const std::string& command, const std::string& summary,
                   const std::vector<std::string>& arguments,
                   boost::program_options::options_description options, const std::string& positional,
                   boost::program_options::variables_map& values, int most = 1);

/// The options that choose and change sweeps: FILE, --set, --results.
void add_sweep_options(boost::program_options::options_description& options);
std::vector<Sweep> sweeps_from(const boost::program_options::variables_map& values);

/// --spill-above, for commands that compute or estimate.
void add_spill_option(boost::program_options::options_description& options);
/// "0", "500M", "8G" (powers of 1000): bytes. ConfigError otherwise.
int64_t parse_size(const std::string& text, const std::string& option = "--spill-above");

/// "1/4": shard 1 of 4, counted from 0. ConfigError otherwise.
std::pair<int, int> parse_shard(const std::string& text);

}  // namespace fp4lab
