// core/text.h - small things about names: lists for error messages, "did you mean", patterns.
#pragma once
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

/// Shell-style pattern over the whole of `text`: `*` any run of characters (dots too), `?` one character.
bool glob_match(std::string_view pattern, std::string_view text);

}  // namespace fp4lab
