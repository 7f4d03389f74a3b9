// Attention over selected rows, in terms of attention over whole caches: the rows of each token are gathered into a
// small cache of their own. Gathering is one copy of the rows; every product that follows is larger by the number of
// heads.
#pragma once

#include <algorithm>
#include <cstdint>

#include "absl/status/status.h"
#include "format/status.h"
#include "kernels/kernel_set.h"

namespace kompakt {

// The selected rows of tokens [token, token + tokens) of p, as they are stored, into caches[tokens] of p.selected rows
// each, which lie one after another from `memory` on.
void GatherSelected(const MlaSparseParams& p, int64_t token, int64_t tokens, uint8_t* memory, LatentCache* caches,
                    KernelContext& context);

inline constexpr int64_t kMostGatheredTokens = 16;

// Calls attend(first token, tokens, caches) for all tokens of p, at most `tokens_at_once` of them (up to
// kMostGatheredTokens) together; token t + i of the call attends to all of caches[i].
template <typename Attend>
absl::Status GatherAndAttend(const MlaSparseParams& p, int64_t tokens_at_once, const Attend& attend,
                             KernelContext& context) {
  const int64_t step = std::min(tokens_at_once, p.mla.tokens);
  Workspace::Scope scope(*context.workspace);
  const auto row_floats = static_cast<int64_t>(p.mla.cache.row_bytes() / sizeof(float));
  KOMPAKT_ASSIGN_OR_RETURN(float* const memory, context.workspace->Floats(step * p.selected * row_floats));
  for (int64_t token = 0; token < p.mla.tokens; token += step) {
    const int64_t tokens = std::min(step, p.mla.tokens - token);
    LatentCache caches[kMostGatheredTokens];
    GatherSelected(p, token, tokens, reinterpret_cast<uint8_t*>(memory), caches, context);
    KOMPAKT_RETURN_IF_ERROR(attend(token, tokens, static_cast<const LatentCache*>(caches)));
  }
  return absl::OkStatus();
}

}  // namespace kompakt
