#include "validate/perplexity.h"

#include <cmath>
#include <string>
#include <vector>

#include "converters/checkpoint.h"
#include "gmock/gmock.h"
#include "gtest/gtest.h"
#include "runtime/exact_store.h"
#include "runtime/session.h"

namespace kompakt {
namespace {

using testing::HasSubstr;

std::shared_ptr<const Model> LoadV2Lite() {
  const std::string folder = KOMPAKT_TEST_DATA "/checkpoints/v2lite";
  const auto source = OpenCheckpoint(folder);
  EXPECT_TRUE(source.ok()) << source.status();
  const auto weights = LoadExactWeights(**source, folder, 2);
  EXPECT_TRUE(weights.ok()) << weights.status();
  ModelOptions options;
  options.threads = 2;
  const auto model = Model::Load(*weights, options);
  EXPECT_TRUE(model.ok()) << model.status();
  return *model;
}

// Ids that repeat with no short period and stay inside the vocabulary of 320.
std::vector<int32_t> SomeIds(int64_t n) {
  std::vector<int32_t> ids;
  for (int64_t i = 0; i < n; ++i) ids.push_back(static_cast<int32_t>((i * i * 7 + 3 * i + 11) % 320));
  return ids;
}

TEST(Perplexity, FollowsTheChunkConventionOfLlamaPerplexity) {
  const std::shared_ptr<const Model> model = LoadV2Lite();
  constexpr int64_t kContext = 16;
  constexpr int32_t kBos = 0;
  const std::vector<int32_t> ids = SomeIds(2 * kContext + 5);

  // By the definition: BOS before the text, whole chunks only, first token of each replaced, second half scored.
  std::vector<int32_t> text = {kBos};
  text.insert(text.end(), ids.begin(), ids.end());
  double sum = 0, squares = 0;
  int64_t scored = 0;
  for (size_t chunk = 0; chunk < 2; ++chunk) {
    std::vector<int32_t> part(text.begin() + static_cast<ptrdiff_t>(chunk * kContext),
                              text.begin() + static_cast<ptrdiff_t>((chunk + 1) * kContext));
    part[0] = kBos;
    const auto session = Session::Create(model, kContext);
    ASSERT_TRUE(session.ok()) << session.status();
    const auto out = (*session)->Forward(part, Session::Logits::kAll);
    ASSERT_TRUE(out.ok()) << out.status();
    for (size_t t = kContext / 2; t + 1 < kContext; ++t) {
      const float* row = out->logits.data() + t * 320;
      double total = 0;
      for (size_t v = 0; v < 320; ++v) total += std::exp(static_cast<double>(row[v]));
      const double nll = std::log(total) - static_cast<double>(row[static_cast<size_t>(part[t + 1])]);
      sum += nll;
      squares += nll * nll;
      ++scored;
    }
  }
  const double mean = sum / static_cast<double>(scored);
  const double variance = squares / static_cast<double>(scored) - mean * mean;

  const auto result = Perplexity(model, ids, kBos, kContext, nullptr);
  ASSERT_TRUE(result.ok()) << result.status();
  EXPECT_EQ(result->chunks, 2);
  EXPECT_EQ(result->tokens, 2 * kContext + 6);
  EXPECT_EQ(result->tokens_scored, scored);
  // The chunk is fed in two pieces, so logits differ by rounding only.
  EXPECT_NEAR(result->mean_nll, mean, 1e-4);
  EXPECT_NEAR(result->perplexity, std::exp(mean), 1e-4 * std::exp(mean));
  EXPECT_NEAR(result->stderr_perplexity, std::exp(mean) * std::sqrt(variance / static_cast<double>(scored - 1)),
              1e-3 * std::exp(mean));
}

TEST(Perplexity, AShortTextAndASmallContextAreRefusedWithTheNumbers) {
  const std::shared_ptr<const Model> model = LoadV2Lite();
  const auto too_short = Perplexity(model, SomeIds(10), 0, 16, nullptr);
  EXPECT_EQ(too_short.status().code(), absl::StatusCode::kInvalidArgument);
  EXPECT_THAT(std::string(too_short.status().message()), HasSubstr("11 tokens"));
  EXPECT_EQ(Perplexity(model, SomeIds(10), 0, 3, nullptr).status().code(), absl::StatusCode::kInvalidArgument);
}

TEST(Perplexity, StopsBetweenChunksWhenAsked) {
  const std::shared_ptr<const Model> model = LoadV2Lite();
  int64_t chunks = 0;
  const auto result = Perplexity(model, SomeIds(64), 0, 16, [&](int64_t done, int64_t) {
    chunks = done;
    return done < 2;
  });
  EXPECT_EQ(result.status().code(), absl::StatusCode::kCancelled);
  EXPECT_EQ(chunks, 2);
}

}  // namespace
}  // namespace kompakt
