#include "runtime/tokenizer.h"

#include "format/status.h"
#include "runtime/tiktoken.h"
#include "runtime/tokenizer_json.h"

namespace kompakt {
namespace {

const std::string* FindAsset(const ModelAssets& assets, absl::string_view name) {
  for (const AssetFile& file : assets.files()) {
    if (file.name() == name) return &file.content();
  }
  return nullptr;
}

}  // namespace

absl::StatusOr<std::unique_ptr<Tokenizer>> Tokenizer::Create(const ModelAssets& assets) {
  if (const std::string* json = FindAsset(assets, "tokenizer.json")) return TokenizerFromJson(*json);
  if (const std::string* model = FindAsset(assets, "tiktoken.model")) {
    const std::string* config = FindAsset(assets, "tokenizer_config.json");
    if (config == nullptr) {
      return CorruptError("tiktoken.model: tokenizer_config.json, which names its special tokens, is missing");
    }
    return TokenizerFromTiktoken(*model, *config);
  }
  return absl::NotFoundError("no tokenizer: expected tokenizer.json or tiktoken.model");
}

std::string Tokenizer::Decode(absl::Span<const int32_t> ids, bool skip_special) const {
  std::string bytes;
  for (const int32_t id : ids) {
    if (skip_special && IsSpecial(id)) continue;
    const absl::string_view token = TokenBytes(id);
    bytes.append(token.data(), token.size());
  }
  return Utf8WithReplacement(bytes);
}

StreamDecoder::StreamDecoder(const Tokenizer& tokenizer, bool skip_special)
    : tokenizer_(tokenizer), skip_special_(skip_special) {}

std::string StreamDecoder::Next(int32_t id) {
  if (skip_special_ && tokenizer_.IsSpecial(id)) return "";
  return stream_.Append(tokenizer_.TokenBytes(id));
}

std::string StreamDecoder::Flush() { return stream_.Flush(); }

}  // namespace kompakt
