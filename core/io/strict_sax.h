// core/io/strict_sax.h - reading JSON headers by events: nothing is built but what a reader asks for, so a
// hostile header costs no more memory than its tensors' names. Internal to core/io; includes JSON.
#pragma once
#include <cstring>
#include <nlohmann/json.hpp>
#include <string>
#include <string_view>

#include "core/errors.h"

namespace fp4lab {

/// A reader that sees every scalar as `scalar(what)`, unless it overrides the event itself. Throws, never
/// returns false.
class StrictSax : public nlohmann::json::json_sax_t {
 public:
  /// Parses the whole of `text`; DataError beginning with `where` when it is not JSON in UTF-8.
  void parse(std::string_view text) {
    // The parser takes a NUL for the end and skips a byte order mark; neither is JSON.
    if (std::memchr(text.data(), 0, text.size())) fail("is not JSON: it holds a NUL byte");
    if (text.starts_with("\xEF\xBB\xBF")) fail("is not JSON: it begins with a byte order mark");
    nlohmann::json::sax_parse(text.begin(), text.end(), static_cast<nlohmann::json::json_sax_t*>(this));
  }

 protected:
  explicit StrictSax(std::string where) : where_(std::move(where)) {}
  ~StrictSax() override = default;

  virtual void scalar(const char* what) = 0;

  template <class... Ts>
  [[noreturn]] void fail(const Ts&... parts) const {
    throw DataError(str(where_, " ", parts...));
  }

  bool null() override { return scalar("null"), true; }
  bool boolean(bool) override { return scalar("a boolean"), true; }
  bool number_integer(int64_t) override { return scalar("a negative number"), true; }
  bool number_unsigned(uint64_t) override { return scalar("a number"), true; }
  bool number_float(double, const std::string&) override {
    return scalar("a fractional or too large number"), true;
  }
  bool string(std::string&) override { return scalar("a string"), true; }
  bool binary(nlohmann::json::binary_t&) override { return scalar("binary"), true; }
  bool parse_error(size_t, const std::string&, const nlohmann::json::exception& e) override {
    // "[json.exception.parse_error.101] parse error at line 1, column 5: ...; last read: '...'": the end
    // repeats bytes of the file, which may not be text.
    std::string_view what = e.what();
    what = what.substr(0, what.find("; last read"));
    if (const size_t bracket = what.find("] "); bracket != std::string_view::npos)
      what.remove_prefix(bracket + 2);
    what = what.substr(0, what.find('\''));
    fail("is not JSON: ", what);
  }

 private:
  std::string where_;
};

}  // namespace fp4lab
