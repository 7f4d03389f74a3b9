#include "runtime/sampler.h"

#include <algorithm>
#include <cmath>
#include <limits>
#include <vector>

#include "absl/container/flat_hash_set.h"
#include "format/status.h"

namespace kompakt {
namespace {

struct Candidate {
  double logit;
  int32_t id;
};

bool Before(const Candidate& a, const Candidate& b) { return a.logit > b.logit || (a.logit == b.logit && a.id < b.id); }

using Candidates = std::vector<Candidate>;

// exp(x) for x <= 0, from exactly rounded operations only, so that every machine gets the same bits: x = k ln 2 + r
// with |r| <= ln 2 / 2, and a Taylor polynomial of degree 13 for exp(r) (its error is below 1e-17).
double ExpNonPositive(double x) {
  if (!(x > -745)) return 0;
  const double k = std::floor(x * 1.4426950408889634 + 0.5);
  const double r = (x - k * 0x1.62e42feep-1) - k * 0x1.a39ef35793c76p-33;  // ln 2 in two parts, the first exact times k
  double sum = 1;
  for (int n = 13; n >= 1; --n) sum = 1 + sum * r / n;
  return std::ldexp(sum, static_cast<int>(k));
}

double LargestLogit(const Candidates& candidates) {
  return std::max_element(candidates.begin(), candidates.end(),
                          [](const Candidate& a, const Candidate& b) { return a.logit < b.logit; })
      ->logit;
}

// Puts the first `count` in order at the front; what is behind them is in no particular order.
void SortFront(size_t count, Candidates* candidates) {
  const auto front = candidates->begin() + static_cast<std::ptrdiff_t>(count);
  if (count < candidates->size()) std::nth_element(candidates->begin(), front, candidates->end(), Before);
  std::sort(candidates->begin(), front, Before);
}

void KeepTopK(int64_t k, Candidates* candidates) {
  if (k == 0 || static_cast<uint64_t>(k) >= candidates->size()) return;
  SortFront(static_cast<size_t>(k), candidates);
  candidates->resize(static_cast<size_t>(k));
}

void KeepTopP(double p, Candidates* candidates) {
  if (p >= 1) return;
  const double largest = LargestLogit(*candidates);
  double total = 0;
  for (const Candidate& candidate : *candidates) total += ExpNonPositive(candidate.logit - largest);
  // A few hundred tokens nearly always suffice; sorting the whole vocabulary would cost milliseconds a token.
  for (size_t sorted = std::min<size_t>(256, candidates->size());; sorted = std::min(8 * sorted, candidates->size())) {
    SortFront(sorted, candidates);
    double mass = 0;
    for (size_t i = 0; i < sorted; ++i) {
      mass += ExpNonPositive((*candidates)[i].logit - largest);
      if (mass >= p * total || i + 1 == candidates->size()) {
        candidates->resize(i + 1);
        return;
      }
    }
  }
}

void KeepMinP(double p, Candidates* candidates) {
  if (p <= 0) return;
  const double largest = LargestLogit(*candidates);
  candidates->erase(
      std::remove_if(candidates->begin(), candidates->end(),
                     [=](const Candidate& candidate) { return ExpNonPositive(candidate.logit - largest) < p; }),
      candidates->end());
}

// `uniform` in [0, 1).
int32_t Draw(const Candidates& candidates, double temperature, double uniform) {
  const double largest = LargestLogit(candidates);
  std::vector<double> cumulative;
  cumulative.reserve(candidates.size());
  double total = 0;
  for (const Candidate& candidate : candidates) {
    total += ExpNonPositive((candidate.logit - largest) / temperature);
    cumulative.push_back(total);
  }
  const auto chosen = std::upper_bound(cumulative.begin(), cumulative.end(), uniform * total);
  const auto index = std::min<std::ptrdiff_t>(chosen - cumulative.begin(), std::ssize(candidates) - 1);
  return candidates[static_cast<size_t>(index)].id;
}

absl::Status CheckRange(const char* option, double value, double low, double high) {
  if (value >= low && value <= high) return absl::OkStatus();
  return UsageError(option, " is ", value, "; expected ", low, " to ", high);
}

}  // namespace

absl::StatusOr<Sampler> Sampler::Create(const SamplerOptions& options) {
  KOMPAKT_RETURN_IF_ERROR(CheckRange("temperature", options.temperature, 0, 1e6));
  KOMPAKT_RETURN_IF_ERROR(CheckRange("min_p", options.min_p, 0, 1));
  KOMPAKT_RETURN_IF_ERROR(CheckRange("repetition_penalty", options.repetition_penalty, 0.01, 100));
  if (!(options.top_p > 0 && options.top_p <= 1)) {
    return UsageError("top_p is ", options.top_p, "; expected more than 0 and at most 1");
  }
  if (options.top_k < 0) return UsageError("top_k is ", options.top_k, "; expected 0 (off) or more");
  if (options.repetition_window < 0) {
    return UsageError("repetition_window is ", options.repetition_window, "; expected 0 or more");
  }
  return Sampler(options);
}

Sampler::Sampler(const SamplerOptions& options) : options_(options), state_(options.seed) {}

// splitmix64 (Steele, Lea, Flood: Fast splittable pseudorandom number generators, 2014).
double Sampler::Uniform() {
  state_ += 0x9e3779b97f4a7c15u;
  uint64_t z = state_;
  z = (z ^ (z >> 30)) * 0xbf58476d1ce4e5b9u;
  z = (z ^ (z >> 27)) * 0x94d049bb133111ebu;
  z ^= z >> 31;
  return static_cast<double>(z >> 11) * 0x1p-53;
}

void Sampler::Observe(int32_t id) {
  if (options_.repetition_window == 0) return;
  recent_.push_back(id);
  if (static_cast<int64_t>(recent_.size()) > options_.repetition_window) recent_.pop_front();
}

absl::StatusOr<int32_t> Sampler::Next(absl::Span<const float> logits, int64_t n_tokens) {
  if (n_tokens < 1 || n_tokens > static_cast<int64_t>(logits.size())) {
    return UsageError("n_tokens is ", n_tokens, "; expected 1 to the ", logits.size(), " logits");
  }
  Candidates candidates;
  candidates.reserve(static_cast<size_t>(n_tokens));
  for (int64_t id = 0; id < n_tokens; ++id) {
    const float logit = logits[static_cast<size_t>(id)];
    if (std::isnan(logit) || logit == std::numeric_limits<float>::infinity()) {
      return CorruptError("the logit of token ", id, " is ", logit);
    }
    if (std::isfinite(logit)) candidates.push_back({logit, static_cast<int32_t>(id)});
  }
  if (candidates.empty()) return CorruptError("no token has a finite logit");
  if (options_.repetition_penalty != 1) {
    const absl::flat_hash_set<int32_t> recent(recent_.begin(), recent_.end());
    for (Candidate& candidate : candidates) {
      if (!recent.contains(candidate.id)) continue;
      candidate.logit = candidate.logit > 0 ? candidate.logit / options_.repetition_penalty
                                            : candidate.logit * options_.repetition_penalty;
    }
  }
  int32_t chosen;
  if (options_.temperature == 0) {
    chosen = std::min_element(candidates.begin(), candidates.end(), Before)->id;
  } else {
    KeepTopK(options_.top_k, &candidates);
    KeepTopP(options_.top_p, &candidates);
    KeepMinP(options_.min_p, &candidates);
    chosen = Draw(candidates, options_.temperature, Uniform());
  }
  Observe(chosen);
  return chosen;
}

}  // namespace kompakt
