#include "converters/checkpoint.h"

#include <algorithm>
#include <map>
#include <string>
#include <utility>
#include <vector>

#include "absl/strings/match.h"
#include "absl/strings/str_join.h"
#include "converters/assets.h"
#include "converters/config.h"
#include "converters/input_file.h"
#include "converters/shard_set.h"
#include "converters/source_binder.h"
#include "converters/suspicions.h"
#include "format/status.h"

namespace kompakt {
namespace {

constexpr uint64_t kMaxConfigBytes = uint64_t{16} << 20;
constexpr uint64_t kMaxIndexBytes = uint64_t{256} << 20;

class Checkpoint : public TensorSource {
 public:
  Checkpoint(std::string folder, ModelSchema schema, ShardSet shards, BoundTensors bound, FolderAssets assets)
      : folder_(std::move(folder)),
        schema_(std::move(schema)),
        shards_(std::move(shards)),
        bound_(std::move(bound)),
        assets_(std::move(assets)) {
    for (const auto& shard : shards_.shards()) file_by_name_[FileNameOf(shard->path())] = shard.get();
    if (assets_.tokenizer_file.empty()) {
      bound_.notices.push_back("the folder has no tokenizer: the model takes and gives token ids only");
    }
  }

  const ModelSchema& schema() const override { return schema_; }
  const ModelAssets& assets() const override { return assets_.assets; }
  std::vector<std::string> notices() const override { return bound_.notices; }

  std::vector<std::string> observations() const override {
    std::vector<std::string> observations;
    for (const auto& tensor : bound_.tensors) {
      for (std::string& observation : tensor->Observations()) observations.push_back(std::move(observation));
    }
    return observations;
  }

  SourceInventory Inventory() const override {
    SourceInventory inventory;
    for (const auto& shard : shards_.shards()) {
      for (const SafetensorsEntry& entry : shard->entries()) {
        ++inventory.tensors;
        inventory.tensor_bytes += entry.bytes();
      }
    }
    inventory.mtp_parameters = bound_.mtp_parameters;
    return inventory;
  }

  absl::StatusOr<StoredForm> Form(const TensorInfo& tensor) const override {
    KOMPAKT_ASSIGN_OR_RETURN(const size_t index, IndexOf(tensor));
    return bound_.tensors[index]->Form();
  }

  absl::StatusOr<StoredRows> ReadStored(const TensorInfo& tensor, int64_t row_begin, int64_t row_end,
                                        Xxh3Stream* source_bytes) const override {
    KOMPAKT_ASSIGN_OR_RETURN(const size_t index, IndexOf(tensor));
    KOMPAKT_RETURN_IF_ERROR(CheckRows(tensor, row_begin, row_end));
    if (row_begin % kFp8Block != 0) {
      return UsageError(tensor.Name(), ": rows in stored form begin at a multiple of ", kFp8Block, ", asked for ",
                        row_begin);
    }
    KOMPAKT_RETURN_IF_ERROR(CheckCopies(index, row_begin, row_end));
    return bound_.tensors[index]->ReadStored(row_begin, row_end, source_bytes);
  }

  absl::Status ReadF32(const TensorInfo& tensor, int64_t row_begin, int64_t row_end, absl::Span<float> out,
                       Xxh3Stream* source_bytes) const override {
    KOMPAKT_ASSIGN_OR_RETURN(const size_t index, IndexOf(tensor));
    KOMPAKT_RETURN_IF_ERROR(CheckRows(tensor, row_begin, row_end));
    if (out.size() != static_cast<uint64_t>((row_end - row_begin) * tensor.cols)) {
      return UsageError(tensor.Name(), ": room for ", (row_end - row_begin) * tensor.cols, " values expected, found ",
                        out.size());
    }
    KOMPAKT_RETURN_IF_ERROR(CheckCopies(index, row_begin, row_end));
    return bound_.tensors[index]->ReadF32(row_begin, row_end, out, source_bytes);
  }

  absl::StatusOr<std::vector<SourceFile>> Files() const override {
    std::map<std::string, SourceFile> files;
    const auto add = [&](const std::string& name, uint64_t bytes, uint64_t xxh3) {
      SourceFile& file = files[name];
      file.set_name(name);
      file.set_bytes(bytes);
      file.set_xxh3(xxh3);
    };
    for (const AssetFile& file : assets_.assets.files()) {
      add(file.name(), file.content().size(), Xxh3(file.content()));
    }
    for (const auto& shard : shards_.shards()) {
      add(FileNameOf(shard->path()), shard->size_bytes(), shard->header_xxh3());
    }
    for (const std::string& name : shards_.file_names()) {
      if (files.count(name) != 0) continue;
      KOMPAKT_ASSIGN_OR_RETURN(const InputFile file, InputFile::Open(JoinPath(folder_, name)));
      KOMPAKT_ASSIGN_OR_RETURN(const std::string content, file.ReadAll(kMaxIndexBytes));
      add(name, content.size(), Xxh3(content));
    }
    std::vector<SourceFile> list;
    for (auto& [name, file] : files) list.push_back(std::move(file));
    return list;
  }

  absl::StatusOr<std::vector<SourceState>> States() const override {
    std::vector<SourceState> states;
    for (const auto& shard : shards_.shards()) {
      KOMPAKT_ASSIGN_OR_RETURN(std::string state, shard->State());
      states.push_back({FileNameOf(shard->path()), std::move(state)});
    }
    return states;
  }

  std::vector<SourceRange> Ranges(const TensorInfo& tensor, int64_t row_begin, int64_t row_end) const override {
    const absl::StatusOr<size_t> index = IndexOf(tensor);
    if (!index.ok() || !CheckRows(tensor, row_begin, row_end).ok()) return {};
    std::vector<SourceRange> ranges;
    for (const StoredRange& range : bound_.tensors[*index]->Ranges(row_begin, row_end)) {
      const SafetensorsFile& file = *range.tensor.file;
      ranges.push_back(
          {FileNameOf(file.path()), file.FileOffset(*range.tensor.entry, range.begin), range.end - range.begin});
    }
    return ranges;
  }

  void WillNeed(const SourceRange& range) const override {
    if (const auto file = file_by_name_.find(range.file); file != file_by_name_.end()) {
      file->second->WillNeed(range.offset, range.bytes);
    }
  }
  void Drop(const SourceRange& range) const override {
    if (const auto file = file_by_name_.find(range.file); file != file_by_name_.end()) {
      file->second->Drop(range.offset, range.bytes);
    }
  }

 private:
  std::string FileNameOf(const std::string& path) const { return path.substr(JoinPath(folder_, "").size()); }

  absl::StatusOr<size_t> IndexOf(const TensorInfo& tensor) const {
    const int64_t index = schema_.Find(tensor.role, tensor.layer, tensor.expert);
    if (index < 0) return UsageError("the model has no tensor ", tensor.Name());
    return static_cast<size_t>(index);
  }

  static absl::Status CheckRows(const TensorInfo& tensor, int64_t row_begin, int64_t row_end) {
    if (0 <= row_begin && row_begin < row_end && row_end <= tensor.rows) return absl::OkStatus();
    return UsageError(tensor.Name(), ": asked for rows [", row_begin, ", ", row_end, ") of ", tensor.rows);
  }

  // The MTP layers' copies of these rows are not packed, so they must be copies.
  absl::Status CheckCopies(size_t index, int64_t row_begin, int64_t row_end) const {
    for (const TensorCopy& copy : bound_.copies) {
      if (copy.of != index) continue;
      const uint64_t row_bytes = copy.original.entry->bytes() / copy.original.entry->shape[0];
      const uint64_t begin = static_cast<uint64_t>(row_begin) * row_bytes;
      std::vector<uint8_t> expected(static_cast<uint64_t>(row_end - row_begin) * row_bytes);
      std::vector<uint8_t> found(expected.size());
      KOMPAKT_RETURN_IF_ERROR(copy.original.file->Read(*copy.original.entry, begin, absl::MakeSpan(expected)));
      KOMPAKT_RETURN_IF_ERROR(copy.tensor.file->Read(*copy.tensor.entry, begin, absl::MakeSpan(found)));
      if (expected == found) continue;
      const auto at = std::mismatch(expected.begin(), expected.end(), found.begin()).first - expected.begin();
      return absl::FailedPreconditionError(
          absl::StrCat(copy.tensor.file->path(), ": tensor ", copy.tensor.entry->name, ": expected a copy of ",
                       copy.original.entry->name, ", found another row ",
                       row_begin + static_cast<int64_t>(static_cast<uint64_t>(at) / row_bytes),
                       "; an MTP layer with an embedding or head of its own cannot be kept"));
    }
    return absl::OkStatus();
  }

  std::string folder_;
  ModelSchema schema_;
  ShardSet shards_;
  BoundTensors bound_;
  FolderAssets assets_;
  std::map<std::string, const SafetensorsFile*> file_by_name_;
};

// There is no config.json: say what was given instead.
absl::Status ExplainFolder(const std::string& folder) {
  const auto refuse = [&](absl::StatusCode code, absl::string_view found) {
    return absl::Status(code, absl::StrCat(folder, ": expected a checkpoint folder with config.json, found ", found));
  };
  const std::vector<std::string> names = ListFolder(folder);
  std::vector<std::string> nested;
  for (const std::string& name : names) {
    if (name == "params.json") return refuse(absl::StatusCode::kUnimplemented, "params.json (Mistral's own layout)");
    if (absl::EndsWith(name, ".gguf")) {
      return refuse(absl::StatusCode::kUnimplemented,
                    absl::StrCat(name, ": convert the original safetensors checkpoint instead"));
    }
    if (nested.size() < 3 && PathExists(JoinPath(JoinPath(folder, name), "config.json"))) {
      nested.push_back(JoinPath(folder, name));
    }
  }
  if (!nested.empty()) {
    return refuse(absl::StatusCode::kNotFound, absl::StrCat("none; did you mean ", absl::StrJoin(nested, " or "), "?"));
  }
  for (const std::string& name : names) {
    if (absl::EndsWith(name, ".safetensors") || absl::EndsWith(name, ".bin") || absl::EndsWith(name, ".pt") ||
        absl::EndsWith(name, ".pth")) {
      return refuse(absl::StatusCode::kNotFound, absl::StrCat("weights such as ", name, " without it"));
    }
  }
  return refuse(absl::StatusCode::kNotFound, names.empty() ? "an empty folder" : "none");
}

absl::Status ExplainFile(const std::string& path) {
  std::string hint;
  if (absl::EndsWith(path, ".gguf")) {
    hint = ": GGUF is not a source, give the folder of the original safetensors checkpoint";
  } else if (absl::EndsWith(path, ".safetensors") || absl::EndsWith(path, ".json")) {
    const size_t slash = path.rfind('/');
    hint = absl::StrCat(": give the folder that holds it, ",
                        slash == std::string::npos ? "." : path.substr(0, std::max<size_t>(slash, 1)));
  }
  return UsageError(path, ": expected a checkpoint folder, found a file", hint);
}

// ModelOpt's own file, for a config.json that does not say how the weights are quantized.
absl::StatusOr<SourceQuantization> ReadHfQuantConfig(const std::string& folder) {
  const std::string path = JoinPath(folder, "hf_quant_config.json");
  if (!PathExists(path)) return SourceQuantization();
  KOMPAKT_ASSIGN_OR_RETURN(const InputFile file, InputFile::Open(path));
  KOMPAKT_ASSIGN_OR_RETURN(const std::string text, file.ReadAll(kMaxConfigBytes));
  return ParseHfQuantConfig(text, path);
}

// A config that claims far more tensors than the files hold would make the schema eat memory before the comparison.
absl::Status CheckPlausible(const ArchSpec& arch, const ShardSet& shards, const std::string& folder) {
  const int64_t layers = arch.num_hidden_layers();
  const int64_t experts = arch.moe().n_routed_experts();
  constexpr int64_t kAlwaysAffordable = int64_t{1} << 18;
  if (layers * experts <= kAlwaysAffordable || shards.tensor_count() >= layers * experts) return absl::OkStatus();
  return absl::FailedPreconditionError(absl::StrCat(folder, ": config.json says num_hidden_layers ", layers,
                                                    " with n_routed_experts ", experts, ", found only ",
                                                    shards.tensor_count(), " tensors"));
}

}  // namespace

absl::StatusOr<std::unique_ptr<TensorSource>> OpenCheckpoint(const std::string& folder,
                                                             const CheckpointOptions& options) {
  if (!PathExists(folder)) return absl::NotFoundError(absl::StrCat(folder, ": no such folder"));
  if (!IsFolder(folder)) return ExplainFile(folder);
  const std::string config_path = JoinPath(folder, "config.json");
  if (!PathExists(config_path)) return ExplainFolder(folder);

  KOMPAKT_ASSIGN_OR_RETURN(const InputFile config_file, InputFile::Open(config_path));
  KOMPAKT_ASSIGN_OR_RETURN(const std::string text, config_file.ReadAll(kMaxConfigBytes));
  const std::string foreign = ForeignContent(absl::string_view(text).substr(0, 128));
  if (!foreign.empty()) return CorruptError(config_path, ": expected JSON, found ", foreign);
  KOMPAKT_ASSIGN_OR_RETURN(UpstreamConfig config, ParseConfig(text, config_path));
  if (config.quantization.method == QuantMethod::kNone) {
    KOMPAKT_ASSIGN_OR_RETURN(config.quantization, ReadHfQuantConfig(folder));
  }
  if (options.keep_mtp) {
    if (config.arch.num_nextn_predict_layers() == 0) {
      return absl::FailedPreconditionError(
          absl::StrCat(config_path, ": num_nextn_predict_layers: expected 1 or more to keep MTP layers, found 0"));
    }
    config.arch.set_mtp_layers(config.arch.num_nextn_predict_layers());
  }
  KOMPAKT_ASSIGN_OR_RETURN(ShardSet shards, ShardSet::Open(folder));
  KOMPAKT_RETURN_IF_ERROR(CheckPlausible(config.arch, shards, folder));
  KOMPAKT_ASSIGN_OR_RETURN(ModelSchema schema, ModelSchema::Create(config.arch));
  KOMPAKT_ASSIGN_OR_RETURN(BoundTensors bound, BindTensors(schema, config.quantization, shards, folder));
  KOMPAKT_ASSIGN_OR_RETURN(FolderAssets assets, LoadAssets(folder));
  KOMPAKT_RETURN_IF_ERROR(CheckVocabulary(assets, config.arch.vocab_size(), folder));
  for (const std::vector<std::string>& warnings :
       {config.warnings, TensorWarnings(schema, bound, config.quantization.method != QuantMethod::kNone),
        AssetWarnings(assets)}) {
    bound.notices.insert(bound.notices.end(), warnings.begin(), warnings.end());
  }
  return std::make_unique<Checkpoint>(folder, std::move(schema), std::move(shards), std::move(bound),
                                      std::move(assets));
}

absl::StatusOr<ModelAssets> ReadAssets(const std::string& folder) {
  if (!PathExists(folder)) return absl::NotFoundError(absl::StrCat(folder, ": no such folder"));
  if (!IsFolder(folder)) return UsageError(folder, ": expected a folder with a tokenizer, found a file");
  KOMPAKT_ASSIGN_OR_RETURN(FolderAssets assets, LoadAssets(folder));
  if (assets.tokenizer_file.empty()) {
    return absl::NotFoundError(absl::StrCat(folder, ": expected tokenizer.json or tiktoken.model, found neither"));
  }
  return std::move(assets.assets);
}

}  // namespace kompakt
