// Norm, RoPE, cache, addition and the NaN check of every kernel set.
#include <gtest/gtest.h>

#include <cmath>
#include <limits>
#include <string>

#include "kernels/kernel_set.h"
#include "tests/kernels/random_matrix.h"

namespace kompakt {
namespace {

class EverySet : public testing::TestWithParam<const KernelSet*> {
 protected:
  const KernelSet& set() const { return *GetParam(); }
  Workspace workspace_;
  ThreadTeam team_{2};
  KernelContext context_{.team = &team_, .workspace = &workspace_};
};

INSTANTIATE_TEST_SUITE_P(Kernels, EverySet,
                         testing::ValuesIn(AvailableKernelSets().begin(), AvailableKernelSets().end()),
                         [](const auto& info) { return std::string(info.param->name); });

TEST_P(EverySet, RmsNormEqualsTheFormulaEvenForDenormalAndLargestValues) {
  constexpr int64_t kTokens = 3;
  for (const int64_t width : {1, 31, 128, 1000}) {
    for (const float magnitude : {0.0f, 1e-41f, 1e-3f, 1.0f, 1e37f}) {
      const std::vector<float> x = RandomVector(kTokens * (width + 5), magnitude, 1);
      const std::vector<float> w = RandomVector(width, 1.0f, 2);
      std::vector<float> y(static_cast<size_t>(kTokens * width), std::nanf(""));
      ASSERT_TRUE(set()
                      .rms_norm({.x = x.data(),
                                 .x_stride = width + 5,
                                 .weight = w.data(),
                                 .eps = 1e-6,
                                 .tokens = kTokens,
                                 .width = width,
                                 .y = y.data(),
                                 .y_stride = width},
                                context_)
                      .ok());
      for (int64_t t = 0; t < kTokens; ++t) {
        double sum = 0;
        for (int64_t i = 0; i < width; ++i)
          sum += std::pow(static_cast<double>(x[static_cast<size_t>(t * (width + 5) + i)]), 2);
        for (int64_t i = 0; i < width; ++i) {
          const double want = static_cast<double>(x[static_cast<size_t>(t * (width + 5) + i)]) /
                              std::sqrt(sum / static_cast<double>(width) + 1e-6) *
                              static_cast<double>(w[static_cast<size_t>(i)]);
          const double got = y[static_cast<size_t>(t * width + i)];
          // Three F32 roundings, and one denormal step.
          ASSERT_LE(std::fabs(got - want), 3 * std::ldexp(std::fabs(want), -24) + 1e-44)
              << "width " << width << " magnitude " << magnitude;
        }
      }
    }
  }
}

TEST_P(EverySet, RopeRotatesAdjacentPairsOfEachHead) {
  // Two tokens, two heads of 3 + 4 values of which the last 4 are rotary; token 1 turns by 30 and 90 degrees.
  const auto c30 = static_cast<float>(std::sqrt(3.0) / 2);
  const std::vector<float> cos_sin = {1, 0, 1, 0, c30, 0.5f, 0, 1};
  std::vector<float> x;
  for (int i = 0; i < 28; ++i) x.push_back(static_cast<float>(i));
  std::vector<float> want = x;
  for (const size_t head : {14u, 21u}) {
    const float a = x[head + 3], b = x[head + 4], c = x[head + 5], d = x[head + 6];
    want[head + 3] = a * c30 - b * 0.5f;
    want[head + 4] = a * 0.5f + b * c30;
    want[head + 5] = -d;
    want[head + 6] = c;
  }
  ASSERT_TRUE(set()
                  .rope({.x = x.data() + 3,
                         .x_stride = 14,
                         .head_stride = 7,
                         .heads = 2,
                         .dim = 4,
                         .cos_sin = cos_sin.data(),
                         .tokens = 2},
                        context_)
                  .ok());
  EXPECT_EQ(x, want);
}

TEST_P(EverySet, LatentAppendNormalisesTheLatentAndRotatesTheKey) {
  constexpr int64_t kRank = 40;
  constexpr int64_t kRope = 6;
  AlignedBuffer bytes =
      *AlignedBuffer::Create(10 * LatentCache::LatentRowBytes(kRank, kRope, CacheFormat::kF32), "cache");
  const LatentCache cache{.rank = kRank, .rope = kRope, .capacity = 10, .data = bytes.data()};
  const std::vector<float> a = RandomVector(4 * (kRank + kRope), 2.0f, 1);
  const std::vector<float> weight = RandomVector(kRank, 1.0f, 2);
  const std::vector<float> cos_sin = RandomVector(4 * kRope, 1.0f, 3);
  ASSERT_TRUE(set()
                  .latent_append({.a = a.data(),
                                  .norm_weight = weight.data(),
                                  .eps = 1e-6,
                                  .cos_sin = cos_sin.data(),
                                  .tokens = 4,
                                  .position = 3,
                                  .cache = cache},
                                 context_)
                  .ok());
  std::vector<float> norm(4 * kRank);
  ASSERT_TRUE(set()
                  .rms_norm({.x = a.data(),
                             .x_stride = kRank + kRope,
                             .weight = weight.data(),
                             .eps = 1e-6,
                             .tokens = 4,
                             .width = kRank,
                             .y = norm.data(),
                             .y_stride = kRank},
                            context_)
                  .ok());
  std::vector<float> key = a;
  ASSERT_TRUE(set()
                  .rope({.x = key.data() + kRank,
                         .x_stride = kRank + kRope,
                         .head_stride = 0,
                         .heads = 1,
                         .dim = kRope,
                         .cos_sin = cos_sin.data(),
                         .tokens = 4},
                        context_)
                  .ok());
  std::vector<float> scratch(static_cast<size_t>(cache.width()));
  for (int64_t t = 0; t < 4; ++t) {
    const float* const row = LatentRows(cache, 3 + t, 4 + t, scratch.data());
    for (int64_t i = 0; i < kRank; ++i) EXPECT_EQ(row[i], norm[static_cast<size_t>(t * kRank + i)]);
    for (int64_t i = kRank; i < kRank + kRope; ++i)
      EXPECT_EQ(row[i], key[static_cast<size_t>(t * (kRank + kRope) + i)]);
  }
}

TEST_P(EverySet, AddAddsShortAndLongArrays) {
  for (const int64_t n : {1, 100, 100003}) {
    const std::vector<float> x = RandomVector(n, 1.0f, 1);
    const std::vector<float> y = RandomVector(n, 1.0f, 2);
    std::vector<float> sum = y;
    ASSERT_TRUE(set().add({.x = x.data(), .y = sum.data(), .n = n}, context_).ok());
    for (size_t i = 0; i < x.size(); ++i) ASSERT_EQ(sum[i], x[i] + y[i]);
  }
}

TEST_P(EverySet, AllFiniteFindsOneBadValueAnywhere) {
  for (const int64_t n : {1, 100, 70001}) {
    std::vector<float> x = RandomVector(n, 1e38f, 1);
    for (float& value : x) value = std::isfinite(value) ? value : 0;
    bool finite = false;
    ASSERT_TRUE(set().all_finite({.x = x.data(), .n = n, .finite = &finite}, context_).ok());
    EXPECT_TRUE(finite) << n;
    for (const float bad : {std::nanf(""), INFINITY, -INFINITY}) {
      for (const int64_t at : {int64_t{0}, n / 2, n - 1}) {
        const float kept = x[static_cast<size_t>(at)];
        x[static_cast<size_t>(at)] = bad;
        ASSERT_TRUE(set().all_finite({.x = x.data(), .n = n, .finite = &finite}, context_).ok());
        EXPECT_FALSE(finite) << bad << " at " << at << " of " << n;
        x[static_cast<size_t>(at)] = kept;
      }
    }
  }
}

}  // namespace
}  // namespace kompakt
