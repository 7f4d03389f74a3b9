// Sampler: the next token from logits. Same options, same seed, same logits: same token, on every machine.
//
// The order is llama.cpp's: repetition penalty, top-k, top-p, min-p, temperature. So top-p and min-p look at the
// distribution at temperature 1, and the temperature only decides among what they left.
//
// What makes it the same everywhere: double arithmetic without contraction, an exponential of our own (no libm), sums
// in a fixed order (by falling logit, ties by id), and splitmix64 for the random numbers, one per sampled token.
#pragma once

#include <cstdint>
#include <deque>

#include "absl/status/statusor.h"
#include "absl/types/span.h"

namespace kompakt {

struct SamplerOptions {
  double temperature = 0;          // >= 0; 0: greedy (largest logit, then lowest id)
  int64_t top_k = 0;               // >= 0; the k largest logits stay, ties to the lower id; 0: off
  double top_p = 1;                // (0, 1]; the fewest tokens whose probabilities reach p stay; 1: off
  double min_p = 0;                // [0, 1]; tokens of at least min_p times the largest probability stay; 0: off
  double repetition_penalty = 1;   // > 0; positive logits of recent tokens are divided by it, others multiplied; 1: off
  int64_t repetition_window = 64;  // >= 0; how many of the last tokens are recent; 0: none
  uint64_t seed = 0;
};

class Sampler {
 public:
  // kInvalidArgument naming the option, its range and the value.
  static absl::StatusOr<Sampler> Create(const SamplerOptions& options);
  // `logits` is [vocab]; ids >= `n_tokens` (rows without a token) are never chosen. -inf means never. The token
  // returned counts as recent from now on. kDataLoss: NaN or +inf among the logits, or none that is finite.
  // kInvalidArgument: n_tokens not in [1, vocab].
  absl::StatusOr<int32_t> Next(absl::Span<const float> logits, int64_t n_tokens);
  // A token that Next did not choose (the prompt), for the repetition penalty.
  void Observe(int32_t id);
  // Next is the largest logit, whatever came before.
  bool greedy() const { return options_.temperature == 0 && options_.repetition_penalty == 1; }

 private:
  explicit Sampler(const SamplerOptions& options);
  double Uniform();  // [0, 1), 53 bits

  SamplerOptions options_;
  uint64_t state_;
  std::deque<int32_t> recent_;  // at most repetition_window, oldest first
};

}  // namespace kompakt
