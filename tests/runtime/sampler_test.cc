#include "runtime/sampler.h"

#include <gmock/gmock.h>

#include <cmath>
#include <limits>
#include <set>
#include <vector>

namespace kompakt {
namespace {

using ::testing::HasSubstr;

constexpr float kInfinity = std::numeric_limits<float>::infinity();
constexpr float kNan = std::numeric_limits<float>::quiet_NaN();

Sampler SamplerOf(const SamplerOptions& options) {
  auto sampler = Sampler::Create(options);
  EXPECT_TRUE(sampler.ok()) << sampler.status();
  return *std::move(sampler);
}

int32_t MustNext(Sampler& sampler, const std::vector<float>& logits) {
  const auto id = sampler.Next(logits, static_cast<int64_t>(logits.size()));
  EXPECT_TRUE(id.ok()) << id.status();
  return id.ok() ? *id : -1;
}

// How often each token comes in `draws` draws.
std::vector<double> Frequencies(const SamplerOptions& options, const std::vector<float>& logits, int draws) {
  Sampler sampler = SamplerOf(options);
  std::vector<double> frequencies(logits.size(), 0);
  for (int i = 0; i < draws; ++i) frequencies[static_cast<size_t>(MustNext(sampler, logits))] += 1.0 / draws;
  return frequencies;
}

std::set<int32_t> Drawn(const SamplerOptions& options, const std::vector<float>& logits, int draws = 2000) {
  std::set<int32_t> drawn;
  const std::vector<double> frequencies = Frequencies(options, logits, draws);
  for (size_t id = 0; id < frequencies.size(); ++id) {
    if (frequencies[id] > 0) drawn.insert(static_cast<int32_t>(id));
  }
  return drawn;
}

TEST(Sampler, GreedyTakesTheLargestLogitAndTheLowestIdOfEquals) {
  Sampler sampler = SamplerOf({});
  EXPECT_EQ(MustNext(sampler, {0, 3, -1, 3, 2}), 1);
  EXPECT_EQ(MustNext(sampler, {-kInfinity, -5, -4}), 2);
}

TEST(Sampler, NeverChoosesRowsWithoutAToken) {
  for (const double temperature : {0.0, 5.0}) {
    Sampler sampler = SamplerOf({.temperature = temperature});
    const std::vector<float> logits = {0, 1, 100, kNan};
    for (int i = 0; i < 50; ++i) {
      const auto id = sampler.Next(logits, 2);
      ASSERT_TRUE(id.ok()) << id.status();
      ASSERT_LT(*id, 2);
    }
  }
}

TEST(Sampler, DrawsWithTheProbabilitiesOfTheSoftmax) {
  const std::vector<float> logits = {1, 0, 2, -1};
  for (const double temperature : {0.5, 1.0, 2.0}) {
    double total = 0;
    for (const float logit : logits) total += std::exp(logit / temperature);
    const std::vector<double> frequencies = Frequencies({.temperature = temperature, .seed = 3}, logits, 40000);
    for (size_t id = 0; id < logits.size(); ++id) {
      const double p = std::exp(logits[id] / temperature) / total;
      // Five standard deviations of a frequency among 40,000 draws.
      EXPECT_LE(std::fabs(frequencies[id] - p), 5 * std::sqrt(p * (1 - p) / 40000)) << id << " at " << temperature;
    }
  }
}

TEST(Sampler, GivesTheSameTokensForTheSameSeedAndOthersForAnother) {
  std::vector<float> logits(1000);
  for (size_t id = 0; id < logits.size(); ++id) logits[id] = std::sin(static_cast<float>(id));
  const auto tokens = [&](uint64_t seed) {
    Sampler sampler = SamplerOf({.temperature = 1, .top_k = 500, .top_p = 0.9, .min_p = 0.01, .seed = seed});
    std::vector<int32_t> ids;
    for (int i = 0; i < 20; ++i) ids.push_back(MustNext(sampler, logits));
    return ids;
  };
  EXPECT_EQ(tokens(1), tokens(1));
  EXPECT_NE(tokens(1), tokens(2));
}

// Computed by an independent implementation, with libm's exponential.
TEST(Sampler, DrawsTheSameTokensOnEveryMachine) {
  std::vector<float> logits(50);
  for (size_t id = 0; id < logits.size(); ++id) logits[id] = static_cast<float>((id * 37) % 50) / 8;
  Sampler sampler = SamplerOf({.temperature = 0.7, .top_p = 0.95, .seed = 42});
  std::vector<int32_t> ids;
  for (int i = 0; i < 12; ++i) ids.push_back(MustNext(sampler, logits));
  EXPECT_THAT(ids, ::testing::ElementsAre(16, 27, 4, 31, 27, 47, 4, 43, 31, 12, 4, 8));
}

TEST(Sampler, TopKKeepsTheLargestAndTheLowestIdsOfEquals) {
  EXPECT_EQ(Drawn({.temperature = 1, .top_k = 2}, {1, 2, 0, 2, 2}), (std::set<int32_t>{1, 3}));
  EXPECT_EQ(Drawn({.temperature = 9, .top_k = 99}, {1, 2, 0}), (std::set<int32_t>{0, 1, 2}));
}

TEST(Sampler, TopPKeepsTheFewestTokensThatReachIt) {
  // Probabilities 0.5, 0.25, 0.125, 0.125.
  const std::vector<float> logits = {std::log(2.0f), std::log(4.0f), 0, 0};
  EXPECT_EQ(Drawn({.temperature = 1, .top_p = 0.4}, logits), (std::set<int32_t>{1}));
  EXPECT_EQ(Drawn({.temperature = 1, .top_p = 0.6}, logits), (std::set<int32_t>{0, 1}));
  EXPECT_EQ(Drawn({.temperature = 1, .top_p = 0.8}, logits), (std::set<int32_t>{0, 1, 2}));
  EXPECT_EQ(Drawn({.temperature = 1, .top_p = 1}, logits), (std::set<int32_t>{0, 1, 2, 3}));
}

TEST(Sampler, TopPFindsItsTokensInAFlatVocabulary) {
  // All of 5,000 tokens are equal: half of the mass are the 2,500 lowest ids.
  EXPECT_LT(*Drawn({.temperature = 1, .top_p = 0.5}, std::vector<float>(5000, 1), 200).rbegin(), 2501);
}

TEST(Sampler, MinPKeepsTokensNearTheMostProbable) {
  const std::vector<float> logits = {std::log(2.0f), std::log(4.0f), 0, -3};
  EXPECT_EQ(Drawn({.temperature = 1, .min_p = 0.4}, logits), (std::set<int32_t>{0, 1}));
  EXPECT_EQ(Drawn({.temperature = 1, .min_p = 1}, logits), (std::set<int32_t>{1}));
}

TEST(Sampler, TheTemperatureComesAfterTheFilters) {
  // At temperature 10 the second token would be within min_p; at 1, where min_p looks, it is not.
  EXPECT_EQ(Drawn({.temperature = 10, .min_p = 0.5}, {0, 2}), (std::set<int32_t>{1}));
}

TEST(Sampler, APenaltyWeighsDownTokensThatWereSeen) {
  Sampler sampler = SamplerOf({.repetition_penalty = 2, .repetition_window = 2});
  const std::vector<float> logits = {3, 2, -1};
  EXPECT_EQ(MustNext(sampler, logits), 0);
  EXPECT_EQ(MustNext(sampler, logits), 1);  // 3 / 2 < 2
  EXPECT_EQ(MustNext(sampler, logits), 0);  // both are recent
  sampler.Observe(2);
  sampler.Observe(2);
  EXPECT_EQ(MustNext(sampler, {-1.5, -1.8f, -1}), 0);  // -1 * 2 is the smallest now
}

TEST(Sampler, APenaltyForgetsWhatIsOutsideTheWindow) {
  Sampler sampler = SamplerOf({.repetition_penalty = 2, .repetition_window = 1});
  sampler.Observe(0);
  sampler.Observe(5);
  EXPECT_EQ(MustNext(sampler, {3, 2}), 0);
  Sampler without = SamplerOf({.repetition_penalty = 2, .repetition_window = 0});
  without.Observe(0);
  EXPECT_EQ(MustNext(without, {3, 2}), 0);
}

TEST(Sampler, FailsOnLogitsThatAreNoNumbers) {
  for (const double temperature : {0.0, 1.0}) {
    Sampler sampler = SamplerOf({.temperature = temperature});
    for (const std::vector<float>& logits :
         {std::vector<float>{0, kNan}, std::vector<float>{kInfinity, 0}, std::vector<float>{-kInfinity, -kInfinity}}) {
      EXPECT_EQ(sampler.Next(logits, 2).status().code(), absl::StatusCode::kDataLoss);
    }
    EXPECT_THAT(std::string(sampler.Next({{0, kNan}}, 2).status().message()), HasSubstr("token 1"));
  }
}

TEST(Sampler, FailsOnAVocabularyThatDoesNotFit) {
  Sampler sampler = SamplerOf({});
  const std::vector<float> logits = {0, 1};
  for (const int64_t n_tokens : {int64_t{0}, int64_t{-1}, int64_t{3}}) {
    EXPECT_EQ(sampler.Next(logits, n_tokens).status().code(), absl::StatusCode::kInvalidArgument) << n_tokens;
  }
}

TEST(Sampler, SurvivesExtremeTemperatures) {
  EXPECT_EQ(Drawn({.temperature = 1e-300}, {1, 2, 1.999f}), (std::set<int32_t>{1}));
  EXPECT_EQ(Drawn({.temperature = 1e6}, {-3e38f, 3e38f}), (std::set<int32_t>{1}));
}

TEST(Sampler, RefusesOptionsOutsideTheirRange) {
  const std::pair<SamplerOptions, const char*> table[] = {{{.temperature = -1}, "temperature"},
                                                          {{.temperature = kNan}, "temperature"},
                                                          {{.top_k = -1}, "top_k"},
                                                          {{.top_p = 0}, "top_p"},
                                                          {{.top_p = 1.1}, "top_p"},
                                                          {{.top_p = kNan}, "top_p"},
                                                          {{.min_p = -0.1}, "min_p"},
                                                          {{.min_p = 2}, "min_p"},
                                                          {{.repetition_penalty = 0}, "repetition_penalty"},
                                                          {{.repetition_penalty = kInfinity}, "repetition_penalty"},
                                                          {{.repetition_window = -1}, "repetition_window"}};
  for (const auto& [options, name] : table) {
    const auto sampler = Sampler::Create(options);
    EXPECT_EQ(sampler.status().code(), absl::StatusCode::kInvalidArgument) << name;
    EXPECT_THAT(std::string(sampler.status().message()), HasSubstr(name));
  }
}

}  // namespace
}  // namespace kompakt
