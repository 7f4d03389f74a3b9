// Tokenizer: text to token ids and back, from the upstream files kept in ModelAssets: tokenizer.json (BPE with the
// file's own pre-tokenizer, interpreted) or tiktoken.model (Kimi, Moonlight).
#pragma once

#include <cstdint>
#include <memory>
#include <string>
#include "absl/strings/string_view.h"
#include <vector>

#include "absl/status/statusor.h"
#include "absl/types/span.h"
#include "format/manifest.pb.h"

namespace kompakt {

class Tokenizer {
 public:
  // kNotFound: no tokenizer in the assets. kUnimplemented naming the offending step. kDataLoss: malformed.
  static absl::StatusOr<std::unique_ptr<Tokenizer>> Create(const ModelAssets& assets);
  virtual ~Tokenizer() = default;

  // Added tokens are found in the text unless `parse_special` is false, when their text is tokenized like any other.
  // Never adds BOS. `text` is taken as bytes; ill-formed UTF-8 becomes U+FFFD as the upstream library does.
  virtual std::vector<int32_t> Encode(absl::string_view text, bool parse_special = true) const = 0;

  // The bytes of one token; empty for an id without token. Byte-level: may be part of a character.
  virtual absl::string_view TokenBytes(int32_t id) const = 0;
  virtual bool IsSpecial(int32_t id) const = 0;  // `special` of the added tokens
  virtual int32_t IdOf(absl::string_view token_text) const = 0;  // added token or vocabulary entry by its text; -1
  virtual int64_t size() const = 0;              // largest id + 1

  // Whole text; ill-formed bytes become U+FFFD (one per maximal ill-formed subpart).
  std::string Decode(absl::Span<const int32_t> ids, bool skip_special = false) const;
};

// Decodes token by token and never emits half a character.
class StreamDecoder {
 public:
  explicit StreamDecoder(const Tokenizer& tokenizer, bool skip_special = false);
  std::string Next(int32_t id);  // text that is now certain
  std::string Flush();           // the rest at the end

 private:
  const Tokenizer& tokenizer_;
  bool skip_special_;
  std::string pending_;
};

}  // namespace kompakt
