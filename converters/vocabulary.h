// What a converter needs to know of a tokenizer: the largest token id, and the ids of a few special tokens. Whether the
// tokenizer can be used is for runtime/ to say.
#pragma once

#include <cstdint>
#include <optional>
#include <string>

#include "absl/container/flat_hash_map.h"
#include "absl/status/statusor.h"
#include "absl/strings/string_view.h"

namespace kompakt {

struct Vocabulary {
  int64_t max_id = -1;
  absl::flat_hash_map<std::string, int64_t> added;  // added tokens by content

  std::optional<int64_t> Find(absl::string_view token) const;
};

// tokenizer.json: model.vocab and added_tokens. kDataLoss when it is no such file.
absl::StatusOr<Vocabulary> ScanTokenizerJson(absl::string_view text, absl::string_view file);

// tiktoken.model: one "base64(bytes) rank" per line.
absl::StatusOr<Vocabulary> ScanTiktoken(absl::string_view text, absl::string_view file);

// added_tokens_decoder of tokenizer_config.json: {"163584": {"content": "[BOS]", ...}, ...}; adds to `vocabulary`.
absl::Status AddTokensDecoder(absl::string_view tokenizer_config, absl::string_view file, Vocabulary* vocabulary);

}  // namespace kompakt
