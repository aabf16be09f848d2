#include "experiments/cli/report.h"

#include <sys/stat.h>

#include <cstdlib>
#include <fstream>

#include "core/errors.h"
#include "experiments/cli/python.h"
#include "tests/catch.h"
#include "tests/core/io/temp_folder.h"

using namespace fp4lab;
using namespace fp4lab::test;

namespace {

/// PATH for the length of a test.
struct WithPath {
  std::string before = std::getenv("PATH") ? std::getenv("PATH") : "";
  explicit WithPath(const std::string& path) { ::setenv("PATH", path.c_str(), 1); }
  ~WithPath() { ::setenv("PATH", before.c_str(), 1); }
};

void make_program(const std::string& path, const std::string& text = "#!/bin/sh\n") {
  std::ofstream(path) << text;
  ::chmod(path.c_str(), 0755);
}

}  // namespace

TEST_CASE("processes: arguments, input and output arrive as they are", "[experiments][cli]") {
  const std::vector<std::string> words = {"a b", "", "it's", "\"x\"", "$HOME", "`id`", "*", "a\nb", "\\"};
  std::vector<std::string> command = {"/bin/sh", "-c", "printf '%s|' \"$@\"; cat", "sh"};
  command.insert(command.end(), words.begin(), words.end());
  std::string expected;
  for (const std::string& w : words) expected += w + "|";
  std::string input(3 << 20, 'x');  // far more than a pipe holds
  input[5] = '\0';
  const ProcessResult r = run_process(command, input);
  CHECK(r.code == 0);
  CHECK(!r.interrupted);
  CHECK((r.output == expected + input));
}

TEST_CASE("processes: how they end", "[experiments][cli]") {
  CHECK(run_process({"/bin/sh", "-c", "exit 7"}, "").code == 7);
  CHECK(run_process({"/bin/sh", "-c", "kill -9 $$"}, "").code == 137);
  CHECK(run_process({"/bin/true"}, std::string(1 << 20, 'x')).code == 0);  // reads none of it
  CHECK(run_process({"/bin/sh", "-c", "echo out; echo err >&2"}, "", true).output == "out\nerr\n");
  CHECK(has(message_of<DataError>([] { run_process({"/no/such/program"}, ""); }),
            "/no/such/program: cannot start: No such file or directory"));
}

TEST_CASE("processes: programs are found in the order of PATH", "[experiments][cli]") {
  const TempFolder folder;
  for (const char* name : {"a", "b c", "c"}) std::filesystem::create_directory((folder / name));
  make_program((folder / "a") + "/tool");
  make_program((folder / "b c") + "/tool");
  std::ofstream((folder / "c") + "/tool") << "not executable";
  std::filesystem::create_directory((folder / "c") + "/folder");
  const WithPath path((folder / "c") + "::" + (folder / "b c") + ":/no/such:" + (folder / "a") + ":" +
                      (folder / "a"));
  CHECK(find_programs("tool") ==
        std::vector<std::string>{(folder / "b c") + "/tool", (folder / "a") + "/tool"});
  CHECK(find_programs("folder").empty());
  CHECK(find_programs("none").empty());
  CHECK(find_programs("./x/tool") == std::vector<std::string>{"./x/tool"});
}

TEST_CASE("processes: the source tree, or where it was looked for", "[experiments][cli]") {
  CHECK(std::filesystem::exists(source_root("analysis/report/__main__.py") + "/analysis/report/page.css"));
  const std::string message = message_of<DataError>([] { source_root("no/such/file.py"); });
  CHECK(has(message, "no/such/file.py is neither in a folder above "));
  CHECK(has(message, "nor in " FP4LAB_SOURCE_DIR));
}

TEST_CASE("report: the page's name, and a command line as typed", "[experiments][cli]") {
  CHECK(default_page({"results/x.h5"}) == "results/x.html");
  CHECK(default_page({"x.y.h5"}) == "x.y.html");
  CHECK(default_page({"r/a.h5", "s/b.h5"}) == "r/report.html");
  CHECK(default_page({"a.h5", "b.h5"}) == "report.html");
  CHECK(shell_line({"fp4lab", "run", "a_b-c/1.json", "--set", "axes.seed=1,2"}) ==
        "fp4lab run a_b-c/1.json --set axes.seed=1,2");
  CHECK(shell_line({"a b", "", "it's", "axes.seed=[1]", "$x", "~"}) ==
        "'a b' '' 'it'\\''s' 'axes.seed=[1]' '$x' '~'");
}

TEST_CASE("report: what stands in the way of a page is known first", "[experiments][cli]") {
  const TempFolder folder;
  for (const char* name : {"x.h5", "x.json", "x", ".html", ""}) {
    CAPTURE(name);
    CHECK(has(message_of<ConfigError>([&] { ReportPage((folder / name)); }), "a page's name ends in .html"));
  }
  CHECK(has(message_of<DataError>([&] { ReportPage((folder / "no") + "/x.html"); }), "there is no folder "));
}
