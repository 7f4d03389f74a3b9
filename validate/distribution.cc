#include "validate/distribution.h"

#include <algorithm>
#include <cmath>

namespace kompakt {
namespace {

constexpr int kBinsPerOctave = 64;
constexpr int kLowestOctave = -60;
constexpr int kHighestOctave = 10;
constexpr int kBins = (kHighestOctave - kLowestOctave) * kBinsPerOctave;

double LowerEnd(int bin) { return std::exp2(kLowestOctave + static_cast<double>(bin) / kBinsPerOctave); }

struct LogSum {
  double largest = 0;
  double log_sum = 0;  // ln sum exp(logit - largest)
  size_t top = 0;
};

LogSum LogSumExp(absl::Span<const float> logits) {
  LogSum result;
  result.top = static_cast<size_t>(std::max_element(logits.begin(), logits.end()) - logits.begin());
  result.largest = static_cast<double>(logits[result.top]);
  double sum = 0;
  for (const float logit : logits) sum += std::exp(static_cast<double>(logit) - result.largest);
  result.log_sum = std::log(sum);
  return result;
}

}  // namespace

double TokenDivergence::delta_p() const { return std::exp(-nll_q) - std::exp(-nll_p); }

TokenDivergence Diverge(absl::Span<const float> p_logits, absl::Span<const float> q_logits, int32_t next) {
  const LogSum p = LogSumExp(p_logits);
  const LogSum q = LogSumExp(q_logits);
  TokenDivergence result;
  const auto log_p = [&](size_t i) { return static_cast<double>(p_logits[i]) - p.largest - p.log_sum; };
  const auto log_q = [&](size_t i) { return static_cast<double>(q_logits[i]) - q.largest - q.log_sum; };
  for (size_t i = 0; i < p_logits.size(); ++i) {
    const double lp = log_p(i);
    result.kl += std::exp(lp) * (lp - log_q(i));
  }
  // Rounding of a sum of terms of both signs: the divergence itself is never negative.
  result.kl = std::max(result.kl, 0.0);
  result.nll_p = -log_p(static_cast<size_t>(next));
  result.nll_q = -log_q(static_cast<size_t>(next));
  result.same_top = p.top == q.top;
  return result;
}

void RunningMean::Add(double x) {
  ++count_;
  const double delta = x - mean_;
  mean_ += delta / static_cast<double>(count_);
  squares_ += delta * (x - mean_);
}

double RunningMean::standard_error() const {
  if (count_ < 2) return 0;
  const auto n = static_cast<double>(count_);
  return std::sqrt(squares_ / (n - 1) / n);
}

Quantiles::Quantiles() : bins_(kBins, 0) {}

void Quantiles::Add(double x) {
  const double place = (std::log2(std::max(x, 0x1p-70)) - kLowestOctave) * kBinsPerOctave;
  ++bins_[static_cast<size_t>(std::clamp(place, 0.0, static_cast<double>(kBins - 1)))];
  ++count_;
  max_ = std::max(max_, x);
}

double Quantiles::At(double q) const {
  if (count_ == 0) return 0;
  if (q >= 1) return max_;
  const auto rank = static_cast<int64_t>(std::floor(q * static_cast<double>(count_)));
  int64_t below = 0;
  for (int bin = 0; bin < kBins; ++bin) {
    below += bins_[static_cast<size_t>(bin)];
    if (below > rank) return std::min(max_, std::sqrt(LowerEnd(bin) * LowerEnd(bin + 1)));
  }
  return max_;
}

std::vector<Quantiles::Bar> Quantiles::Bars(int bins_per_bar) const {
  std::vector<Bar> bars;
  for (int bin = 0; bin < kBins; bin += bins_per_bar) {
    const int end = std::min(bin + bins_per_bar, kBins);
    Bar bar{LowerEnd(bin), LowerEnd(end), 0};
    for (int b = bin; b < end; ++b) bar.count += bins_[static_cast<size_t>(b)];
    bars.push_back(bar);
  }
  const auto filled = [](const Bar& bar) { return bar.count > 0; };
  const auto first = std::find_if(bars.begin(), bars.end(), filled);
  const auto last = std::find_if(bars.rbegin(), bars.rend(), filled).base();
  return first < last ? std::vector<Bar>(first, last) : std::vector<Bar>();
}

}  // namespace kompakt
