// Parsing JSON text so that a wrong one is explained: the parser is nlohmann's, driven through its SAX
// interface (no recursion on the input's depth); the tree, the limits and the messages are ours.
#include <fcntl.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <cstring>
#include <functional>
#include <nlohmann/json.hpp>

#include "core/params.h"

namespace fp4lab {

namespace {

constexpr size_t kMaxDepth = 64;
constexpr size_t kMaxBytes = size_t{64} << 20;

bool continues(char c) { return (uint8_t(c) & 0xC0) == 0x80; }  // a byte of UTF-8 after the first

/// Bytes of the UTF-8 character at the start of `s`, 0 if it is ill-formed (RFC 3629: no overlong forms, no
/// surrogates, nothing above U+10FFFF).
size_t utf8_length(std::string_view s) {
  const uint8_t a = uint8_t(s[0]), b = s.size() > 1 ? uint8_t(s[1]) : 0;
  if (a < 0x80) return 1;
  const size_t n = a >= 0xC2 && a < 0xE0 ? 2 : a >= 0xE0 && a < 0xF0 ? 3 : a >= 0xF0 && a < 0xF5 ? 4 : 0;
  if (n == 0 || s.size() < n) return 0;
  for (size_t i = 1; i < n; ++i)
    if (!continues(s[i])) return 0;
  if ((a == 0xE0 && b < 0xA0) || (a == 0xED && b > 0x9F) || (a == 0xF0 && b < 0x90) ||
      (a == 0xF4 && b > 0x8F))
    return 0;
  return n;
}

/// Characters, not bytes, as editors count columns; ill-formed bytes count one each.
size_t characters(std::string_view s) {
  return size_t(std::count_if(s.begin(), s.end(), std::not_fn(continues)));
}

/// `<file>:<line>:<column>: <message>` for the byte at `offset`.
[[noreturn]] void fail_at(std::string_view text, const std::string& file, size_t offset,
                          const std::string& message) {
  const std::string_view before = text.substr(0, offset);
  const size_t line = size_t(std::count(before.begin(), before.end(), '\n')) + 1;
  const size_t line_start = before.rfind('\n') + 1;  // npos + 1 is 0
  throw ConfigError(str(file, ":", line, ":", characters(before.substr(line_start)) + 1, ": ", message));
}

/// The line around `offset`: at most 30 bytes before it and 10 after, in whole characters.
std::string around(std::string_view text, size_t offset) {
  const size_t line_start = text.substr(0, offset).rfind('\n') + 1;
  const size_t line_end = std::min(text.find('\n', offset), text.size());
  size_t first = std::max(line_start, offset - std::min<size_t>(offset, 30));
  size_t last = std::min(line_end, offset + 10);
  while (first < last && continues(text[first])) ++first;
  while (last < line_end && continues(text[last])) ++last;
  std::string out(text.substr(first, last - first));
  while (!out.empty() && (out.back() == '\r' || out.back() == ' ')) out.pop_back();
  return out.substr(std::min(out.find_first_not_of(" \t"), out.size()));
}

/// nlohmann's `... syntax error while parsing <context> - unexpected <token>; expected <token>`, or `- <what
/// is wrong inside a token>; last read: ...`, in our words. What does not look like that is passed on.
std::string reworded(std::string what) {
  const std::string lead = "syntax error while parsing ";
  const size_t start = what.find(lead), dash = what.find(" - ", start);
  if (start == std::string::npos || dash == std::string::npos) return what.substr(what.find("] ") + 1);
  const std::string context = what.substr(start + lead.size(), dash - start - lead.size());
  what.erase(0, dash + 3);
  if (!what.starts_with("unexpected ")) {
    what.resize(std::min(what.find("; last read: "), what.size()));
    if (what == "invalid literal") what += " (JSON has strings in double quotes, numbers, true, false, null)";
    return what;
  }
  const size_t semicolon = std::min(what.find("; expected "), what.size());
  const bool trailing = context == "value" && what.substr(semicolon) == "; expected end of input";
  std::string found = what.substr(11, semicolon - 11);
  if (found == "string literal") found = "a string";
  if (found == "number literal") found = "a number";
  if (found.ends_with(" literal")) found.resize(found.size() - 8);  // true, false, null
  if (found == "end of input") found = "the end of the text";
  const std::string expected = trailing                        ? "nothing more after the value"
                               : context == "object key"       ? "a key in double quotes"
                               : context == "object separator" ? "':' after the key"
                               : context == "array"            ? "',' or ']'"
                               : context == "object"           ? "',' or '}'"
                                                               : "a value";
  return "expected " + expected + ", found " + found;
}

/// Builds the tree from the parser's events.
class Builder final : public nlohmann::json_sax<Json> {
 public:
  Builder(std::string_view text, const std::string& file) : text_(text), file_(file) {}
  Json root;

  bool null() override { return put(nullptr); }
  bool boolean(bool value) override { return put(value); }
  bool number_integer(number_integer_t value) override { return put(value); }
  bool number_unsigned(number_unsigned_t value) override { return put(value); }
  bool number_float(number_float_t value, const string_t&) override { return put(value); }
  bool string(string_t& value) override { return put(std::move(value)); }
  bool binary(binary_t&) override { return false; }  // not in text
  bool start_object(size_t) override { return open(Json::object()); }
  bool start_array(size_t) override { return open(Json::array()); }
  bool end_object() override { return levels_.pop_back(), true; }
  bool end_array() override { return levels_.pop_back(), true; }

  bool key(string_t& name) override {
    Level& level = levels_.back();
    if (level.node->contains(name))
      throw ConfigError(Place{file_, pointer(levels_.size() - 1), {}}.text() + ": " + "key " +
                        describe(Json(name)).substr(9) +  // without "a string "
                        " is given twice; an object has each key once");
    level.key = std::move(name);
    return true;
  }

  bool parse_error(size_t position, const std::string& token,
                   const nlohmann::detail::exception& error) override {
    const size_t offset = std::min(std::max<size_t>(position, 1) - 1, text_.size());  // the last byte read
    std::string message = error.id == 406 ? "the number " + token.substr(0, 60) + " is too large for a double"
                                          : reworded(error.what());
    if (const std::string near = around(text_, offset); !near.empty()) message += ", near: " + near;
    fail_at(text_, file_, offset, message);
  }

 private:
  struct Level {
    Json* node;
    std::string key;  // of an object: the key last read
  };

  template <class T>
  Json* add(T&& value) {
    if (levels_.empty()) return &(root = Json(std::forward<T>(value)));
    // A parent does not grow while one of its children is open, so pointers to the open ones stay good.
    Level& level = levels_.back();
    if (level.node->is_array()) return &level.node->emplace_back(std::forward<T>(value));
    return &((*level.node)[level.key] = Json(std::forward<T>(value)));
  }
  template <class T>
  bool put(T&& value) {
    return add(std::forward<T>(value)), true;
  }

  bool open(Json&& empty) {
    if (levels_.size() == kMaxDepth) {
      std::string where = pointer(levels_.size());
      if (where.size() > 200) where.resize(200), where += "...";
      throw ConfigError(str(file_, " at ", where, ": nested deeper than ", kMaxDepth, " levels"));
    }
    levels_.push_back({add(std::move(empty)), {}});
    return true;
  }

  /// JSON pointer of what is read now, from the outermost `depth` levels.
  std::string pointer(size_t depth) const {
    Place place;
    for (size_t i = 0; i < depth; ++i) {
      const Level& level = levels_[i];
      const size_t count = level.node->size(), open = i + 1 < levels_.size() ? 1 : 0;
      place = level.node->is_array() ? place.child(count - open) : place.child(level.key);
    }
    return place.pointer;
  }

  std::string_view text_;
  const std::string& file_;
  std::vector<Level> levels_;  // the open objects and arrays, outermost first
};

}  // namespace

Json parse_json(std::string_view text, const std::string& file) {
  if (text.size() > kMaxBytes)
    throw ConfigError(str(file, ": JSON text is limited to 64 MB; this is larger"));
  // The whole text, comments too: it is stored beside the results as it was written. The parser would take a
  // NUL for the end.
  for (size_t i = 0; i < text.size();) {
    const size_t n = utf8_length(text.substr(i));
    if (n == 0) fail_at(text, file, i, "the text is not valid UTF-8 here");
    if (text[i] == '\0') fail_at(text, file, i, "a NUL byte in the text");
    i += n;
  }
  const size_t bom = text.starts_with("\xEF\xBB\xBF") ? 3 : 0;
  text.remove_prefix(bom);
  if (text.find_first_not_of(" \t\r\n") == text.npos)
    throw ConfigError(file + ": the text is empty; expected JSON");
  Builder builder(text, file);
  Json::sax_parse(text, &builder, Json::input_format_t::json, /*strict=*/true, /*ignore_comments=*/true);
  return std::move(builder.root);
}

Json without_nulls(const Json& object) {
  if (!object.is_object()) return object;
  Json out = Json::object();
  for (const auto& item : object.items())
    if (!item.value().is_null()) out[item.key()] = item.value();
  return out;
}

Json parse_json_file(const std::string& path, std::string* text_read) {
  const int fd = ::open(path.c_str(), O_RDONLY | O_CLOEXEC);
  if (fd < 0) throw ConfigError(str(path, ": cannot open: ", std::strerror(errno)));
  std::string text;
  std::vector<char> buffer(1 << 20);
  // Stops just above the limit, so that /dev/zero is refused rather than read.
  for (ssize_t n = 1; n != 0 && text.size() <= kMaxBytes;) {
    n = ::read(fd, buffer.data(), buffer.size());
    if (n < 0 && errno == EINTR) continue;
    if (n < 0) {
      const int error = errno;
      ::close(fd);
      throw ConfigError(str(path, ": cannot read: ", std::strerror(error)));
    }
    text.append(buffer.data(), size_t(n));
  }
  ::close(fd);
  Json value = parse_json(text, path);
  if (text_read) *text_read = std::move(text);
  return value;
}

std::string describe(const Json& value) {
  std::string text = value.dump(-1, ' ', false, Json::error_handler_t::replace);
  size_t count = 0, end = 0;
  while (end < text.size() && count < 60)
    end += std::max<size_t>(1, utf8_length(std::string_view(text).substr(end))), ++count;
  if (end < text.size()) text.resize(end), text += "...";
  if (value.is_string()) return "a string " + text;
  if (value.is_array()) return "a list " + text;
  if (value.is_object()) return "an object " + text;
  return text;
}

}  // namespace fp4lab
