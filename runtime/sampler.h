// Sampler: the next token from logits. Same options, same seed, same logits: same token, on every machine.
#pragma once

#include <cstdint>
#include <vector>

#include "absl/status/statusor.h"
#include "absl/types/span.h"

namespace kompakt {

struct SamplerOptions {
  double temperature = 0;  // 0: greedy (largest logit, then lowest id)
  int64_t top_k = 0;       // 0: off
  double top_p = 1;        // 1: off
  double min_p = 0;        // 0: off
  double repetition_penalty = 1;
  int64_t repetition_window = 64;
  uint64_t seed = 0;
};

class Sampler {
 public:
  // kInvalidArgument naming the option and its range.
  static absl::StatusOr<Sampler> Create(const SamplerOptions& options);
  // `logits` is [vocab]; ids >= `n_tokens` (rows without a token) are never chosen.
  int32_t Next(absl::Span<const float> logits, int64_t n_tokens);
  // Tokens of the prompt, for the repetition penalty.
  void Observe(int32_t id);

 private:
  explicit Sampler(const SamplerOptions& options);
  SamplerOptions options_;
  uint64_t state_;
  std::vector<int32_t> recent_;
};

}  // namespace kompakt
