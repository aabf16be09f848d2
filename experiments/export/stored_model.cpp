#include "experiments/export/stored_model.h"

#include <algorithm>
#include <bit>
#include <cmath>
#include <cstring>
#include <filesystem>
#include <nlohmann/json.hpp>

#include "core/errors.h"
#include "core/io/tensor_header.h"
#include "core/params.h"
#include "experiments/export/layout_decoder.h"
#include "kernels/cpu/linear_map.h"

namespace fp4lab {

namespace {

std::string prefix_of(int64_t layer, Linear l) { return "model." + linear_name(layer, l); }

/// Where the linear's codes are, or nothing when it is in full precision.
const TensorInfo* codes_of(const TensorFile& file, Layout layout, const std::string& prefix) {
  const TensorInfo* codes = file.find(str(prefix, ".", codes_suffix(layout)));
  // ModelOpt's codes have the name of the weights themselves.
  if (codes && layout == Layout::modelopt_nvfp4 && codes->dtype != DType::U8) return nullptr;
  return codes;
}

}  // namespace

StoredModel StoredModel::open(const std::string& path) {
  std::error_code ignored;
  if (!std::filesystem::is_directory(path, ignored))
    return StoredModel({}, Checkpoint::open(path));  // refuses
  const Scheme scheme = read_scheme(path);
  const ModelConfig config = read_model_config(path, true);
  std::set<std::string, std::less<>> elsewhere;
  std::vector<std::array<bool, kLinears>> found(static_cast<size_t>(config.layers));
  {
    const TensorFile file = TensorFile::open(path);
    for (int64_t layer = 0; layer < config.layers; ++layer)
      for (int i = 0; i < kLinears; ++i) {
        const std::string prefix = prefix_of(layer, Linear(i));
        const TensorInfo* codes = codes_of(file, scheme.layout, prefix);
        found[size_t(layer)][size_t(i)] = codes != nullptr;
        if (!codes) continue;
        for (const std::string_view suffix : suffixes(scheme.layout))
          elsewhere.insert(str(prefix, ".", suffix));
        // Of a quantized cache of keys and values, which nothing here has.
        elsewhere.insert({prefix + ".k_scale", prefix + ".v_scale"});
        if (!elsewhere.insert(prefix + ".weight").second) continue;
        if (const TensorInfo* plain = file.find(prefix + ".weight"))
          throw DataError(str(file.path_of(*plain), ": tensor ", quote_name(plain->name), " stands beside ",
                              quote_name(codes->name), ": the linear is stored twice"));
      }
  }
  StoredModel model(scheme,
                    Checkpoint::open(path, [&](std::string_view name) { return elsewhere.contains(name); }));
  model.entries_.resize(size_t(config.layers));
  for (int64_t layer = 0; layer < config.layers; ++layer)
    for (int i = 0; i < kLinears; ++i)
      if (found[size_t(layer)][size_t(i)])
        model.entries_[size_t(layer)][size_t(i)] = model.read_entry(layer, Linear(i));
  model.read_exact_scales();
  if (model.stored_linears() == 0)
    throw DataError(str(path, ": config.json says ", name(scheme.layout), ", but no linear has a ",
                        codes_suffix(scheme.layout), " (", prefix_of(0, Linear::q), ".",
                        codes_suffix(scheme.layout), ", ...)"));
  if (model.rotated_.value_or(false))
    model.map_.factors.push_back(HadamardFactor{scheme.hadamard, {}, 1});
  else
    model.scheme_.hadamard = 1;
  return model;
}

StoredModel::Entry StoredModel::read_entry(int64_t layer, Linear l) {
  const std::string prefix = prefix_of(layer, l);
  const TensorFile& file = rest_.file();
  const auto [rows, cols] = shape(l);
  if (std::find(scheme_.in_full_precision.begin(), scheme_.in_full_precision.end(), prefix) !=
      scheme_.in_full_precision.end())
    throw DataError(str(path(), ": config.json has ", prefix, " in full precision, but it is stored as ",
                        name(scheme_.layout)));
  const DecodedLinear header = decode_header(scheme_.layout, file, prefix, rows, cols);
  if (header.groups != scheme_.weights.groups(cols))
    throw DataError(str(path(), ": ", prefix, " has ", header.groups, " groups of scales in a row of ", cols,
                        "; config.json says groups of ", scheme_.weights.group_size));
  if (scheme_.layout == Layout::pack_quantized) {
    const TensorInfo& scales = file.at(prefix + ".weight_scale");
    const ScaleType type = scales.dtype == DType::F16 ? kFP16 : kBF16;
    if (stored_linears() > 0 && !(type == scheme_.weights.scale))
      throw DataError(str(file.path_of(scales), ": tensor ", quote_name(scales.name), " is ",
                          name(scales.dtype), ", the other linears' scales are not"));
    scheme_.weights.scale = type;
    if (scheme_.activations) scheme_.activations->scale = type;  // readers compute both in the model's type
  }
  if (scheme_.layout == Layout::fp_quant) {
    if (scheme_.weights.scale == kUE8M0 && header.global != 3.0f)
      throw DataError(str(path(), ": ", prefix, ".weight_global_scale is ", header.global,
                          "; expected 3 (scales are a third of a power of two)"));
    check_matrix(prefix, "forward_hadamard_matrix", true);
    check_matrix(prefix, "backward_hadamard_matrix", false);
  }
  Entry entry{true, header.global, tensor_scale(header.global), {}, {}};
  if (scheme_.activations && scheme_.activations->tensor_scale.mode == TensorScale::fixed) {
    entry.input = decode_input_scale(scheme_.layout, file, prefix);
    if (entry.input) entry.input_scale = tensor_scale(*entry.input);
  }
  return entry;
}

void StoredModel::read_exact_scales() {
  const std::string file = (std::filesystem::path(path()) / kScalesFile).string();
  if (std::error_code ignored; !std::filesystem::exists(file, ignored)) return;
  try {
    const Json all = parse_json_file(file);
    const Place place{file, "", nullptr};
    Params p(all, place, "the tensor scales");
    for (int64_t layer = 0; layer < config().layers; ++layer)
      for (int i = 0; i < kLinears; ++i) {
        const std::string prefix = prefix_of(layer, Linear(i));
        if (!p.has(prefix)) continue;
        const Json& object = p.raw(prefix, {"of a linear"});
        Params own(object, p.place(prefix), "a linear's tensor scales");
        Entry& e = entries_[size_t(layer)][size_t(i)];
        const auto take = [&](const char* key, std::optional<float> divisor, float& scale) {
          if (!own.has(key)) return;
          const auto exact = float(own.number(key, 0, {"s_T"}));
          if (!e.stored || !divisor || global_scale_multiplies(scheme_.layout) || !(1.0f / exact == *divisor))
            own.fail(key,
                     str("does not belong to the stored tensors, whose divisor is ", divisor.value_or(0.0f),
                         "; without ", kScalesFile, " the divisors alone are read"));
          scale = exact;
        };
        float input = e.input_scale.value_or(0.0f);
        take("weight", e.global, e.scale);
        take("input", e.input, input);
        if (e.input_scale) e.input_scale = input;
        own.done();
      }
    p.done();
  } catch (const ConfigError& error) {
    throw DataError(error.what());
  }
}

/// (k, k), H_k / sqrt(k) with H_k Sylvester's, or the identity; all of one kind.
void StoredModel::check_matrix(const std::string& prefix, std::string_view suffix, bool required) {
  const TensorFile& file = rest_.file();
  const std::string full = str(prefix, ".", suffix);
  if (!required && !file.find(full)) return;
  const TensorInfo& t = file.at(full);
  const int64_t k = scheme_.hadamard;
  const auto refuse = [&](const std::string& what) {
    throw DataError(str(file.path_of(t), ": tensor ", quote_name(t.name), ": ", what));
  };
  if (t.shape != std::vector<int64_t>{k, k})
    refuse(str("shape ", shape_text(t.shape), ", expected (", k, ", ", k, ") as hadamard_group_size says"));
  if (t.dtype != DType::BF16 && t.dtype != DType::F16 && t.dtype != DType::F32)
    refuse(str("dtype ", name(t.dtype), ", expected BF16, F16 or F32"));
  std::vector<float> m(size_t(k * k));
  load_floats(file, t, m);
  bool identity = true, hadamard = std::has_single_bit(uint64_t(k));
  for (int64_t i = 0; i < k; ++i)
    for (int64_t j = 0; j < k; ++j) {
      const float x = m[size_t(i * k + j)], sign = std::popcount(uint64_t(i & j)) % 2 ? -1.0f : 1.0f;
      identity &= x == (i == j ? 1.0f : 0.0f);
      hadamard &= std::fabs(x * sign * std::sqrt(float(k)) - 1) <= 0x1p-8f;  // BF16 holds 8 bits
    }
  if (!identity && !hadamard)
    refuse("is neither the Hadamard matrix in Sylvester's order nor the identity; no other is supported");
  if (rotated_ && *rotated_ == identity && k > 1) refuse("differs from the other linears' matrices");
  rotated_ = !identity;
}

int64_t StoredModel::stored_linears() const {
  int64_t n = 0;
  for (const auto& layer : entries_)
    for (const Entry& e : layer) n += e.stored;
  return n;
}

float StoredModel::tensor_scale(float global) const {
  return global_scale_multiplies(scheme_.layout) ? global : 1.0f / global;
}

std::optional<FormatSpec> StoredModel::activations(int64_t layer, Linear l) const {
  std::optional<FormatSpec> f = scheme_.activations;
  if (f && at(layer, l).input_scale) f->tensor_scale.value = *at(layer, l).input_scale;
  return f;
}

bool StoredModel::share_scale(int64_t layer, std::span<const Linear> linears) const {
  return std::all_of(linears.begin(), linears.end(), [&](Linear l) {
    return at(layer, l).stored && at(layer, l).scale == at(layer, linears[0]).scale;
  });
}

QuantizedMatrix StoredModel::quantized(int64_t layer, std::span<const Linear> linears) const {
  FP4LAB_CHECK(share_scale(layer, linears), linear_name(layer, linears[0]));
  QuantizedMatrix q;
  q.format = scheme_.weights;
  const int64_t cols = shape(linears[0])[1], groups = q.format.groups(cols);
  int64_t rows = 0;
  for (const Linear l : linears) rows += shape(l)[0];
  q.scales.rows = rows, q.scales.cols = cols;
  if (q.format.tensor_scale.mode != TensorScale::none || q.format.rule.kind == ScaleRule::fpq)
    q.scales.factors = {at(layer, linears[0]).scale};
  const auto width = size_t(q.format.scale.bytes);
  q.codes.reserve(size_t(rows * q.format.code_bytes(cols)));
  q.scales.bytes.reserve(size_t(rows * groups) * width);
  for (const Linear l : linears) {
    const DecodedLinear d =
        decode_linear(scheme_.layout, rest_.file(), prefix_of(layer, l), shape(l)[0], cols);
    for (size_t i = 0; i < d.codes.size(); i += 2)  // K is even in every layout
      q.codes.push_back(uint8_t(d.codes[i] | d.codes[i + 1] << 4));
    for (const uint32_t bits : d.scales)
      for (size_t b = 0; b < width; ++b) q.scales.bytes.push_back(uint8_t(bits >> (8 * b)));
  }
  return q;
}

Matrix StoredModel::decoded(int64_t layer, Linear l) const {
  Matrix W =
      decode_linear(scheme_.layout, rest_.file(), prefix_of(layer, l), shape(l)[0], shape(l)[1]).values();
  unmap_weights(map_, W);
  return W;
}

Matrix StoredModel::load(int64_t layer, std::span<const Linear> stacked) const {
  const bool all = std::all_of(stacked.begin(), stacked.end(), [&](Linear l) { return is_stored(layer, l); });
  if (stacked.size() == 1 && !all) return rest_.load(layer, stacked);
  int64_t rows = 0;
  for (const Linear l : stacked) rows += shape(l)[0];
  Matrix out(rows, shape(stacked[0])[1]);
  rows = 0;
  for (const Linear l : stacked) {
    const MatrixView<float> own = out.view().middle_rows(rows, shape(l)[0]);
    if (is_stored(layer, l)) {
      dequantize(quantized(layer, {&l, 1}), own);
      unmap_weights(map_, own);
    } else {
      const Matrix plain = rest_.load(layer, {&l, 1});
      std::copy_n(plain.data(), plain.size(), own.data);
    }
    rows += own.rows;
  }
  return out;
}

std::shared_ptr<const ModelWeights> open_model(const std::string& path) {
  if (says_quantized(path)) return std::make_shared<const StoredModel>(StoredModel::open(path));
  return std::make_shared<const Checkpoint>(Checkpoint::open(path));
}

}  // namespace fp4lab
