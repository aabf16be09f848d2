#include "experiments/cli/cli.h"

#include <signal.h>
#include <unistd.h>

#include <cstdio>
#include <cstdlib>
#include <new>

#include "core/errors.h"
#include "core/text.h"
#include "experiments/provenance.h"
#include "experiments/task.h"

namespace fp4lab {

const std::vector<Command>& commands() {
  static const std::vector<Command> list = {
      {"run", "SWEEP.json", "computes the cells that are not stored yet and prints the table", &command_run},
      {"plan", "SWEEP.json", "prints the cells, with an estimate of time and memory; runs nothing",
       &command_plan},
      {"check", "SWEEP.json", "only validates", &command_check},
      {"table", "SWEEP.json | RESULTS.h5", "prints results as markdown, csv or latex", &command_table},
      {"report", "RESULTS.h5...", "writes an HTML page: tables, figures, provenance", &command_report},
      {"merge", "SWEEP.json", "writes results/<name>.h5 from the parts that are there", &command_merge},
      {"export", "SWEEP.json --cell KEY", "writes a cell's model as a checkpoint that other tools load",
       &command_export},
      {"import", "FOLDER", "checks a quantized checkpoint and says what it holds", &command_import},
      {"convert", "FOLDER --layout NAME", "writes a quantized checkpoint in another layout",
       &command_convert},
      {"list", "[KIND [NAME]]", "what there is: formats, elements, scale_types, rules, methods, sources...",
       &command_list},
      {"schema", "", "the JSON Schema of sweep files, for editors", &command_schema},
      {"bench", "[NAME]", "measures kernels against a ceiling in the same process", &command_bench},
  };
  return list;
}

namespace {

void print_help(std::FILE* to) {
  std::fprintf(to, "fp4lab %s: what happens to a language model's weights in 4-bit formats\n\n",
               version_text().c_str());
  for (const Command& c : commands())
    std::fprintf(to, "  fp4lab %-7s %-24s %s\n", std::string(c.name).c_str(),
                 std::string(c.arguments).c_str(), std::string(c.description).c_str());
  std::fprintf(to,
               "\n`fp4lab COMMAND --help` lists its options. Start with: fp4lab run "
               "experiments/sweeps/quickstart.json\n");
}

int dispatch(int argc, char** argv) {
  const std::string name = argc > 1 ? argv[1] : "help";
  if (name == "help" || name == "--help" || name == "-h") {
    print_help(stdout);
    return kExitOk;
  }
  if (name == "--version" || name == "version") {
    std::printf("fp4lab %s (%.12s%s)\n", version_text().c_str(), git_commit().c_str(),
                git_dirty() ? ", modified" : "");
    return kExitOk;
  }
  std::vector<std::string> known;
  for (const Command& c : commands()) {
    if (c.name == name) return c.run(std::vector<std::string>(argv + 2, argv + argc));
    known.emplace_back(c.name);
  }
  throw ConfigError(unknown_name("command", name, known));
}

}  // namespace

int run_cli(int argc, char** argv) {
  // Waiting OpenMP threads sleep: spinning on a busy machine costs up to four times the time. The runtime
  // reads the variable when it is loaded, so it has to be there before.
  if (!std::getenv("OMP_WAIT_POLICY")) {
    ::setenv("OMP_WAIT_POLICY", "passive", 1);
    ::execv("/proc/self/exe", argv);  // on failure, go on without
  }
  ::signal(SIGXFSZ, SIG_IGN);  // a file limit is an error to report, not a death
  ::signal(SIGPIPE, SIG_DFL);  // `fp4lab table ... | head` ends quietly
  try {
    const int code = dispatch(argc, argv);
    if (std::fflush(stdout) != 0) {
      std::fprintf(stderr, "fp4lab: cannot write to the standard output\n");
      return kExitData;
    }
    return code;
  } catch (const ConfigError& e) {
    std::fprintf(stderr, "fp4lab: %s\n", e.what());
    return kExitConfig;
  } catch (const Interrupted&) {
    std::fprintf(stderr, "fp4lab: interrupted; nothing was written\n");
    return kExitInterrupted;
  } catch (const Error& e) {
    std::fprintf(stderr, "fp4lab: %s\n", e.what());
    return kExitData;
  } catch (const std::bad_alloc&) {
    std::fprintf(stderr, "fp4lab: out of memory\n");
    return kExitData;
  } catch (const std::exception& e) {
    std::fprintf(
        stderr,
        "fp4lab: a fault of the program itself: %s\nPlease report it with the command that led here.\n",
        e.what());
    return kExitFault;
  }
}

}  // namespace fp4lab
