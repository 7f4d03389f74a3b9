// What the next-token distributions of two models have to say about each other, and running statistics of it that take
// the same memory for any length of text.
#pragma once

#include <cstdint>
#include <vector>

#include "absl/types/span.h"

namespace kompakt {

// P: the original's distribution at one position, Q: the packed model's. All in nats, computed in double.
struct TokenDivergence {
  double kl = 0;           // KL(P || Q) = sum over the vocabulary of p (ln p - ln q), never below 0
  double nll_p = 0;        // -ln p of the token that follows in the text
  double nll_q = 0;        // -ln q of it
  bool same_top = false;   // both have the same most likely token (the lowest id of equals)
  double delta_p() const;  // q - p of the token that follows
};
// logits: [vocab] of each model.
TokenDivergence Diverge(absl::Span<const float> p_logits, absl::Span<const float> q_logits, int32_t next);

// Mean and standard error of the mean, by Welford's recurrence.
class RunningMean {
 public:
  void Add(double x);
  int64_t count() const { return count_; }
  double mean() const { return mean_; }
  // sqrt(variance / count), variance with count - 1; 0 below two values.
  double standard_error() const;

 private:
  int64_t count_ = 0;
  double mean_ = 0;
  double squares_ = 0;
};

// Quantiles of values >= 0 from a histogram of 64 bins per factor of two: within 1.1 % of the true value between 2^-60
// and 2^10. Values outside count as the nearest end.
class Quantiles {
 public:
  Quantiles();
  void Add(double x);
  // 0 <= q <= 1; 0 without values. q = 1 is the exact maximum.
  double At(double q) const;
  double max() const { return max_; }

  // For a picture: how many values lie in [2^(e/per_octave), 2^((e+1)/per_octave)), e from lowest() on.
  struct Bar {
    double begin = 0;
    double end = 0;
    int64_t count = 0;
  };
  std::vector<Bar> Bars(int bins_per_bar) const;

 private:
  std::vector<int64_t> bins_;
  int64_t count_ = 0;
  double max_ = 0;
};

}  // namespace kompakt
