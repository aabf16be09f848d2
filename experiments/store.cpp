#include "experiments/store.h"

#include <fcntl.h>
#include <sys/stat.h>
#include <unistd.h>

#include <cerrno>
#include <filesystem>
#include <system_error>

#include "core/errors.h"
#include "core/io/files.h"
#include "experiments/store_part.h"
#include "experiments/store_state.h"

namespace fp4lab {

namespace fs = std::filesystem;

namespace {

void check_key(const std::string& key) {
  FP4LAB_CHECK(key.size() == 64 && key.find_first_not_of("0123456789abcdef") == std::string::npos, key);
}

}  // namespace

int open_lock_file(const std::string& parts) {
  const std::string path = parts + "/.lock";
  const int fd = ::open(path.c_str(), O_RDWR | O_CREAT | O_CLOEXEC, 0666);
  if (fd < 0) throw DataError(path + ": cannot open: " + std::generic_category().message(errno));
  return fd;
}

int lock_byte(int fd, int64_t offset, short type, bool wait) {
  struct flock lock {};
  lock.l_type = type, lock.l_whence = SEEK_SET, lock.l_start = offset, lock.l_len = 1;
  while (::fcntl(fd, wait ? F_OFD_SETLKW : F_OFD_SETLK, &lock) != 0)
    if (errno != EINTR) return errno;
  return 0;
}

Store::Store(std::string dir, std::string name)
    : state_(std::make_unique<State>(std::move(dir), std::move(name))) {
  std::error_code error;
  fs::create_directories(parts_dir(), error);
  if (error) throw DataError(parts_dir() + ": cannot create: " + error.message());
  state_->lock = open_lock_file(parts_dir());
  // Every open store holds kStoreOpen shared. Whoever gets it exclusively is alone, on all hosts. Where the
  // file system cannot lock, nobody is ever sure to be alone; only claims need locks.
  const bool alone = lock_byte(state_->lock, kStoreOpen, F_WRLCK, false) == 0;
  sweep_temporaries(parts_dir(), ".", alone);
  sweep_temporaries(state_->dir, "." + state_->name + ".h5.", alone);
  lock_byte(state_->lock, kStoreOpen, F_RDLCK, true);
}

Store::~Store() = default;

Store::State::~State() {
  if (lock >= 0) ::close(lock);
}

std::string Store::file() const { return (fs::path(state_->dir) / (state_->name + ".h5")).string(); }
std::string Store::parts_dir() const { return (fs::path(state_->dir) / state_->name / "parts").string(); }

std::string Store::State::done_path(const std::string& key) const {
  check_key(key);
  return (fs::path(dir) / name / "parts" / (key + ".h5")).string();
}

std::string Store::State::error_path(const std::string& key) const {
  check_key(key);
  return (fs::path(dir) / name / "parts" / (key + ".error.h5")).string();
}

CellState Store::state(const std::string& key) const {
  std::error_code ignored;
  if (const std::string path = state_->done_path(key); fs::exists(path, ignored)) try {
      check_part(path, key);
      return CellState::done;
    } catch (const DataError&) {  // as good as absent: the cell is computed again and put over it
    }
  return fs::exists(state_->error_path(key), ignored) ? CellState::failed : CellState::absent;
}

std::string Store::stamp(const std::string& key) const {
  std::string stamps;
  for (const std::string& path : {state_->done_path(key), state_->error_path(key)}) {
    struct stat info {};
    if (::stat(path.c_str(), &info) == 0)
      stamps += str(info.st_ino, " ", info.st_mtim.tv_sec, ".", info.st_mtim.tv_nsec, "\n");
  }
  return stamps;
}

std::unique_ptr<Store::Claim> Store::try_claim(const std::string& key) {
  check_key(key);
  // 60 bits of the key: two cells of a million share a byte with a chance of 4e-7, and then only take turns.
  const int64_t offset = std::stoll(key.substr(0, 15), nullptr, 16);
  const int lock = open_lock_file(parts_dir());
  auto claim = std::make_unique<Claim>(lock);
  const int error = lock_byte(lock, offset, F_WRLCK, false);
  if (error == EAGAIN || error == EACCES) return nullptr;
  if (error != 0)
    throw DataError(parts_dir() + "/.lock: cannot lock: " + std::generic_category().message(error));
  return claim;
}

Store::Claim::~Claim() { ::close(lock_); }

void Store::put(const StoredCell& cell, const Record& record, double seconds, const Provenance& who) {
  write_file_atomic(state_->done_path(cell.key), part_image(cell, &record, "", seconds, who));
  ::unlink(state_->error_path(cell.key).c_str());
}

void Store::put_error(const StoredCell& cell, const std::string& message, double seconds,
                      const Provenance& who) {
  write_file_atomic(state_->error_path(cell.key), part_image(cell, nullptr, message, seconds, who));
}

}  // namespace fp4lab
