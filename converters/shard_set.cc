#include "converters/shard_set.h"

#include <algorithm>
#include <map>
#include <utility>

#include "absl/strings/match.h"
#include "absl/strings/numbers.h"
#include "absl/strings/str_join.h"
#include "absl/strings/strip.h"
#include "converters/input_file.h"
#include "converters/json.h"
#include "converters/json_fields.h"
#include "format/status.h"

namespace kompakt {
namespace {

constexpr absl::string_view kIndexName = "model.safetensors.index.json";
constexpr absl::string_view kSingleName = "model.safetensors";
constexpr absl::string_view kConsolidated = "consolidated";
constexpr absl::string_view kConsolidatedIndexName = "consolidated.safetensors.index.json";
constexpr absl::string_view kSuffix = ".safetensors";
constexpr uint64_t kMaxIndexBytes = uint64_t{256} << 20;
constexpr size_t kNamesShown = 10;

using WeightMap = std::map<std::string, std::string>;  // tensor -> file name

// A name in the index is a file beside it. Anything else could make this program read a file its user never meant.
absl::Status CheckFileName(absl::string_view name, absl::string_view tensor, absl::string_view index_path) {
  const bool plain = !name.empty() && !absl::StrContains(name, "/") && !absl::StrContains(name, "\\") &&
                     name.find('\0') == absl::string_view::npos && name != "." && name != "..";
  if (!plain) {
    return absl::FailedPreconditionError(absl::StrCat(
        index_path, ": tensor ", tensor, ": expected the name of a file in the same folder, found \"", name, "\""));
  }
  if (!absl::EndsWith(name, kSuffix)) {
    return UnsupportedError(index_path, ": tensor ", tensor, ": expected a .safetensors file, found \"", name, "\"");
  }
  return absl::OkStatus();
}

absl::StatusOr<WeightMap> ReadIndex(const std::string& path) {
  KOMPAKT_ASSIGN_OR_RETURN(const InputFile file, InputFile::Open(path));
  KOMPAKT_ASSIGN_OR_RETURN(const std::string text, file.ReadAll(kMaxIndexBytes));
  const std::string foreign = ForeignContent(absl::string_view(text).substr(0, 128));
  if (!foreign.empty()) return CorruptError(path, ": expected a JSON index, found ", foreign);
  KOMPAKT_ASSIGN_OR_RETURN(const nlohmann::json json, ParseJson(text, path));
  if (!json.is_object()) return CorruptError(path, ": expected an object, found ", JsonKind(json));
  const JsonFields fields(json, path);
  KOMPAKT_ASSIGN_OR_RETURN(const JsonFields ignored, fields.Object("weight_map"));
  (void)ignored;
  WeightMap weight_map;
  for (const auto& [tensor, value] : fields.Find("weight_map")->items()) {
    if (!value.is_string()) {
      return CorruptError(path, ": weight_map: ", tensor, ": expected a file name, found ", JsonExcerpt(value));
    }
    const std::string& name = value.get_ref<const std::string&>();
    KOMPAKT_RETURN_IF_ERROR(CheckFileName(name, tensor, path));
    weight_map.emplace(tensor, name);
  }
  return weight_map;
}

bool HasSuffix(const std::vector<std::string>& names, absl::string_view suffix) {
  return std::any_of(names.begin(), names.end(), [&](const std::string& n) { return absl::EndsWith(n, suffix); });
}

// No index and no model.safetensors: say what lies there instead.
absl::Status ExplainAbsentWeights(const std::string& folder) {
  const std::vector<std::string> names = ListFolder(folder);
  const std::string expected = absl::StrCat(folder, ": expected ", kSingleName, " or ", kIndexName, ", found ");
  for (const std::string& name : names) {
    if (absl::StartsWith(name, "model-") && absl::EndsWith(name, kSuffix)) {
      return absl::FailedPreconditionError(
          absl::StrCat(expected, "shards such as ", name, " without their index: download ", kIndexName, " too"));
    }
  }
  if (HasSuffix(names, ".gguf")) {
    return UnsupportedError(expected, "a .gguf file: convert the original safetensors checkpoint instead");
  }
  for (const absl::string_view suffix : {".bin", ".pt", ".pth", ".ckpt"}) {
    if (HasSuffix(names, suffix)) {
      return UnsupportedError(expected, "PyTorch ", suffix,
                              " files: save the model with safe_serialization=True, or download its safetensors");
    }
  }
  return absl::NotFoundError(absl::StrCat(expected, "no weights"));
}

// Files that look like shards of this model but that the index does not name. A repository may hold the same weights
// in both namings, so only files of the index's own naming count.
std::vector<std::string> UnlistedShards(const std::string& folder, const std::string& index_name,
                                        const std::map<std::string, int64_t>& listed) {
  std::vector<std::string> unlisted;
  for (const std::string& name : ListFolder(folder)) {
    if (!absl::EndsWith(name, kSuffix)) continue;
    const bool shard =
        index_name == kConsolidatedIndexName
            ? absl::StartsWith(name, kConsolidated)
            : name == kSingleName || (absl::StartsWith(name, "model-") && absl::StrContains(name, "-of-"));
    if (shard && listed.count(name) == 0) unlisted.push_back(name);
  }
  return unlisted;
}

// consolidated*.safetensors in ascending order.
std::vector<std::string> ConsolidatedFiles(const std::string& folder) {
  std::vector<std::string> files;
  for (const std::string& name : ListFolder(folder)) {
    if (absl::StartsWith(name, kConsolidated) && absl::EndsWith(name, kSuffix)) files.push_back(name);
  }
  return files;
}

// "...-00002-of-00004.safetensors" as {2, 4}; {0, 0} for other names.
std::pair<int64_t, int64_t> ShardNumber(absl::string_view name) {
  absl::ConsumeSuffix(&name, kSuffix);
  const size_t of = name.rfind("-of-");
  if (of == absl::string_view::npos) return {0, 0};
  const size_t dash = name.rfind('-', of - 1);
  if (of == 0 || dash == absl::string_view::npos) return {0, 0};
  int64_t index = 0;
  int64_t count = 0;
  if (!absl::SimpleAtoi(name.substr(dash + 1, of - dash - 1), &index) ||
      !absl::SimpleAtoi(name.substr(of + 4), &count)) {
    return {0, 0};
  }
  return {index, count};
}

// Without an index only the numbers in the names can show that a file is absent.
absl::Status CheckConsolidated(const std::string& folder, const std::vector<std::string>& files) {
  if (files.size() == 1 && ShardNumber(files[0]) == std::pair<int64_t, int64_t>(0, 0)) return absl::OkStatus();
  const int64_t count = ShardNumber(files[0]).second;
  for (size_t i = 0; i < files.size(); ++i) {
    const auto expected = std::make_pair(static_cast<int64_t>(i) + 1, count);
    if (count == static_cast<int64_t>(files.size()) && ShardNumber(files[i]) == expected) continue;
    return absl::FailedPreconditionError(
        absl::StrCat(folder, ": expected ", kConsolidatedIndexName, " or shards named ", kConsolidated,
                     "-00001-of-0000N.safetensors, one of each number, found ", FirstNames(files)));
  }
  return absl::OkStatus();
}

absl::Status Ambiguous(const std::string& folder, absl::string_view a, absl::string_view b) {
  return absl::FailedPreconditionError(
      absl::StrCat(folder, ": found ", a, " and ", b,
                   ", which may hold different weights: expected one of them; move the "
                   "other one away"));
}

}  // namespace

std::string FirstNames(absl::Span<const std::string> names) {
  if (names.empty()) return "0";
  if (names.size() <= kNamesShown) return absl::StrCat(names.size(), " (", absl::StrJoin(names, ", "), ")");
  return absl::StrCat(names.size(), " (the first ", kNamesShown, ": ",
                      absl::StrJoin(names.subspan(0, kNamesShown), ", "), ")");
}

absl::Status ShardSet::OpenShard(const std::string& folder, const std::string& name) {
  KOMPAKT_ASSIGN_OR_RETURN(SafetensorsFile file, SafetensorsFile::Open(JoinPath(folder, name)));
  shards_.push_back(std::make_unique<SafetensorsFile>(std::move(file)));
  const SafetensorsFile& shard = *shards_.back();
  for (const SafetensorsEntry& entry : shard.entries()) {
    const auto [place, inserted] = by_name_.try_emplace(entry.name, FoundTensor{&shard, &entry});
    if (inserted) continue;
    return absl::FailedPreconditionError(absl::StrCat("tensor ", entry.name, ": expected in one shard, found in ",
                                                      place->second.file->path(), " and ", shard.path()));
  }
  file_names_.push_back(name);
  return absl::OkStatus();
}

absl::StatusOr<ShardSet> ShardSet::Open(const std::string& folder) {
  ShardSet set;
  const bool model_index = PathExists(JoinPath(folder, kIndexName));
  const bool model_single = PathExists(JoinPath(folder, kSingleName));
  const bool other_index = PathExists(JoinPath(folder, kConsolidatedIndexName));
  const std::vector<std::string> consolidated = ConsolidatedFiles(folder);
  if (model_index && other_index) return Ambiguous(folder, kIndexName, kConsolidatedIndexName);
  if (model_index) {
    KOMPAKT_RETURN_IF_ERROR(set.OpenIndexed(folder, std::string(kIndexName)));
  } else if (other_index) {
    KOMPAKT_RETURN_IF_ERROR(set.OpenIndexed(folder, std::string(kConsolidatedIndexName)));
  } else if (model_single && !consolidated.empty()) {
    return Ambiguous(folder, kSingleName, consolidated[0]);
  } else if (model_single) {
    KOMPAKT_RETURN_IF_ERROR(set.OpenShard(folder, std::string(kSingleName)));
  } else if (!consolidated.empty()) {
    KOMPAKT_RETURN_IF_ERROR(CheckConsolidated(folder, consolidated));
    for (const std::string& name : consolidated) KOMPAKT_RETURN_IF_ERROR(set.OpenShard(folder, name));
  } else {
    return ExplainAbsentWeights(folder);
  }
  std::sort(set.file_names_.begin(), set.file_names_.end());
  return set;
}

absl::StatusOr<ShardSet> ShardSet::OpenFile(const std::string& path) {
  ShardSet set;
  const size_t slash = path.rfind('/');
  const std::string folder = slash == std::string::npos ? "." : path.substr(0, slash + 1);
  KOMPAKT_RETURN_IF_ERROR(set.OpenShard(folder, slash == std::string::npos ? path : path.substr(slash + 1)));
  return set;
}

absl::StatusOr<ShardSet> ShardSet::OpenLoose(const std::string& folder) {
  const std::vector<std::string> names = ListFolder(folder);
  const bool usual = std::any_of(names.begin(), names.end(), [](const std::string& name) {
    return name == kIndexName || name == kSingleName || absl::StartsWith(name, kConsolidated);
  });
  if (usual || !HasSuffix(names, kSuffix)) return Open(folder);
  ShardSet set;
  for (const std::string& name : names) {
    if (absl::EndsWith(name, kSuffix)) KOMPAKT_RETURN_IF_ERROR(set.OpenShard(folder, name));
  }
  return set;
}

absl::Status ShardSet::OpenIndexed(const std::string& folder, const std::string& index_name) {
  ShardSet& set = *this;
  const std::string index_path = JoinPath(folder, index_name);
  KOMPAKT_ASSIGN_OR_RETURN(const WeightMap weight_map, ReadIndex(index_path));
  std::map<std::string, int64_t> listed;  // file -> number of tensors the index places there
  for (const auto& [tensor, name] : weight_map) ++listed[name];
  std::vector<std::string> absent;
  for (const auto& [name, count] : listed) {
    if (!PathExists(JoinPath(folder, name))) absent.push_back(name);
  }
  if (!absent.empty()) {
    return absl::FailedPreconditionError(absl::StrCat(index_path, ": expected ", listed.size(),
                                                      " shards in the folder, absent are ", FirstNames(absent)));
  }
  for (const auto& [name, count] : listed) KOMPAKT_RETURN_IF_ERROR(set.OpenShard(folder, name));
  for (const std::string& name : UnlistedShards(folder, index_name, listed)) {
    KOMPAKT_RETURN_IF_ERROR(
        WithContext(set.OpenShard(folder, name), absl::StrCat(index_path, " does not name ", name)));
  }

  std::vector<std::string> not_in_shard;
  for (const auto& [tensor, name] : weight_map) {
    const FoundTensor found = set.Find(tensor);
    if (!found || found.file->path() != JoinPath(folder, name)) {
      not_in_shard.push_back(absl::StrCat(tensor, " in ", name));
    }
  }
  if (!not_in_shard.empty()) {
    return absl::FailedPreconditionError(absl::StrCat(
        index_path, ": tensors that the index names but their shard does not hold: ", FirstNames(not_in_shard)));
  }
  std::vector<std::string> not_in_index;
  for (const auto& shard : set.shards_) {
    for (const SafetensorsEntry& entry : shard->entries()) {
      if (weight_map.count(entry.name) == 0) not_in_index.push_back(absl::StrCat(entry.name, " in ", shard->path()));
    }
  }
  if (!not_in_index.empty()) {
    return absl::FailedPreconditionError(absl::StrCat(
        index_path, ": tensors that a shard holds but the index does not name: ", FirstNames(not_in_index)));
  }
  set.file_names_.push_back(index_name);
  return absl::OkStatus();
}

FoundTensor ShardSet::Find(absl::string_view name) const {
  const auto found = by_name_.find(name);
  return found == by_name_.end() ? FoundTensor() : found->second;
}

}  // namespace kompakt
