#include <omp.h>

#include <cstdio>

#include "core/text.h"
#include "experiments/cli/cli.h"
#include "experiments/cli/options.h"
#include "experiments/provenance.h"
#include "methods/bench/gptq_bench.h"

namespace fp4lab {

namespace po = boost::program_options;

int command_bench(const std::vector<std::string>& arguments) {
  po::options_description options("options");
  options.add_options()("name", po::value<std::string>()->value_name("NAME"),
                        "which (also without --name); none: lists them")(
      "rounds", po::value<int>()->default_value(15)->value_name("N"), "interleaved runs of each subject")(
      "threads", po::value<int>()->default_value(0)->value_name("N"), "0: all processors");
  po::variables_map values;
  if (!parse_options("bench", "measures kernels against a ceiling in the same process", arguments, options,
                     "name", values))
    return kExitOk;
  const std::string wanted = values.count("name") ? values["name"].as<std::string>() : "";
  const int rounds = values["rounds"].as<int>(), threads = values["threads"].as<int>();
  if (rounds < 1 || rounds > 100000 || threads < 0 || threads > 4096)
    throw ConfigError("bench: --rounds from 1, --threads from 0");
  if (threads > 0) omp_set_num_threads(threads);
  std::vector<std::string> known;
  std::vector<Benchmark> all = benchmarks();
  all.insert(all.end(), method_benchmarks().begin(), method_benchmarks().end());
  for (const Benchmark& b : all) {
    known.emplace_back(b.name);
    if (wanted.empty()) std::printf("  %-10s %s\n", known.back().c_str(), std::string(b.description).c_str());
    if (b.name != wanted) continue;
    for (const auto& [key, value] : provenance(omp_get_max_threads()))
      if (key == "cpu" || key == "compiler" || key == "git_commit")
        std::printf("%s: %s\n", key.c_str(), value.c_str());
    b.run(rounds);
    return kExitOk;
  }
  if (!wanted.empty()) throw ConfigError("bench: " + unknown_name("benchmark", wanted, known));
  return kExitOk;
}

}  // namespace fp4lab
