// What a changed model costs, twice: with its own routing, and with every router's choice taken from the original. The
// difference is what the change did to routing (validate/compare.h measures one pair in more detail).
#pragma once

#include <cstdint>
#include <functional>
#include <memory>
#include <vector>

#include "absl/status/statusor.h"
#include "runtime/model.h"
#include "runtime/session.h"
#include "validate/chunks.h"
#include "validate/distribution.h"

namespace kompakt {

struct TrialResult {
  RunningMean kl_free;    // KL(original || changed) over the scored tokens
  RunningMean kl_frozen;  // with the original's experts and weights in every layer
};

// Runs trials against one original on the same tokens. What the original says is kept where it takes at most
// kKeptBytes, else computed again for every trial.
class TrialBench {
 public:
  static constexpr uint64_t kKeptBytes = uint64_t{512} << 20;

  // `chunks` must outlive it. Of them the first `most_chunks` are used.
  static absl::StatusOr<std::unique_ptr<TrialBench>> Create(std::shared_ptr<const Model> original,
                                                            const ScoredChunks& chunks, int64_t most_chunks);

  // `changed` has the original's schema. `go_on` (may be null) is asked between pieces; kCancelled when it says no.
  absl::StatusOr<TrialResult> Run(const std::shared_ptr<const Model>& changed, const std::function<bool()>& go_on);
  int64_t chunks() const { return most_chunks_; }
  int64_t tokens_scored() const;

 private:
  struct Piece {
    ForwardTrace routing;  // without hidden states and scores
    std::vector<float> logits;
  };

  TrialBench(std::unique_ptr<Session> original, const ScoredChunks& chunks, int64_t most_chunks);
  absl::StatusOr<Piece> RunOriginal(absl::Span<const int32_t> ids, bool scored);

  std::unique_ptr<Session> original_;
  const ScoredChunks& chunks_;
  int64_t most_chunks_;
  bool keep_ = false;
  std::vector<Piece> kept_;  // in the order of the text
  bool complete_ = false;    // kept_ is all of it
};

}  // namespace kompakt
