#include "validate/baseline_token.h"

#include <algorithm>
#include <bit>
#include <cmath>
#include <cstring>
#include <limits>
#include <numeric>

#include "format/status.h"

namespace kompakt {
namespace {

constexpr uint64_t kFieldBytes = 4 * sizeof(float);
constexpr double kSteps = 65535;
// Rounding moves the total by less than 1e-4; a record that is further from 1 was not written by this program.
constexpr double kMassTolerance = 1e-3;
constexpr double kNothing = -std::numeric_limits<double>::infinity();

double LogSumOf(absl::Span<const float> logits, double largest) {
  double sum = 0;
  for (const float logit : logits) sum += std::exp(static_cast<double>(logit) - largest);
  return std::log(sum) + largest;
}

// ln sum exp over the tokens that are not in `ids`; -infinity where there are none.
double LogSumOfRest(absl::Span<const float> logits, std::vector<int32_t> ids) {
  std::sort(ids.begin(), ids.end());
  const auto each = [&](auto&& visit) {
    size_t next = 0;
    for (size_t i = 0; i < logits.size(); ++i) {
      if (next < ids.size() && static_cast<size_t>(ids[next]) == i) {
        ++next;
      } else {
        visit(static_cast<double>(logits[i]));
      }
    }
  };
  double largest = kNothing;
  each([&](double logit) { largest = std::max(largest, logit); });
  if (!(largest > kNothing)) return kNothing;
  double sum = 0;
  each([&](double logit) { sum += std::exp(logit - largest); });
  return std::log(sum) + largest;
}

void PutFloat(double value, uint8_t* out) {
  const auto narrow = static_cast<float>(value);
  std::memcpy(out, &narrow, sizeof(narrow));
}

float GetFloat(const uint8_t* in) {
  float value = 0;
  std::memcpy(&value, in, sizeof(value));
  return value;
}

}  // namespace

int64_t RecordShape::id_bits() const {
  return std::max<int64_t>(1, static_cast<int64_t>(std::bit_width(static_cast<uint64_t>(vocab - 1))));
}

uint64_t RecordShape::bytes() const {
  return kFieldBytes + static_cast<uint64_t>(top() * 2 + (top() * id_bits() + 7) / 8);
}

void WriteRecord(const RecordShape& shape, absl::Span<const float> logits, int32_t next, absl::Span<uint8_t> out) {
  const auto top = static_cast<size_t>(shape.top());
  std::vector<int32_t> ids(logits.size());
  std::iota(ids.begin(), ids.end(), 0);
  const auto logit_of = [&](int32_t id) { return logits[static_cast<size_t>(id)]; };
  std::partial_sort(ids.begin(), ids.begin() + static_cast<ptrdiff_t>(top), ids.end(), [&](int32_t a, int32_t b) {
    return logit_of(a) != logit_of(b) ? logit_of(a) > logit_of(b) : a < b;
  });
  ids.resize(top);
  const double total = LogSumOf(logits, static_cast<double>(logit_of(ids[0])));
  const double first = static_cast<double>(logit_of(ids.front())) - total;
  const double range = static_cast<double>(logit_of(ids.front())) - static_cast<double>(logit_of(ids.back()));
  std::fill(out.begin(), out.end(), uint8_t{0});
  PutFloat(first, out.data());
  PutFloat(range, out.data() + 4);
  PutFloat(LogSumOfRest(logits, ids) - total, out.data() + 8);
  PutFloat(total - static_cast<double>(logit_of(next)), out.data() + 12);
  uint8_t* const codes = out.data() + kFieldBytes;
  uint8_t* const packed = codes + 2 * top;
  for (size_t i = 0; i < top; ++i) {
    const double below = static_cast<double>(logit_of(ids.front())) - static_cast<double>(logit_of(ids[i]));
    const auto code = static_cast<uint16_t>(range > 0 ? std::lround(below / range * kSteps) : 0);
    codes[2 * i] = static_cast<uint8_t>(code & 0xff);
    codes[2 * i + 1] = static_cast<uint8_t>(code >> 8);
    for (size_t bit = 0; bit < static_cast<size_t>(shape.id_bits()); ++bit) {
      const size_t at = i * static_cast<size_t>(shape.id_bits()) + bit;
      const uint32_t value = (static_cast<uint32_t>(ids[i]) >> bit) & 1;
      packed[at / 8] = static_cast<uint8_t>(packed[at / 8] | value << at % 8);
    }
  }
}

absl::Status ReadRecord(const RecordShape& shape, absl::Span<const uint8_t> record, BaselineToken* out) {
  const auto top = static_cast<size_t>(shape.top());
  const auto first = static_cast<double>(GetFloat(record.data()));
  const auto range = static_cast<double>(GetFloat(record.data() + 4));
  const auto log_rest = static_cast<double>(GetFloat(record.data() + 8));
  const auto nll = static_cast<double>(GetFloat(record.data() + 12));
  const bool has_rest = shape.vocab > shape.top();
  if (!std::isfinite(first) || !(range >= 0) || !std::isfinite(range) || !std::isfinite(nll) || !(nll > -1e-3) ||
      std::isfinite(log_rest) != has_rest || (!has_rest && log_rest != kNothing)) {
    return CorruptError("expected log-probabilities, found first ", first, ", range ", range, ", rest ", log_rest,
                        ", next ", -nll);
  }
  out->ids.assign(top, 0);
  out->log_p.assign(top, 0);
  out->nll = nll;
  const uint8_t* const codes = record.data() + kFieldBytes;
  const uint8_t* const packed = codes + 2 * top;
  double mass = has_rest ? std::exp(log_rest) : 0;
  for (size_t i = 0; i < top; ++i) {
    const int code = codes[2 * i] | codes[2 * i + 1] << 8;
    uint32_t id = 0;
    for (size_t bit = 0; bit < static_cast<size_t>(shape.id_bits()); ++bit) {
      const size_t at = i * static_cast<size_t>(shape.id_bits()) + bit;
      id |= static_cast<uint32_t>(packed[at / 8] >> at % 8 & 1) << bit;
    }
    if (id >= static_cast<uint64_t>(shape.vocab)) {
      return CorruptError("token ", i, ": expected an id below ", shape.vocab, ", found ", id);
    }
    out->ids[i] = static_cast<int32_t>(id);
    out->log_p[i] = first - range * static_cast<double>(code) / kSteps;
    if (i > 0 && !(out->log_p[i] <= out->log_p[i - 1])) {
      return CorruptError("token ", i, ": expected descending probabilities, found ln p ", out->log_p[i], " after ",
                          out->log_p[i - 1]);
    }
    mass += std::exp(out->log_p[i]);
  }
  std::vector<int32_t> sorted = out->ids;
  std::sort(sorted.begin(), sorted.end());
  if (const auto twice = std::adjacent_find(sorted.begin(), sorted.end()); twice != sorted.end()) {
    return CorruptError("expected ", top, " different tokens, found ", *twice, " twice");
  }
  if (!(std::abs(mass - 1) < kMassTolerance)) return CorruptError("expected a total probability of 1, found ", mass);
  const double log_mass = std::log(mass);
  for (double& log_p : out->log_p) log_p -= log_mass;
  out->log_rest = log_rest - log_mass;
  return absl::OkStatus();
}

TokenDivergence DivergeFromBaseline(const BaselineToken& p, absl::Span<const float> q_logits, int32_t next) {
  const auto top = std::max_element(q_logits.begin(), q_logits.end());
  const double total = LogSumOf(q_logits, static_cast<double>(*top));
  TokenDivergence result;
  for (size_t i = 0; i < p.ids.size(); ++i) {
    const double log_q = static_cast<double>(q_logits[static_cast<size_t>(p.ids[i])]) - total;
    result.kl += std::exp(p.log_p[i]) * (p.log_p[i] - log_q);
  }
  if (p.log_rest > kNothing) {
    result.kl += std::exp(p.log_rest) * (p.log_rest - (LogSumOfRest(q_logits, p.ids) - total));
  }
  result.kl = std::max(result.kl, 0.0);
  result.nll_p = p.nll;
  result.nll_q = total - static_cast<double>(q_logits[static_cast<size_t>(next)]);
  result.same_top = p.ids.front() == top - q_logits.begin();
  return result;
}

}  // namespace kompakt
