// What kompakt export reads: an upstream folder or a single safetensors file, whether it is a whole model or not.
#pragma once

#include <memory>
#include <string>
#include <vector>

#include "absl/status/statusor.h"
#include "converters/model_folder.h"
#include "converters/quantization_config.h"
#include "converters/shard_set.h"

namespace kompakt {

struct ExportFiles {
  ShardSet shards;
  SourceQuantization quantization;
  std::string config;              // the text of config.json; empty when there is none
  std::vector<FolderFile> beside;  // tokenizer, code, licence: whatever lies beside the weights
};

// `config_path` may be empty: then config.json of the folder, if it has one, and hf_quant_config.json say how the
// weights are quantized. kNotFound: no such file or no weights. kDataLoss, kFailedPrecondition, kUnimplemented: as for
// a checkpoint.
absl::StatusOr<ExportFiles> OpenExportFiles(const std::string& path, const std::string& config_path);

}  // namespace kompakt
