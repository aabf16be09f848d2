// experiments/corpus.h - token ids from a file, cut into windows.
#pragma once
#include <cstdint>
#include <memory>
#include <string>
#include <vector>

namespace fp4lab {

/// Windows of token ids, all of one length.
struct TokenWindows {
  int64_t windows = 0, length = 0;
  std::vector<int32_t> ids;     // (windows, length), row-major
  std::vector<int64_t> starts;  // of each window, counted in tokens from the file's first
};

/// How windows are taken from a corpus.
struct WindowChoice {
  int64_t windows = 0;  // 0: all there are
  int64_t length = 0;
  int64_t offset = 0;  // windows from the start that are left out (first) or not drawn from (random)
  bool random =
      false;  // drawn without replacement by (seed, "calibration windows"); otherwise the first ones
  uint64_t seed = 0;
};

/// A corpus: one stream of ids (T), or one document window per row (R, L). A stream is cut into consecutive
/// windows from its start, its tail is dropped; a row gives L / length windows.
class Corpus {
 public:
  /// A .safetensors file (tensor `tokens`, or its only tensor) or a .npy file, of dtype U16, U32, I32 or I64.
  /// DataError naming file and tensor for anything else.
  static Corpus open(const std::string& path);
  Corpus(Corpus&&) noexcept;
  ~Corpus();

  const std::string& path() const;
  int64_t tokens() const;
  /// Windows of this length that the corpus holds.
  int64_t windows(int64_t length) const;
  /// DataError when there are fewer windows than asked for (says how many there are and at which length), and
  /// for an id outside 0..vocab_size-1 in a chosen window (names file, index and id).
  TokenWindows cut(const WindowChoice& choice, int64_t vocab_size) const;

 private:
  struct State;
  std::unique_ptr<State> state_;
  explicit Corpus(std::unique_ptr<State> state);
};

/// Whether a window of `a` shares a token with one of `b` (both from one file).
bool overlap(const TokenWindows& a, const TokenWindows& b);

}  // namespace fp4lab
