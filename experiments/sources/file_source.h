// experiments/sources/file_source.h - sources that read tensors from files, and the patterns that choose
// them.
//   Internal to experiments/.
#pragma once
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "core/io/tensor_file.h"
#include "experiments/sources/source.h"

namespace fp4lab {

/// "layers.2.x" before "layers.10.x": runs of digits compare as numbers, everything else byte by byte.
bool natural_less(std::string_view a, std::string_view b);

/// Whether a pattern means this tensor: it matches the whole name, or the name without a leading "model." or
/// a trailing
/// ".weight", or without both.
bool pattern_matches(std::string_view pattern, std::string_view tensor_name);

/// The tensors of `file` that one of the patterns under the key `key` means, each once, in natural order.
/// ConfigError at the pattern that matches nothing, with some of the names there are; DataError for a tensor
/// of more than two dimensions or without elements.
std::vector<const TensorInfo*> matched_tensors(const TensorFile& file, const std::string& path,
                                               std::span<const std::string> patterns, const Params& p,
                                               std::string_view key = "tensors");

/// The file or folder that the key `key` names, absolute; ConfigError at the key for a variable that is not
/// set.
std::string path_of_key(const Params& p, std::string_view key, const std::string& text,
                        const SourceContext& context);

/// TensorFile::open with the place of the key in front of what it says.
TensorFile open_at_key(const Params& p, std::string_view key, const std::string& path);

/// The chosen tensors of an open file.
std::unique_ptr<Source> make_tensor_file_source(TensorFile file,
                                                const std::vector<const TensorInfo*>& chosen);

std::unique_ptr<Source> make_checkpoint_source(Params& p, const SourceContext& context);
std::unique_ptr<Source> make_weights_source(Params& p, const SourceContext& context);
std::unique_ptr<Source> make_file_source(Params& p, const SourceContext& context);
std::unique_ptr<Source> make_activation_source(Params& p, const SourceContext& context);

}  // namespace fp4lab
