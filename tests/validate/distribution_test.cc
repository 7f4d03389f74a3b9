#include "validate/distribution.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <random>
#include <vector>

namespace kompakt {
namespace {

TEST(Diverge, IsTheTextbookSumForSmallDistributions) {
  const std::vector<float> p = {std::log(0.5f), std::log(0.25f), std::log(0.25f)};
  const std::vector<float> q = {std::log(0.25f), std::log(0.5f), std::log(0.25f)};
  const TokenDivergence d = Diverge(p, q, 1);
  EXPECT_NEAR(d.kl, 0.5 * std::log(2.0) - 0.25 * std::log(2.0), 1e-7);
  EXPECT_NEAR(d.nll_p, std::log(4.0), 1e-7);
  EXPECT_NEAR(d.nll_q, std::log(2.0), 1e-7);
  EXPECT_NEAR(d.delta_p(), 0.25, 1e-7);
  EXPECT_FALSE(d.same_top);
}

TEST(Diverge, IsNothingBetweenEqualLogitsAndTheirShifts) {
  std::mt19937 rng(3);
  std::vector<float> p(1000);
  for (float& x : p) x = static_cast<float>(rng() % 2048) / 64;
  EXPECT_EQ(Diverge(p, p, 7).kl, 0.0);
  std::vector<float> shifted = p;
  for (float& x : shifted) x += 1024;
  EXPECT_LT(Diverge(p, shifted, 7).kl, 1e-12);
  EXPECT_TRUE(Diverge(p, shifted, 7).same_top);
}

TEST(Diverge, StaysFiniteForLogitsFarApart) {
  const TokenDivergence d = Diverge(std::vector<float>{3e4f, -3e4f}, std::vector<float>{-3e4f, 3e4f}, 0);
  EXPECT_NEAR(d.kl, 6e4, 1);
}

TEST(RunningMean, AgreesWithTwoPasses) {
  std::mt19937 rng(5);
  std::vector<double> values(5000);
  RunningMean running;
  for (double& x : values) {
    x = 1e6 + static_cast<double>(rng() % 1000);
    running.Add(x);
  }
  double mean = 0;
  for (const double x : values) mean += x / 5000;
  double squares = 0;
  for (const double x : values) squares += (x - mean) * (x - mean);
  EXPECT_NEAR(running.mean(), mean, 1e-6);
  EXPECT_NEAR(running.standard_error(), std::sqrt(squares / 4999 / 5000), 1e-9);
}

TEST(Quantiles, AreWithinABinOfTheSortedValues) {
  std::mt19937 rng(7);
  std::vector<double> values(20000);
  Quantiles quantiles;
  for (double& x : values) {
    x = std::exp(std::normal_distribution<double>(-6, 3)(rng));
    quantiles.Add(x);
  }
  std::sort(values.begin(), values.end());
  for (const double q : {0.0, 0.1, 0.5, 0.9, 0.99, 0.999}) {
    const double exact = values[static_cast<size_t>(q * 20000)];
    EXPECT_NEAR(quantiles.At(q) / exact, 1.0, 0.012) << q;
  }
  EXPECT_EQ(quantiles.At(1), values.back());
  EXPECT_EQ(Quantiles().At(0.5), 0);
  int64_t counted = 0;
  for (const Quantiles::Bar& bar : quantiles.Bars(32)) counted += bar.count;
  EXPECT_EQ(counted, 20000);
}

}  // namespace
}  // namespace kompakt
