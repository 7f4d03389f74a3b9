// Perplexity in llama-perplexity's convention: a BOS is put before the text, the tokens are cut into chunks of
// `context`, every chunk's first token is replaced by BOS, and the tokens from context/2 on are scored.
#pragma once

#include <cstdint>
#include <functional>
#include <memory>
#include <vector>

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

// `ids`: the text's tokens without BOS. kInvalidArgument when they do not fill one chunk.
absl::StatusOr<PerplexityResult> Perplexity(std::shared_ptr<const Model> model, absl::Span<const int32_t> ids, int32_t bos_id,
                                            int64_t context,
                                            const std::function<void(int64_t chunk, int64_t chunks)>& progress);

}  // namespace kompakt
