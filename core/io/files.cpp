#include "core/io/files.h"

#include <fcntl.h>
#include <sys/stat.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <filesystem>
#include <system_error>
#include <utility>

#include "core/errors.h"
#include "core/io/temporary_file.h"

namespace fp4lab {

namespace {
[[noreturn]] void fail(const std::string& path, const char* what, int error) {
  throw DataError(str(path, ": ", what, ": ", std::generic_category().message(error)));
}

std::string folder_of(const std::string& path) {
  const std::string folder = std::filesystem::path(path).parent_path().string();
  return folder.empty() ? "." : folder;
}

/// Closes on every way out.
struct Descriptor {
  int fd;
  ~Descriptor() {
    if (fd >= 0) ::close(fd);
  }
};

/// Makes a rename in this folder survive a power cut.
void sync_folder(const std::string& path) {
  const Descriptor folder{::open(folder_of(path).c_str(), O_RDONLY | O_DIRECTORY | O_CLOEXEC)};
  if (folder.fd < 0) fail(path, "cannot open its folder", errno);
  // Some network file systems cannot sync a folder and say EINVAL; their renames are durable or they are not.
  if (::fsync(folder.fd) != 0 && errno != EINVAL) fail(path, "cannot sync its folder", errno);
}
}  // namespace

std::string read_file(const std::string& path) {
  const Descriptor file{::open(path.c_str(), O_RDONLY | O_CLOEXEC)};
  if (file.fd < 0) fail(path, "cannot read", errno);
  struct stat info {};
  if (::fstat(file.fd, &info) != 0) fail(path, "cannot read", errno);
  // The size is a hint: files of /proc say 0, and a file may grow while it is read.
  std::string bytes;
  size_t used = 0;
  for (size_t room = size_t(std::max<off_t>(info.st_size, 0)) + 1;; room = std::max<size_t>(used, 4096)) {
    bytes.resize(used + room);
    while (used < bytes.size()) {
      const ssize_t n = ::read(file.fd, bytes.data() + used, bytes.size() - used);
      if (n < 0 && errno == EINTR) continue;
      if (n < 0) fail(path, "cannot read", errno);
      if (n == 0) {
        bytes.resize(used);
        return bytes;
      }
      used += size_t(n);
    }
  }
}

TemporaryFile::TemporaryFile(const std::string& path) : path_(path) {
  const std::filesystem::path p(path);
  temporary_ = (p.parent_path() / str(".", p.filename().string(), ".", ::getpid(), ".tmp")).string();
  fd_ = ::open(temporary_.c_str(), O_WRONLY | O_CREAT | O_TRUNC | O_CLOEXEC, 0666);
  if (fd_ < 0) fail(path_, "cannot write", errno);
}

TemporaryFile::~TemporaryFile() {
  if (fd_ >= 0) ::close(fd_);
  if (!temporary_.empty()) ::unlink(temporary_.c_str());
}

void TemporaryFile::write(std::string_view bytes) {
  while (!bytes.empty()) {
    const ssize_t n = ::write(fd_, bytes.data(), bytes.size());
    if (n < 0 && errno == EINTR) continue;
    if (n < 0) fail(path_, "cannot write", errno);
    bytes.remove_prefix(size_t(n));
  }
}

void TemporaryFile::publish() {
  // A network file system may report a full disk only now.
  if (::close(std::exchange(fd_, -1)) != 0) fail(path_, "cannot write", errno);
  publish_file(std::exchange(temporary_, ""), path_);
}

void write_file_atomic(const std::string& path, std::string_view bytes) {
  TemporaryFile file(path);
  file.write(bytes);
  file.publish();
}

void publish_file(const std::string& temporary, const std::string& path) {
  const auto give_up = [&](const char* what, int error) {
    ::unlink(temporary.c_str());
    fail(path, what, error);
  };
  {
    const Descriptor file{::open(temporary.c_str(), O_RDONLY | O_CLOEXEC)};
    if (file.fd < 0) give_up("cannot open its temporary file", errno);
    if (::fsync(file.fd) != 0) give_up("cannot sync its temporary file", errno);
  }
  if (::rename(temporary.c_str(), path.c_str()) != 0) give_up("cannot rename its temporary file", errno);
  sync_folder(path);
}

}  // namespace fp4lab
