#include "core/io/files.h"

#include <sys/resource.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <unistd.h>

#include <csignal>
#include <cstdio>

#include "core/errors.h"
#include "core/io/tensor_file.h"
#include "tests/catch.h"
#include "tests/core/io/temp_folder.h"

using namespace fp4lab;
using namespace fp4lab::test;

namespace {
/// Runs `f` in a child whose files may not grow past 64 kB; true when f throws a DataError that holds `part`.
template <class F>
bool fails_on_full_disk(F f, const char* part) {
  const pid_t child = ::fork();
  if (child == 0) {
    const rlimit limit{65536, 65536};
    std::signal(SIGXFSZ, SIG_IGN);
    if (::setrlimit(RLIMIT_FSIZE, &limit) != 0) ::_exit(2);
    try {
      f();
    } catch (const DataError& e) {
      if (has(e.what(), part)) ::_exit(0);
      std::fprintf(stderr, "%s\n", e.what());
      ::_exit(3);
    } catch (...) {
      ::_exit(4);
    }
    ::_exit(5);
  }
  int status = -1;
  ::waitpid(child, &status, 0);
  return WIFEXITED(status) && WEXITSTATUS(status) == 0;
}
}  // namespace

TEST_CASE("read_file: whole files of any size, and every byte value", "[core][io][files]") {
  const TempFolder folder;
  for (size_t n : {0u, 1u, 4095u, 4096u, 4097u, 300000u}) {
    CAPTURE(n);
    std::string bytes(n, '\0');
    for (size_t i = 0; i < n; ++i) bytes[i] = char(i * 7 % 256);
    CHECK(read_file(put(folder / "f", bytes)) == bytes);
  }
  CHECK(has(read_file("/proc/self/status"), "VmRSS"));  // its size is given as 0
}

TEST_CASE("read_file: what cannot be read is named, with the reason", "[core][io][files]") {
  const TempFolder folder;
  CHECK(message_of<DataError>([&] { read_file(folder / "none"); }) ==
        (folder / "none") + ": cannot read: No such file or directory");
  CHECK(message_of<DataError>([&] { read_file(folder.path().string()); }) ==
        folder.path().string() + ": cannot read: Is a directory");
  if (::geteuid() != 0) {  // root may read everything
    ::chmod(put(folder / "secret", "x").c_str(), 0);
    CHECK(has(message_of<DataError>([&] { read_file(folder / "secret"); }), "Permission denied"));
  }
}

TEST_CASE("write_file_atomic: new, replaced, empty; nothing else in the folder", "[core][io][files]") {
  const TempFolder folder;
  for (const std::string& bytes : {std::string("first"), std::string("second\0x", 8), std::string()}) {
    write_file_atomic(folder / "f", bytes);
    CHECK(get(folder / "f") == bytes);
    CHECK(folder.names() == std::vector<std::string>{"f"});
  }
  // What a killed process of the same number left behind is no obstacle, and not appended to.
  put(folder / (".f." + std::to_string(::getpid()) + ".tmp"), "a long leftover of an earlier life");
  write_file_atomic(folder / "f", "new");
  CHECK(get(folder / "f") == "new");
  CHECK(folder.names() == std::vector<std::string>{"f"});
}

TEST_CASE("write_file_atomic: a name without a folder is in the current one", "[core][io][files]") {
  const TempFolder folder;
  const auto before = std::filesystem::current_path();
  std::filesystem::current_path(folder.path());
  write_file_atomic("plain", "text");
  std::filesystem::current_path(before);
  CHECK(get(folder / "plain") == "text");
}

TEST_CASE("write_file_atomic: failures leave the old file and no other", "[core][io][files]") {
  const TempFolder folder;
  CHECK(message_of<DataError>([&] { write_file_atomic(folder / "no/f", "x"); }) ==
        (folder / "no/f") + ": cannot write: No such file or directory");
  std::filesystem::create_directories(folder / "taken/inside");
  CHECK(has(message_of<DataError>([&] { write_file_atomic(folder / "taken", "x"); }),
            "taken: cannot rename its temporary file: "));
  CHECK(folder.names() == std::vector<std::string>{"taken"});

  put(folder / "f", "old");
  CHECK(fails_on_full_disk([&] { write_file_atomic(folder / "f", std::string(1 << 20, 'x')); },
                           "/f: cannot write: File too large"));
  CHECK(get(folder / "f") == "old");
  CHECK(folder.names() == std::vector<std::string>{"f", "taken"});
}

TEST_CASE("write_safetensors: a full disk leaves the old file and no other", "[core][io][files]") {
  const TempFolder folder;
  put(folder / "m.safetensors", "old");
  const std::vector<std::byte> data(1 << 20);
  const TensorToWrite tensor{"w", DType::U8, {1 << 20}, data};
  CHECK(fails_on_full_disk(
      [&] {
        write_safetensors(folder / "m.safetensors", {&tensor, 1});
      },
      "/m.safetensors: cannot write: File too large"));
  CHECK(get(folder / "m.safetensors") == "old");
  CHECK(folder.names() == std::vector<std::string>{"m.safetensors"});
}

TEST_CASE("publish_file: over an existing file; on failure neither is half there", "[core][io][files]") {
  const TempFolder folder;
  put(folder / "old", "old");
  put(folder / "t.tmp", "new");
  publish_file(folder / "t.tmp", folder / "old");
  CHECK(get(folder / "old") == "new");
  CHECK(folder.names() == std::vector<std::string>{"old"});

  CHECK(message_of<DataError>([&] { publish_file(folder / "t.tmp", folder / "old"); }) ==
        (folder / "old") + ": cannot open its temporary file: No such file or directory");
  CHECK(get(folder / "old") == "new");

  put(folder / "t.tmp", "newer");
  CHECK(has(message_of<DataError>([&] { publish_file(folder / "t.tmp", folder / "no/f"); }),
            "/no/f: cannot rename its temporary file: No such file or directory"));
  CHECK(folder.names() == std::vector<std::string>{"old"});
}
