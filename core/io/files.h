// core/io/files.h - files as the store needs them: whole, durable, or not there at all.
#pragma once
#include <span>
#include <string>
#include <string_view>

namespace fp4lab {

/// The whole file. DataError with path and errno text.
std::string read_file(const std::string& path);

/// Writes `bytes` to a temporary name beside `path` (".<name>.<pid>.tmp"), fsyncs, renames over `path`,
/// fsyncs the folder. DataError with path and errno text ("No space left on device"); the temporary file is
/// removed on failure, an existing `path` is untouched. SIGXFSZ must be ignored by the program (main does).
void write_file_atomic(const std::string& path, std::string_view bytes);

/// Renames a finished temporary file over `path`, durably: fsync of the file, rename, fsync of the folder.
/// DataError with path and errno text; the temporary file is then removed.
void publish_file(const std::string& temporary, const std::string& path);

/// Removes temporary files (named `prefix`...) that dead processes left in a folder: those whose number no
/// process has here, if nobody else on any host can be writing there (`alone`) or they are older than an
/// hour.
void sweep_temporaries(const std::string& folder, const std::string& prefix, bool alone);

}  // namespace fp4lab
