#include "core/text.h"

#include "tests/catch.h"

using namespace fp4lab;
using Names = std::vector<std::string>;

TEST_CASE("join: names with a separator between", "[core][text]") {
  CHECK(join(Names{}) == "");
  CHECK(join(Names{"a"}) == "a");
  CHECK(join(Names{"a", "b", "c"}) == "a, b, c");
  CHECK(join(Names{"a", "b"}, "|") == "a|b");
}

TEST_CASE("nearest_name: one edit of each kind, and how far is too far", "[core][text]") {
  const Names known = {"int4", "mxfp4", "nvfp4", "hadamard"};
  CHECK(nearest_name("nvfp4", known) == "nvfp4");
  CHECK(nearest_name("nvfp5", known) == "nvfp4");   // replaced
  CHECK(nearest_name("nvfp44", known) == "nvfp4");  // inserted
  CHECK(nearest_name("nvp4", known) == "nvfp4");    // deleted
  CHECK(nearest_name("nvpf4", known) == "nvfp4");   // neighbours swapped: one edit, where 5 / 3 allows one
  CHECK(nearest_name("hdamrad", known) == "hadamard");  // 7 / 3 = 2 edits
  CHECK(nearest_name("hdamrd", known) == "hadamard");   // 6 / 3 = 2
  CHECK(nearest_name("hdmrd", known) == "");            // 3 edits, 5 / 3 = 1
  CHECK(nearest_name("", known) == "");
  CHECK(nearest_name("k", Names{"n"}) == "n");     // at least one edit, however short
  CHECK(nearest_name("mvfp4", known) == "mxfp4");  // the first of two equally near
  CHECK(nearest_name("anything", Names{}) == "");
  CHECK(nearest_name(std::string(101, 'a'), Names{std::string(101, 'a')}) == "");  // not worth the time
}

TEST_CASE("unknown_name: with and without a suggestion", "[core][text]") {
  CHECK(unknown_name("format", "nvfp5", Names{"int4", "nvfp4"}) ==
        "unknown format \"nvfp5\"; did you mean \"nvfp4\"? known: int4, nvfp4");
  CHECK(unknown_name("task", "zzz", Names{"layer", "model"}) == "unknown task \"zzz\"; known: layer, model");
  CHECK(unknown_name("task", std::string(500, 'z'), Names{"layer"}).size() < 150);
}

TEST_CASE("glob_match: against a recursive definition, all short patterns and texts", "[core][text]") {
  struct Slow {
    static bool match(std::string_view p, std::string_view t) {
      if (p.empty()) return t.empty();
      if (p[0] == '*') return match(p.substr(1), t) || (!t.empty() && match(p, t.substr(1)));
      return !t.empty() && (p[0] == '?' || p[0] == t[0]) && match(p.substr(1), t.substr(1));
    }
  };
  const auto words = [](std::string_view letters, size_t longest) {
    Names all = {""};
    for (size_t first = 0, length = 1; length <= longest; ++length) {
      const size_t end = all.size();
      for (size_t i = first; i < end; ++i)
        for (char c : letters) all.push_back(all[i] + c);
      first = end;
    }
    return all;
  };
  int wrong = 0, matched = 0;
  for (const std::string& pattern : words("ab*?", 5))
    for (const std::string& text : words("ab", 5)) {
      const bool expected = Slow::match(pattern, text);
      wrong += glob_match(pattern, text) != expected;
      matched += expected;
    }
  CHECK(wrong == 0);
  CHECK(matched > 1000);
  CHECK(glob_match("layers.3.mlp.*", "layers.3.mlp.up_proj.weight"));  // a star crosses dots
  CHECK_FALSE(glob_match("layers.3.*", "layers.30.mlp"));
  CHECK_FALSE(glob_match("layers.3", "layers.3.mlp"));  // the whole text
  // A recursive matcher would not end.
  CHECK_FALSE(glob_match("*a*a*a*a*a*a*a*a*a*a*a*a*b", std::string(5000, 'a')));
}
