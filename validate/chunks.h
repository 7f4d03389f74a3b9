// How a text is cut for scoring, in llama-perplexity's convention: a BOS is put before the text, the tokens are cut
// into chunks of `context`, every chunk's first token is replaced by BOS, and the tokens from context / 2 on are
// scored.
#pragma once

#include <cstdint>
#include <optional>
#include <vector>

#include "absl/status/statusor.h"
#include "absl/types/span.h"

namespace kompakt {

class ScoredChunks {
 public:
  // `ids`: the text's tokens without BOS. A model without BOS keeps every chunk as it is. kInvalidArgument when the
  // text does not fill one chunk or `context` is below 4.
  ScoredChunks() = default;
  static absl::StatusOr<ScoredChunks> Create(absl::Span<const int32_t> ids, std::optional<int32_t> bos_id,
                                             int64_t context);

  int64_t context() const { return context_; }
  int64_t tokens() const { return tokens_; }  // of the text, BOS included
  int64_t count() const { return tokens_ / context_; }
  // Positions first_scored() .. context() - 2 of a chunk predict a scored token: the one after them.
  int64_t first_scored() const { return context_ / 2; }
  absl::Span<const int32_t> chunk(int64_t i) const {
    return absl::MakeSpan(chunks_).subspan(static_cast<size_t>(i * context_), static_cast<size_t>(context_));
  }

 private:
  std::vector<int32_t> chunks_;
  int64_t tokens_ = 0;
  int64_t context_ = 0;
};

}  // namespace kompakt
