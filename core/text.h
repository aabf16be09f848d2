// core/text.h - small things about names: lists for error messages, "did you mean", patterns.
#pragma once
#include <iterator>
#include <span>
#include <string>
#include <string_view>
#include <vector>

namespace fp4lab {

/// "a, b, c".
std::string join(std::span<const std::string> names, std::string_view separator = ", ");

/// The known name nearest to `name` in edit distance (insert, delete, replace, swap of neighbours), or ""
/// when none is within a third of its length, at least 1.
std::string nearest_name(std::string_view name, std::span<const std::string> known);

/// `unknown <what> "<name>"; did you mean "<near>"? known: a, b, c` - the tail of an error message.
std::string unknown_name(std::string_view what, std::string_view name, std::span<const std::string> known);

/// The entry of a table whose `name` is this one, or null.
template <class Table>
constexpr auto find_named(const Table& table, std::string_view name) -> decltype(&*std::begin(table)) {
  for (const auto& entry : table)
    if (entry.name == name) return &entry;
  return nullptr;
}
/// The names of a table's entries, in its order: the "known: ..." part of a message.
template <class Table>
std::vector<std::string> names_of(const Table& table) {
  std::vector<std::string> names;
  for (const auto& entry : table) names.emplace_back(entry.name);
  return names;
}

/// Shell-style pattern over the whole of `text`: `*` any run of characters (dots too), `?` one character.
bool glob_match(std::string_view pattern, std::string_view text);

}  // namespace fp4lab
