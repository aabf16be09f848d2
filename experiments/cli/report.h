// experiments/cli/report.h - HTML pages of result files. Python writes them (analysis/report): it draws the
// figures anyway, and nothing else of the project needs it.
#pragma once
#include <string>
#include <vector>

namespace fp4lab {

/// One page to be. It is made before a run starts, so that what stands in the way of the page is known then
/// and not after a night.
class ReportPage {
 public:
  /// Looks for Python and its sources and at the page's folder. ConfigError when `page` does not end in .html
  /// or .htm (a result or a sweep is not to be overwritten), DataError when the page could not be written.
  explicit ReportPage(const std::string& page);

  /// Writes the page of these result files, whole or not at all; one that is there is replaced. `command` is
  /// what the page calls the way to make it again. Returns kExitOk or, after Ctrl-C, kExitInterrupted;
  /// DataError for files that are no whole results.
  int write(const std::vector<std::string>& files, const std::string& command) const;

 private:
  std::string page_, root_, python_;
};

/// The page of these files when none is named: beside the first, with its name, or report.html for several.
std::string default_page(const std::vector<std::string>& files);

/// A command line as one types it: `fp4lab report 'my results.h5'`.
std::string shell_line(const std::vector<std::string>& words);

}  // namespace fp4lab
