// An upstream checkpoint folder (config.json + safetensors + tokenizer files) as a TensorSource.
#pragma once

#include <memory>
#include <string>

#include "absl/status/statusor.h"
#include "format/manifest.pb.h"
#include "format/tensor_source.h"

namespace kompakt {

// Reads config.json and every shard header; no tensor data. Everything that the headers can show is checked here:
// unknown architecture, rope, scoring or top-k method; the expected tensor set against the one found, in both
// directions; shapes, dtypes and companions; index against shards; vocabulary against tokenizer.
// kDataLoss / kFailedPrecondition: corrupt. kUnimplemented: not supported. kNotFound: no such folder or no config.json.
//
// With `keep_mtp` the schema has the MTP layers too (ArchSpec.mtp_layers). Their copies of the embedding and of the
// head are not tensors of the schema: the main ones stand for them, and reading those fails where a copy differs.
// kFailedPrecondition when the model has no MTP layers.
struct CheckpointOptions {
  bool keep_mtp = false;
};
absl::StatusOr<std::unique_ptr<TensorSource>> OpenCheckpoint(const std::string& folder,
                                                             const CheckpointOptions& options = {});

// Tokenizer and chat files, stop ids and BOS of a folder that may hold nothing else (no config.json needed).
// kNotFound when there is neither tokenizer.json nor tiktoken.model.
absl::StatusOr<ModelAssets> ReadAssets(const std::string& folder);

}  // namespace kompakt
