// ShardSet: the safetensors files of a checkpoint folder and all their tensors. In this order:
//     model.safetensors.index.json         the shards it names
//     consolidated.safetensors.index.json  the shards it names (Mistral's naming)
//     model.safetensors                    alone
//     consolidated*.safetensors            alone, or numbered -I-of-N and complete
// Index and headers are held against each other in both directions. Two indexes, or weights in both namings and no
// index, are refused: which are meant cannot be guessed.
#pragma once

#include <memory>
#include <string>
#include <vector>

#include "absl/container/flat_hash_map.h"
#include "absl/status/statusor.h"
#include "absl/strings/string_view.h"
#include "absl/types/span.h"
#include "converters/safetensors.h"

namespace kompakt {

// A tensor and the file that holds it; both live as long as the ShardSet.
struct FoundTensor {
  const SafetensorsFile* file = nullptr;
  const SafetensorsEntry* entry = nullptr;

  explicit operator bool() const { return entry != nullptr; }
};

class ShardSet {
 public:
  // Reads headers only. kFailedPrecondition: index and shards disagree, a shard is absent, a tensor lies in two
  // shards. kDataLoss: a broken shard or index. kUnimplemented: the weights are in another container.
  static absl::StatusOr<ShardSet> Open(const std::string& folder);
  // One file, whatever its name.
  static absl::StatusOr<ShardSet> OpenFile(const std::string& path);
  // Every *.safetensors of a folder where no index and no usual name says which: for tensors that need not be a model.
  static absl::StatusOr<ShardSet> OpenLoose(const std::string& folder);

  // Empty when there is no tensor of that name.
  FoundTensor Find(absl::string_view name) const;
  int64_t tensor_count() const { return static_cast<int64_t>(by_name_.size()); }
  // File after file, in data order.
  absl::Span<const std::unique_ptr<SafetensorsFile>> shards() const { return shards_; }
  // Shards and index, relative to the folder, ascending.
  absl::Span<const std::string> file_names() const { return file_names_; }

 private:
  ShardSet() = default;
  absl::Status OpenShard(const std::string& folder, const std::string& name);
  absl::Status OpenIndexed(const std::string& folder, const std::string& index_name);

  std::vector<std::unique_ptr<SafetensorsFile>> shards_;
  std::vector<std::string> file_names_;
  absl::flat_hash_map<absl::string_view, FoundTensor> by_name_;  // keys live in the entries
};

// "3 (a, b, c)"; past ten "1200 (the first 10: a, ..., j)".
std::string FirstNames(absl::Span<const std::string> names);

}  // namespace kompakt
