// The files of a checkpoint beside its weights: tokenizer, chat template, generation defaults; stop ids and BOS.
#pragma once

#include <string>
#include <vector>

#include "absl/status/statusor.h"
#include "format/manifest.pb.h"

namespace kompakt {

struct FolderAssets {
  ModelAssets assets;
  std::string tokenizer_file;  // "tokenizer.json" or "tiktoken.model"; empty when the folder has neither
  int64_t max_token_id = -1;   // the largest id that the tokenizer can produce
};

// Reads every asset file that is there. Stop ids come from generation_config.json, else config.json, else the
// eos_token of tokenizer_config.json; BOS from config.json, else generation_config.json, else bos_token.
// kDataLoss: a file that is not what its name says.
absl::StatusOr<FolderAssets> LoadAssets(const std::string& folder);

// kFailedPrecondition when the model has fewer rows than the tokenizer has tokens, or when BOS or a stop id has none.
absl::Status CheckVocabulary(const FolderAssets& assets, int64_t vocab_size, const std::string& folder);

}  // namespace kompakt
