// What a baseline keeps of one next-token distribution, and the divergence of another model from it.
//
// Kept are the most likely tokens with their log-probabilities, the mass of all others together, and the
// log-probability of the token that follows in the text. A divergence from it treats the others as one token:
//     KL' = sum over the kept tokens of p (ln p - ln q) + p_rest (ln p_rest - ln q_rest)
// By the log-sum inequality that is never above KL(P || Q) over the vocabulary: a lower bound, short of it by what P
// and Q disagree about within the rest. Log-likelihoods, perplexities and the most likely token are exact.
#pragma once

#include <cstdint>
#include <vector>

#include "absl/status/status.h"
#include "absl/types/span.h"
#include "validate/distribution.h"

namespace kompakt {

// How many tokens a record keeps at most, and the bytes of a record (docs/baseline.md, "Record").
inline constexpr int64_t kBaselineTop = 64;
struct RecordShape {
  int64_t vocab = 0;
  int64_t top() const { return vocab < kBaselineTop ? vocab : kBaselineTop; }
  int64_t id_bits() const;  // bits of the largest id
  uint64_t bytes() const;   // 16 + 2 per token + the ids in whole bytes; 280 for V3's vocabulary
};

struct BaselineToken {
  std::vector<int32_t> ids;   // [top] by descending probability, the lower id first among equals
  std::vector<double> log_p;  // [top] ln p, after rounding; with exp(log_rest) they sum to 1
  double log_rest = 0;        // ln of the mass of all other tokens; -infinity where there are none
  double nll = 0;             // -ln p of the token that follows in the text
};

// logits: [shape.vocab]; out: shape.bytes().
void WriteRecord(const RecordShape& shape, absl::Span<const float> logits, int32_t next, absl::Span<uint8_t> out);
// kDataLoss saying which field is impossible: ids outside the vocabulary or twice, values that are not finite, a total
// mass far from 1.
absl::Status ReadRecord(const RecordShape& shape, absl::Span<const uint8_t> record, BaselineToken* out);

// kl is KL' as above. q_logits: [vocab].
TokenDivergence DivergeFromBaseline(const BaselineToken& p, absl::Span<const float> q_logits, int32_t next);

}  // namespace kompakt
