#include "runtime/tiktoken.h"

#include <algorithm>
#include <nlohmann/json.hpp>
#include <string>
#include <utility>
#include <vector>

#include "absl/container/flat_hash_set.h"
#include "absl/strings/escaping.h"
#include "absl/strings/numbers.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/strip.h"
#include "format/status.h"
#include "runtime/bpe_tokenizer.h"
#include "runtime/json_field.h"

namespace kompakt {
namespace {

using nlohmann::json;

// pat_str of Kimi's and Moonlight's tokenization code; && is class intersection.
constexpr absl::string_view kPattern = R"([\p{Han}]+|[^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}&&[^\p{Han}]]*)"
                                       R"([\p{Ll}\p{Lm}\p{Lo}\p{M}&&[^\p{Han}]]+(?i:'s|'t|'re|'ve|'m|'ll|'d)?)"
                                       R"(|[^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}&&[^\p{Han}]]+)"
                                       R"([\p{Ll}\p{Lm}\p{Lo}\p{M}&&[^\p{Han}]]*(?i:'s|'t|'re|'ve|'m|'ll|'d)?)"
                                       R"(|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+)";

constexpr int64_t kReservedTokens = 256;

struct RankedToken {
  std::string bytes;
  int64_t rank;
};

absl::StatusOr<RankedToken> ReadLine(absl::string_view line) {
  const size_t space = line.find(' ');
  RankedToken token;
  if (space == absl::string_view::npos || !absl::Base64Unescape(line.substr(0, space), &token.bytes) ||
      token.bytes.empty()) {
    return CorruptError("expected base64 of the token, a space, and the rank");
  }
  if (!absl::SimpleAtoi(line.substr(space + 1), &token.rank) || token.rank < 0) {
    return CorruptError("expected a rank after the space");
  }
  return token;
}

absl::StatusOr<std::vector<RankedToken>> ReadLines(absl::string_view model) {
  std::vector<RankedToken> tokens;
  int64_t number = 0;
  while (!model.empty()) {
    ++number;
    const size_t length = std::min(model.find('\n'), model.size());
    const absl::string_view line = absl::StripSuffix(model.substr(0, length), "\r");
    model.remove_prefix(std::min(length + 1, model.size()));
    if (line.empty()) continue;
    auto token = ReadLine(line);
    if (!token.ok()) return WithContext(token.status(), absl::StrCat("line ", number));
    tokens.push_back(*std::move(token));
  }
  return tokens;
}

// Largest rank + 1: where the special tokens begin.
absl::StatusOr<int64_t> EndOfRanks(const std::vector<RankedToken>& tokens) {
  int64_t largest = -1;
  for (const RankedToken& token : tokens) largest = std::max(largest, token.rank);
  if (largest < 0 || largest > LargestCredibleId(tokens.size())) {
    return CorruptError("the largest rank is ", largest, " in a file of ", tokens.size(), " tokens");
  }
  return largest + 1;
}

// With room for `ids` ids, of which `tokens` fill the first.
absl::StatusOr<BpeVocabulary> BuildVocabulary(std::vector<RankedToken> tokens, size_t ids) {
  BpeVocabulary vocabulary;
  vocabulary.bytes.resize(ids);
  vocabulary.id_of.reserve(tokens.size());
  for (RankedToken& token : tokens) {
    std::string& bytes = vocabulary.bytes[static_cast<size_t>(token.rank)];
    if (!bytes.empty()) return CorruptError("the rank ", token.rank, " appears twice");
    bytes = std::move(token.bytes);
    const auto [entry, is_new] = vocabulary.id_of.emplace(bytes, static_cast<int32_t>(token.rank));
    if (!is_new) return CorruptError("the ranks ", entry->second, " and ", token.rank, " have the same token");
  }
  vocabulary.Finish();
  for (int byte = 0; byte < 256; ++byte) {
    if (vocabulary.id_of_byte[byte] < 0) return CorruptError("the byte ", byte, " has no token");
  }
  return vocabulary;
}

// The special tokens: ids [first, first + kReservedTokens), and whatever else added_tokens_decoder names after them.
absl::StatusOr<std::vector<AddedToken>> SpecialTokens(const json& config, int64_t first, size_t ranks) {
  std::vector<AddedToken> tokens;
  const auto add = [&tokens](int64_t id, std::string content, bool special) {
    AddedToken token;
    token.id = static_cast<int32_t>(id);
    token.content = std::move(content);
    token.special = special;
    tokens.push_back(std::move(token));
  };
  const json& names = FieldOrNull(config, "added_tokens_decoder");
  if (!names.is_object()) return CorruptError("added_tokens_decoder: expected an object of special tokens");
  absl::flat_hash_set<int64_t> named;
  for (const auto& [key, node] : names.items()) {
    const std::string path = absl::StrCat("added_tokens_decoder[\"", key, "\"]");
    int64_t id = 0;
    if (!absl::SimpleAtoi(key, &id) || id < first || id > LargestCredibleId(ranks)) {
      return CorruptError(path, ": expected an id after the ", first, " ranks of tiktoken.model");
    }
    KOMPAKT_ASSIGN_OR_RETURN(const absl::string_view content, StringField(node, "content", path));
    KOMPAKT_ASSIGN_OR_RETURN(const bool special, BoolField(node, "special", path, true));
    if (content.empty() || content.size() > AddedTokens::kMaxContentBytes) {
      return CorruptError(path, ".content: expected 1 to ", AddedTokens::kMaxContentBytes, " bytes");
    }
    if (!named.insert(id).second) return CorruptError(path, ": this id appears twice");
    add(id, std::string(content), special);
  }
  for (int64_t id = first; id < first + kReservedTokens; ++id) {
    if (!named.contains(id)) add(id, absl::StrCat("<|reserved_token_", id, "|>"), true);
  }
  std::sort(tokens.begin(), tokens.end(), [](const AddedToken& a, const AddedToken& b) { return a.id < b.id; });
  absl::flat_hash_set<absl::string_view> contents;
  for (const AddedToken& token : tokens) {
    if (!contents.insert(token.content).second) {
      return CorruptError("added_tokens_decoder: \"", token.content, "\" names two ids");
    }
  }
  return tokens;
}

absl::StatusOr<json> ReadConfig(absl::string_view text) {
  json config = json::parse(text.begin(), text.end(), nullptr, /*allow_exceptions=*/false);
  if (!config.is_object()) return CorruptError("expected a JSON object");
  const json& type = FieldOrNull(config, "tokenizer_class");
  if (type.is_string() && type != "TikTokenTokenizer") {
    return UnsupportedError("tokenizer_class ", type.get<std::string>(),
                            " with a tiktoken.model is not supported; TikTokenTokenizer is");
  }
  return config;
}

}  // namespace

absl::StatusOr<std::unique_ptr<Tokenizer>> TokenizerFromTiktoken(absl::string_view model,
                                                                 absl::string_view tokenizer_config) {
  const absl::string_view config_name = "tokenizer_config.json", model_name = "tiktoken.model";
  const auto config = ReadConfig(tokenizer_config);
  if (!config.ok()) return WithContext(config.status(), config_name);
  auto lines = ReadLines(model);
  if (!lines.ok()) return WithContext(lines.status(), model_name);
  const auto first_special = EndOfRanks(*lines);
  if (!first_special.ok()) return WithContext(first_special.status(), model_name);
  auto special = SpecialTokens(*config, *first_special, lines->size());
  if (!special.ok()) return WithContext(special.status(), config_name);
  auto vocabulary = BuildVocabulary(*std::move(lines), static_cast<size_t>(special->back().id) + 1);
  if (!vocabulary.ok()) return WithContext(vocabulary.status(), model_name);
  for (const AddedToken& token : *special) vocabulary->bytes[static_cast<size_t>(token.id)] = token.content;
  KOMPAKT_ASSIGN_OR_RETURN(PreTokenizer pre_tokenizer, PreTokenizer::FromPattern(kPattern));
  return std::make_unique<BpeTokenizer>(
      BpeTokenizer::Parts{std::move(pre_tokenizer), *std::move(vocabulary), *std::move(special), std::nullopt, true});
}

}  // namespace kompakt
