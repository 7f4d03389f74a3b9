#include "validate/trial.h"

#include <atomic>
#include <memory>
#include <string>
#include <vector>

#include "converters/checkpoint.h"
#include "gmock/gmock.h"
#include "gtest/gtest.h"
#include "quant/trial_weights.h"
#include "runtime/exact_store.h"
#include "validate/compare.h"

namespace kompakt {
namespace {

constexpr int64_t kContext = 32;

class Trial : public testing::Test {
 protected:
  void SetUp() override {
    const std::string folder = KOMPAKT_TEST_DATA "/checkpoints/v2lite";
    const auto source = OpenCheckpoint(folder);
    ASSERT_TRUE(source.ok()) << source.status();
    const auto weights = LoadExactWeights(**source, folder, 2);
    ASSERT_TRUE(weights.ok()) << weights.status();
    weights_ = *weights;
    for (int64_t i = 0; i < 4 * kContext; ++i) ids_.push_back(static_cast<int32_t>((i * i * 7 + 3 * i + 11) % 320));
    auto chunks = ScoredChunks::Create(ids_, 0, kContext);
    ASSERT_TRUE(chunks.ok()) << chunks.status();
    chunks_ = *std::move(chunks);
  }

  std::shared_ptr<const Model> Load(std::shared_ptr<const WeightStore> weights) const {
    const auto model = Model::Load(std::move(weights), {.threads = 2, .kernels = nullptr});
    EXPECT_TRUE(model.ok()) << model.status();
    return *model;
  }

  // The model with the matrices of one role quantized.
  std::shared_ptr<const Model> Quantized(TensorRole role, FormatId format) const {
    std::vector<TensorInfo> tensors;
    for (const TensorInfo& tensor : weights_->schema().tensors()) {
      if (tensor.role == role) tensors.push_back(tensor);
    }
    const std::atomic<bool> never = false;
    auto trial = EncodeTrial(*weights_, tensors, format, 2, never);
    EXPECT_TRUE(trial.ok()) << trial.status();
    EXPECT_GT(trial->error.sum_squared_error(), 0);
    auto overlay = OverlayWeights(weights_, std::move(trial->matrices));
    EXPECT_TRUE(overlay.ok()) << overlay.status();
    return Load(*overlay);
  }

  std::shared_ptr<const WeightStore> weights_;
  std::vector<int32_t> ids_;
  ScoredChunks chunks_;
};

TEST_F(Trial, OfTheSameModelIsNothing) {
  const auto bench = TrialBench::Create(Load(weights_), chunks_, 3);
  ASSERT_TRUE(bench.ok()) << bench.status();
  const auto result = (*bench)->Run(Load(weights_), nullptr);
  ASSERT_TRUE(result.ok()) << result.status();
  EXPECT_EQ(result->kl_free.mean(), 0);
  EXPECT_EQ(result->kl_frozen.mean(), 0);
  EXPECT_EQ(result->kl_free.count(), (*bench)->tokens_scored());
}

TEST_F(Trial, WithItsOwnRoutingIsWhatCompareFinds) {
  const auto changed = Quantized(TensorRole::kOProj, FormatId::kQ4G32);
  CompareOptions options;
  options.context = kContext;
  const auto compared = Compare(Load(weights_), changed, ids_, 0, options);
  ASSERT_TRUE(compared.ok()) << compared.status();
  const auto bench = TrialBench::Create(Load(weights_), chunks_, chunks_.count());
  ASSERT_TRUE(bench.ok()) << bench.status();
  for (int time = 0; time < 2; ++time) {  // the second time what the original says is taken from memory
    const auto result = (*bench)->Run(changed, nullptr);
    ASSERT_TRUE(result.ok()) << result.status();
    EXPECT_EQ(result->kl_free.mean(), compared->divergence.kl.mean());
    EXPECT_GT(result->kl_frozen.mean(), 0);
    EXPECT_NE(result->kl_frozen.mean(), result->kl_free.mean());
  }
}

TEST_F(Trial, OfTheRouterAloneIsNothingWhenRoutingIsFrozen) {
  // A router in other bytes: only routing can change.
  std::vector<MatrixReplacement> routers;
  const std::atomic<bool> never = false;
  for (const TensorInfo& tensor : weights_->schema().tensors()) {
    if (tensor.role != TensorRole::kRouter) continue;
    auto trial = EncodeTrial(*weights_, {tensor}, FormatId::kQ4G32, 1, never);
    ASSERT_TRUE(trial.ok()) << trial.status();
    routers.push_back(std::move(trial->matrices.front()));
  }
  const auto overlay = OverlayWeights(weights_, std::move(routers));
  ASSERT_TRUE(overlay.ok()) << overlay.status();
  const auto bench = TrialBench::Create(Load(weights_), chunks_, 4);
  ASSERT_TRUE(bench.ok()) << bench.status();
  const auto result = (*bench)->Run(Load(*overlay), nullptr);
  ASSERT_TRUE(result.ok()) << result.status();
  EXPECT_GT(result->kl_free.mean(), 0);
  EXPECT_EQ(result->kl_frozen.mean(), 0);
}

TEST_F(Trial, ThatWasStoppedDoesNotSpoilTheNext) {
  const auto changed = Quantized(TensorRole::kExpertDown, FormatId::kQ4G32);
  const auto bench = TrialBench::Create(Load(weights_), chunks_, 4);
  ASSERT_TRUE(bench.ok()) << bench.status();
  int pieces = 0;
  EXPECT_EQ((*bench)->Run(changed, [&] { return ++pieces < 3; }).status().code(), absl::StatusCode::kCancelled);
  const auto after = (*bench)->Run(changed, nullptr);
  const auto fresh = TrialBench::Create(Load(weights_), chunks_, 4);
  ASSERT_TRUE(after.ok() && fresh.ok());
  EXPECT_EQ(after->kl_free.mean(), (*fresh)->Run(changed, nullptr)->kl_free.mean());
}

TEST_F(Trial, AnOverlayRefusesWhatDoesNotFit) {
  const TensorInfo head =
      weights_->schema().tensors()[static_cast<size_t>(weights_->schema().Find(TensorRole::kOProj, 0))];
  const TensorInfo norm =
      weights_->schema().tensors()[static_cast<size_t>(weights_->schema().Find(TensorRole::kInputNorm, 0))];
  EXPECT_EQ(OverlayWeights(weights_, {{head, FormatId::kQ4G32, std::vector<uint8_t>(10)}}).status().code(),
            absl::StatusCode::kInvalidArgument);
  EXPECT_EQ(OverlayWeights(weights_, {{norm, FormatId::kF32, {}}}).status().code(), absl::StatusCode::kInvalidArgument);
  const std::atomic<bool> never = false;
  auto trial = EncodeTrial(*weights_, {head, head}, FormatId::kQ4G32, 1, never);
  ASSERT_TRUE(trial.ok()) << trial.status();
  EXPECT_EQ(OverlayWeights(weights_, std::move(trial->matrices)).status().code(), absl::StatusCode::kInvalidArgument);
}

TEST_F(Trial, RoutingOfOtherTokensIsRefused) {
  const auto session = Session::Create(Load(weights_), kContext);
  ASSERT_TRUE(session.ok()) << session.status();
  ForwardTrace trace;
  ASSERT_TRUE((*session)->Forward(absl::MakeConstSpan(ids_).first(8), Session::Logits::kNone, &trace).ok());
  const auto refused = (*session)->Forward(absl::MakeConstSpan(ids_).first(7), Session::Logits::kLast, nullptr, &trace);
  EXPECT_EQ(refused.status().code(), absl::StatusCode::kInvalidArgument) << refused.status();
}

}  // namespace
}  // namespace kompakt
