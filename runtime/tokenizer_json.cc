#include "runtime/tokenizer_json.h"

#include <algorithm>
#include <string>
#include <utility>

#include "absl/container/flat_hash_map.h"
#include "absl/strings/str_cat.h"
#include "format/status.h"
#include "runtime/bpe_tokenizer.h"
#include "runtime/byte_level.h"
#include "runtime/json_field.h"
#include "runtime/tokenizer_json_reader.h"

namespace kompakt {
namespace {

using nlohmann::json;
using IdByText = absl::flat_hash_map<absl::string_view, int32_t>;

// The type of a component for a message: "NFC", or what it is where it has none.
std::string TypeName(const json& node) {
  const json& type = FieldOrNull(node, "type");
  return type.is_string() ? type.get<std::string>() : node.is_null() ? "none" : "of no type";
}

// A normalizer that does nothing: null, or a Sequence of such.
absl::Status CheckNormalizer(const json& node) {
  if (node.is_null()) return absl::OkStatus();
  if (TypeName(node) != "Sequence") return UnsupportedError("normalizer: ", TypeName(node), " is not supported");
  KOMPAKT_ASSIGN_OR_RETURN(const json* steps, ArrayField(node, "normalizers", "normalizer"));
  for (const json& step : *steps) KOMPAKT_RETURN_IF_ERROR(CheckNormalizer(step));
  return absl::OkStatus();
}

absl::Status CheckAffix(const json& model, const char* key) {
  const json& affix = FieldOrNull(model, key);
  const bool is_empty = affix.is_string() && affix.get_ref<const std::string&>().empty();
  if (affix.is_null() || is_empty) return absl::OkStatus();
  return UnsupportedError("model.", key, " is not supported");
}

// What of the model would change ids and is not done here.
absl::Status CheckModel(const json& model, bool every_byte_has_a_token) {
  if (!model.is_object()) return CorruptError("model: expected an object");
  if (const std::string type = TypeName(model); model.contains("type") && type != "BPE") {
    return UnsupportedError("model: ", type, " is not supported; only BPE is");
  }
  KOMPAKT_RETURN_IF_ERROR(CheckAffix(model, "continuing_subword_prefix"));
  KOMPAKT_RETURN_IF_ERROR(CheckAffix(model, "end_of_word_suffix"));
  const json& dropout = FieldOrNull(model, "dropout");
  if (!dropout.is_null() && dropout != 0) return UnsupportedError("model.dropout is not supported");
  if (every_byte_has_a_token) return absl::OkStatus();
  if (!FieldOrNull(model, "unk_token").is_null()) {
    return UnsupportedError("model.unk_token is not supported where bytes are missing from the vocabulary");
  }
  KOMPAKT_ASSIGN_OR_RETURN(const bool byte_fallback, BoolField(model, "byte_fallback", "model", false));
  if (byte_fallback) {
    return UnsupportedError("model.byte_fallback is not supported where bytes are missing from the vocabulary");
  }
  return absl::OkStatus();
}

absl::StatusOr<std::vector<AddedToken>> ReadAddedTokens(const json& root) {
  std::vector<AddedToken> tokens;
  const json& list = FieldOrNull(root, "added_tokens");
  if (list.is_null()) return tokens;
  if (!list.is_array()) return CorruptError("added_tokens: expected an array");
  for (size_t i = 0; i < list.size(); ++i) {
    const std::string path = absl::StrCat("added_tokens[", i, "]");
    AddedToken token;
    KOMPAKT_ASSIGN_OR_RETURN(const int64_t id, IntegerField(list[i], "id", path));
    if (id < 0 || id > INT32_MAX) return CorruptError(path, ".id: ", id, " is no token id");
    token.id = static_cast<int32_t>(id);
    KOMPAKT_ASSIGN_OR_RETURN(const absl::string_view content, StringField(list[i], "content", path));
    token.content = std::string(content);
    KOMPAKT_ASSIGN_OR_RETURN(token.single_word, BoolField(list[i], "single_word", path, false));
    KOMPAKT_ASSIGN_OR_RETURN(token.lstrip, BoolField(list[i], "lstrip", path, false));
    KOMPAKT_ASSIGN_OR_RETURN(token.rstrip, BoolField(list[i], "rstrip", path, false));
    KOMPAKT_ASSIGN_OR_RETURN(token.special, BoolField(list[i], "special", path, false));
    KOMPAKT_ASSIGN_OR_RETURN(token.normalized, BoolField(list[i], "normalized", path, !token.special));
    if (token.content.size() > AddedTokens::kMaxContentBytes) {
      return UnsupportedError(path, ".content has ", token.content.size(), " bytes; at most ",
                              AddedTokens::kMaxContentBytes, " are supported");
    }
    tokens.push_back(std::move(token));
  }
  return tokens;
}

// Gives every id its text, from the vocabulary and the added tokens, each checked against the other.
class IdTable {
 public:
  explicit IdTable(size_t entries) : largest_id_(LargestCredibleId(entries)) {}

  // `text` must outlive the table.
  absl::Status Add(absl::string_view where, absl::string_view text, int64_t id) {
    if (id < 0 || id > largest_id_) {
      return CorruptError(where, ": the id of \"", text, "\" is ", id, ", expected 0 to ", largest_id_);
    }
    const int32_t id32 = static_cast<int32_t>(id);
    const auto [by_text, new_text] = id_of_.try_emplace(text, id32);
    if (!new_text && by_text->second != id32) {
      return CorruptError(where, ": \"", text, "\" has the ids ", by_text->second, " and ", id);
    }
    const auto [by_id, new_id] = text_of_.try_emplace(id32, text);
    if (!new_id && by_id->second != text) {
      return CorruptError(where, ": the id ", id, " stands for \"", by_id->second, "\" and for \"", text, "\"");
    }
    end_ = std::max(end_, static_cast<size_t>(id) + 1);
    return absl::OkStatus();
  }

  const IdByText& id_of() const { return id_of_; }
  size_t end() const { return end_; }  // largest id + 1
  void Reserve(size_t entries) {
    id_of_.reserve(entries);
    text_of_.reserve(entries);
  }

 private:
  int64_t largest_id_;
  IdByText id_of_;
  absl::flat_hash_map<int32_t, absl::string_view> text_of_;
  size_t end_ = 0;
};

absl::StatusOr<MergeList> BuildMerges(const TokenizerJson& file, const IdByText& id_of) {
  MergeList merges;
  merges.Reserve(file.merges.size());
  std::string both;
  for (size_t i = 0; i < file.merges.size(); ++i) {
    const auto& [left, right] = file.merges[i];
    both.assign(left).append(right);
    int32_t ids[3];
    const absl::string_view texts[3] = {left, right, both};
    for (int k = 0; k < 3; ++k) {
      const auto found = id_of.find(texts[k]);
      if (found == id_of.end()) {
        return CorruptError("model.merges[", i, "]: \"", left, "\" + \"", right, "\": \"", texts[k],
                            "\" is not in the vocabulary");
      }
      ids[k] = found->second;
    }
    merges.Add(ids[0], ids[1], ids[2]);
  }
  return merges;
}

absl::StatusOr<std::unique_ptr<Tokenizer>> Build(absl::string_view text) {
  KOMPAKT_ASSIGN_OR_RETURN(const TokenizerJson file, ReadTokenizerJson(text));
  const json& model = FieldOrNull(file.rest, "model");
  // First what names another kind of tokenizer: its vocabulary would only look malformed.
  KOMPAKT_RETURN_IF_ERROR(CheckModel(model, true));
  KOMPAKT_RETURN_IF_ERROR(CheckNormalizer(FieldOrNull(file.rest, "normalizer")));
  const json& decoder = FieldOrNull(file.rest, "decoder");
  if (TypeName(decoder) != "ByteLevel") {
    return UnsupportedError("decoder: ", TypeName(decoder), " is not supported; only ByteLevel is");
  }
  KOMPAKT_ASSIGN_OR_RETURN(PreTokenizer pre_tokenizer, PreTokenizer::FromJson(FieldOrNull(file.rest, "pre_tokenizer")));
  if (model.contains("vocab") || file.vocab.empty()) return CorruptError("model.vocab: expected an object of ids");
  if (model.contains("merges")) return CorruptError("model.merges: expected an array");
  KOMPAKT_ASSIGN_OR_RETURN(std::vector<AddedToken> added, ReadAddedTokens(file.rest));

  IdTable table(file.vocab.size() + added.size());
  table.Reserve(file.vocab.size() + added.size());
  for (const auto& [token, id] : file.vocab) KOMPAKT_RETURN_IF_ERROR(table.Add("model.vocab", token, id));
  KOMPAKT_ASSIGN_OR_RETURN(MergeList merges, BuildMerges(file, table.id_of()));
  for (const AddedToken& token : added) {
    KOMPAKT_RETURN_IF_ERROR(table.Add("added_tokens", token.content, token.id));
  }

  BpeVocabulary vocabulary;
  vocabulary.bytes.resize(table.end());
  for (const AddedToken& token : added) {
    vocabulary.bytes[static_cast<size_t>(token.id)] = DecodedToken(token.content);
  }
  vocabulary.id_of.reserve(file.vocab.size());
  for (const auto& [token, id] : file.vocab) {
    std::string& bytes = vocabulary.bytes[static_cast<size_t>(id)];
    std::optional<std::string> mapped = BytesFromByteLevel(token);
    // A token outside the alphabet can be decoded, but no piece contains it.
    const bool reachable = mapped.has_value() && !mapped->empty();
    bytes = mapped.has_value() ? *std::move(mapped) : token;
    if (reachable) vocabulary.id_of.emplace(bytes, static_cast<int32_t>(id));
  }
  vocabulary.Finish();
  const bool every_byte = std::all_of(std::begin(vocabulary.id_of_byte), std::end(vocabulary.id_of_byte),
                                      [](int32_t id) { return id >= 0; });
  KOMPAKT_RETURN_IF_ERROR(CheckModel(model, every_byte));
  KOMPAKT_ASSIGN_OR_RETURN(const bool ignore_merges, BoolField(model, "ignore_merges", "model", false));

  std::sort(added.begin(), added.end(), [](const AddedToken& a, const AddedToken& b) { return a.id < b.id; });
  added.erase(
      std::unique(added.begin(), added.end(), [](const AddedToken& a, const AddedToken& b) { return a.id == b.id; }),
      added.end());
  return std::make_unique<BpeTokenizer>(BpeTokenizer::Parts{std::move(pre_tokenizer), std::move(vocabulary),
                                                            std::move(added), std::move(merges), ignore_merges});
}

}  // namespace

absl::StatusOr<std::unique_ptr<Tokenizer>> TokenizerFromJson(absl::string_view text) {
  auto tokenizer = Build(text);
  if (!tokenizer.ok()) return WithContext(tokenizer.status(), "tokenizer.json");
  return tokenizer;
}

}  // namespace kompakt
