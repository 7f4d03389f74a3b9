// The choice of an indexer among scored rows, the same for every kernel set.
//
// Equal scores are not rare: a row that no head looks at scores exactly 0. Which of them are taken is written nowhere
// upstream. Where the choice has to be made among equals, it is the one that torch.topk makes on a CPU over all rows
// that the cache has room for, the unseen ones at minus infinity: that is what checkpoints of this family are compared
// with. It depends on the room of the cache, but neither on how a text is cut into calls nor on threads.
#pragma once

#include <cstdint>

namespace kompakt {

// Replaces each NaN of scores[n] by minus infinity. False when there was a NaN or an infinity.
bool CleanScores(float* scores, int64_t n);

// The `top_k` <= seen rows of highest score, ascending, into ids[top_k]. `scores`: [seen], no NaN. `order`: scratch of
// `capacity` >= seen.
void SelectTopRows(const float* scores, int64_t seen, int64_t capacity, int64_t top_k, int32_t* order, int32_t* ids);

}  // namespace kompakt
