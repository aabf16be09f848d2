// experiments/export/exporter.h - writes quantized models as Hugging Face folders that other tools load.
#pragma once
#include <string>

#include "experiments/export/checkpoint_folder.h"
#include "experiments/export/stored_model.h"
#include "experiments/model/model_cell.h"

namespace fp4lab {

/// What a plan's model is in a layout. ConfigError saying why its readers would compute something else, with
/// the nearest thing that can be exported: a format, activations or transform that they do not have, several
/// formats, a quantized head or embedding, fused linears (q/k/v, gate/up) that are not quantized alike.
Scheme scheme_of(const ModelPlan& plan, const ModelConfig& config, Layout layout);

struct Written {
  int64_t linears = 0, shards = 0, bytes = 0;
  std::string digest;  // of the cell: what its record says
};

/// Makes the cell's model block by block and writes it: linears in the layout, everything else as the
/// checkpoint has it (F32 where a rotation of the model has changed it), config.json with its
/// quantization_config, the tokenizer's files, and `about` as fp4lab.json. Every shard is read back by the
/// second decoder (layout_decoder.h): codes and group scales bit for bit, tensor scales to an ulp; at last
/// the folder is opened as a checkpoint. The folder is not published here. DataError for a full disk and for
/// what reads back otherwise. Memory: a block, and a shard.
Written export_cell(ModelCell& cell, const Scheme& scheme, CheckpointFolder& folder, Json about);

/// The checkpoint's scheme in another layout. ConfigError when the other layout's readers would compute
/// something else.
Scheme converted_scheme(const StoredModel& model, Layout layout);
/// The same codes and scales in another layout: bit for bit, global scales too where both layouts divide (or
/// multiply), otherwise to an ulp. ConfigError when the other layout's readers would compute something else.
Written convert_checkpoint(const StoredModel& model, Layout layout, CheckpointFolder& folder, Json about);

/// A checkpoint in full precision: the linears' values as the second decoder has them (exactly, where nothing
/// is rotated) in F32, everything else as it is.
Written write_plain(const StoredModel& model, CheckpointFolder& folder, Json about);

}  // namespace fp4lab
