// core/params.h - reading a JSON object so that a wrong one is explained.
//   Each factory states its own keys, defaults and limits once, by reading them:
//
//     Gptq::Gptq(Params& p) : damping_(p.number("damping", 0.01, {"fraction of mean(diag H)", 0, 1})),
//                             block_(p.integer("block", 128, {"columns per lazy update", 1})) { p.done(); }
//
//   From that one statement come: type and range errors with file and JSON pointer, "unknown key" errors that
//   list what is read, the resolved form with every default filled in (which is hashed), and the schema and
//   `fp4lab list` pages (a Params made by `declaring()` reads nothing and notes what it is asked for).
#pragma once
#include <cstdint>
#include <functional>
#include <limits>
#include <map>
#include <memory>
#include <nlohmann/json_fwd.hpp>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "core/errors.h"

namespace fp4lab {

using Json = nlohmann::json;

/// What the rows of a value are called: its text, its `label`, or its compact JSON.
std::string label_of(const Json& value);

/// Where a value stands: a file (or "--set", "command line") and a JSON pointer in it. A cell is assembled
/// from several places of the file, so `moved` maps pointers of the cell to pointers of the file (longest
/// prefix wins):
/// {"/format", "/axes/format/2"}.
struct Place {
  std::string file;
  std::string pointer;
  std::shared_ptr<const std::map<std::string, std::string>> moved;

  /// This place, one key or one index further; '~' and '/' in the key are escaped (RFC 6901).
  Place child(std::string_view key) const;
  Place child(size_t index) const;
  /// `sweeps/e2.json at /axes/format/2`; only the file when the pointer is empty.
  std::string text() const;
};

/// Parses JSON text. `//` and `/* */` comments are allowed. ConfigError with file, line and column for a
/// syntax error, with the JSON pointer for a duplicate key, and for nesting deeper than 64 (whatever the size
/// of the text; no recursion on the input's depth) or text larger than 64 MB. NaN, Infinity and numbers that
/// overflow a double are syntax errors.
Json parse_json(std::string_view text, const std::string& file);
/// Reads and parses a file; a file that cannot be read is a ConfigError naming it and the reason. `text`, if
/// given, becomes what was read: a pipe can be read only once.
Json parse_json_file(const std::string& path, std::string* text = nullptr);
/// An object without its nulls, which transformers writes for what is not set; anything else as it is.
Json without_nulls(const Json& object);

/// What was found, for messages: `a string "abc"`, `a list [1,2]`, `an object {...}`, `3`, `true`, `null`;
/// the JSON text is cut at 60 characters.
std::string describe(const Json& value);

/// What a key means, and its limits (inclusive; for numbers and integers).
struct KeyDoc {
  std::string_view doc;
  double min = -std::numeric_limits<double>::infinity();
  double max = std::numeric_limits<double>::infinity();
};

/// One declared key, as `fp4lab list` and the schema show it.
struct KeyInfo {
  std::string key;
  std::string type;  // "number", "integer", "string", "bool", "any", "strings", "integers"
  bool required = false;
  std::string fallback;              // the default as JSON text, "" when required or absent
  std::vector<std::string> choices;  // for strings with a closed list
  std::string doc;
  double min, max;  // -inf/inf when open
};

class Params {
 public:
  /// Reads `object`, which must be a JSON object (else ConfigError "expected an object, found a string ...").
  /// `what` names it in messages: "a format", "the source", "method gptq". The object must outlive the
  /// Params.
  Params(const Json& object, Place place, std::string what);
  /// A Params that answers every question with its default (a required key: 0, "", false, null) and notes it.
  static Params declaring(std::string what);
  Params(Params&&) noexcept;
  ~Params();

  bool has(std::string_view key) const;  // false when declaring
  bool is_declaring() const;

  /// Each of these throws ConfigError naming place, key, what was expected and what was found.
  double number(std::string_view key, double fallback, KeyDoc doc);
  double number(std::string_view key, KeyDoc doc);                      // required
  int64_t integer(std::string_view key, int64_t fallback, KeyDoc doc);  // 3 and 3.0 are integers, 3.5 is not
  int64_t integer(std::string_view key, KeyDoc doc);
  bool boolean(std::string_view key, bool fallback, KeyDoc doc);
  std::string text(std::string_view key, std::string_view fallback, KeyDoc doc);
  std::string text(std::string_view key, KeyDoc doc);
  /// One of a closed list; otherwise unknown_name()'s message.
  std::string choice(std::string_view key, std::string_view fallback, const std::vector<std::string>& known,
                     KeyDoc doc);
  std::string choice(std::string_view key, const std::vector<std::string>& known, KeyDoc doc);
  /// A string or a list of strings; an empty list is an error unless it may be.
  std::vector<std::string> texts(std::string_view key, const std::vector<std::string>& fallback, KeyDoc doc,
                                 bool may_be_empty = false);
  std::vector<int64_t> integers(std::string_view key, KeyDoc doc);
  std::vector<int64_t> integers(std::string_view key, const std::vector<int64_t>& fallback, KeyDoc doc);
  /// The raw value (null when absent or declaring), for keys with a grammar of their own; the caller gives
  /// the resolved form with `set_resolved` (until then it is the value as written, so that nothing that was
  /// read goes unhashed). Marks the key as read.
  const Json& raw(std::string_view key, KeyDoc doc);

  /// The place of a key's value.
  Place place(std::string_view key) const;
  const Place& place() const;
  /// Throws ConfigError at the key: `<file> at <pointer>/<key>: <message>`.
  [[noreturn]] void fail(std::string_view key, const std::string& message) const;

  /// Throws for the first key nobody read: `unknown key "grup"; did you mean "group_size"? a format reads:
  /// ...`.
  void done() const;

  /// Keys read so far with their values or defaults: canonical, so that two ways to write one thing give one
  /// JSON.
  const Json& resolved() const;
  void set_resolved(std::string_view key, Json value);
  /// Leaves a key that was read out of `resolved` (labels, paths replaced by hashes).
  void drop_resolved(std::string_view key);

  const std::vector<KeyInfo>& declared() const;

 private:
  struct State;
  std::unique_ptr<State> state_;
  explicit Params(std::unique_ptr<State> state);
};

/// Runs a factory on a declaring Params and returns the keys it asked for.
std::vector<KeyInfo> declared_keys(const std::function<void(Params&)>& factory);

}  // namespace fp4lab
