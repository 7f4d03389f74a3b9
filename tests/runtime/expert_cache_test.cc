// An ExpertCache gives every call the experts it needs, in order, with the right bytes, however little it may hold; and
// keeps those that are used often.
#include "runtime/expert_cache.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <unistd.h>

#include <algorithm>
#include <cstring>
#include <random>
#include <set>

#include "format/volume_set.h"
#include "tests/converters/status_matchers.h"
#include "tests/fixtures/scratch_folder.h"
#include "tests/fixtures/small_arch.h"
#include "tests/fixtures/synthetic_file.h"

namespace kompakt {
namespace {

constexpr int32_t kLayer = 1;
constexpr int32_t kNextLayer = 2;
constexpr int64_t kExperts = 16;

class ExpertCacheTest : public testing::Test {
 protected:
  ExpertCacheTest() {
    ArchSpec arch = SmallV3Arch();
    arch.mutable_moe()->set_n_routed_experts(kExperts);
    MakeSyntheticFile(arch, path());
    Open();
  }

  std::string path() const { return folder_ / "model.kpk"; }
  void Open() { file_ = *OpenPacked(PosixFileSystem(), path()); }

  const Extent& extent(int32_t layer) const {
    const auto& layout = file_.index.layout;
    return layout.extents()[static_cast<size_t>(layout.Find(TensorRole::kExpertGate, layer).extent)];
  }
  uint64_t BytesOfSlots(int64_t slots) const {
    return static_cast<uint64_t>(slots) * (extent(kLayer).record_bytes + extent(kNextLayer).record_bytes);
  }
  void MakeCache(int64_t slots) {
    absl::StatusOr<std::unique_ptr<ExpertCache>> cache =
        ExpertCache::Create(*file_.data, file_.index, path(), BytesOfSlots(slots));
    ASSERT_THAT(cache, IsOk());
    cache_ = *std::move(cache);
    ASSERT_EQ(cache_->slots(kLayer), slots);
    ASSERT_EQ(cache_->slots(kNextLayer), slots);
  }

  // A call for tokens that use `experts`, one each. Every expert must come once, in ascending order, with its bytes.
  absl::Status Use(int32_t layer, std::vector<int32_t> experts, std::vector<int32_t> guess = {}) {
    const std::vector<float> weights(experts.size(), 1.0f);
    const ExpertFfnParams params{
        .n_experts = kExperts, .ids = experts.data(), .weights = weights.data(), .k = 1, .tokens = std::ssize(experts)};
    const std::set<int32_t> needed(experts.begin(), experts.end());
    std::vector<int32_t> seen;
    int meanwhile = 0;
    const absl::Status status = cache_->Run(
        layer, params,
        [&] {
          ++meanwhile;
          if (!guess.empty()) cache_->Guess(kNextLayer, guess);
          return absl::OkStatus();
        },
        [&](const ExpertFfnParams& part) {
          EXPECT_EQ(part.accumulate, !seen.empty());
          for (const int32_t id : needed) {
            if (!part.Counts(id)) continue;
            seen.push_back(id);
            ExpectBytes(layer, id, part.experts[id]);
          }
          return absl::OkStatus();
        });
    if (status.ok()) {
      EXPECT_EQ(meanwhile, 1);
      EXPECT_EQ(seen, std::vector<int32_t>(needed.begin(), needed.end()));
    }
    return status;
  }

  void ExpectBytes(int32_t layer, int32_t expert, const FfnWeights& weights) {
    const Extent& e = extent(layer);
    std::vector<uint8_t> record(e.record_bytes);
    ASSERT_THAT(file_.data->ReadAt(e.record_offset(expert), absl::MakeSpan(record)), IsOk());
    for (const ExtentPart& part : e.parts) {
      const MatrixView& view = part.role == TensorRole::kExpertGate ? weights.gate
                               : part.role == TensorRole::kExpertUp ? weights.up
                                                                    : weights.down;
      ASSERT_EQ(view.format->id, part.format);
      ASSERT_EQ(std::memcmp(view.data, &record[part.offset_in_record], part.blob.total_bytes), 0)
          << "layer " << layer << " expert " << expert << " " << InfoOf(part.role).name;
    }
  }

  ScratchFolder folder_;
  OpenedPacked file_;
  std::unique_ptr<ExpertCache> cache_;
};

TEST_F(ExpertCacheTest, GivesEveryCallItsExpertsWhateverItMayHold) {
  for (const int64_t slots : {2, 3, 5, 9, 16}) {
    MakeCache(slots);
    std::mt19937 random(static_cast<uint32_t>(slots));
    for (int call = 0; call < 60; ++call) {
      const size_t tokens = call % 3 == 0 ? 1 + random() % 200 : 1 + random() % 4;
      std::vector<int32_t> experts(tokens), guess(random() % 12);
      for (int32_t& e : experts) e = static_cast<int32_t>(random() % kExperts);
      std::set<int32_t> guessed;
      for (size_t i = 0; i < guess.size(); ++i) guessed.insert(static_cast<int32_t>(random() % kExperts));
      guess.assign(guessed.begin(), guessed.end());
      ASSERT_THAT(Use(call % 2 == 0 ? kLayer : kNextLayer, experts, call % 2 == 0 ? guess : std::vector<int32_t>()),
                  IsOk());
    }
    const ExpertCacheStats stats = cache_->stats();
    EXPECT_GT(stats.uses, 300u);
    EXPECT_EQ(stats.uses, stats.hits + stats.guessed + stats.misses());
    if (slots == kExperts) {
      EXPECT_EQ(stats.read_bytes, BytesOfSlots(kExperts)) << "with room for all, every record is read once";
    }
  }
}

TEST_F(ExpertCacheTest, ACallThatNeedsMoreThanThereIsRoomForReadsLittleTwice) {
  MakeCache(8);
  std::vector<int32_t> all(kExperts);
  for (int32_t e = 0; e < kExperts; ++e) all[static_cast<size_t>(e)] = e;
  for (int call = 0; call < 3; ++call) ASSERT_THAT(Use(kLayer, all), IsOk());
  const ExpertCacheStats before = cache_->stats();
  ASSERT_THAT(Use(kLayer, all), IsOk());
  const ExpertCacheStats stats = cache_->stats().Since(before);
  // Eight are not there; four more go to make room for reads ahead, and come back.
  EXPECT_EQ(stats.hits, 8u);
  EXPECT_LE(stats.read_bytes, 12 * extent(kLayer).record_bytes);
}

TEST_F(ExpertCacheTest, KeepsWhatIsUsedOftenWhenOthersPassThrough) {
  MakeCache(4);
  for (int round = 0; round < 10; ++round) ASSERT_THAT(Use(kLayer, {3, 7, 11}), IsOk());
  const ExpertCacheStats before = cache_->stats();
  for (const int32_t passing : {0, 1, 2, 4, 5, 6, 8, 9}) {
    ASSERT_THAT(Use(kLayer, {passing}), IsOk());
    ASSERT_THAT(Use(kLayer, {3, 7, 11}), IsOk());
  }
  const ExpertCacheStats stats = cache_->stats().Since(before);
  EXPECT_EQ(stats.hits, 24u) << "3, 7 and 11 every time";
  EXPECT_EQ(stats.misses(), 8u);
}

TEST_F(ExpertCacheTest, ForgetsWhatWasUsedOftenLongAgo) {
  MakeCache(2);
  for (int round = 0; round < 50; ++round) ASSERT_THAT(Use(kLayer, {3, 7}), IsOk());
  for (int round = 0; round < 600; ++round) ASSERT_THAT(Use(kLayer, {0}), IsOk());
  for (int round = 0; round < 10; ++round) ASSERT_THAT(Use(kLayer, {0, 1}), IsOk());
  const ExpertCacheStats before = cache_->stats();
  ASSERT_THAT(Use(kLayer, {0, 1}), IsOk());
  EXPECT_EQ(cache_->stats().Since(before).hits, 2u);
}

TEST_F(ExpertCacheTest, ARightGuessIsReadAheadAndAWrongOneTakesNothingHot) {
  MakeCache(8);
  const std::vector<int32_t> hot = {1, 3, 5, 7, 9, 11};
  for (int round = 0; round < 20; ++round) ASSERT_THAT(Use(kNextLayer, hot), IsOk());
  const ExpertCacheStats before = cache_->stats();
  for (int round = 0; round < 20; ++round) {
    // More guesses than may have slots, all of them wrong.
    ASSERT_THAT(Use(kLayer, {0}, {0, 2, 4, 6, 8, 10, 12, 14}), IsOk());
    ASSERT_THAT(Use(kNextLayer, hot), IsOk());
  }
  ExpertCacheStats stats = cache_->stats().Since(before);
  EXPECT_EQ(stats.misses(), 1u) << "expert 0 of the first layer, once";
  EXPECT_EQ(stats.guessed, 0u);
  EXPECT_GT(stats.guesses, 0u);
  EXPECT_LE(stats.guesses, 20u * static_cast<uint64_t>(cache_->MostGuesses(kNextLayer)));

  ASSERT_THAT(Use(kLayer, {0}, {13, 15}), IsOk());
  const ExpertCacheStats guessed = cache_->stats();
  ASSERT_THAT(Use(kNextLayer, {13, 15}), IsOk());
  stats = cache_->stats().Since(guessed);
  EXPECT_EQ(stats.guessed, 2u);
  EXPECT_EQ(stats.misses(), 0u);
}

TEST_F(ExpertCacheTest, GuessesForALayerWithoutExpertsAreNoGuesses) {
  MakeCache(4);
  EXPECT_EQ(cache_->MostGuesses(0), 0);
  EXPECT_EQ(cache_->MostGuesses(77), 0);
  cache_->Guess(0, {1});
  EXPECT_EQ(cache_->stats().guesses, 0u);
}

TEST_F(ExpertCacheTest, NamesADamagedRecordOnItsFirstReadAndGoesOn) {
  const uint64_t offset = extent(kNextLayer).record_offset(5) + 100;
  std::vector<uint8_t> bytes = ReadWholeFile(path());
  bytes[offset] ^= 1;
  WriteWholeFile(path(), bytes);
  Open();
  MakeCache(4);
  const auto damage = Fails(absl::StatusCode::kDataLoss, {"expert 5, ", "expected XXH3"});
  EXPECT_THAT(Use(kNextLayer, {2, 5, 9}), damage);
  EXPECT_THAT(Use(kNextLayer, {2, 9}), IsOk());
  EXPECT_THAT(Use(kLayer, {5}, {4, 5}), IsOk()) << "a guess is nobody's error";
  EXPECT_THAT(Use(kNextLayer, {5}), damage);
  EXPECT_THAT(Use(kNextLayer, {4}), IsOk());
}

TEST_F(ExpertCacheTest, NamesARecordThatTheFileLostMeanwhile) {
  MakeCache(4);
  EXPECT_THAT(Use(kNextLayer, {2, 5}), IsOk());
  ASSERT_EQ(truncate(path().c_str(), static_cast<off_t>(extent(kNextLayer).record_offset(12) + 4096)), 0);
  EXPECT_THAT(Use(kNextLayer, {2, 12}), Fails(absl::StatusCode::kDataLoss, {"expert 12, ", path(), "ends at byte"}));
  EXPECT_THAT(Use(kNextLayer, {2, 5, 11}), IsOk());
}

TEST_F(ExpertCacheTest, RefusesLessThanTwoSlotsPerLayer) {
  const auto cache = ExpertCache::Create(*file_.data, file_.index, path(), BytesOfSlots(2) - 1);
  EXPECT_THAT(cache, Fails(absl::StatusCode::kInvalidArgument, {std::to_string(BytesOfSlots(2))}));
}

TEST_F(ExpertCacheTest, SpendsWhatIsNotEnoughForAllLayersOnTheFirst) {
  const auto slots = ExpertCache::SlotsFor(file_.index.layout, BytesOfSlots(5) + extent(kLayer).record_bytes);
  ASSERT_THAT(slots, IsOk());
  EXPECT_THAT(*slots, testing::ElementsAre(6, 5));
  EXPECT_THAT(*ExpertCache::SlotsFor(file_.index.layout, BytesOfSlots(1000)), testing::ElementsAre(kExperts, kExperts));
}

}  // namespace
}  // namespace kompakt
