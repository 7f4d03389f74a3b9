// The first MTP layer over a text: what a draft of the token after the next one would be (DeepSeek-V3 report, section
// 2.2). With h_t the main model's hidden state after its final norm and e the embedding of token t + 1, for t < T - 1:
//     z_t = eh_proj . [RMSNorm_enorm(e) | RMSNorm_hnorm(h_t)]
//     y   = decoder layer over z, causal, positions 0 .. T - 2, with a cache of its own
//     logits_t = head . RMSNorm_shared_head(y_t)          predicts token t + 2
// Embedding and head are the main model's.
#pragma once

#include <cstdint>
#include <vector>

#include "absl/status/statusor.h"
#include "absl/types/span.h"
#include "runtime/linear_observer.h"
#include "runtime/model.h"

namespace kompakt {

struct MtpTrace {
  std::vector<float> input;           // z: [T - 1, h]
  std::vector<float> layer_out;       // y: [T - 1, h], before its norm
  std::vector<float> logits;          // [T - 1, vocab_size]
  std::vector<int32_t> router_ids;    // [T - 1, K] ascending
  std::vector<float> router_weights;  // [T - 1, K]
};

// `ids`: [T], at least two; `hidden`: [T, h], the last part of ForwardTrace::hidden. kFailedPrecondition when the model
// has no MTP layer, kInvalidArgument for fewer than two tokens, kDataLoss for a state that is not finite,
// kResourceExhausted.
absl::StatusOr<MtpTrace> TraceMtp(const Model& model, absl::Span<const int32_t> ids, absl::Span<const float> hidden);

// Runs it to show the inputs of its matrices, without logits. Errors as TraceMtp, and those of the observer.
absl::Status ObserveMtp(const Model& model, absl::Span<const int32_t> ids, absl::Span<const float> hidden,
                        LinearObserver& observer);

}  // namespace kompakt
