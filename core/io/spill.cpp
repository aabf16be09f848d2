#include "core/io/spill.h"

#include <fcntl.h>
#include <sys/mman.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <filesystem>
#include <fstream>
#include <system_error>

#include "core/io/files.h"

namespace fp4lab {

namespace {

[[noreturn]] void fail(const std::string& path, const std::string& what, int error) {
  throw DataError(str(path, ": ", what, ": ", std::generic_category().message(error)));
}

/// A new file that has lost its name again. Whoever else uses the same name (another thread, the same process
/// number on another host) does the same, so that removing each other's names does no harm.
int open_nameless(const std::string& path) {
  for (;;) {
    ::unlink(path.c_str());
    const int fd = ::open(path.c_str(), O_RDWR | O_CREAT | O_EXCL | O_CLOEXEC, 0600);
    if (fd < 0 && (errno == EEXIST || errno == EINTR)) continue;
    if (fd < 0) fail(path, "cannot open", errno);
    ::unlink(path.c_str());
    return fd;
  }
}

struct Descriptor {
  int fd;
  ~Descriptor() { ::close(fd); }  // the mapping keeps the file
};

float* map_new_file(const std::string& folder, int64_t bytes) {
  const std::string name = str(SpilledMatrix::kPrefix, ::getpid(), ".tmp");
  const std::string path = (std::filesystem::path(folder) / name).string();
  const Descriptor file{open_nameless(path)};
  // Every block now: on a hole, a full disk would be a SIGBUS in the middle of a computation.
  int error;
  do error = ::posix_fallocate(file.fd, 0, bytes);
  while (error == EINTR);
  if (error != 0) fail(path, str("cannot reserve ", bytes, " bytes"), error);
  void* const memory = ::mmap(nullptr, size_t(bytes), PROT_READ | PROT_WRITE, MAP_SHARED, file.fd, 0);
  if (memory == MAP_FAILED) fail(path, str("cannot map ", bytes, " bytes"), errno);
  return static_cast<float*>(memory);
}

}  // namespace

void SpilledMatrix::Unmap::operator()(float* p) const { ::munmap(p, bytes); }

SpilledMatrix::SpilledMatrix(int64_t rows, int64_t cols, int64_t limit, const std::string& folder)
    : rows_(rows), cols_(cols) {
  FP4LAB_CHECK(rows >= 0 && cols >= 0 && (cols == 0 || rows <= INT64_MAX / 16 / cols), rows, " x ", cols);
  const int64_t bytes = rows * cols * int64_t(sizeof(float));
  if (bytes <= limit || bytes == 0)  // an empty file cannot be mapped
    memory_ = Matrix(rows, cols);
  else
    mapped_ = {map_new_file(folder, bytes), Unmap{size_t(bytes)}};
}

SpilledMatrix make_spilled(int64_t rows, int64_t cols, const SpillPolicy& policy) {
  if (rows * cols * int64_t(sizeof(float)) > policy.limit) {
    std::error_code error;
    std::filesystem::create_directories(policy.folder, error);
    if (error) throw DataError(str(policy.folder, ": cannot make this folder: ", error.message()));
    // Nobody needs these names, living processes included.
    sweep_temporaries(policy.folder, std::string(SpilledMatrix::kPrefix), true);
  }
  return SpilledMatrix(rows, cols, policy.limit, policy.folder);
}

int64_t machine_memory() {
  int64_t bytes = int64_t(::sysconf(_SC_PHYS_PAGES)) * ::sysconf(_SC_PAGESIZE);
  std::ifstream container("/sys/fs/cgroup/memory.max");  // "max", or not there, where it has no limit
  if (int64_t most = 0; container >> most && most > 0) bytes = std::min(bytes, most);
  return bytes;
}

}  // namespace fp4lab
