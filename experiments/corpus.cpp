#include "experiments/corpus.h"

#include <algorithm>
#include <cstring>
#include <nlohmann/json.hpp>
#include <numeric>

#include "core/io/tensor_file.h"
#include "core/params.h"
#include "core/random.h"

namespace fp4lab {

namespace {
template <class T>
int64_t element(const std::byte* bytes, int64_t i) {
  T x;
  std::memcpy(&x, bytes + i * int64_t(sizeof(T)), sizeof(T));
  return int64_t(x);
}
using Reader = int64_t (*)(const std::byte*, int64_t);
/// Null for a dtype that holds no token ids.
Reader reader_of(DType dtype) {
  switch (dtype) {
    case DType::U16: return element<uint16_t>;
    case DType::U32: return element<uint32_t>;
    case DType::I32: return element<int32_t>;
    case DType::I64: return element<int64_t>;
    default: return nullptr;
  }
}

/// "tokens" wherever it is; otherwise the only tensor of the file.
const TensorInfo& tokens_of(const TensorFile& file, const std::string& path) {
  if (const TensorInfo* t = file.find("tokens")) return *t;
  if (file.tensors().size() == 1) return file.tensors()[0];
  throw DataError(str(path, ": no tensor \"tokens\" among ", file.tensors().size(),
                      "; a corpus is a tensor of token ids with this name, or the only one of its file"));
}
}  // namespace

struct Corpus::State {
  std::string path;
  TensorFile file;
  TensorInfo tensor;
  Reader read;
  int64_t rows, row_length;  // a stream is one row

  std::string where() const {
    return path + ": tensor " + describe(Json(tensor.name)).substr(9);
  }  // without "a string "
  std::string size_text() const {
    return tensor.shape.size() == 1 ? str("one stream of ", row_length, " tokens")
                                    : str(rows, " rows of ", row_length, " tokens");
  }
};

Corpus::Corpus(std::unique_ptr<State> state) : state_(std::move(state)) {}
Corpus::Corpus(Corpus&&) noexcept = default;
Corpus::~Corpus() = default;

Corpus Corpus::open(const std::string& path) {
  TensorFile file = TensorFile::open(path);
  TensorInfo t = tokens_of(file, path);
  auto state = std::make_unique<State>(State{path, std::move(file), std::move(t), nullptr, 1, 0});
  const TensorInfo& tensor = state->tensor;
  state->read = reader_of(tensor.dtype);
  if (!state->read)
    throw DataError(
        str(state->where(), " is ", name(tensor.dtype), "; expected token ids in U16, U32, I32 or I64"));
  if (tensor.shape.size() != 1 && tensor.shape.size() != 2)
    throw DataError(str(state->where(), " has ", tensor.shape.size(),
                        " dimensions; expected one stream (T) or windows of text in rows (R, L)"));
  state->row_length = tensor.shape.back();
  if (tensor.shape.size() == 2) state->rows = tensor.shape[0];
  return Corpus(std::move(state));
}

const std::string& Corpus::path() const { return state_->path; }
int64_t Corpus::tokens() const { return state_->tensor.elements; }

int64_t Corpus::windows(int64_t length) const {
  FP4LAB_CHECK(length >= 1, length);
  return state_->rows * (state_->row_length / length);
}

TokenWindows Corpus::cut(const WindowChoice& choice, int64_t vocab_size) const {
  FP4LAB_CHECK(choice.windows >= 0 && choice.offset >= 0, choice.windows, ", ", choice.offset);
  FP4LAB_CHECK(vocab_size >= 1 && vocab_size <= INT32_MAX, vocab_size);
  const State& s = *state_;
  const int64_t length = choice.length, all = windows(length);
  if (all == 0)
    throw DataError(str(s.where(), " holds no window of ", length, " tokens: it is ", s.size_text()));
  const int64_t available = std::max<int64_t>(0, all - choice.offset);
  const int64_t wanted = choice.windows == 0 ? available : choice.windows;
  if (wanted > available || wanted == 0)
    throw DataError(str(s.where(), " holds ", all, " windows of ", length, " tokens (it is ", s.size_text(),
                        "); ", choice.windows == 0 ? "some" : str(choice.windows), " are asked for",
                        choice.offset == 0 ? "" : str(" after the first ", choice.offset)));

  std::vector<int64_t> chosen(static_cast<size_t>(wanted));
  std::iota(chosen.begin(), chosen.end(), int64_t{0});
  if (choice.random)
    chosen = sample_without_replacement(Stream(choice.seed, "calibration windows"), available, wanted);

  TokenWindows out;
  out.windows = wanted, out.length = length;
  out.ids.reserve(size_t(wanted * length));
  const std::byte* const bytes = s.file.bytes(s.tensor).data();
  const int64_t per_row = s.row_length / length;
  for (int64_t w : chosen) {
    w += choice.offset;
    const int64_t start = w / per_row * s.row_length + w % per_row * length;
    out.starts.push_back(start);
    for (int64_t i = start; i < start + length; ++i) {
      const int64_t id = s.read(bytes, i);
      if (id < 0 || id >= vocab_size)
        throw DataError(str(s.where(), ": id ", id, " at index ", i, "; expected 0..", vocab_size - 1,
                            " (the model's vocab_size is ", vocab_size, ")"));
      out.ids.push_back(int32_t(id));
    }
  }
  s.file.release(s.tensor);
  return out;
}

bool overlap(const TokenWindows& a, const TokenWindows& b) {
  std::vector<int64_t> x = a.starts, y = b.starts;
  std::sort(x.begin(), x.end());
  std::sort(y.begin(), y.end());
  for (size_t i = 0, j = 0; i < x.size() && j < y.size();) {
    if (x[i] + a.length <= y[j])
      ++i;
    else if (y[j] + b.length <= x[i])
      ++j;
    else
      return true;
  }
  return false;
}

}  // namespace fp4lab
