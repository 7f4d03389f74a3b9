// RoPE frequencies and softmax scales against values of the published models.
#include "runtime/rope.h"

#include <gtest/gtest.h>

#include <cmath>

namespace kompakt {
namespace {

struct YarnCase {
  double theta, factor, beta_fast, beta_slow, mscale, mscale_all_dim;
};

ArchSpec Arch(const YarnCase& c, int64_t nope = 128, int64_t rope = 64) {
  ArchSpec arch;
  arch.mutable_mla()->set_qk_nope_head_dim(nope);
  arch.mutable_mla()->set_qk_rope_head_dim(rope);
  arch.mutable_rope()->set_rope_theta(c.theta);
  if (c.factor == 0) return arch;
  YarnSpec* const yarn = arch.mutable_rope()->mutable_yarn();
  yarn->set_factor(c.factor);
  yarn->set_original_max_position_embeddings(4096);
  yarn->set_beta_fast(c.beta_fast);
  yarn->set_beta_slow(c.beta_slow);
  yarn->set_mscale(c.mscale);
  yarn->set_mscale_all_dim(c.mscale_all_dim);
  return arch;
}

constexpr YarnCase kV2{1e4, 40, 32, 1, 0.707, 0.707};
constexpr YarnCase kV3{1e4, 40, 32, 1, 1, 1};
constexpr YarnCase kK2{5e4, 32, 1, 1, 1, 1};
constexpr YarnCase kMoonlight{5e4, 0, 0, 0, 0, 0};

// The values are published with 9 digits.
void ExpectClose(double got, double want) { EXPECT_NEAR(got / want, 1, 1e-8) << got << " against " << want; }

TEST(Rope, YarnRampsBetweenPlainAndInterpolatedFrequencies) {
  const std::vector<double> v3 = Rope(Arch(kV3)).frequencies();
  ASSERT_EQ(v3.size(), 32u);
  EXPECT_EQ(v3[0], 1.0);
  ExpectClose(v3[11], 0.0390069266);
  ExpectClose(v3[16], 0.0055);
  ExpectClose(v3[22], 1.77827941e-4);
  ExpectClose(v3[31], 3.33380358e-6);
}

TEST(Rope, EqualBetasMakeAHardStep) {
  const std::vector<double> k2 = Rope(Arch(kK2)).frequencies();
  ExpectClose(k2[19], 1.62175991e-3);
  ExpectClose(k2[20], 3.61404677e-5);
}

TEST(Rope, WithoutYarnFrequenciesArePlain) {
  const Rope rope(Arch(kMoonlight));
  ExpectClose(rope.frequencies()[1], std::pow(5e4, -2.0 / 64));
  EXPECT_EQ(rope.multiplier(), 1);
}

TEST(Rope, SoftmaxScaleCarriesTheSquaredMscale) {
  ExpectClose(SoftmaxScale(Arch(kV2)), 0.114721387);
  ExpectClose(SoftmaxScale(Arch(kV3)), 0.135233779);
  ExpectClose(SoftmaxScale(Arch(kK2)), 0.130860800);
  ExpectClose(SoftmaxScale(Arch({5e4, 64, 1, 1, 1, 1})), 0.144679626);
  ExpectClose(SoftmaxScale(Arch(kMoonlight)), 0.0721687836);
  ExpectClose(SoftmaxScale(Arch(kMoonlight, 192)), 0.0625);
}

TEST(Rope, WithoutMscaleAllDimTheAnglesCarryTheMscaleAndTheSoftmaxDoesNot) {
  const ArchSpec arch = Arch({1e4, 40, 32, 1, 1, 0});
  ExpectClose(Rope(arch).multiplier(), 1.36888795);
  ExpectClose(SoftmaxScale(arch), 0.0721687836);
  EXPECT_EQ(Rope(Arch(kV2)).multiplier(), 1);
}

TEST(Rope, FillGivesCosineAndSineOfEachPositionEvenFarOut) {
  const Rope rope(Arch(kV3));
  std::vector<float> cos_sin(2 * 64);
  rope.Fill(160000, 2, cos_sin.data());
  for (size_t t = 0; t < 2; ++t) {
    for (size_t j = 0; j < 32; ++j) {
      const double angle = (160000.0 + static_cast<double>(t)) * rope.frequencies()[j];
      EXPECT_EQ(cos_sin[t * 64 + 2 * j], static_cast<float>(std::cos(angle)));
      EXPECT_EQ(cos_sin[t * 64 + 2 * j + 1], static_cast<float>(std::sin(angle)));
    }
  }
}

}  // namespace
}  // namespace kompakt
