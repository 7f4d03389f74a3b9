// A conversion that is cut short at any moment leaves the destination absent, or its old self, or complete; running it
// again gives the bytes of an uninterrupted run.
#include <filesystem>
#include <fstream>

#include "format/packed_reader.h"
#include "format/packed_writer.h"
#include "gmock/gmock.h"
#include "gtest/gtest.h"
#include "tests/fixtures/faulty_file_system.h"
#include "tests/fixtures/scratch_folder.h"
#include "tests/fixtures/small_arch.h"
#include "tests/fixtures/synthetic_file.h"

namespace kompakt {
namespace {

using testing::HasSubstr;

constexpr uint64_t kSeed = 3;

WritePlan MicroPlan() {
  const auto schema = ModelSchema::Create(MicroArch());
  EXPECT_TRUE(schema.ok()) << schema.status();
  return SyntheticPlan(*schema, EveryFormat(*schema));
}

const std::vector<uint8_t>& ExpectedBytes() {
  static const std::vector<uint8_t> bytes = [] {
    const ScratchFolder folder(ScratchFolder::Place::kMemory);
    const absl::Status status = WriteSyntheticFile(PosixFileSystem(), folder / "a.kpk", MicroPlan(), kSeed);
    EXPECT_TRUE(status.ok()) << status;
    return ReadWholeFile(folder / "a.kpk");
  }();
  return bytes;
}

struct FaultCase {
  std::string name;
  Fault fault;
  bool with_old_destination;
};

class PackedRecovery : public testing::TestWithParam<FaultCase> {};

TEST_P(PackedRecovery, AFaultAtAnyStepHarmsNothingAndTheNextRunFinishes) {
  const FaultCase& param = GetParam();
  const std::vector<uint8_t> old_self = {'o', 'l', 'd'};
  const WritePlan plan = MicroPlan();
  int64_t steps = 0;
  int64_t resumed = 0;
  for (int64_t step = 0;; ++step) {
    const ScratchFolder folder(ScratchFolder::Place::kMemory);
    const std::string path = folder / "a.kpk";
    if (param.with_old_destination) WriteWholeFile(path, old_self);
    FaultyFileSystem faulty(PosixFileSystem(), param.fault, step);
    const absl::Status status = WriteSyntheticFile(faulty, path, plan, kSeed);
    if (!faulty.failed()) {
      EXPECT_TRUE(status.ok()) << status;
      steps = step;
      break;
    }
    if (!std::filesystem::exists(path)) {
      ASSERT_FALSE(param.with_old_destination) << "step " << step << ": the old file is gone";
    } else if (const std::vector<uint8_t> now = ReadWholeFile(path); now != ExpectedBytes()) {
      ASSERT_TRUE(param.with_old_destination && now == old_self) << "step " << step << ": half a file";
    }
    // Opened apart from the run below only to count what survived.
    {
      const auto writer = PackedWriter::Open(PosixFileSystem(), path, plan, {});
      ASSERT_TRUE(writer.ok()) << "step " << step << ": " << writer.status();
      resumed += (*writer)->resumed_records();
    }
    const absl::Status again = WriteSyntheticFile(PosixFileSystem(), path, plan, kSeed);
    ASSERT_TRUE(again.ok()) << "step " << step << " (" << status << "): " << again;
    ASSERT_EQ(ReadWholeFile(path), ExpectedBytes()) << "step " << step;
    EXPECT_FALSE(std::filesystem::exists(path + ".partial")) << "step " << step;
    EXPECT_FALSE(std::filesystem::exists(path + ".partial.journal")) << "step " << step;
  }
  EXPECT_GT(steps, 100) << "the faults did not cover the conversion";
  EXPECT_GT(resumed, steps) << "hardly anything was resumed";
}

INSTANTIATE_TEST_SUITE_P(All, PackedRecovery,
                         testing::Values(FaultCase{"DiskFull", Fault::kDiskFull, false},
                                         FaultCase{"DeviceError", Fault::kDeviceError, false},
                                         FaultCase{"DeviceErrorOverOldFile", Fault::kDeviceError, true},
                                         FaultCase{"Crash", Fault::kCrash, false},
                                         FaultCase{"CrashOverOldFile", Fault::kCrash, true},
                                         FaultCase{"PowerLoss", Fault::kCrashLosingUnsynced, false},
                                         FaultCase{"PowerLossOverOldFile", Fault::kCrashLosingUnsynced, true}),
                         [](const auto& info) { return info.param.name; });

// Leaves an interrupted conversion of `plan` at `path` with some finished records.
void Interrupt(const std::string& path, const WritePlan& plan) {
  const auto writer = PackedWriter::Open(PosixFileSystem(), path, plan, {});
  ASSERT_TRUE(writer.ok()) << writer.status();
  for (int64_t e = 0; e < 6; ++e) {
    const auto record = (*writer)->BeginRecord(e, 0);
    ASSERT_TRUE(record->Append(SyntheticRecord(plan.layout, e, 0, kSeed)).ok());
    ASSERT_TRUE(record->Finish(SyntheticStats(plan, e), SyntheticSourceXxh3(plan, e, 0)).ok());
  }
}

TEST(PackedResume, TakesWhatIsIntactAndWritesTheRestAgain) {
  const ScratchFolder folder(ScratchFolder::Place::kMemory);
  const std::string path = folder / "a.kpk";
  const WritePlan plan = MicroPlan();
  Interrupt(path, plan);
  {
    std::fstream partial(path + ".partial", std::ios::in | std::ios::out | std::ios::binary);
    partial.seekp(static_cast<std::streamoff>(plan.layout.extents()[2].offset));
    partial.put('\x5a');
  }
  const auto writer = PackedWriter::Open(PosixFileSystem(), path, plan, {});
  ASSERT_TRUE(writer.ok()) << writer.status();
  EXPECT_EQ((*writer)->resumed_records(), 5);
  EXPECT_TRUE((*writer)->IsDone(1, 0));
  EXPECT_FALSE((*writer)->IsDone(2, 0)) << "its bytes were changed";
  EXPECT_FALSE((*writer)->IsDone(6, 0));
}

TEST(PackedResume, IgnoresTheTornEndOfAJournal) {
  for (const ptrdiff_t cut : {1, 7, 20, 45}) {
    const ScratchFolder folder(ScratchFolder::Place::kMemory);
    const std::string path = folder / "a.kpk";
    const WritePlan plan = MicroPlan();
    Interrupt(path, plan);
    std::vector<uint8_t> journal = ReadWholeFile(path + ".partial.journal");
    journal.erase(journal.end() - cut, journal.end());
    WriteWholeFile(path + ".partial.journal", journal);
    const auto writer = PackedWriter::Open(PosixFileSystem(), path, plan, {});
    ASSERT_TRUE(writer.ok()) << writer.status();
    EXPECT_EQ((*writer)->resumed_records(), 5) << "cut " << cut;
  }
}

TEST(PackedResume, AFlippedByteAnywhereInTheJournalNeverGivesAWrongFile) {
  const WritePlan plan = MicroPlan();
  std::vector<uint8_t> partial, journal;
  {
    const ScratchFolder folder(ScratchFolder::Place::kMemory);
    Interrupt(folder / "a.kpk", plan);
    partial = ReadWholeFile(folder / "a.kpk.partial");
    journal = ReadWholeFile(folder / "a.kpk.partial.journal");
  }
  const ScratchFolder folder(ScratchFolder::Place::kMemory);
  const std::string path = folder / "a.kpk";
  for (size_t at = 0; at<journal.size(); at += at + 400> journal.size() ? 3 : 131) {
    WriteWholeFile(path + ".partial", partial);
    std::vector<uint8_t> damaged = journal;
    damaged[at] ^= 0x40;
    WriteWholeFile(path + ".partial.journal", damaged);
    const absl::Status status = WriteSyntheticFile(PosixFileSystem(), path, plan, kSeed);
    ASSERT_TRUE(status.ok()) << "byte " << at << ": " << status;
    ASSERT_EQ(ReadWholeFile(path), ExpectedBytes()) << "byte " << at;
  }
}

TEST(PackedResume, RefusesAnotherPlanAndSaysWhatDiffers) {
  const ScratchFolder folder(ScratchFolder::Place::kMemory);
  const std::string path = folder / "a.kpk";
  const WritePlan plan = MicroPlan();
  Interrupt(path, plan);
  const std::vector<uint8_t> journal = ReadWholeFile(path + ".partial.journal");
  const auto refusal = [&](const std::function<void(Manifest&)>& change) {
    WritePlan other = plan;
    change(other.manifest);
    const absl::Status status = PackedWriter::Open(PosixFileSystem(), path, other, {}).status();
    EXPECT_EQ(status.code(), absl::StatusCode::kFailedPrecondition) << status;
    EXPECT_THAT(std::string(status.message()), HasSubstr("add --restart or delete " + path + ".partial"));
    EXPECT_EQ(ReadWholeFile(path + ".partial.journal"), journal) << "a refusal changes nothing";
    return std::string(status.message());
  };
  EXPECT_THAT(refusal([](Manifest& m) { m.set_recipe("* = other"); }), HasSubstr("the recipe differs"));
  EXPECT_THAT(refusal([](Manifest& m) { m.mutable_provenance()->set_tool_version("9.9"); }),
              HasSubstr("the version of kompakt differs (test before, 9.9 now)"));
  EXPECT_THAT(refusal([](Manifest& m) { m.mutable_provenance()->mutable_source_files(0)->set_xxh3(5); }),
              HasSubstr("source file synthetic.safetensors changed (12345 bytes, XXH3 1122334455667788 before, "
                        "12345 bytes, XXH3 0000000000000005 now)"));
  EXPECT_THAT(refusal([](Manifest& m) { m.mutable_provenance()->add_source_files()->set_name("more"); }),
              HasSubstr("source file more is new"));
  EXPECT_THAT(refusal([](Manifest& m) { m.mutable_provenance()->clear_source_files(); }),
              HasSubstr("source file synthetic.safetensors is gone"));
  EXPECT_THAT(refusal([](Manifest& m) { m.mutable_assets()->mutable_files(1)->set_content("x"); }),
              HasSubstr("asset tokenizer.json changed"));
  EXPECT_THAT(refusal([](Manifest& m) { m.mutable_arch()->set_rms_norm_eps(1e-5); }),
              HasSubstr("the hyper-parameters of the model differ"));
  EXPECT_THAT(refusal([](Manifest& m) { m.mutable_provenance()->set_calibration_xxh3(1); }),
              HasSubstr("the calibration data differ"));
  EXPECT_THAT(refusal([](Manifest& m) { m.mutable_assets()->set_bos_id(77); }),
              HasSubstr("the plan of the file differs"));
}

TEST(PackedResume, AJournalWithoutItsPartialFileIsStale) {
  const ScratchFolder folder(ScratchFolder::Place::kMemory);
  const std::string path = folder / "a.kpk";
  WritePlan plan = MicroPlan();
  Interrupt(path, plan);
  std::filesystem::remove(path + ".partial");
  plan.manifest.set_recipe("* = other");
  const auto writer = PackedWriter::Open(PosixFileSystem(), path, plan, {});
  ASSERT_TRUE(writer.ok()) << writer.status();
  EXPECT_EQ((*writer)->resumed_records(), 0);
}

TEST(PackedResume, AnInterruptStopsTheRereadAndLeavesEverything) {
  const ScratchFolder folder(ScratchFolder::Place::kMemory);
  const std::string path = folder / "a.kpk";
  const WritePlan plan = MicroPlan();
  Interrupt(path, plan);
  const std::atomic<bool> interrupted = true;
  const auto writer = PackedWriter::Open(PosixFileSystem(), path, plan, {.interrupted = &interrupted});
  EXPECT_EQ(writer.status().code(), absl::StatusCode::kCancelled);
  const auto again = PackedWriter::Open(PosixFileSystem(), path, plan, {});
  ASSERT_TRUE(again.ok()) << again.status();
  EXPECT_EQ((*again)->resumed_records(), 6);
}

TEST(PackedWriter, ARecordThatTheDeviceDidNotKeepIsFoundBeforeTheRename) {
  const ScratchFolder folder(ScratchFolder::Place::kMemory);
  const std::string path = folder / "a.kpk";
  const WritePlan plan = MicroPlan();
  {
    const auto writer = PackedWriter::Open(PosixFileSystem(), path, plan, {});
    ASSERT_TRUE(writer.ok()) << writer.status();
    for (int64_t e = 0; e < static_cast<int64_t>(plan.layout.extents().size()); ++e) {
      for (int64_t r = 0; r < plan.layout.extents()[static_cast<size_t>(e)].record_count; ++r) {
        const auto record = (*writer)->BeginRecord(e, r);
        ASSERT_TRUE(record->Append(SyntheticRecord(plan.layout, e, r, kSeed)).ok());
        ASSERT_TRUE(record->Finish(SyntheticStats(plan, e), SyntheticSourceXxh3(plan, e, r)).ok());
      }
    }
    std::fstream partial(path + ".partial", std::ios::in | std::ios::out | std::ios::binary);
    partial.seekp(static_cast<std::streamoff>(plan.layout.extents()[4].offset));
    partial.put('\x5a');
    partial.close();
    const absl::Status status = (*writer)->Commit();
    EXPECT_EQ(status.code(), absl::StatusCode::kDataLoss);
    EXPECT_THAT(std::string(status.message()), HasSubstr("what was written does not read back"));
    EXPECT_FALSE(std::filesystem::exists(path));
  }
  ASSERT_TRUE(WriteSyntheticFile(PosixFileSystem(), path, plan, kSeed).ok());
  EXPECT_EQ(ReadWholeFile(path), ExpectedBytes());
}

}  // namespace
}  // namespace kompakt
