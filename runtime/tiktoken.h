// A Tokenizer from tiktoken.model, as Kimi and Moonlight ship it: lines of base64(token bytes) and rank, rank = id; BPE
// by those ranks; the split pattern of their tokenization code (the file does not carry it); 256 ids after the ranks
// for special tokens, named by tokenizer_config.json or else <|reserved_token_ID|>.
//
// The vendor's Python wrapper also cuts texts at 400,000 characters and runs without white space at 25,000, against a
// limit of its library; that is not imitated.
#pragma once

#include <memory>

#include "absl/status/statusor.h"
#include "absl/strings/string_view.h"
#include "runtime/tokenizer.h"

namespace kompakt {

// kDataLoss naming the line or the special token. kUnimplemented: a tokenizer_class other than TikTokenTokenizer, whose
// pattern is not known.
absl::StatusOr<std::unique_ptr<Tokenizer>> TokenizerFromTiktoken(absl::string_view model,
                                                                 absl::string_view tokenizer_config);

}  // namespace kompakt
