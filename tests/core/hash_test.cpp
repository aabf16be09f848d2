#include "core/hash.h"

#include <unistd.h>

#include <array>
#include <cstdint>
#include <filesystem>
#include <fstream>

#include "core/errors.h"
#include "tests/catch.h"

using namespace fp4lab;

TEST_CASE("sha256: FIPS 180-4 examples", "[core][hash]") {
  CHECK(sha256_hex("") == "e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855");
  CHECK(sha256_hex("abc") == "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad");
  CHECK(sha256_hex("abcdbcdecdefdefgefghfghighijhijkijkljklmklmnlmnomnopnopq") ==
        "248d6a61d20638b8e5c026930c3e6039a33ce45964ff2167f6ecedd419db06c1");
  CHECK(sha256_hex(std::string(1000000, 'a')) ==
        "cdc76e5c9914fb9281a1c7e284d73e67f1809a48a497200e046d39ccc7112cd0");
}

TEST_CASE("sha256: the same bytes in pieces and in every type", "[core][hash]") {
  const std::string abc = "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad";
  CHECK(Sha256().update("a").update("").update("bc").hex() == abc);
  const std::array<uint8_t, 3> bytes = {'a', 'b', 'c'};
  CHECK(Sha256().update(std::span<const uint8_t>(bytes)).hex() == abc);
  CHECK(Sha256().update(std::as_bytes(std::span(bytes))).hex() == abc);
  CHECK(sha256_hex(std::string_view("\0", 1)) != sha256_hex(""));
}

TEST_CASE("sha256_file: content of any length; a file that cannot be read is named", "[core][hash]") {
  const std::filesystem::path folder =
      std::filesystem::temp_directory_path() / ("fp4lab-hash-" + std::to_string(::getpid()));
  std::filesystem::create_directories(folder);
  const std::string path = folder / "file";
  // Around the 4 MB pieces that it is read in.
  for (size_t size : {size_t{0}, size_t{3}, (size_t{4} << 20) - 1, size_t{4} << 20, (size_t{4} << 20) + 1}) {
    CAPTURE(size);
    std::string content(size, 'x');
    for (size_t i = 0; i < size; i += 4096) content[i] = char(i >> 12);
    std::ofstream(path, std::ios::binary) << content;
    CHECK(sha256_file(path) == sha256_hex(content));
  }
  const auto error_of = [](const std::string& file) -> std::string {
    try {
      sha256_file(file);
    } catch (const DataError& error) {
      return error.what();
    }
    return "";
  };
  CHECK(error_of(folder / "none") == (folder / "none").string() + ": cannot open: No such file or directory");
  CHECK(error_of(folder) == folder.string() + ": cannot read: Is a directory");
  std::filesystem::remove_all(folder);
}
