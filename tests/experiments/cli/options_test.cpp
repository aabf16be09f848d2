#include "experiments/cli/options.h"

#include "tests/catch.h"
#include "tests/core/io/temp_folder.h"

using namespace fp4lab;
using namespace fp4lab::test;

TEST_CASE("options: sizes of --spill-above", "[experiments][cli]") {
  CHECK(parse_size("0") == 0);
  CHECK(parse_size("17") == 17);
  CHECK(parse_size("3K") == 3000);
  CHECK(parse_size("500M") == 500000000);
  CHECK(parse_size("8G") == 8000000000);
  CHECK(parse_size("2T") == 2000000000000);
  CHECK(parse_size("4611686018427387904") == int64_t(1) << 62);
  CHECK(parse_size("4611686018G") == 4611686018000000000);
  for (const char* bad : {"", "G", "-1", "-0G", "+1", " 1", "1 ", "1.5G", "1g", "8GB", "8Gi", "1e9", "0x10",
                          "M8", "4611686018427387905", "4611686019G", "99999999999999999999"}) {
    CAPTURE(bad);
    const std::string message = message_of<ConfigError>([&] { parse_size(bad); });
    CHECK(
        has(message, std::string("--spill-above ") + bad + ": expected a number of bytes, as 0, 500M or 8G"));
  }
}

TEST_CASE("options: --shard, which of how many", "[experiments][cli]") {
  CHECK(parse_shard("0/1") == std::pair{0, 1});
  CHECK(parse_shard("3/4") == std::pair{3, 4});
  for (const char* bad : {"", "1", "4/4", "-1/4", "1/4x", "a/b", "1/0"}) {
    CAPTURE(bad);
    CHECK(has(message_of<ConfigError>([&] { parse_shard(bad); }),
              std::string("--shard ") + bad + ": expected i/n"));
  }
}
