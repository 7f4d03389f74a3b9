#include "converters/assets.h"

#include <algorithm>
#include <map>
#include <optional>
#include <utility>

#include "converters/input_file.h"
#include "converters/json.h"
#include "converters/json_fields.h"
#include "converters/vocabulary.h"
#include "format/status.h"

namespace kompakt {
namespace {

constexpr absl::string_view kConfig = "config.json";
constexpr absl::string_view kGenerationConfig = "generation_config.json";
constexpr absl::string_view kTokenizerConfig = "tokenizer_config.json";
constexpr absl::string_view kTokenizerJson = "tokenizer.json";
constexpr absl::string_view kTiktoken = "tiktoken.model";
constexpr absl::string_view kChatTemplate = "chat_template.jinja";

struct AssetRow {
  absl::string_view name;
  uint64_t max_bytes;
};
// Ascending by name, as in ModelAssets. The largest known tokenizer.json has 34 MB.
constexpr AssetRow kAssets[] = {
    {kChatTemplate, uint64_t{16} << 20}, {kConfig, uint64_t{16} << 20},         {kGenerationConfig, uint64_t{16} << 20},
    {kTiktoken, uint64_t{128} << 20},    {kTokenizerJson, uint64_t{256} << 20}, {kTokenizerConfig, uint64_t{16} << 20},
};

class AssetReader {
 public:
  explicit AssetReader(const std::string& folder) : folder_(folder) {}

  absl::StatusOr<FolderAssets> Run() && {
    for (const AssetRow& row : kAssets) KOMPAKT_RETURN_IF_ERROR(ReadFile(row));
    KOMPAKT_RETURN_IF_ERROR(ReadVocabulary());
    KOMPAKT_RETURN_IF_ERROR(ParseConfigs());
    KOMPAKT_ASSIGN_OR_RETURN(std::vector<uint32_t> stop_ids, FirstIds({kGenerationConfig, kConfig}, "eos_token_id"));
    if (stop_ids.empty()) {
      KOMPAKT_ASSIGN_OR_RETURN(stop_ids, NamedToken("eos_token"));
    }
    // A list may name an id twice.
    for (const uint32_t id : stop_ids) {
      const auto& known = out_.assets.stop_ids();
      if (std::find(known.begin(), known.end(), id) == known.end()) out_.assets.add_stop_ids(id);
    }
    KOMPAKT_ASSIGN_OR_RETURN(std::vector<uint32_t> bos, FirstIds({kConfig, kGenerationConfig}, "bos_token_id"));
    if (bos.empty()) {
      KOMPAKT_ASSIGN_OR_RETURN(bos, NamedToken("bos_token"));
    }
    if (!bos.empty()) {
      out_.assets.set_bos_id(bos[0]);
      out_.assets.set_has_bos_id(true);
    }
    return std::move(out_);
  }

 private:
  std::string PathOf(absl::string_view name) const { return JoinPath(folder_, name); }

  absl::Status ReadFile(const AssetRow& row) {
    const std::string path = PathOf(row.name);
    if (!PathExists(path)) return absl::OkStatus();
    KOMPAKT_ASSIGN_OR_RETURN(const InputFile file, InputFile::Open(path));
    KOMPAKT_ASSIGN_OR_RETURN(std::string content, file.ReadAll(row.max_bytes));
    // A chat template may well begin with a tag of its own.
    const std::string foreign =
        row.name == kChatTemplate ? "" : ForeignContent(absl::string_view(content).substr(0, 128));
    if (!foreign.empty()) return CorruptError(path, ": expected ", row.name, ", found ", foreign);
    AssetFile* asset = out_.assets.add_files();
    asset->set_name(std::string(row.name));
    asset->set_content(std::move(content));
    return absl::OkStatus();
  }

  const std::string* Content(absl::string_view name) const {
    for (const AssetFile& file : out_.assets.files()) {
      if (file.name() == name) return &file.content();
    }
    return nullptr;
  }

  absl::Status ReadVocabulary() {
    if (const std::string* text = Content(kTokenizerJson)) {
      KOMPAKT_ASSIGN_OR_RETURN(vocabulary_, ScanTokenizerJson(*text, PathOf(kTokenizerJson)));
      out_.tokenizer_file = std::string(kTokenizerJson);
    } else if (const std::string* ranks = Content(kTiktoken)) {
      KOMPAKT_ASSIGN_OR_RETURN(vocabulary_, ScanTiktoken(*ranks, PathOf(kTiktoken)));
      if (const std::string* config = Content(kTokenizerConfig)) {
        KOMPAKT_RETURN_IF_ERROR(AddTokensDecoder(*config, PathOf(kTokenizerConfig), &vocabulary_));
      }
      out_.tokenizer_file = std::string(kTiktoken);
    }
    out_.max_token_id = vocabulary_.max_id;
    return absl::OkStatus();
  }

  absl::Status ParseConfigs() {
    for (const absl::string_view name : {kConfig, kGenerationConfig, kTokenizerConfig}) {
      const std::string* text = Content(name);
      if (text == nullptr) continue;
      KOMPAKT_ASSIGN_OR_RETURN(nlohmann::json json, ParseJson(*text, PathOf(name)));
      if (!json.is_object()) return CorruptError(PathOf(name), ": expected an object, found ", JsonKind(json));
      configs_.emplace(std::string(name), std::move(json));
    }
    return absl::OkStatus();
  }

  // The ids under `key` of the first of `files` that has any.
  absl::StatusOr<std::vector<uint32_t>> FirstIds(std::initializer_list<absl::string_view> files,
                                                 absl::string_view key) {
    for (const absl::string_view name : files) {
      const auto config = configs_.find(std::string(name));
      if (config == configs_.end()) continue;
      KOMPAKT_ASSIGN_OR_RETURN(std::vector<uint32_t> ids, JsonFields(config->second, PathOf(name)).TokenIds(key));
      if (!ids.empty()) return ids;
    }
    return std::vector<uint32_t>();
  }

  // The id of a token that tokenizer_config.json names by its text, "<s>" or {"content": "<s>"}.
  absl::StatusOr<std::vector<uint32_t>> NamedToken(absl::string_view key) {
    const auto config = configs_.find(std::string(kTokenizerConfig));
    if (config == configs_.end()) return std::vector<uint32_t>();
    const JsonFields fields(config->second, PathOf(kTokenizerConfig));
    const nlohmann::json* value = fields.Find(key);
    if (value == nullptr) return std::vector<uint32_t>();
    std::string content;
    if (value->is_object()) {
      KOMPAKT_ASSIGN_OR_RETURN(const JsonFields token, fields.Object(key));
      KOMPAKT_ASSIGN_OR_RETURN(content, token.Text("content"));
    } else {
      KOMPAKT_ASSIGN_OR_RETURN(content, fields.Text(key));
    }
    const std::optional<int64_t> id = vocabulary_.Find(content);
    if (!id.has_value()) return std::vector<uint32_t>();
    return std::vector<uint32_t>{static_cast<uint32_t>(*id)};
  }

  const std::string& folder_;
  FolderAssets out_;
  Vocabulary vocabulary_;
  std::map<std::string, nlohmann::json> configs_;
};

}  // namespace

absl::StatusOr<FolderAssets> LoadAssets(const std::string& folder) { return AssetReader(folder).Run(); }

absl::Status CheckVocabulary(const FolderAssets& assets, int64_t vocab_size, const std::string& folder) {
  const std::string config = JoinPath(folder, kConfig);
  if (assets.max_token_id >= vocab_size) {
    return absl::FailedPreconditionError(absl::StrCat(config, ": vocab_size: expected at least ",
                                                      assets.max_token_id + 1, ", one more than the largest ",
                                                      "token id of ", assets.tokenizer_file, ", found ", vocab_size));
  }
  const auto check = [&](absl::string_view what, uint32_t id) {
    if (id < static_cast<uint64_t>(vocab_size)) return absl::OkStatus();
    return absl::FailedPreconditionError(
        absl::StrCat(folder, ": ", what, ": expected an id below vocab_size ", vocab_size, ", found ", id));
  };
  if (assets.assets.has_bos_id()) KOMPAKT_RETURN_IF_ERROR(check("bos_token_id", assets.assets.bos_id()));
  for (const uint32_t id : assets.assets.stop_ids()) KOMPAKT_RETURN_IF_ERROR(check("eos_token_id", id));
  return absl::OkStatus();
}

}  // namespace kompakt
