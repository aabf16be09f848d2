// core/io/hdf5.cpp - files, groups and copies; values are in hdf5_values.cpp.
//   Files being written live in memory (HDF5's core driver without backing store) and reach the disk by plain
//   write(2) calls of ours. HDF5 1.10 and 1.14 do not survive a full disk themselves: a failed flush leaves
//   identifiers that point at freed objects, and the next flush or the exit of the program touches them.
#include <fcntl.h>
#include <unistd.h>

#include <cerrno>
#include <cstring>

#include "core/io/hdf5_state.h"

namespace fp4lab::h5 {

namespace {

/// Access properties shared by all files. `in_memory`: the core driver, growing by 1 MB, never touching a
/// disk.
Handle access_properties(bool in_memory) {
  static thread_local const bool quiet =
      H5Eset_auto2(H5E_DEFAULT, nullptr, nullptr) >= 0;  // per thread in HDF5
  FP4LAB_CHECK(quiet, "HDF5's error printing cannot be switched off");
  Handle fapl(H5Pcreate(H5P_FILE_ACCESS), H5Pclose);
  FP4LAB_CHECK(fapl.valid(), innermost_error());
  if (in_memory) H5Pset_fapl_core(fapl, size_t(1) << 20, false);
#if H5_VERSION_GE(1, 10, 7)
  H5Pset_file_locking(fapl, false, true);  // files appear whole by rename; flock fails on some cluster disks
#endif
  return fapl;
}

std::unique_ptr<File::State> new_image(std::string name) {
  auto state = std::make_unique<File::State>();
  state->name = std::move(name);
  const Handle fapl = access_properties(true);
  // The name only has to differ from those of the other open images.
  static std::atomic<int64_t> count = 0;
  const std::string image = str("fp4lab-image-", count++);
  state->file = Handle(H5Fcreate(image.c_str(), H5F_ACC_TRUNC, H5P_DEFAULT, fapl), H5Fclose);
  if (!state->file.valid()) state->fail("create the file", "/");
  return state;
}

void write_all(int fd, const char* bytes, size_t size) {
  while (size > 0) {
    const ssize_t n = ::write(fd, bytes, std::min(size, size_t(1) << 30));
    if (n < 0 && errno == EINTR) continue;
    if (n < 0) throw DataError(std::strerror(errno));
    bytes += n, size -= size_t(n);
  }
}

}  // namespace

std::string innermost_error() {
  std::string text;
  const auto first = [](unsigned n, const H5E_error2_t* e, void* out) -> herr_t {
    if (n == 0 && e->desc) *static_cast<std::string*>(out) = e->desc;
    return 0;
  };
  H5Ewalk2(H5E_DEFAULT, H5E_WALK_UPWARD, first, &text);
  if (text.empty()) return "HDF5 gives no reason";
  // System errors come as "..., errno = 28, error message = 'No space left on device', buf = 0x...": the
  // quoted part is what a reader needs.
  const std::string mark = "error message = '";
  if (const size_t from = text.find(mark); from != std::string::npos)
    text = text.substr(from + mark.size(), text.find('\'', from + mark.size()) - from - mark.size());
  return text;
}

void File::State::fail(const char* what, const std::string& object) const {
  throw DataError(str(name, " at ", object, ": cannot ", what, ": ", innermost_error()));
}

File::State::~State() {
  if (fd >= 0) ::close(fd);
}

File::File(std::unique_ptr<State> state) : state_(std::move(state)) {}
File::File(File&&) noexcept = default;
File& File::operator=(File&&) noexcept = default;

File::~File() {
  if (!state_) return;  // moved from
  try {
    close();
  } catch (const std::exception&) {  // whoever needs to know calls close()
  }
}

File File::in_memory() { return File(new_image("(HDF5 in memory)")); }

File File::create(const std::string& path) {
  auto state = new_image(path);
  state->fd = ::open(path.c_str(), O_WRONLY | O_CREAT | O_TRUNC | O_CLOEXEC, 0666);
  if (state->fd < 0) throw DataError(str(path, ": cannot create: ", std::strerror(errno)));
  return File(std::move(state));
}

File File::open_readonly(const std::string& path) {
  auto state = std::make_unique<State>();
  state->name = path;
  const Handle fapl = access_properties(false);
  state->file = Handle(H5Fopen(path.c_str(), H5F_ACC_RDONLY, fapl), H5Fclose);
  if (!state->file.valid()) throw DataError(str(path, ": cannot open as HDF5: ", innermost_error()));
  return File(std::move(state));
}

std::string File::image() {
  FP4LAB_CHECK(state_->file.valid() && state_->fd < 0, state_->name);
  if (H5Fflush(state_->file, H5F_SCOPE_GLOBAL) < 0) state_->fail("flush", "/");
  const ssize_t size = H5Fget_file_image(state_->file, nullptr, 0);
  if (size < 0) state_->fail("take the image", "/");
  std::string bytes(size_t(size), '\0');
  if (H5Fget_file_image(state_->file, bytes.data(), bytes.size()) != size)
    state_->fail("take the image", "/");
  return bytes;
}

void File::close() {
  if (!state_->file.valid()) return;
  const Handle file = std::move(state_->file);  // closed on every way out
  if (state_->fd < 0) return;
  const int fd = std::exchange(state_->fd, -1);
  std::string failure;
  try {
    void** buffer =
        nullptr;  // the core driver's handle: where its memory is; saves a second copy of the file
    if (H5Fflush(file, H5F_SCOPE_GLOBAL) < 0 ||
        H5Fget_vfd_handle(file, H5P_DEFAULT, reinterpret_cast<void**>(&buffer)) < 0)
      throw DataError(innermost_error());
    const ssize_t size = H5Fget_file_image(file, nullptr, 0);
    if (size < 0) throw DataError(innermost_error());
    write_all(fd, static_cast<const char*>(*buffer), size_t(size));
  } catch (const DataError& e) {
    failure = e.what();
  }
  // Some file systems (NFS, quotas) report a full disk only here.
  if (::close(fd) != 0 && failure.empty()) failure = std::strerror(errno);
  if (!failure.empty()) throw DataError(str(state_->name, ": cannot write: ", failure));
}

void File::group(const std::string& path) {
  if (exists(path)) return;
  const Handle links = link_properties();
  const Handle created(H5Gcreate2(state_->id(), path.c_str(), links, H5P_DEFAULT, H5P_DEFAULT), H5Gclose);
  if (!created.valid()) state_->fail("create the group", path);
}

bool File::exists(const std::string& path) const {
  // H5Lexists wants every folder on the way to exist: ask for one after the other.
  for (size_t end = path.find_first_not_of('/'); end < path.size();) {
    end = path.find('/', end);
    const htri_t found = H5Lexists(state_->id(), path.substr(0, end).c_str(), H5P_DEFAULT);
    if (found < 0) state_->fail("look for", path);
    if (found == 0) return false;
    end = path.find_first_not_of('/', end);
  }
  return true;
}

std::vector<std::string> File::children(const std::string& group) const {
  const Handle g(H5Gopen2(state_->id(), group.c_str(), H5P_DEFAULT), H5Gclose);
  if (!g.valid()) state_->fail("open the group", group);
  std::vector<std::string> names;
  const auto add = [](hid_t, const char* name, const H5L_info_t*, void* out) -> herr_t {
    static_cast<std::vector<std::string>*>(out)->emplace_back(name);
    return 0;
  };
  if (H5Literate(g, H5_INDEX_NAME, H5_ITER_INC, nullptr, add, &names) < 0) state_->fail("list", group);
  return names;
}

bool File::is_group(const std::string& path) const {
  const Handle object(H5Oopen(state_->id(), path.c_str(), H5P_DEFAULT), H5Oclose);
  if (!object.valid()) state_->fail("open", path);
  return H5Iget_type(object) == H5I_GROUP;
}

void File::copy_from(const File& other, const std::string& from, const std::string& to) {
  const Handle links = link_properties();
  if (H5Ocopy(other.state_->id(), from.c_str(), state_->id(), to.c_str(), H5P_DEFAULT, links) < 0)
    throw DataError(str(other.state_->name, " at ", from, ": cannot copy to ", to, " of ", state_->name, ": ",
                        innermost_error()));
}

std::string library_version() {
  unsigned major = 0, minor = 0, release = 0;
  H5get_libversion(&major, &minor, &release);
  return str(major, ".", minor, ".", release);
}

}  // namespace fp4lab::h5
