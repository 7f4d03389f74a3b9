#include "validate/chunks.h"

#include "format/status.h"

namespace kompakt {

absl::StatusOr<ScoredChunks> ScoredChunks::Create(absl::Span<const int32_t> ids, std::optional<int32_t> bos_id,
                                                  int64_t context) {
  if (context < 4) return UsageError("the context must be 4 tokens or more, found ", context);
  ScoredChunks all;
  all.context_ = context;
  if (bos_id.has_value()) all.chunks_.push_back(*bos_id);
  all.chunks_.insert(all.chunks_.end(), ids.begin(), ids.end());
  all.tokens_ = std::ssize(all.chunks_);
  if (all.count() == 0) {
    return UsageError("the text has ", all.tokens_, " tokens, which do not fill one chunk of ", context,
                      "; take a longer text or a smaller context (-c)");
  }
  all.chunks_.resize(static_cast<size_t>(all.count() * context));
  if (!bos_id.has_value()) return all;
  for (int64_t i = 0; i < all.count(); ++i) all.chunks_[static_cast<size_t>(i * context)] = *bos_id;
  return all;
}

}  // namespace kompakt
