#include "core/io/mapped_file.h"

#include <fcntl.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

#include <cerrno>
#include <system_error>
#include <utility>

#include "core/errors.h"

namespace fp4lab {

namespace {
std::string errno_text() { return std::generic_category().message(errno); }

/// Opens for reading; O_NONBLOCK so that a pipe in place of a file is refused instead of waited for.
int open_regular(const std::string& path, size_t& size) {
  const int fd = ::open(path.c_str(), O_RDONLY | O_CLOEXEC | O_NONBLOCK);
  if (fd < 0) throw DataError(str(path, ": cannot open: ", errno_text()));
  struct stat info {};
  std::string problem;
  if (::fstat(fd, &info) != 0)
    problem = "cannot open: " + errno_text();
  else if (S_ISDIR(info.st_mode))
    problem = "is a folder; expected a file";
  else if (!S_ISREG(info.st_mode))
    problem = "is not a regular file";
  else if (info.st_size <= 0)
    problem = "is empty (0 bytes)";
  if (!problem.empty()) {
    ::close(fd);
    throw DataError(path + ": " + problem);
  }
  size = size_t(info.st_size);
  return fd;
}
}  // namespace

MappedFile::MappedFile(const std::string& path) : path_(path) {
  fd_ = open_regular(path, size_);
  void* const memory = ::mmap(nullptr, size_, PROT_READ, MAP_PRIVATE, fd_, 0);
  if (memory == MAP_FAILED) {
    const std::string why = errno_text();
    ::close(fd_);
    throw DataError(str(path, ": cannot map ", size_, " bytes: ", why));
  }
  data_ = static_cast<std::byte*>(memory);
}

MappedFile::MappedFile(MappedFile&& other) noexcept
    : path_(std::move(other.path_)),
      fd_(std::exchange(other.fd_, -1)),
      data_(std::exchange(other.data_, nullptr)),
      size_(std::exchange(other.size_, 0)) {}

MappedFile::~MappedFile() {
  if (data_) ::munmap(data_, size_);
  if (fd_ >= 0) ::close(fd_);
}

void MappedFile::check_not_truncated() const {
  struct stat info {};
  if (::fstat(fd_, &info) != 0) throw DataError(str(path_, ": cannot stat: ", errno_text()));
  if (size_t(info.st_size) < size_)
    throw DataError(str(path_, ": became shorter while open: ", info.st_size, " bytes, was ", size_));
}

void MappedFile::release(int64_t offset, int64_t count) const {
  FP4LAB_CHECK(offset >= 0 && count >= 0 && offset + count <= int64_t(size_), offset, " + ", count);
  static const int64_t page = ::sysconf(_SC_PAGESIZE);
  const int64_t begin = (offset + page - 1) / page * page, end = (offset + count) / page * page;
  if (begin < end) ::madvise(data_ + begin, size_t(end - begin), MADV_DONTNEED);  // advice: may fail
}

}  // namespace fp4lab
