#include "experiments/cli/options.h"

#include <charconv>
#include <iostream>
#include <optional>

#include "core/text.h"

namespace fp4lab {

namespace po = boost::program_options;

bool parse_options(const std::string& command, const std::string& summary,
                   const std::vector<std::string>& arguments, po::options_description options,
                   const std::string& positional, po::variables_map& values, int most) {
  options.add_options()("help,h", "this page");
  po::positional_options_description places;
  if (!positional.empty()) places.add(positional.c_str(), most);
  try {
    po::store(po::command_line_parser(arguments)
                  .options(options)
                  .positional(places)
                  .style(po::command_line_style::default_style & ~po::command_line_style::allow_guessing)
                  .run(),
              values);
    if (values.count("help")) {
      std::cout << "fp4lab " << command << ": " << summary << "\n\n" << options;
      return false;
    }
    po::notify(values);
  } catch (const po::unknown_option& e) {
    std::vector<std::string> known;
    for (const auto& o : options.options()) known.push_back("--" + o->long_name());
    throw ConfigError(command + ": " + unknown_name("option", e.get_option_name(), known));
  } catch (const po::too_many_positional_options_error&) {
    throw ConfigError(command + ": too many arguments; `fp4lab " + command + " --help` shows what it takes");
  } catch (const po::error& e) {
    throw ConfigError(command + ": " + e.what() + "; `fp4lab " + command + " --help` shows its options");
  }
  return true;
}

void add_sweep_options(po::options_description& options) {
  options.add_options()("file", po::value<std::string>()->value_name("SWEEP.json"),
                        "the sweep (also without --file)")(
      "set", po::value<std::vector<std::string>>()->value_name("KEY=VALUE"),
      "puts a JSON value at a key path, as in --set axes.seed=[1,2]; may be repeated")(
      "results", po::value<std::string>()->default_value("results")->value_name("DIR"), "where results are");
}

std::vector<Sweep> sweeps_from(const po::variables_map& values) {
  if (!values.count("file"))
    throw ConfigError("which sweep? Name a JSON file, as experiments/sweeps/quickstart.json");
  std::vector<Setting> settings;
  if (values.count("set"))
    for (const std::string& s : values["set"].as<std::vector<std::string>>())
      settings.push_back(parse_setting(s));
  std::optional<int64_t> spill_above;
  if (values.count("spill-above")) spill_above = parse_size(values["spill-above"].as<std::string>());
  return load_sweeps(values["file"].as<std::string>(), settings,
                     values["results"].as<std::string>() + "/.hashes.json", spill_above);
}

void add_spill_option(po::options_description& options) {
  options.add_options()("spill-above", po::value<std::string>()->value_name("SIZE"),
                        "hidden states of calibration windows above this size, as 500M or 8G, are kept in a "
                        "file of the folder results/cache, not in memory; default a quarter of the memory");
}

int64_t parse_size(const std::string& text, const std::string& option) {
  int64_t number = -1;
  const char* const end = text.data() + text.size();
  const auto [stop, error] = std::from_chars(text.data(), end, number);
  const std::string_view unit(stop, size_t(end - stop));
  int64_t bytes = -1;
  for (const auto& [name, size] : {std::pair<std::string_view, int64_t>{"", 1},
                                   {"K", 1000},
                                   {"M", 1000000},
                                   {"G", 1000000000},
                                   {"T", 1000000000000}})
    if (unit == name && number >= 0 && number <= (int64_t(1) << 62) / size) bytes = number * size;
  if (error != std::errc() || bytes < 0 || text[0] == '-')
    throw ConfigError(option + " " + text + ": expected a number of bytes, as 0, 500M or 8G (K, M, G, T)");
  return bytes;
}

std::pair<int, int> parse_shard(const std::string& text) {
  int shard = -1, shards = 0, used = 0;
  if (std::sscanf(text.c_str(), "%d/%d%n", &shard, &shards, &used) != 2 || size_t(used) != text.size() ||
      shard < 0 || shard >= shards)
    throw ConfigError("--shard " + text + ": expected i/n with 0 <= i < n, as 0/4");
  return {shard, shards};
}

}  // namespace fp4lab
