#include <signal.h>
#include <unistd.h>

#include <cerrno>
#include <charconv>
#include <chrono>
#include <filesystem>

#include "core/io/files.h"

namespace fp4lab {

namespace fs = std::filesystem;

namespace {
/// The process that a temporary file ".<name>.<pid>.tmp" belongs to, or 0 when it is no such file.
pid_t writer_of(const std::string& file_name) {
  const std::string_view end = ".tmp";
  if (file_name.size() < end.size() || file_name[0] != '.' || !file_name.ends_with(end)) return 0;
  const size_t last = file_name.size() - end.size(), dot = file_name.rfind('.', last - 1);
  if (dot == std::string::npos) return 0;
  pid_t pid = 0;
  const char *from = file_name.data() + dot + 1, *to = file_name.data() + last;
  const auto [stop, error] = std::from_chars(from, to, pid);
  return error == std::errc() && stop == to && pid > 0 ? pid : 0;
}

}  // namespace

void sweep_temporaries(const std::string& folder, const std::string& prefix, bool alone) {
  std::error_code ignored;  // sweeping is a courtesy; another process may be doing the same
  for (fs::directory_iterator i(folder, ignored), end; i != end; i.increment(ignored)) {
    const std::string name = i->path().filename().string();
    const pid_t pid = name.starts_with(prefix) ? writer_of(name) : 0;
    // Our own number on an older file is a coincidence, and a likely one in containers.
    if (pid == 0 || (pid != ::getpid() && (::kill(pid, 0) == 0 || errno == EPERM))) continue;
    const auto age = fs::file_time_type::clock::now() - fs::last_write_time(i->path(), ignored);
    if (alone || age > std::chrono::hours(1)) fs::remove(i->path(), ignored);
  }
}

}  // namespace fp4lab
