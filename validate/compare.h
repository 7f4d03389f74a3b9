// Comparison of two models that share tokenizer and architecture: the original P and the packed model Q read the same
// tokens in lockstep. Memory does not grow with the text but for its token ids, 4 bytes each: KL is kept as a histogram
// (Quantiles), everything else as running sums.
#pragma once

#include <cstdint>
#include <functional>
#include <memory>
#include <optional>
#include <string>
#include <vector>

#include "absl/status/statusor.h"
#include "absl/types/span.h"
#include "runtime/model.h"
#include "validate/distribution.h"

namespace kompakt {

// Over the scored tokens (validate/chunks.h). Nats.
struct DivergenceSummary {
  int64_t tokens_scored = 0;
  RunningMean kl;  // KL(P || Q)
  Quantiles kl_quantiles;
  RunningMean nll_p, nll_q;
  RunningMean nll_difference;  // nll_q - nll_p of the same token: ln of the perplexities' ratio, with its paired error
  RunningMean squared_delta_p;
  int64_t same_top = 0;

  void Add(const TokenDivergence& token);
  double perplexity_p() const;
  double perplexity_q() const;
  double same_top_share() const;
  double rms_delta_p() const;
};

// One decoder layer, over all tokens of all chunks.
struct LayerComparison {
  double hidden_error = 0;  // sqrt(sum |q - p|^2 / sum |p|^2) of the layer's output
  bool moe = false;
  // Of MoE layers. The rest is 0 elsewhere.
  double router_agreement = 0;             // share of tokens whose two sets of experts are equal
  double router_overlap = 0;               // mean share of P's experts that Q chose too
  double router_kl = 0;                    // mean KL of the scores of all experts, normalised to sum 1
  std::vector<int64_t> tokens_per_expert;  // chosen by P; 0: nothing was proved about that expert
  std::vector<double> expert_error;        // hidden_error over the tokens that P sent to that expert; 0 without any
};

struct Comparison {
  DivergenceSummary divergence;
  std::vector<LayerComparison> layers;
  std::vector<RunningMean> kl_by_position;  // [kPositionBins] over the scored half of a chunk
  int64_t chunks = 0;
  int64_t context = 0;
  // Against a baseline (validate/baseline.h): P's mass outside of the tokens that it keeps, per scored token. Every KL
  // is then a lower bound, and `layers` is empty.
  std::optional<RunningMean> baseline_rest;

  // A scored token at position t of its chunk.
  void AddToken(int64_t t, int64_t first_scored, const TokenDivergence& token);
};
inline constexpr int64_t kPositionBins = 32;

struct CompareOptions {
  int64_t context = 512;
  int64_t most_chunks = 0;  // 0: the whole text
  // Told how many chunks are done; answers whether to go on. May be null.
  std::function<bool(int64_t chunk, int64_t chunks)> progress = nullptr;
  // Given P's logits of every scored token, in order, and the token that follows. May be null.
  std::function<absl::Status(absl::Span<const float> logits, int32_t next)> original_logits = nullptr;
};

// `ids`: the text's tokens without BOS. kFailedPrecondition when the two models differ in a dimension that the
// comparison needs, naming it; kCancelled; what a forward pass fails with.
absl::StatusOr<Comparison> Compare(std::shared_ptr<const Model> p, std::shared_ptr<const Model> q,
                                   absl::Span<const int32_t> ids, std::optional<int32_t> bos_id,
                                   const CompareOptions& options);

}  // namespace kompakt
