// A Tokenizer from the text of tokenizer.json: byte-level BPE.
#pragma once

#include <memory>

#include "absl/status/statusor.h"
#include "absl/strings/string_view.h"
#include "runtime/tokenizer.h"

namespace kompakt {

// kUnimplemented naming what is not supported: a model other than BPE, a normalizer, a pre-tokenizer step, a decoder
// other than ByteLevel, dropout, affixes, and unk_token or byte_fallback where some byte has no token (elsewhere they
// change nothing). kDataLoss: malformed or contradictory, naming the entry.
absl::StatusOr<std::unique_ptr<Tokenizer>> TokenizerFromJson(absl::string_view text);

}  // namespace kompakt
