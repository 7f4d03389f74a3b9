// RoPE and YaRN: the rotation angles of a model, and the softmax scale that goes with them.
// Formulas: YaRN (Peng et al. 2023) as DeepSeek-V2 applies it. With base theta, factor s, original length L0, d = dr:
//     f_j    = theta^(-2j / d)
//     D(r)   = d ln(L0 / (2 pi r)) / (2 ln theta)
//     low    = max(floor(D(beta_fast)), 0), high = min(ceil(D(beta_slow)), d - 1); high += 0.001 where they are equal
//     ramp_j = clamp((j - low) / (high - low), 0, 1)
//     f'_j   = f_j / s * ramp_j + f_j * (1 - ramp_j)
//     m(a)   = 0.1 a ln s + 1 for s > 1, else 1
// Cosine and sine are multiplied by m(mscale) / m(mscale_all_dim); the softmax scale is
// (dn + dr)^(-1/2) m(mscale_all_dim)^2. Both hold at every context length.
#pragma once

#include <cstdint>
#include <vector>

#include "format/arch_spec.pb.h"

namespace kompakt {

class Rope {
 public:
  // `arch` has passed ValidateArchSpec.
  explicit Rope(const ArchSpec& arch);

  // cos_sin: [tokens, dr / 2, 2], cosine then sine of positions position .. position + tokens - 1.
  void Fill(int64_t position, int64_t tokens, float* cos_sin) const;

  const std::vector<double>& frequencies() const { return frequencies_; }  // [dr / 2], radians per position
  double multiplier() const { return multiplier_; }

 private:
  std::vector<double> frequencies_;
  double multiplier_ = 1;
};

double SoftmaxScale(const ArchSpec& arch);

}  // namespace kompakt
