// What a session refuses, and that it stays usable afterwards.
#include "runtime/session.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <cmath>
#include <cstdlib>
#include <limits>
#include <thread>

#include "converters/checkpoint.h"
#include "runtime/exact_store.h"
#include "tests/converters/status_matchers.h"
#include "tests/runtime/golden_file.h"

namespace kompakt {
namespace {

using testing::ElementsAreArray;

// The weights of another store, with one value of one vector replaced.
class Damaged : public WeightStore {
 public:
  Damaged(const WeightStore& whole, TensorRole role, int32_t layer, float value)
      : whole_(whole), role_(role), layer_(layer), value_(value) {}

  const std::string& origin() const override { return whole_.origin(); }
  const ModelSchema& schema() const override { return whole_.schema(); }
  absl::StatusOr<MatrixView> Matrix(const TensorInfo& tensor) const override { return whole_.Matrix(tensor); }
  absl::StatusOr<std::vector<float>> Vector(const TensorInfo& tensor) const override {
    absl::StatusOr<std::vector<float>> values = whole_.Vector(tensor);
    if (values.ok() && tensor.role == role_ && tensor.layer == layer_) values->at(5) = value_;
    return values;
  }

 private:
  const WeightStore& whole_;
  TensorRole role_;
  int32_t layer_;
  float value_;
};

std::unique_ptr<Session> NewSession(int64_t max_tokens) {
  return *Session::Create(ExactModel("v2lite", nullptr), max_tokens);
}

TEST(Session, RefusesATimelineWithoutRoom) {
  const auto model = ExactModel("v2lite", nullptr);
  EXPECT_THAT(Session::Create(model, 0), Fails(absl::StatusCode::kInvalidArgument, {"max_tokens", "0"}));
  EXPECT_THAT(Session::Create(model, -5), Fails(absl::StatusCode::kInvalidArgument, {"-5"}));
}

TEST(Session, RefusesACacheThatTheMachineCannotHold) {
  const auto model = ExactModel("v2lite", nullptr);
  for (const int64_t tokens : {int64_t{1} << 45, std::numeric_limits<int64_t>::max()}) {
    EXPECT_THAT(Session::Create(model, tokens),
                Fails(absl::StatusCode::kResourceExhausted, {"latent cache", std::to_string(tokens)}));
  }
}

TEST(Session, CacheTakesLatentAndRotaryKeyPerTokenAndLayer) {
  EXPECT_EQ(NewSession(10)->cache_bytes(), 10u * 3u * (64u + 16u) * sizeof(float));
}

TEST(Session, RefusesIdsOutsideTheVocabularyAndKeepsItsPlace) {
  auto session = NewSession(8);
  const std::vector<int32_t> good = {1, 2, 3};
  const auto first = session->Forward(good, Session::Logits::kLast);
  ASSERT_THAT(first, IsOk());
  for (const int32_t bad : {-1, 320, std::numeric_limits<int32_t>::max()}) {
    const std::vector<int32_t> ids = {4, bad};
    EXPECT_THAT(session->Forward(ids, Session::Logits::kLast),
                Fails(absl::StatusCode::kInvalidArgument, {"token 1", std::to_string(bad), "320"}));
    EXPECT_EQ(session->position(), 3);
  }
}

TEST(Session, RefusesMoreTokensThanItHasRoomFor) {
  auto session = NewSession(4);
  const std::vector<int32_t> five(5, 1);
  EXPECT_THAT(session->Forward(five, Session::Logits::kNone),
              Fails(absl::StatusCode::kInvalidArgument, {"room", "5", "4"}));
  EXPECT_EQ(session->position(), 0);
  EXPECT_THAT(session->Forward(absl::MakeSpan(five).first(4), Session::Logits::kNone), IsOk());
  EXPECT_THAT(session->Forward(absl::MakeSpan(five).first(1), Session::Logits::kNone),
              Fails(absl::StatusCode::kInvalidArgument, {"room"}));
}

TEST(Session, GivesAsManyLogitsAsWereAskedFor) {
  auto session = NewSession(16);
  const std::vector<int32_t> ids = {7, 8, 9};
  EXPECT_EQ(session->Forward(ids, Session::Logits::kNone)->logits.size(), 0u);
  EXPECT_EQ(session->Forward(ids, Session::Logits::kLast)->logits.size(), 320u);
  EXPECT_EQ(session->Forward(ids, Session::Logits::kAll)->logits.size(), 3u * 320u);
  EXPECT_EQ(session->Forward({}, Session::Logits::kAll)->logits.size(), 0u);
  EXPECT_EQ(session->Forward({}, Session::Logits::kLast)->logits.size(), 0u);
  EXPECT_EQ(session->position(), 9);
}

TEST(Session, LastLogitsAreThoseOfTheLastToken) {
  const std::vector<int32_t> ids = {7, 8, 9, 10};
  auto session = NewSession(4);
  const std::vector<float> all = session->Forward(ids, Session::Logits::kAll)->logits;
  ASSERT_THAT(session->Rewind(0), IsOk());
  const std::vector<float> last = session->Forward(ids, Session::Logits::kLast)->logits;
  EXPECT_THAT(last, ElementsAreArray(all.end() - 320, all.end()));
}

TEST(Session, RewindForgetsWhatCameAfter) {
  auto session = NewSession(6);
  const std::vector<int32_t> ids = {7, 8, 9};
  const std::vector<int32_t> other = {11, 12, 13};
  ASSERT_THAT(session->Forward(ids, Session::Logits::kNone), IsOk());
  const std::vector<float> once = session->Forward(ids, Session::Logits::kAll)->logits;
  ASSERT_THAT(session->Rewind(3), IsOk());
  ASSERT_THAT(session->Forward(other, Session::Logits::kNone), IsOk());
  ASSERT_THAT(session->Rewind(3), IsOk());
  EXPECT_EQ(session->Forward(ids, Session::Logits::kAll)->logits, once);
  EXPECT_THAT(session->Rewind(7), Fails(absl::StatusCode::kInvalidArgument, {"7", "6"}));
  EXPECT_THAT(session->Rewind(-1), Fails(absl::StatusCode::kInvalidArgument, {"-1"}));
}

TEST(Session, StopsAtTheLayerWhoseHiddenStateIsNotFinite) {
  const auto whole = ExactModel("v2lite", nullptr);
  const struct {
    TensorRole role;
    int32_t layer;
    float value;
    std::string where;
  } cases[] = {{TensorRole::kInputNorm, 1, NAN, "layer 1"},
               {TensorRole::kPostAttentionNorm, 2, INFINITY, "layer 2"},
               {TensorRole::kKvANorm, 0, NAN, "layer 0"},
               {TensorRole::kFinalNorm, -1, NAN, "final norm"}};
  for (const auto& c : cases) {
    const auto weights = std::make_shared<Damaged>(whole->weights(), c.role, c.layer, c.value);
    for (const KernelSet* kernels : AvailableKernelSets()) {
      const auto model = *Model::Load(weights, {.threads = 2, .kernels = kernels});
      auto session = *Session::Create(model, 8);
      const std::vector<int32_t> ids = {1, 2, 3};
      for (const size_t tokens : {3u, 1u}) {
        EXPECT_THAT(session->Forward(absl::MakeSpan(ids).first(tokens), Session::Logits::kLast),
                    Fails(absl::StatusCode::kDataLoss, {"v2lite", c.where, "position"}))
            << kernels->name;
        EXPECT_EQ(session->position(), 0);
      }
    }
  }
}

TEST(Session, SessionsOfOneModelRunSideBySide) {
  const auto model = ExactModel("v3", nullptr);
  const std::vector<int32_t> ids = {5, 6, 7, 8, 9, 10, 11, 12};
  const std::vector<float> want = (*Session::Create(model, 8))->Forward(ids, Session::Logits::kAll)->logits;
  std::vector<std::vector<float>> got(4);
  std::vector<std::thread> threads;
  for (auto& logits : got) {
    threads.emplace_back([&] { logits = (*Session::Create(model, 8))->Forward(ids, Session::Logits::kAll)->logits; });
  }
  for (std::thread& thread : threads) thread.join();
  for (const auto& logits : got) EXPECT_EQ(logits, want);
}

TEST(Model, RefusesLessThanOneThreadAndAnUnknownInstructionSet) {
  const auto source = *OpenCheckpoint(CheckpointFolder("v2lite"));
  const auto weights = *LoadExactWeights(*source, "v2lite", 1);
  EXPECT_THAT(Model::Load(weights, {.threads = 0}), Fails(absl::StatusCode::kInvalidArgument, {"threads", "0"}));
  ASSERT_EQ(setenv("KOMPAKT_ISA", "portabel", 1), 0);
  EXPECT_THAT(Model::Load(weights, {.threads = 1}),
              Fails(absl::StatusCode::kInvalidArgument, {"KOMPAKT_ISA", "portabel", "portable"}));
  ASSERT_EQ(setenv("KOMPAKT_ISA", "reference", 1), 0);
  EXPECT_EQ((*Model::Load(weights, {.threads = 1}))->kernels().name, "reference");
  ASSERT_EQ(unsetenv("KOMPAKT_ISA"), 0);
}

TEST(ExactWeights, HoldTheValuesOfTheirSource) {
  for (const char* const name : {"v3", "kimi", "v2lite"}) {
    const auto source = *OpenCheckpoint(CheckpointFolder(name));
    const auto weights = *LoadExactWeights(*source, name, 2);
    for (const TensorInfo& info : source->schema().tensors()) {
      std::vector<float> want(static_cast<size_t>(info.elements()));
      ASSERT_THAT(source->ReadF32(info, 0, info.rows, absl::MakeSpan(want)), IsOk());
      std::vector<float> got(want.size());
      if (info.is_vector()) {
        got = *weights->Vector(info);
        EXPECT_FALSE(weights->Matrix(info).ok());
      } else {
        DecodeRows(*weights->Matrix(info), 0, info.rows, absl::MakeSpan(got));
        EXPECT_FALSE(weights->Vector(info).ok());
      }
      ASSERT_EQ(got, want) << name << " " << info.Name();
    }
  }
}

}  // namespace
}  // namespace kompakt
