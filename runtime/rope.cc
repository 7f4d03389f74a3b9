#include "runtime/rope.h"

#include <algorithm>
#include <cmath>
#include <numbers>

namespace kompakt {
namespace {

double Mscale(double factor, double a) { return factor > 1 ? 0.1 * a * std::log(factor) + 1 : 1; }

}  // namespace

Rope::Rope(const ArchSpec& arch) {
  const int64_t half = arch.mla().qk_rope_head_dim() / 2;
  const auto d = static_cast<double>(2 * half);
  const double theta = arch.rope().rope_theta();
  for (int64_t j = 0; j < half; ++j) frequencies_.push_back(std::pow(theta, -2 * static_cast<double>(j) / d));
  if (!arch.rope().has_yarn()) return;

  const YarnSpec& yarn = arch.rope().yarn();
  const auto original = static_cast<double>(yarn.original_max_position_embeddings());
  const auto dimension_of = [&](double rotations) {
    return d * std::log(original / (2 * std::numbers::pi * rotations)) / (2 * std::log(theta));
  };
  const double low = std::max(std::floor(dimension_of(yarn.beta_fast())), 0.0);
  double high = std::min(std::ceil(dimension_of(yarn.beta_slow())), d - 1);
  if (low == high) high += 0.001;
  for (int64_t j = 0; j < half; ++j) {
    double& f = frequencies_[static_cast<size_t>(j)];
    const double ramp = std::clamp((static_cast<double>(j) - low) / (high - low), 0.0, 1.0);
    f = f / yarn.factor() * ramp + f * (1 - ramp);
  }
  multiplier_ = Mscale(yarn.factor(), yarn.mscale()) / Mscale(yarn.factor(), yarn.mscale_all_dim());
}

void Rope::Fill(int64_t position, int64_t tokens, float* cos_sin) const {
  for (int64_t t = 0; t < tokens; ++t) {
    for (const double f : frequencies_) {
      const double angle = static_cast<double>(position + t) * f;
      *cos_sin++ = static_cast<float>(std::cos(angle) * multiplier_);
      *cos_sin++ = static_cast<float>(std::sin(angle) * multiplier_);
    }
  }
}

double SoftmaxScale(const ArchSpec& arch) {
  const MlaSpec& mla = arch.mla();
  const double plain = 1 / std::sqrt(static_cast<double>(mla.qk_nope_head_dim() + mla.qk_rope_head_dim()));
  if (!arch.rope().has_yarn()) return plain;
  const double m = Mscale(arch.rope().yarn().factor(), arch.rope().yarn().mscale_all_dim());
  return plain * m * m;
}

}  // namespace kompakt
