// Perplexity in llama-perplexity's convention (validate/chunks.h).
#pragma once

#include <cstdint>
#include <functional>
#include <memory>
#include <optional>

#include "absl/status/statusor.h"
#include "absl/types/span.h"
#include "runtime/model.h"

namespace kompakt {

struct PerplexityResult {
  double perplexity = 0;
  double stderr_perplexity = 0;  // perplexity x standard error of the mean negative log-likelihood
  double mean_nll = 0;
  int64_t tokens = 0;  // of the text, BOS included
  int64_t chunks = 0;
  int64_t tokens_scored = 0;
};

// `ids`: the text's tokens without BOS. A model without BOS keeps every chunk as it is. `progress` (may be null) is
// told how many chunks are done and answers whether to go on; kCancelled when not. kInvalidArgument when the text does
// not fill one chunk or `context` is below 4.
// The logits that Perplexity holds at once.
uint64_t PerplexityLogitBytes(int64_t vocab);

absl::StatusOr<PerplexityResult> Perplexity(std::shared_ptr<const Model> model, absl::Span<const int32_t> ids,
                                            std::optional<int32_t> bos_id, int64_t context,
                                            const std::function<bool(int64_t chunk, int64_t chunks)>& progress);

}  // namespace kompakt
