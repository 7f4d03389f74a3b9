// The choice of experts, against cases worked out by hand.
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <cmath>
#include <cstdlib>

#include "kernels/kernel_set.h"
#include "tests/kernels/random_matrix.h"

namespace kompakt {
namespace {

using testing::ElementsAre;
using testing::FloatNear;

struct Choice {
  std::vector<int32_t> ids;
  std::vector<float> weights;
};

Choice Choose(const RouterRule& rule, const std::vector<float>& logits, const std::vector<float>& bias = {}) {
  Choice choice;
  choice.ids.resize(static_cast<size_t>(rule.experts_per_token));
  choice.weights.resize(choice.ids.size());
  std::vector<float> scores(static_cast<size_t>(2 * rule.n_experts + rule.n_group));
  ChooseExperts(rule, logits.data(), bias.empty() ? nullptr : bias.data(), scores.data(), choice.ids.data(),
                choice.weights.data());
  return choice;
}

float Sigmoid(float x) { return 1 / (1 + std::exp(-x)); }

TEST(Router, GreedySoftmaxTakesTheLargestAndReportsAscendingIds) {
  const RouterRule rule{.n_experts = 4, .experts_per_token = 2, .factor = 3};
  const Choice c = Choose(rule, {std::log(1.0f), std::log(4.0f), std::log(2.0f), std::log(3.0f)});
  EXPECT_THAT(c.ids, ElementsAre(1, 3));
  EXPECT_THAT(c.weights, ElementsAre(FloatNear(1.2f, 1e-6f), FloatNear(0.9f, 1e-6f)));
}

TEST(Router, ATieGoesToTheLowerIndex) {
  const RouterRule rule{.sigmoid = true, .n_experts = 5, .experts_per_token = 2};
  EXPECT_THAT(Choose(rule, {0, 1, 1, 1, 0}).ids, ElementsAre(1, 2));
  RouterRule grouped{.sigmoid = true,
                     .n_experts = 6,
                     .experts_per_token = 2,
                     .group_score = GroupScore::kBest,
                     .n_group = 3,
                     .topk_group = 1};
  EXPECT_THAT(Choose(grouped, {0, 0, 1, 1, 1, 1}).ids, ElementsAre(2, 3));
}

TEST(Router, BiasSelectsButDoesNotWeigh) {
  const RouterRule rule{.sigmoid = true, .n_experts = 3, .experts_per_token = 1, .factor = 2};
  const Choice c = Choose(rule, {1, 2, -3}, {0, 0, 10});
  EXPECT_THAT(c.ids, ElementsAre(2));
  EXPECT_THAT(c.weights, ElementsAre(FloatNear(2 * Sigmoid(-3), 1e-7f)));
}

TEST(Router, GroupsAreRankedByTheirBestOrByTheirTwoBest) {
  // Group 0 has the best expert, group 1 the best pair.
  const std::vector<float> logits = {3, -5, 2, 2};
  RouterRule rule{.sigmoid = true,
                  .n_experts = 4,
                  .experts_per_token = 2,
                  .group_score = GroupScore::kBest,
                  .n_group = 2,
                  .topk_group = 1};
  EXPECT_THAT(Choose(rule, logits).ids, ElementsAre(0, 1));
  rule.group_score = GroupScore::kSumOfTwoBest;
  EXPECT_THAT(Choose(rule, logits).ids, ElementsAre(2, 3));
}

TEST(Router, AnExpertOutsideTheKeptGroupsIsNotChosenEvenWhenAllKeptScoresAreNegative) {
  // Masking with 0 instead of -infinity would choose from group 1.
  const RouterRule rule{.sigmoid = true,
                        .n_experts = 4,
                        .experts_per_token = 2,
                        .group_score = GroupScore::kSumOfTwoBest,
                        .n_group = 2,
                        .topk_group = 1};
  EXPECT_THAT(Choose(rule, {0, 0, 0, 0}, {-5, -5, -6, -6}).ids, ElementsAre(0, 1));
}

TEST(Router, NormalisedWeightsSumToTheFactor) {
  const RouterRule rule{.sigmoid = true, .n_experts = 6, .experts_per_token = 3, .normalize = true, .factor = 2.5f};
  const Choice c = Choose(rule, {1, -1, 0.5f, 2, -4, 0.1f});
  EXPECT_THAT(c.ids, ElementsAre(0, 2, 3));
  EXPECT_NEAR(c.weights[0] + c.weights[1] + c.weights[2], 2.5f, 1e-6f);
  EXPECT_NEAR(c.weights[0] / c.weights[1], Sigmoid(1) / Sigmoid(0.5f), 1e-6f);
}

TEST(Router, NaNLogitsStillGiveValidDistinctExperts) {
  const RouterRule rule{.sigmoid = true,
                        .n_experts = 8,
                        .experts_per_token = 4,
                        .group_score = GroupScore::kSumOfTwoBest,
                        .n_group = 4,
                        .topk_group = 2};
  const Choice c = Choose(rule, std::vector<float>(8, std::nanf("")));
  for (size_t i = 0; i < c.ids.size(); ++i) {
    EXPECT_GE(c.ids[i], 0);
    EXPECT_LT(c.ids[i], 8);
    EXPECT_TRUE(i == 0 || c.ids[i] > c.ids[i - 1]) << i;
  }
}

TEST(Router, HugeLogitsDoNotOverflow) {
  const RouterRule rule{.n_experts = 3, .experts_per_token = 1};
  const Choice c = Choose(rule, {1e30f, -1e30f, 3e38f});
  EXPECT_THAT(c.ids, ElementsAre(2));
  EXPECT_THAT(c.weights, ElementsAre(1.0f));
}

TEST(KernelTable, NamesTheKnownSetsForAnUnknownName) {
  const auto set = KernelSetByName("avx1024");
  ASSERT_EQ(set.status().code(), absl::StatusCode::kInvalidArgument);
  EXPECT_THAT(std::string(set.status().message()), testing::HasSubstr("reference"));
}

TEST(KernelTable, TheEnvironmentForcesASetAndRejectsAnUnknownOne) {
  ASSERT_EQ(setenv("KOMPAKT_ISA", "reference", 1), 0);
  EXPECT_EQ((*BestKernelSet())->name, "reference");
  ASSERT_EQ(setenv("KOMPAKT_ISA", "referenze", 1), 0);
  EXPECT_THAT(std::string(BestKernelSet().status().message()), testing::HasSubstr("KOMPAKT_ISA"));
  ASSERT_EQ(unsetenv("KOMPAKT_ISA"), 0);
  EXPECT_TRUE(BestKernelSet().ok());
}

TEST(KernelTable, EveryOpOfEverySetIsThere) {
  for (const KernelSet* set : AllKernelSets()) {
    EXPECT_TRUE(set->embed && set->rms_norm && set->linear && set->rope && set->latent_append && set->mla_prefill &&
                set->mla_decode && set->route && set->ffn && set->expert_ffn && set->add && set->all_finite)
        << set->name;
    EXPECT_EQ(KernelSetByName(set->name).ok(), set->available()) << set->name;
  }
}

TEST(AlignedMemory, AnAbsurdRequestIsRefusedAndNotAttempted) {
  const auto buffer = AlignedBuffer::Create(uint64_t{1} << 60, "the cache");
  ASSERT_EQ(buffer.status().code(), absl::StatusCode::kResourceExhausted);
  EXPECT_THAT(std::string(buffer.status().message()), testing::HasSubstr("the cache"));
  Workspace workspace;
  EXPECT_EQ(workspace.Floats(int64_t{1} << 61).status().code(), absl::StatusCode::kResourceExhausted);
}

TEST(AlignedMemory, PiecesOfOpenScopesDoNotOverlap) {
  Workspace workspace;
  for (int round = 0; round < 3; ++round) {
    Workspace::Scope outer(workspace);
    float* const a = *workspace.Floats(1000);
    std::fill(a, a + 1000, 1.0f);
    for (int i = 0; i < 3; ++i) {
      Workspace::Scope inner(workspace);
      float* const b = *workspace.Floats(3000000);
      std::fill(b, b + 3000000, 2.0f);
    }
    float* const c = *workspace.Floats(100);
    std::fill(c, c + 100, 3.0f);
    EXPECT_EQ(std::count(a, a + 1000, 1.0f), 1000);
    EXPECT_LT(workspace.bytes(), uint64_t{40} << 20);
  }
}

}  // namespace
}  // namespace kompakt
