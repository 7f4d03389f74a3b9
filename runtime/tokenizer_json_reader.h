// tokenizer.json as it is written: its vocabulary and merges streamed into flat lists (they are most of its megabytes),
// everything else as JSON.
#pragma once

#include <cstdint>
#include <nlohmann/json.hpp>
#include <string>
#include <utility>
#include <vector>

#include "absl/status/statusor.h"
#include "absl/strings/string_view.h"

namespace kompakt {

struct TokenizerJson {
  nlohmann::json rest;  // the document without model.vocab and model.merges
  std::vector<std::pair<std::string, int64_t>> vocab;
  std::vector<std::pair<std::string, std::string>> merges;
};

// kDataLoss: not JSON, nested deeper than 64, a vocabulary entry without integer id, or a merge that is neither "a b"
// nor
// ["a", "b"]. A vocab or merges of another JSON type (as other kinds of model have) is left in `rest`.
absl::StatusOr<TokenizerJson> ReadTokenizerJson(absl::string_view text);

}  // namespace kompakt
