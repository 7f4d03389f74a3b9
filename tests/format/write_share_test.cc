// Several processes may write one packed file together, each its share of the records.
#include "format/write_share.h"

#include <atomic>
#include <filesystem>
#include <functional>
#include <thread>
#include <utility>

#include "format/packed_target.h"
#include "format/packed_writer.h"
#include "format/volume_plan.h"
#include "gmock/gmock.h"
#include "gtest/gtest.h"
#include "tests/fixtures/faulty_file_system.h"
#include "tests/fixtures/scratch_folder.h"
#include "tests/fixtures/small_arch.h"
#include "tests/fixtures/synthetic_file.h"

namespace kompakt {
namespace {

using testing::ElementsAre;
using testing::IsEmpty;

constexpr uint64_t kSeed = 5;

WritePlan MicroPlan() {
  const auto schema = ModelSchema::Create(MicroArch());
  EXPECT_TRUE(schema.ok()) << schema.status();
  return SyntheticPlan(*schema, EveryFormat(*schema));
}

WriterOptions Share(int64_t index, int64_t count) {
  WriterOptions options;
  options.share = {index, count};
  return options;
}

// Writes what is this writer's and not done, at most `most` records.
absl::Status WriteMine(PackedWriter& writer, const WritePlan& plan, int64_t most = 1 << 30) {
  for (size_t e = 0; e < plan.layout.extents().size(); ++e) {
    for (int64_t r = 0; r < plan.layout.extents()[e].record_count; ++r) {
      const auto extent = static_cast<int64_t>(e);
      if (!writer.IsMine(extent, r) || writer.IsDone(extent, r) || most-- <= 0) continue;
      const auto record = writer.BeginRecord(extent, r);
      absl::Status status = record->Append(SyntheticRecord(plan.layout, extent, r, kSeed));
      if (status.ok()) {
        status = record->Finish(SyntheticStats(plan, extent), SyntheticSourceXxh3(plan, extent, r));
      }
      if (!status.ok()) return status;
    }
  }
  return absl::OkStatus();
}

std::vector<uint8_t> WholeBytes(const WritePlan& plan) {
  const ScratchFolder folder(ScratchFolder::Place::kMemory);
  const absl::Status status = WriteSyntheticFile(PosixFileSystem(), folder / "a.kpk", plan, kSeed);
  EXPECT_TRUE(status.ok()) << status;
  return ReadWholeFile(folder / "a.kpk");
}

TEST(WriteShare, SharesAreRunsOfRecordsInFileOrderAndEachRecordIsInOne) {
  const WritePlan plan = MicroPlan();
  uint64_t total = 0, largest = 0;
  for (const Extent& extent : plan.layout.extents()) {
    total += extent.total_bytes();
    largest = std::max(largest, extent.record_bytes);
  }
  for (const int64_t count : {1, 2, 3, 7, 1000}) {
    const auto shares = ShareOfRecords(plan.layout, count);
    ASSERT_EQ(shares.size(), plan.layout.extents().size());
    std::vector<uint64_t> bytes(static_cast<size_t>(count), 0);
    int64_t last = 0;
    for (size_t e = 0; e < shares.size(); ++e) {
      const Extent& extent = plan.layout.extents()[e];
      ASSERT_EQ(shares[e].size(), static_cast<size_t>(extent.record_count));
      for (const int64_t share : shares[e]) {
        ASSERT_GE(share, last) << "of " << count << " shares, extent " << e;
        ASSERT_LT(share, count);
        last = share;
        bytes[static_cast<size_t>(share)] += extent.record_bytes;
      }
    }
    const uint64_t fair = total / static_cast<uint64_t>(count);
    for (const uint64_t share : bytes) EXPECT_LE(share, fair + 2 * largest) << "of " << count << " shares";
  }
}

TEST(WriteShare, JournalsAreFoundByTheirNamesAndNothingElseIs) {
  EXPECT_EQ(JournalPath("d/a.kpk"), "d/a.kpk.partial.journal");
  EXPECT_EQ(JournalPath("d/a.kpk", {1, 4}), "d/a.kpk.partial.journal.2-of-4");
  const auto share = ShareOfJournal("a.kpk", "a.kpk.partial.journal.2-of-4");
  ASSERT_TRUE(share.has_value());
  EXPECT_EQ(share->index, 1);
  EXPECT_EQ(share->count, 4);
  for (const char* other : {"a.kpk.partial.journal.5-of-4", "a.kpk.partial.journal.0-of-4", "b.kpk.partial.journal",
                            "a.kpk.partial.journal.1-of-1", "a.kpk.partial.journal.01-of-4",
                            "a.kpk.partial.journal.1-of-4.old", "a.kpk.partial.journal.x", "a.kpk.partial"}) {
    EXPECT_FALSE(ShareOfJournal("a.kpk", other).has_value()) << other;
  }
}

TEST(WriteShare, TheLastToFinishCompletesTheFileWithTheBytesOfOneWriter) {
  const WritePlan plan = MicroPlan();
  const std::vector<uint8_t> expected = WholeBytes(plan);
  const ScratchFolder folder(ScratchFolder::Place::kMemory);
  const std::string path = folder / "a.kpk";
  const std::vector<std::vector<int64_t>> left = {{0, 1}, {0}, {}};
  const std::vector<int64_t> order = {2, 1, 0};
  for (size_t i = 0; i < order.size(); ++i) {
    const auto writer = PackedWriter::Open(PosixFileSystem(), path, plan, Share(order[i], 3));
    ASSERT_TRUE(writer.ok()) << writer.status();
    ASSERT_TRUE(WriteMine(**writer, plan).ok());
    const auto unfinished = (*writer)->UnfinishedShares();
    ASSERT_TRUE(unfinished.ok()) << unfinished.status();
    EXPECT_EQ(*unfinished, left[i]);
    ASSERT_FALSE(std::filesystem::exists(path));
    if (!unfinished->empty()) {
      EXPECT_EQ((*writer)->Commit().code(), absl::StatusCode::kInternal) << "records are missing";
    } else {
      const absl::Status committed = (*writer)->Commit();
      ASSERT_TRUE(committed.ok()) << committed;
    }
  }
  EXPECT_EQ(ReadWholeFile(path), expected);
  EXPECT_THAT(JournalPaths(PosixFileSystem(), path), IsEmpty());
}

TEST(WriteShare, SharesThatFinishAtTheSameMomentCompleteItOnce) {
  WritePlan plan = MicroPlan();
  for (const bool volumes : {false, true}) {
    if (volumes) {
      ASSERT_TRUE(CutIntoVolumes(plan, 96 << 10).ok());
    }
    for (int round = 0; round < 20; ++round) {
      const ScratchFolder folder(ScratchFolder::Place::kMemory);
      const std::string path = folder / "a.kpk";
      constexpr int64_t kShares = 4;
      std::vector<absl::Status> outcomes(kShares);
      std::atomic<int> commits = 0;
      std::vector<std::thread> threads;
      for (int64_t s = 0; s < kShares; ++s) {
        threads.emplace_back([&, s] {
          absl::Status& outcome = outcomes[static_cast<size_t>(s)];
          const auto writer = PackedWriter::Open(PosixFileSystem(), path, plan, Share(s, kShares));
          outcome = writer.status();
          if (outcome.ok()) outcome = WriteMine(**writer, plan);
          if (!outcome.ok()) return;
          const auto unfinished = (*writer)->UnfinishedShares();
          outcome = unfinished.status();
          if (!outcome.ok() || !unfinished->empty()) return;
          outcome = (*writer)->Commit();
          if (outcome.ok()) ++commits;
          if (absl::IsAborted(outcome)) outcome = absl::OkStatus();  // another one does
        });
      }
      for (std::thread& thread : threads) thread.join();
      for (const absl::Status& outcome : outcomes) ASSERT_TRUE(outcome.ok()) << "round " << round << ": " << outcome;
      EXPECT_EQ(commits, 1) << "round " << round;
      EXPECT_THAT(JournalPaths(PosixFileSystem(), path), IsEmpty()) << "round " << round;
      for (const std::string& file : TargetPaths(path, plan.manifest)) {
        EXPECT_TRUE(std::filesystem::exists(file)) << "round " << round << ": " << file;
      }
      if (!volumes) {
        EXPECT_EQ(ReadWholeFile(path), WholeBytes(plan)) << "round " << round;
      }
    }
  }
}

// The system's files; right after a listing of a folder that is told to come next, something else happens.
class InterruptedListing : public FaultyFileSystem {
 public:
  InterruptedListing() : FaultyFileSystem(PosixFileSystem(), Fault::kNone, 0) {}

  std::function<void()> next;

  std::vector<std::string> ListPrefix(const std::string& prefix) override {
    std::vector<std::string> paths = FaultyFileSystem::ListPrefix(prefix);
    if (const std::function<void()> happens = std::exchange(next, nullptr)) happens();
    return paths;
  }
};

TEST(WriteShare, OneThatIsOvertakenWhileItReadsTheJournalsFindsTheFileComplete) {
  const WritePlan plan = MicroPlan();
  const ScratchFolder folder(ScratchFolder::Place::kMemory);
  const std::string path = folder / "a.kpk";
  InterruptedListing files;
  const auto fast = PackedWriter::Open(PosixFileSystem(), path, plan, Share(0, 2));
  const auto slow = PackedWriter::Open(files, path, plan, Share(1, 2));
  ASSERT_TRUE(fast.ok() && slow.ok()) << fast.status() << slow.status();
  ASSERT_TRUE(WriteMine(**fast, plan).ok() && WriteMine(**slow, plan).ok());
  files.next = [&] {
    const auto unfinished = (*fast)->UnfinishedShares();
    ASSERT_TRUE(unfinished.ok() && unfinished->empty()) << unfinished.status();
    ASSERT_TRUE((*fast)->Commit().ok());
  };
  const auto unfinished = (*slow)->UnfinishedShares();
  ASSERT_TRUE(unfinished.ok()) << unfinished.status();
  EXPECT_THAT(*unfinished, IsEmpty());
  EXPECT_TRUE(absl::IsAborted((*slow)->Commit()));
  EXPECT_THAT(JournalPaths(PosixFileSystem(), path), IsEmpty());
  EXPECT_EQ(ReadWholeFile(path), WholeBytes(plan));
}

TEST(WriteShare, WhatAShareFinishesWhileAnotherStartsIsKept) {
  const WritePlan plan = MicroPlan();
  const ScratchFolder folder(ScratchFolder::Place::kMemory);
  const std::string path = folder / "a.kpk";
  InterruptedListing files;
  files.next = [&] {
    const auto other = PackedWriter::Open(PosixFileSystem(), path, plan, Share(1, 2));
    ASSERT_TRUE(other.ok()) << other.status();
    ASSERT_TRUE(WriteMine(**other, plan).ok());
  };
  const auto writer = PackedWriter::Open(files, path, plan, Share(0, 2));
  ASSERT_TRUE(writer.ok()) << writer.status();
  ASSERT_TRUE(WriteMine(**writer, plan).ok());
  const auto unfinished = (*writer)->UnfinishedShares();
  ASSERT_TRUE(unfinished.ok()) << unfinished.status();
  EXPECT_THAT(*unfinished, IsEmpty());
  ASSERT_TRUE((*writer)->Commit().ok());
  EXPECT_EQ(ReadWholeFile(path), WholeBytes(plan));
}

TEST(WriteShare, AnUnfinishedFileSaysWhichSharesAreMissing) {
  const WritePlan plan = MicroPlan();
  const ScratchFolder folder(ScratchFolder::Place::kMemory);
  const std::string path = folder / "a.kpk";
  EXPECT_TRUE(absl::IsNotFound(InspectUnfinished(PosixFileSystem(), path).status()));
  {
    const auto first = PackedWriter::Open(PosixFileSystem(), path, plan, Share(0, 3));
    ASSERT_TRUE(first.ok()) << first.status();
    ASSERT_TRUE(WriteMine(**first, plan).ok());
    const auto second = PackedWriter::Open(PosixFileSystem(), path, plan, Share(1, 3));
    ASSERT_TRUE(second.ok()) << second.status();
    ASSERT_TRUE(WriteMine(**second, plan, 1).ok());
  }
  const auto state = InspectUnfinished(PosixFileSystem(), path);
  ASSERT_TRUE(state.ok()) << state.status();
  ASSERT_EQ(state->splits.size(), 1u);
  EXPECT_EQ(state->splits[0].count, 3);
  EXPECT_THAT(state->splits[0].unfinished, ElementsAre(1, 2));
  EXPECT_GT(state->finished, 0);
  EXPECT_LT(state->finished, state->records);
}

TEST(WriteShare, AWriterOfTheWholeGoesOnFromShares) {
  const WritePlan plan = MicroPlan();
  const ScratchFolder folder(ScratchFolder::Place::kMemory);
  const std::string path = folder / "a.kpk";
  {
    const auto share = PackedWriter::Open(PosixFileSystem(), path, plan, Share(1, 2));
    ASSERT_TRUE(share.ok()) << share.status();
    ASSERT_TRUE(WriteMine(**share, plan).ok());
    EXPECT_TRUE(absl::IsAborted(PackedWriter::Open(PosixFileSystem(), path, plan, {}).status()))
        << "while the share is written";
    EXPECT_TRUE(absl::IsAborted(PackedWriter::Open(PosixFileSystem(), path, plan, Share(1, 2)).status()))
        << "the same share twice";
  }
  {
    const auto whole = PackedWriter::Open(PosixFileSystem(), path, plan, {});
    ASSERT_TRUE(whole.ok()) << whole.status();
    EXPECT_GT((*whole)->resumed_records(), 0);
    EXPECT_TRUE(absl::IsAborted(PackedWriter::Open(PosixFileSystem(), path, plan, Share(0, 2)).status()))
        << "while the whole is written";
  }
  const absl::Status finished = WriteSyntheticFile(PosixFileSystem(), path, plan, kSeed);
  ASSERT_TRUE(finished.ok()) << finished;
  EXPECT_EQ(ReadWholeFile(path), WholeBytes(plan));
  EXPECT_THAT(JournalPaths(PosixFileSystem(), path), IsEmpty());
}

}  // namespace
}  // namespace kompakt
