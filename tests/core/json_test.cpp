#include <unistd.h>

#include <chrono>
#include <filesystem>
#include <fstream>
#include <nlohmann/json.hpp>

#include "core/params.h"
#include "tests/catch.h"

using namespace fp4lab;

namespace {
/// The message of the ConfigError that the text raises; "" if it parses.
std::string error_of(std::string_view text) {
  try {
    parse_json(text, "f.json");
  } catch (const ConfigError& error) {
    return error.what();
  }
  return "";
}
std::string repeated(std::string_view part, size_t times) {
  std::string out;
  for (size_t i = 0; i < times; ++i) out += part;
  return out;
}
}  // namespace

TEST_CASE("parse_json: every kind of value, comments and a byte order mark", "[core][json]") {
  const Json all = parse_json(
      "\xEF\xBB\xBF// first\n{\"a\": [1, -2, 2.5, true, false, null, {\"b\": {}}, []], /* second */ \"\": "
      "\"\\u00e9\\n\","
      " \"big\": 18446744073709551615}\n// last",
      "f");
  CHECK(all.dump() ==
        "{\"\":\"\xC3\xA9\\n\",\"a\":[1,-2,2.5,true,false,null,{\"b\":{}},[]],\"big\":18446744073709551615}");
  CHECK(all["a"][0].is_number_integer());
  CHECK(all["a"][2].is_number_float());
  for (const char* scalar : {"1", "-0.5", "\"x\"", "true", "false", "null", "[]", "{}"})
    CHECK(parse_json(scalar, "f") == Json::parse(scalar));
  CHECK(parse_json("[1e-999]", "f")[0] == 0.0);  // underflow rounds
  CHECK(parse_json("1.7976931348623157e308", "f") == 1.7976931348623157e308);
}

TEST_CASE("parse_json: a syntax error says file, line, column, what was expected and what stands there",
          "[core][json]") {
  const std::pair<const char*, const char*> cases[] = {
      {"{\"a\": 1,\n \"b\" 2}", "f.json:2:6: expected ':' after the key, found a number, near: \"b\" 2}"},
      {"{\"a\": 1\n \"b\": 2}", "f.json:2:4: expected ',' or '}', found a string, near: \"b\": 2}"},
      {"{\"a\": 1,}", "f.json:1:9: expected a key in double quotes, found '}', near: {\"a\": 1,}"},
      {"{1: 2}", "f.json:1:2: expected a key in double quotes, found a number, near: {1: 2}"},
      {"{1", "f.json:1:2: expected a key in double quotes, found a number, near: {1"},
      {"[1 2]", "f.json:1:4: expected ',' or ']', found a number, near: [1 2]"},
      {"[1,]", "f.json:1:4: expected a value, found ']', near: [1,]"},
      {"[1, true false]", "f.json:1:14: expected ',' or ']', found false, near: [1, true false]"},
      {"[1", "f.json:1:3: expected ',' or ']', found the end of the text, near: [1"},
      {"// nothing", "f.json:1:11: expected a value, found the end of the text, near: // nothing"},
      {"{} {}", "f.json:1:4: expected nothing more after the value, found '{', near: {} {}"},
      {"[\"abc\n\"]", "f.json:1:6: invalid string: control character U+000A (LF) must be escaped"},
      {"\"abc", "f.json:1:5: invalid string: missing closing quote, near: \"abc"},
      {"\"a\\x\"", "f.json:1:4: invalid string: forbidden character after backslash, near: \"a\\x\""},
      {"\"\\ud800\"", "f.json:1:8: invalid string: surrogate U+D800..U+DBFF must be followed by"},
      {"[1, 'a']",
       "f.json:1:5: invalid literal (JSON has strings in double quotes, numbers, true, false, null)"},
      {"[NaN]", "f.json:1:2: invalid literal"},
      {"[-Infinity]", "f.json:1:3: invalid number; expected digit after '-'"},
      {"[01]", "f.json:1:3: expected ',' or ']', found a number"},
      {"[1.]", "f.json:1:4: invalid number; expected digit after '.'"},
      {"/* open", "f.json:1:8: invalid comment; missing closing '*/'"},
      {"# x", "f.json:1:1: invalid literal"},
      {"[1e999]", "f.json:1:6: the number 1e999 is too large for a double, near: [1e999]"},
      {"[-1e999]", "f.json:1:7: the number -1e999 is too large for a double"},
      {"[\"\xC3\xA9\xE2\x82\xAC\" 1]",
       "f.json:1:7: expected ',' or ']', found a number"},  // columns are characters
  };
  for (const auto& [text, message] : cases) {
    const std::string found = error_of(text);
    CAPTURE(text, found, message);
    CHECK(found.substr(0, std::string(message).size()) == message);
    CHECK(found.find("json.exception") == found.npos);
  }
}

TEST_CASE("parse_json: the place of an error is shown cut, in whole characters", "[core][json]") {
  const std::string found =
      error_of("[\"" + repeated("\xC3\xA9", 1000) + "\" 1" + repeated("\xE2\x82\xAC", 1000) + "]");
  CHECK(found.size() < 150);
  CHECK(found.find("f.json:1:1005: ") == 0);
  CHECK(found.find("near: \xC3\xA9") != found.npos);
  CHECK(found.substr(found.size() - 3) == "\xE2\x82\xAC");
}

TEST_CASE("parse_json: a key given twice is refused with its object's pointer", "[core][json]") {
  CHECK(error_of("{\"a\": 1, \"a\": 1}") == "f.json: key \"a\" is given twice; an object has each key once");
  CHECK(error_of("{\"x/y\": [0, [], {\"q\": {}, \"k\": {\"deep\": []}, \"k\": 2}]}") ==
        "f.json at /x~1y/2: key \"k\" is given twice; an object has each key once");
  CHECK(error_of("{\"a\": 1, \"\\u0061\": 1}").find("\"a\" is given twice") != std::string::npos);
  CHECK(error_of("[{\"a\": 1}, {\"a\": 1}, {\"b\": {\"a\": {\"a\": 2}}}]").empty());
  CHECK(error_of("{\"" + std::string(1000, 'k') + "\":1,\"" + std::string(1000, 'k') + "\":1}").size() < 200);
}

TEST_CASE("parse_json: 64 levels are read, 65 are not, whatever the size", "[core][json]") {
  CHECK(parse_json(repeated("[", 64) + repeated("]", 64), "f").dump() ==
        repeated("[", 64) + repeated("]", 64));
  CHECK(error_of(repeated("[", 65) + repeated("]", 65)) ==
        "f.json at " + repeated("/0", 64) + ": nested deeper than 64 levels");
  CHECK(error_of(repeated("{\"a\":", 64) + "1" + repeated("}", 64)).empty());
  CHECK(error_of("[0," + repeated("{\"a\":", 64) + "1" + repeated("}", 64) + "]") ==
        "f.json at /1" + repeated("/a", 63) + ": nested deeper than 64 levels");
  CHECK(error_of(repeated("{\"" + std::string(500, 'k') + "\":", 65)).size() < 260);

  const std::string open(10'000'000, '[');
  const auto start = std::chrono::steady_clock::now();
  CHECK(error_of(open).find("nested deeper than 64 levels") != std::string::npos);
  CHECK(std::chrono::steady_clock::now() - start < std::chrono::seconds(1));
}

TEST_CASE("parse_json: empty, NUL, invalid UTF-8 and more than 64 MB", "[core][json]") {
  for (const char* text : {"", " \n\t\r\n", "\xEF\xBB\xBF", "\xEF\xBB\xBF \n"})
    CHECK(error_of(text) == "f.json: the text is empty; expected JSON");
  CHECK(error_of(std::string_view("{}\0garbage", 10)) == "f.json:1:3: a NUL byte in the text");
  CHECK(error_of("\"\\u0000\"").empty());  // escaped, it is a character like others here

  // RFC 3629: what begins wrong, ends early, is overlong, a surrogate or beyond U+10FFFF; also in comments.
  for (const char* bad :
       {"\x80", "\xFF", "\xC0\x80", "\xC1\xBF", "\xC3", "\xC3(", "\xE0\x9F\xBF", "\xE2\x82", "\xE2\x82(",
        "\xED\xA0\x80", "\xF0\x8F\xBF\xBF", "\xF0\x9F\x98", "\xF4\x90\x80\x80", "\xF5\x80\x80\x80"}) {
    CAPTURE(bad);
    CHECK(error_of("[1,\n \"" + std::string(bad) + "\"]") == "f.json:2:3: the text is not valid UTF-8 here");
    CHECK(error_of("// " + std::string(bad)) == "f.json:1:4: the text is not valid UTF-8 here");
  }
  for (const char* good : {"\xC2\x80", "\xDF\xBF", "\xE0\xA0\x80", "\xED\x9F\xBF", "\xEE\x80\x80",
                           "\xEF\xBF\xBF", "\xF0\x90\x80\x80", "\xF4\x8F\xBF\xBF"})
    CHECK(parse_json("\"" + std::string(good) + "\"", "f") == good);

  std::string large = "\"" + std::string((64u << 20) - 2, 'a') + "\"";
  CHECK(error_of(large).empty());
  CHECK(error_of(large + " ") == "f.json: JSON text is limited to 64 MB; this is larger");
}

TEST_CASE("parse_json_file: reads files; a file that cannot be read is named with the reason",
          "[core][json]") {
  const std::filesystem::path folder =
      std::filesystem::temp_directory_path() / ("fp4lab-json-" + std::to_string(::getpid()));
  std::filesystem::create_directories(folder);
  const auto file_error = [](const std::string& path) -> std::string {
    try {
      parse_json_file(path);
    } catch (const ConfigError& error) {
      return error.what();
    }
    return "";
  };
  const std::string good = folder / "good.json", bad = folder / "bad.json", empty = folder / "empty.json",
                    missing = folder / "missing.json", locked = folder / "locked.json";
  // Longer than one read.
  std::ofstream(good) << "{\"a\": \"" << std::string(3 << 20, 'x') << "\", \"b\": [1, 2]}";
  std::ofstream(bad) << "{\n  oops\n}";
  std::ofstream(empty).flush();
  std::ofstream(locked) << "{}";
  CHECK(parse_json_file(good)["a"].get<std::string>().size() == 3u << 20);
  CHECK(parse_json_file(good)["b"][1] == 2);
  CHECK(file_error(bad).find(bad + ":2:3: invalid literal") == 0);
  CHECK(file_error(empty) == empty + ": the text is empty; expected JSON");
  CHECK(file_error(missing) == missing + ": cannot open: No such file or directory");
  CHECK(file_error(folder) == folder.string() + ": cannot read: Is a directory");
  CHECK(file_error(good + "/x") == good + "/x: cannot open: Not a directory");
  CHECK(file_error("/dev/zero") == "/dev/zero: JSON text is limited to 64 MB; this is larger");
  std::filesystem::permissions(locked, std::filesystem::perms::none);
  if (::geteuid() != 0) CHECK(file_error(locked) == locked + ": cannot open: Permission denied");
  std::filesystem::remove_all(folder);
}

TEST_CASE("describe: the kind and the text, cut at 60 characters", "[core][json]") {
  CHECK(describe("abc") == "a string \"abc\"");
  CHECK(describe(Json::array({1, "x"})) == "a list [1,\"x\"]");
  CHECK(describe(Json::object()) == "an object {}");
  CHECK(describe(3) == "3");
  CHECK(describe(3.0) == "3.0");
  CHECK(describe(true) == "true");
  CHECK(describe(nullptr) == "null");
  CHECK(describe("a\n\x1b[31m") == "a string \"a\\n\\u001b[31m\"");
  CHECK(describe(std::string(58, 'a')) == "a string \"" + std::string(58, 'a') + "\"");
  CHECK(describe(std::string(59, 'a')) == "a string \"" + std::string(59, 'a') + "...");
  CHECK(describe(repeated("\xC3\xA9", 59)) == "a string \"" + repeated("\xC3\xA9", 59) + "...");
  CHECK(describe("\xFF") == "a string \"\xEF\xBF\xBD\"");
}
