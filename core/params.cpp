#include "core/params.h"

#include <algorithm>
#include <charconv>
#include <cmath>
#include <nlohmann/json.hpp>

#include "core/text.h"

namespace fp4lab {

namespace {

const Json kNull;

/// The shortest text that reads back as `x`.
std::string shortest(double x) {
  char buffer[32];
  return {buffer, std::to_chars(buffer, buffer + sizeof buffer, x).ptr};
}

/// "a number in [0, 1]", "an integer of at least 1".
std::string with_limits(std::string noun, const KeyDoc& doc) {
  const bool low = std::isfinite(doc.min), high = std::isfinite(doc.max);
  if (low && high) return noun + " in [" + shortest(doc.min) + ", " + shortest(doc.max) + "]";
  if (low) return noun + " of at least " + shortest(doc.min);
  if (high) return noun + " of at most " + shortest(doc.max);
  return noun;
}

[[noreturn]] void expected(const std::string& what, const Json& found, const Place& place) {
  throw ConfigError(place.text() + ": expected " + what + ", found " + describe(found));
}

double to_number(const Json& value, const Place& place, const KeyDoc& doc) {
  const double x = value.is_number() ? value.get<double>() : NAN;
  if (!(std::isfinite(x) && x >= doc.min && x <= doc.max))
    expected(with_limits("a number", doc), value, place);
  return x + 0.0;  // -0 becomes 0: one value, one hash
}

int64_t to_integer(const Json& value, const Place& place, const KeyDoc& doc) {
  const std::string what = with_limits("an integer", doc);
  int64_t n = 0;
  if (value.is_number_unsigned()) {
    const uint64_t u = value.get<uint64_t>();
    if (u > uint64_t(std::numeric_limits<int64_t>::max())) expected(what, value, place);
    n = int64_t(u);
  } else if (value.is_number_integer()) {
    n = value.get<int64_t>();
  } else {
    const double x = value.is_number() ? value.get<double>() : NAN;
    // Above 2^53 a double no longer says which integer was meant.
    if (!(std::fabs(x) <= 0x1p53) || x != std::trunc(x)) expected(what, value, place);
    n = int64_t(x);
  }
  if (!(double(n) >= doc.min && double(n) <= doc.max)) expected(what, value, place);
  return n;
}

bool to_boolean(const Json& value, const Place& place) {
  if (!value.is_boolean()) expected("true or false", value, place);
  return value.get<bool>();
}

std::string to_text(const Json& value, const Place& place) {
  if (!value.is_string()) expected("a string", value, place);
  std::string out = value.get<std::string>();
  // A path or a name that goes through C would end there, and be another one.
  if (out.find('\0') != out.npos) expected("a string without \\u0000", value, place);
  return out;
}

std::string to_choice(const Json& value, const Place& place, std::string_view key,
                      const std::vector<std::string>& known) {
  if (!value.is_string()) expected("one of: " + join(known), value, place);
  std::string out = to_text(value, place);
  if (std::find(known.begin(), known.end(), out) == known.end())
    throw ConfigError(place.text() + ": " + unknown_name(key, out, known));
  return out;
}

std::vector<std::string> to_texts(const Json& value, const Place& place, bool may_be_empty) {
  if (value.is_string()) return {to_text(value, place)};
  if (!value.is_array() || (value.empty() && !may_be_empty))
    expected("a string or a list of strings", value, place);
  std::vector<std::string> out;
  for (const Json& item : value) out.push_back(to_text(item, place.child(out.size())));
  return out;
}

std::vector<int64_t> to_integers(const Json& value, const Place& place, const KeyDoc& doc) {
  if (!value.is_array()) expected("a list of integers", value, place);
  std::vector<int64_t> out;
  for (const Json& item : value) out.push_back(to_integer(item, place.child(out.size()), doc));
  return out;
}

KeyInfo info(std::string_view key, std::string_view type, const KeyDoc& doc) {
  return {std::string(key), std::string(type), false, "", {}, std::string(doc.doc), doc.min, doc.max};
}

/// The known key that a wrong one was probably meant to be: near as a whole, or near to one of its words
/// ("grup" and "size" both mean "group_size"). "" when there is none.
std::string meant_key(const std::string& wrong, const std::vector<std::string>& known) {
  if (std::string near = nearest_name(wrong, known); !near.empty()) return near;
  std::map<std::string, std::string> key_of;  // word -> the first key that has it
  std::vector<std::string> words;
  for (const std::string& key : known)
    for (size_t start = 0, end = 0; end != key.npos; start = end + 1) {
      end = key.find('_', start);
      const std::string word = key.substr(start, end == key.npos ? end : end - start);
      if (word.size() >= 3 && key_of.try_emplace(word, key).second) words.push_back(word);
    }
  const std::string word = nearest_name(wrong, words);
  return word.empty() ? "" : key_of[word];
}

}  // namespace

struct Params::State {
  const Json* object = nullptr;  // null when declaring
  Place place;
  std::string what;
  Json resolved = Json::object();
  std::vector<KeyInfo> declared;

  std::vector<std::string> keys() const {
    std::vector<std::string> out;
    for (const KeyInfo& k : declared) out.push_back(k.key);
    return out;
  }
  bool was_read(const std::string& key) const {
    return std::any_of(declared.begin(), declared.end(), [&](const KeyInfo& k) { return k.key == key; });
  }

  /// Notes the key and returns its value, or null when it is absent.
  const Json* read(KeyInfo key) {
    const auto known =
        std::find_if(declared.begin(), declared.end(), [&](const KeyInfo& k) { return k.key == key.key; });
    if (known == declared.end())
      declared.push_back(key);
    else
      *known = key;  // read again, with a type this time
    if (!object) return nullptr;
    const auto it = object->find(key.key);
    if (it != object->end()) return &*it;
    if (key.required) fail_missing(key);
    return nullptr;
  }

  [[noreturn]] void fail_missing(const KeyInfo& key) const {
    std::string message = place.text() + ": missing key \"" + key.key + "\"";
    if (!key.doc.empty()) message += " (" + key.doc + ")";
    std::vector<std::string> unread;
    for (const auto& item : object->items())
      if (!was_read(item.key())) unread.push_back(item.key());
    // Short keys are all near to each other.
    const std::string near = key.key.size() < 4 ? "" : nearest_name(key.key, unread);
    if (!near.empty()) message += "; is \"" + near + "\" meant to be it?";
    // What is read after this key is not known yet.
    throw ConfigError(message + (near.empty() ? "; " : " ") + what + " reads: " + join(keys()) + ", ...");
  }

  /// The value converted, or the fallback; kept in the resolved form.
  template <class T, class Convert>
  T take(KeyInfo key, const T& fallback, const Convert& convert) {
    const Json* value = read(key);
    T out = value ? convert(*value, place.child(key.key)) : fallback;
    resolved[key.key] = out;
    return out;
  }
  template <class T, class Convert>
  T optional(KeyInfo key, const T& fallback, const Convert& convert) {
    key.fallback = Json(fallback).dump();
    return take<T>(std::move(key), fallback, convert);
  }
  template <class T, class Convert>
  T required(KeyInfo key, const Convert& convert) {
    key.required = true;
    return take<T>(std::move(key), T(), convert);
  }
};

Params::Params(const Json& object, Place place, std::string what) : state_(std::make_unique<State>()) {
  if (!object.is_object())
    throw ConfigError(place.text() + ": expected an object, found " + describe(object) + "; " + what +
                      " is an object of keys");
  state_->object = &object;
  state_->place = std::move(place);
  state_->what = std::move(what);
}
Params::Params(std::unique_ptr<State> state) : state_(std::move(state)) {}
Params::Params(Params&&) noexcept = default;
Params::~Params() = default;

Params Params::declaring(std::string what) {
  auto state = std::make_unique<State>();
  state->what = std::move(what);
  return Params(std::move(state));
}

bool Params::has(std::string_view key) const {
  return state_->object && state_->object->contains(std::string(key));
}
bool Params::is_declaring() const { return !state_->object; }

double Params::number(std::string_view key, double fallback, KeyDoc doc) {
  KeyInfo k = info(key, "number", doc);
  const auto convert = [&](const Json& v, const Place& p) { return to_number(v, p, doc); };
  // JSON has no infinity: such a default ("no limit") is not shown.
  if (!std::isfinite(fallback)) return state_->take<double>(k, fallback, convert);
  return state_->optional<double>(k, fallback + 0.0, convert);
}
double Params::number(std::string_view key, KeyDoc doc) {
  return state_->required<double>(info(key, "number", doc),
                                  [&](const Json& v, const Place& p) { return to_number(v, p, doc); });
}
int64_t Params::integer(std::string_view key, int64_t fallback, KeyDoc doc) {
  return state_->optional<int64_t>(info(key, "integer", doc), fallback,
                                   [&](const Json& v, const Place& p) { return to_integer(v, p, doc); });
}
int64_t Params::integer(std::string_view key, KeyDoc doc) {
  return state_->required<int64_t>(info(key, "integer", doc),
                                   [&](const Json& v, const Place& p) { return to_integer(v, p, doc); });
}
bool Params::boolean(std::string_view key, bool fallback, KeyDoc doc) {
  return state_->optional<bool>(info(key, "bool", doc), fallback, to_boolean);
}
std::string Params::text(std::string_view key, std::string_view fallback, KeyDoc doc) {
  return state_->optional<std::string>(info(key, "string", doc), std::string(fallback), to_text);
}
std::string Params::text(std::string_view key, KeyDoc doc) {
  return state_->required<std::string>(info(key, "string", doc), to_text);
}
std::string Params::choice(std::string_view key, std::string_view fallback,
                           const std::vector<std::string>& known, KeyDoc doc) {
  KeyInfo k = info(key, "string", doc);
  k.choices = known;
  return state_->optional<std::string>(
      k, std::string(fallback), [&](const Json& v, const Place& p) { return to_choice(v, p, key, known); });
}
std::string Params::choice(std::string_view key, const std::vector<std::string>& known, KeyDoc doc) {
  KeyInfo k = info(key, "string", doc);
  k.choices = known;
  return state_->required<std::string>(
      k, [&](const Json& v, const Place& p) { return to_choice(v, p, key, known); });
}
std::vector<std::string> Params::texts(std::string_view key, const std::vector<std::string>& fallback,
                                       KeyDoc doc, bool may_be_empty) {
  return state_->optional<std::vector<std::string>>(
      info(key, "strings", doc), fallback,
      [&](const Json& v, const Place& p) { return to_texts(v, p, may_be_empty); });
}
std::vector<int64_t> Params::integers(std::string_view key, KeyDoc doc) {
  return state_->required<std::vector<int64_t>>(
      info(key, "integers", doc), [&](const Json& v, const Place& p) { return to_integers(v, p, doc); });
}
std::vector<int64_t> Params::integers(std::string_view key, const std::vector<int64_t>& fallback,
                                      KeyDoc doc) {
  return state_->optional<std::vector<int64_t>>(
      info(key, "integers", doc), fallback,
      [&](const Json& v, const Place& p) { return to_integers(v, p, doc); });
}

const Json& Params::raw(std::string_view key, KeyDoc doc) {
  const Json* value = state_->read(info(key, "any", doc));
  if (!value) return kNull;
  state_->resolved[std::string(key)] = *value;
  return *value;
}

Place Params::place(std::string_view key) const { return state_->place.child(key); }
const Place& Params::place() const { return state_->place; }
void Params::fail(std::string_view key, const std::string& message) const {
  throw ConfigError(place(key).text() + ": " + message);
}

void Params::done() const {
  if (!state_->object) return;
  const std::vector<std::string> keys = state_->keys();
  for (const auto& item : state_->object->items()) {
    if (state_->was_read(item.key())) continue;
    const std::string near = meant_key(item.key(), keys);
    const std::string quoted = describe(Json(item.key())).substr(9);  // without "a string "
    throw ConfigError(state_->place.text() + ": unknown key " + quoted + "; " +
                      (near.empty() ? "" : "did you mean \"" + near + "\"? ") + state_->what +
                      (keys.empty() ? " reads no keys" : " reads: " + join(keys)));
  }
}

const Json& Params::resolved() const { return state_->resolved; }
void Params::set_resolved(std::string_view key, Json value) {
  state_->resolved[std::string(key)] = std::move(value);
}
void Params::drop_resolved(std::string_view key) { state_->resolved.erase(std::string(key)); }
const std::vector<KeyInfo>& Params::declared() const { return state_->declared; }

std::vector<KeyInfo> declared_keys(const std::function<void(Params&)>& factory) {
  Params params = Params::declaring("");
  factory(params);
  return params.declared();
}

std::string label_of(const Json& value) {
  if (value.is_string()) return value.get<std::string>();
  if (value.is_object() && value.contains("label") && value["label"].is_string() && value["label"] != "")
    return value["label"].get<std::string>();
  return value.dump();
}

}  // namespace fp4lab
