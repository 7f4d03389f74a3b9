// What a user may name as MODEL or SRC: a .kpk file or an upstream checkpoint folder.
#pragma once

#include <cstdint>
#include <functional>
#include <memory>
#include <string>
#include <vector>

#include "absl/status/statusor.h"
#include "format/packed_reader.h"
#include "format/tensor_source.h"
#include "runtime/model.h"

namespace kompakt {

// A source of weights for convert and plan. A folder is opened by OpenCheckpoint, a file as a packed file.
// With `keep_mtp` its MTP layers too; kFailedPrecondition when there are none. A packed file always gives what it
// holds.
absl::StatusOr<std::unique_ptr<TensorSource>> OpenSource(const std::string& path, bool keep_mtp = false);

// The packed file that `path` names, or null for a folder.
absl::StatusOr<std::shared_ptr<const PackedReader>> OpenIfPacked(const std::string& path);

// A model ready to run, and its tokenizer files. An upstream folder is run as it is, in its exact form, from memory.
struct LoadedModel {
  std::shared_ptr<const Model> model;
  ModelAssets assets;
  std::shared_ptr<const WeightStore> weights;  // the model's, to load it a second time with other kernels
  uint64_t tensor_bytes = 0;                   // as stored: in the .kpk, or in the shards of the folder
  // Changes with the model: XXH3 of the packed file's manifest, or of the names, sizes and checksums of the folder's
  // files.
  uint64_t identity_xxh3 = 0;
  std::shared_ptr<const PackedReader> file;  // null for a folder
};
// What a verb is going to do with a model: tokens of its longest session, and bytes that it takes for itself.
struct SessionNeed {
  int64_t context = 0;
  uint64_t other_bytes = 0;
};
// A promise of memory for a packed file (runtime/paged_weights.h), and what it has to be enough for.
struct MemoryLimit {
  uint64_t ram_bytes = 0;       // 0: none, the file is mapped
  bool of_model_alone = false;  // and not of the whole process
  // Called, where there is a limit or not, before the weights are loaded; its error is passed on. May be null where
  // there is none.
  std::function<absl::StatusOr<SessionNeed>(const ModelAssets& assets, const ArchSpec& arch)> need;
};
// kInvalidArgument when the limit is for a folder, or too low; the message says what would be enough. Without a limit,
// of a verb that could have one (`need` is set), a notice where the file is larger than the memory that is free.
absl::StatusOr<LoadedModel> LoadModel(const std::string& path, const ModelOptions& options, bool keep_mtp = false,
                                      const MemoryLimit& limit = {});

// The identity_xxh3 that LoadModel would give, without loading.
absl::StatusOr<uint64_t> IdentityOf(const std::string& path, bool keep_mtp);

// The tokenizer files of a .kpk or of a folder, which may hold nothing else.
absl::StatusOr<ModelAssets> OpenAssets(const std::string& path);

// -t: 0 means every processor that this process may use. kInvalidArgument below 0 or above 1024.
absl::StatusOr<int> ResolveThreads(int threads);

// The bytes of a text file, as they are; "-" is stdin.
absl::StatusOr<std::string> ReadTextFile(const std::string& path);

// "0,17,5" or "@file" (ids separated by commas or white space). kInvalidArgument naming what is no id.
absl::StatusOr<std::vector<int32_t>> ParseIds(const std::string& text);

}  // namespace kompakt
