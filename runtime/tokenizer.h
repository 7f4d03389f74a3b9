// Tokenizer: text to token ids and back, from the upstream files kept in ModelAssets: tokenizer.json (BPE with the
// file's own pre-tokenizer, interpreted) or tiktoken.model (Kimi, Moonlight). Where both are present tokenizer.json
// wins.
//
// Ids are those of the Hugging Face `tokenizers` library with add_special_tokens = false. BOS is never added (chat
// templates write it themselves), and truncation, padding and the post-processor of tokenizer.json play no part.
#pragma once

#include <cstdint>
#include <memory>
#include <string>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/strings/string_view.h"
#include "absl/types/span.h"
#include "format/manifest.pb.h"
#include "runtime/utf8.h"

namespace kompakt {

// Immutable after Create and safe from several threads.
class Tokenizer {
 public:
  // kNotFound: no tokenizer in the assets. kUnimplemented naming the offending step. kDataLoss: malformed.
  static absl::StatusOr<std::unique_ptr<Tokenizer>> Create(const ModelAssets& assets);
  virtual ~Tokenizer() = default;

  // Added tokens are found in the text unless `parse_special` is false, when their text is tokenized like any other.
  // `text` is taken as bytes; ill-formed UTF-8 becomes U+FFFD, one per maximal ill-formed subpart.
  // kUnimplemented: a pattern of the pre-tokenizer backtracks beyond every bound on this text (never on the patterns
  // of the DeepSeek family); the message names the pattern. Never a wrong answer instead.
  virtual absl::StatusOr<std::vector<int32_t>> Encode(absl::string_view text, bool parse_special = true) const = 0;

  // The bytes of one token; empty for an id without token. Byte-level: may be part of a character.
  virtual absl::string_view TokenBytes(int32_t id) const = 0;
  virtual bool IsSpecial(int32_t id) const = 0;  // `special` of the added tokens
  // The added token written `token_text`, or else the vocabulary entry of these bytes (as TokenBytes gives them,
  // " the" and not "Ġthe"); -1 where there is none.
  virtual int32_t IdOf(absl::string_view token_text) const = 0;
  virtual int64_t size() const = 0;  // largest id + 1; ids below may have no token

  // Whole text; ill-formed bytes become U+FFFD (one per maximal ill-formed subpart). Ids without token are skipped.
  std::string Decode(absl::Span<const int32_t> ids, bool skip_special = false) const;
};

// Decodes token by token and never emits half a character: the concatenation of what Next and Flush return is what
// Decode returns for the same ids. The tokenizer must outlive the decoder.
class StreamDecoder {
 public:
  explicit StreamDecoder(const Tokenizer& tokenizer, bool skip_special = false);
  std::string Next(int32_t id);  // text that is now certain
  std::string Flush();           // the rest at the end; the decoder then starts anew

 private:
  const Tokenizer& tokenizer_;
  bool skip_special_;
  Utf8Stream stream_;
};

}  // namespace kompakt
