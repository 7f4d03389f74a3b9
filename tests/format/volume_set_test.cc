// A set of volumes is written, opened and verified like one file; whatever is wrong with one of them is named.
#include "format/volume_set.h"

#include <filesystem>
#include <fstream>
#include <map>

#include "format/packed_reader.h"
#include "format/packed_target.h"
#include "format/volume_name.h"
#include "format/volume_plan.h"
#include "gmock/gmock.h"
#include "gtest/gtest.h"
#include "tests/fixtures/faulty_file_system.h"
#include "tests/fixtures/scratch_folder.h"
#include "tests/fixtures/small_arch.h"
#include "tests/fixtures/synthetic_file.h"

namespace kompakt {
namespace {

using testing::HasSubstr;
using Files = std::map<std::string, std::vector<uint8_t>>;  // name -> content

constexpr uint64_t kSeed = 3;

// Cut into three volumes, the second holds experts only.
ArchSpec MicroExperts() {
  ArchSpec arch = MicroArch();
  arch.mutable_moe()->set_n_routed_experts(8);
  return arch;
}

WritePlan WholePlan(const ArchSpec& arch) {
  const auto schema = ModelSchema::Create(arch);
  EXPECT_TRUE(schema.ok()) << schema.status();
  // Of the version that had volumes first.
  return SyntheticPlan(*schema, EveryFormatUpTo(*schema, kFormatsOfVersion11));
}

// In `count` volumes of as little as that takes.
WritePlan CutPlan(const ArchSpec& arch, int count = 3) {
  const WritePlan plan = WholePlan(arch);
  for (uint64_t bytes = 1024;; bytes += 1024) {
    WritePlan cut = plan;
    if (CutIntoVolumes(cut, bytes).ok() && cut.manifest.volumes().ends_size() <= count) {
      EXPECT_EQ(cut.manifest.volumes().ends_size(), count);
      return cut;
    }
  }
}

Files FilesIn(const ScratchFolder& folder) {
  Files files;
  for (const auto& entry : std::filesystem::directory_iterator(folder.path())) {
    files[entry.path().filename().string()] = ReadWholeFile(entry.path().string());
  }
  return files;
}

void PutFiles(const ScratchFolder& folder, const Files& files) {
  for (const auto& [name, bytes] : files) WriteWholeFile(folder / name, bytes);
}

Files WriteSet(const WritePlan& plan, uint64_t seed = kSeed) {
  const ScratchFolder folder(ScratchFolder::Place::kMemory);
  const absl::Status status = WriteSyntheticFile(PosixFileSystem(), folder / "a.kpk", plan, seed);
  EXPECT_TRUE(status.ok()) << status;
  return FilesIn(folder);
}

const Files& MicroSet() {
  static const Files files = WriteSet(CutPlan(MicroExperts()));
  return files;
}

std::string OpenMessage(const std::string& path, absl::StatusCode code) {
  const absl::Status status = OpenPacked(PosixFileSystem(), path).status();
  EXPECT_EQ(status.code(), code) << status;
  return std::string(status.message());
}

TEST(VolumeSet, HoldsTheRecordsOfTheWholeFile) {
  for (const ArchSpec& arch : {MicroExperts(), SmallV3Arch(), SmallV2LiteArch()}) {
    const ScratchFolder folder(ScratchFolder::Place::kMemory);
    const WritePlan plan = WholePlan(arch), cut = CutPlan(arch);
    ASSERT_TRUE(WriteSyntheticFile(PosixFileSystem(), folder / "whole.kpk", plan, kSeed).ok());
    const absl::Status status = WriteSyntheticFile(PosixFileSystem(), folder / "set.kpk", cut, kSeed);
    ASSERT_TRUE(status.ok()) << status;
    const auto sizes = VolumeFileBytes(cut);
    ASSERT_TRUE(sizes.ok()) << sizes.status();
    ASSERT_GE(sizes->size(), 3u);
    uint64_t total = 0;
    const auto count = static_cast<uint32_t>(sizes->size());
    for (uint32_t index = 1; index <= count; ++index) {
      const uint64_t bytes = std::filesystem::file_size(VolumePath(folder / "set.kpk", index, count));
      EXPECT_EQ(bytes, (*sizes)[index - 1]) << "volume " << index;
      total += bytes;
    }
    EXPECT_EQ(FilesIn(folder).size(), 1 + sizes->size()) << "nothing else is left";

    const auto whole = PackedReader::Open(folder / "whole.kpk");
    ASSERT_TRUE(whole.ok()) << whole.status();
    for (const std::string& name : {VolumePath(folder / "set.kpk", 1, count), VolumePath(folder / "set.kpk", 2, count),
                                    VolumePath(folder / "set.kpk", count, count), folder / "set.kpk"}) {
      const auto set = PackedReader::Open(name);
      ASSERT_TRUE(set.ok()) << set.status();
      EXPECT_EQ((*set)->file_bytes(), total);
      EXPECT_EQ((*set)->path(), VolumePath(folder / "set.kpk", 1, count));
      EXPECT_THAT((*set)->Verify(2, nullptr), testing::IsEmpty());
      for (size_t e = 0; e < plan.layout.extents().size(); ++e) {
        for (int64_t r = 0; r < plan.layout.extents()[e].record_count; ++r) {
          const auto extent = static_cast<int64_t>(e);
          EXPECT_EQ((*set)->RecordBytes(extent, r), (*whole)->RecordBytes(extent, r)) << "extent " << e;
          EXPECT_EQ(reinterpret_cast<uintptr_t>((*set)->RecordBytes(extent, r).data()) % 64, 0u);
        }
      }
    }
  }
}

TEST(VolumeSet, ReadsAndWritesAcrossABoundary) {
  const ScratchFolder folder(ScratchFolder::Place::kMemory);
  Volumes volumes;
  for (const uint64_t end : {8192u, 12288u, 12352u}) volumes.add_ends(end);
  std::vector<std::unique_ptr<File>> files;
  for (const char* name : {"1", "2", "3"}) files.push_back(*PosixFileSystem().OpenForWrite(folder / name));
  const std::unique_ptr<File> joined = JoinVolumes(std::move(files), volumes);
  std::vector<uint8_t> bytes(12352);
  for (size_t i = 0; i < bytes.size(); ++i) bytes[i] = static_cast<uint8_t>(i * 7 + i / 256);
  ASSERT_TRUE(joined->WriteAt(0, bytes).ok());
  EXPECT_EQ(*joined->Size(), bytes.size());
  std::vector<uint8_t> back(bytes.size() - 100);
  ASSERT_TRUE(joined->ReadAt(50, absl::MakeSpan(back)).ok());
  EXPECT_EQ(absl::MakeConstSpan(back), absl::MakeConstSpan(bytes).subspan(50, back.size()));
  EXPECT_EQ(ReadWholeFile(folder / "2").size(), 4096u + 4096u) << "a later volume's data begin on its second page";
  EXPECT_EQ(joined->ReadAt(12300, absl::MakeSpan(back).first(100)).code(), absl::StatusCode::kDataLoss);
  EXPECT_EQ(*joined->Map(8192, 4096), absl::MakeConstSpan(bytes).subspan(8192, 4096));
  EXPECT_EQ(joined->Map(8191, 2).status().code(), absl::StatusCode::kInternal);
}

TEST(VolumeSet, TheSameCommandGivesTheSameBytesAndAnotherWeightAnotherSet) {
  const WritePlan plan = CutPlan(MicroExperts());
  EXPECT_EQ(WriteSet(plan), MicroSet());
  const Files other = WriteSet(plan, kSeed + 1);
  for (const auto& [name, bytes] : MicroSet()) EXPECT_NE(other.at(name), bytes) << name;
}

// Of every byte outside the records of the set.
TEST(VolumeSet, EveryFlippedByteOfAFrameIsFoundAtOpenAndItsFileNamed) {
  const ScratchFolder folder(ScratchFolder::Place::kMemory);
  PutFiles(folder, MicroSet());
  const auto good = OpenPacked(PosixFileSystem(), folder / "a.kpk");
  ASSERT_TRUE(good.ok()) << good.status();
  const Volumes volumes = good->index.manifest.volumes();
  for (const auto& [name, bytes] : MicroSet()) {
    const int index = static_cast<int>(ParseVolumePath(name)->index);
    const uint64_t data_begin = index == 1 ? kHeaderBytes : kPageBytes;
    const uint64_t data_end = OffsetInVolume(volumes, index, SpanOfVolume(volumes, index).end);
    std::vector<uint8_t> damaged = bytes;
    for (uint64_t at = 0; at < bytes.size(); ++at) {
      if (at == data_begin) at = data_end;
      damaged[at] ^= 0x20;
      WriteWholeFile(folder / name, damaged);
      const absl::Status status = OpenPacked(PosixFileSystem(), folder / "a-00001-of-00003.kpk").status();
      ASSERT_EQ(status.code(), absl::StatusCode::kDataLoss) << name << " byte " << at << ": " << status;
      ASSERT_THAT(std::string(status.message()), HasSubstr(name)) << "byte " << at;
      damaged[at] ^= 0x20;
      if (at > 200 && at + 200 < data_begin) at += 90;  // zeros of the first page
    }
    WriteWholeFile(folder / name, bytes);
  }
}

TEST(VolumeSet, EveryFlippedByteOfItsDataIsFoundByVerifyAndItsFileNamed) {
  const ScratchFolder folder(ScratchFolder::Place::kMemory);
  PutFiles(folder, MicroSet());
  const Volumes volumes = OpenPacked(PosixFileSystem(), folder / "a.kpk")->index.manifest.volumes();
  for (const auto& [name, bytes] : MicroSet()) {
    const int index = static_cast<int>(ParseVolumePath(name)->index);
    const uint64_t data_end = OffsetInVolume(volumes, index, SpanOfVolume(volumes, index).end);
    std::vector<uint8_t> damaged = bytes;
    for (uint64_t at = index == 1 ? kHeaderBytes : kPageBytes; at < data_end; at += 61) {
      damaged[at] ^= 0x04;
      WriteWholeFile(folder / name, damaged);
      const auto reader = PackedReader::Open(folder / "a.kpk");
      ASSERT_TRUE(reader.ok()) << reader.status();
      const std::vector<absl::Status> damage = (*reader)->Verify(1, nullptr);
      ASSERT_EQ(damage.size(), 1u) << name << " byte " << at;
      ASSERT_THAT(std::string(damage[0].message()), HasSubstr(name)) << "byte " << at;
      damaged[at] ^= 0x04;
    }
    WriteWholeFile(folder / name, bytes);
  }
}

class BrokenSet : public testing::Test {
 protected:
  BrokenSet() : folder_(ScratchFolder::Place::kMemory) { PutFiles(folder_, MicroSet()); }
  std::string Volume(int index) const { return VolumePath(folder_ / "a.kpk", static_cast<uint32_t>(index), 3); }

  ScratchFolder folder_;
};

TEST_F(BrokenSet, MissingVolumesAreNamedWithWhatTheyHold) {
  ASSERT_EQ(MicroSet().size(), 3u);
  std::filesystem::remove(Volume(2));
  const std::string one = OpenMessage(folder_ / "a.kpk", absl::StatusCode::kNotFound);
  EXPECT_THAT(one, HasSubstr("1 of its 3 volumes is missing: " + Volume(2) + " (layer 1 expert "));
  std::filesystem::remove(Volume(3));
  const std::string two = OpenMessage(Volume(1), absl::StatusCode::kNotFound);
  EXPECT_THAT(two, testing::AllOf(HasSubstr("2 of its 3 volumes are missing: " + Volume(2) + " (layer 1 expert "),
                                  HasSubstr(Volume(3) + " (layer 1 expert "), HasSubstr(" to lm_head.weight)")));
  PutFiles(folder_, MicroSet());
  std::filesystem::remove(Volume(1));
  EXPECT_THAT(OpenMessage(Volume(3), absl::StatusCode::kNotFound),
              HasSubstr("volume 3 of 3; the first volume, " + Volume(1)));
  EXPECT_THAT(OpenMessage(folder_ / "a.kpk", absl::StatusCode::kNotFound), HasSubstr("No such file"));
}

TEST_F(BrokenSet, AForeignVolumeIsNamed) {
  const Files other = WriteSet(CutPlan(MicroExperts()), kSeed + 1);
  WriteWholeFile(Volume(3), other.at("a-00003-of-00003.kpk"));
  EXPECT_THAT(OpenMessage(Volume(1), absl::StatusCode::kDataLoss), HasSubstr(Volume(3) + ": a volume of another set"));
  WriteWholeFile(Volume(3), SyntheticFileBytes(MicroExperts()));
  EXPECT_THAT(OpenMessage(Volume(1), absl::StatusCode::kDataLoss), HasSubstr(Volume(3) + ": a whole packed file"));
  WriteWholeFile(Volume(3), std::vector<uint8_t>(5000, 'x'));
  EXPECT_THAT(OpenMessage(Volume(1), absl::StatusCode::kFailedPrecondition),
              HasSubstr(Volume(3) + ": not a .kpk file"));
}

TEST_F(BrokenSet, SwappedAndRenamedVolumesAreNamed) {
  WriteWholeFile(Volume(2), MicroSet().at("a-00003-of-00003.kpk"));
  EXPECT_THAT(OpenMessage(Volume(1), absl::StatusCode::kDataLoss),
              HasSubstr(Volume(2) + ": holds volume 3 of its set, its name says 2"));
  EXPECT_THAT(OpenMessage(Volume(2), absl::StatusCode::kDataLoss),
              HasSubstr(Volume(2) + ": holds volume 3 of 3, its name says 2 of 3"));
  WriteWholeFile(folder_ / "b.kpk", MicroSet().at("a-00001-of-00003.kpk"));
  EXPECT_THAT(OpenMessage(folder_ / "b.kpk", absl::StatusCode::kFailedPrecondition),
              HasSubstr("b.kpk: volume 1 of 3, expected under a name like NAME-00001-of-00003.kpk"));
  WriteWholeFile(folder_ / "b-00001-of-00004.kpk", MicroSet().at("a-00001-of-00003.kpk"));
  EXPECT_THAT(OpenMessage(folder_ / "b.kpk", absl::StatusCode::kFailedPrecondition), HasSubstr("b.kpk"));
  EXPECT_THAT(OpenMessage(folder_ / "b-00001-of-00004.kpk", absl::StatusCode::kDataLoss),
              HasSubstr("holds volume 1 of 3, its name says 1 of 4"));
}

TEST_F(BrokenSet, ATruncatedVolumeIsNamed) {
  for (int index = 1; index <= 3; ++index) {
    const std::string name = Volume(index);
    const uint64_t bytes = std::filesystem::file_size(name);
    for (const uint64_t kept : {bytes - 1, bytes / 2, uint64_t{100}, uint64_t{8}}) {
      std::filesystem::resize_file(name, kept);
      EXPECT_THAT(OpenMessage(Volume(1), absl::StatusCode::kDataLoss), HasSubstr(name + ": truncated"));
    }
    PutFiles(folder_, MicroSet());
    std::filesystem::resize_file(name, bytes + 1);
    EXPECT_THAT(OpenMessage(Volume(1), absl::StatusCode::kDataLoss), HasSubstr(name + ": has trailing bytes"));
    PutFiles(folder_, MicroSet());
  }
}

TEST_F(BrokenSet, AReaderThatDoesNotKnowVolumesFindsTheirNameInEachOfThem) {
  for (int index = 1; index <= 3; ++index) {
    const auto file = PosixFileSystem().OpenForRead(Volume(index));
    ASSERT_TRUE(file.ok());
    const auto frame = ReadPackedFrame(**file, Volume(index));
    ASSERT_TRUE(frame.ok()) << frame.status();
    EXPECT_EQ(frame->header.required_features, kVolumesFeature);
    EXPECT_EQ(frame->header.minor, 1);
    ASSERT_EQ(frame->manifest.features_size(), 1);
    EXPECT_EQ(frame->manifest.features(0).name(), "volumes");
    EXPECT_TRUE(frame->manifest.features(0).required());
  }
}

// Any fault at any step, the renames among them.
struct FaultCase {
  std::string name;
  Fault fault;
  bool with_old_set;
};

class VolumeRecovery : public testing::TestWithParam<FaultCase> {};

TEST_P(VolumeRecovery, AFaultAtAnyStepLeavesNoWrongSetAndTheNextRunFinishes) {
  const FaultCase& param = GetParam();
  const WritePlan plan = CutPlan(MicroExperts());
  const Files old_set = param.with_old_set ? WriteSet(plan, kSeed + 1) : Files();
  int64_t step = 0, between_renames = 0, taken_over = 0;
  for (;; ++step) {
    const ScratchFolder folder(ScratchFolder::Place::kMemory);
    const std::string path = folder / "a.kpk";
    PutFiles(folder, old_set);
    FaultyFileSystem faulty(PosixFileSystem(), param.fault, step);
    const absl::Status status = WriteSyntheticFile(faulty, path, plan, kSeed);
    if (!faulty.failed()) {
      EXPECT_TRUE(status.ok()) << status;
      break;
    }
    // What can be opened is the old set or the new one, whole.
    if (const auto reader = PackedReader::Open(path); reader.ok()) {
      EXPECT_THAT((*reader)->Verify(1, nullptr), testing::IsEmpty()) << "step " << step;
    }
    const Files left = FilesIn(folder);
    const auto third = left.find("a-00003-of-00003.kpk");
    const bool renaming = left.count("a-00001-of-00003.kpk.partial") == 1 && third != left.end() &&
                          third->second == MicroSet().at(third->first);
    between_renames += renaming ? 1 : 0;
    {
      const auto writer = PackedWriter::Open(PosixFileSystem(), path, plan, {});
      ASSERT_TRUE(writer.ok()) << "step " << step << ": " << writer.status();
      if (renaming) {
        EXPECT_EQ((*writer)->resumed_records(),
                  static_cast<int64_t>(MicroExperts().moe().n_routed_experts()) + plan.manifest.extents_size() - 1)
            << "step " << step << ": a renamed volume was not recognised";
        taken_over += FilesIn(folder).count("a-00003-of-00003.kpk.partial") == 0 ? 1 : 0;
      }
    }
    const absl::Status again = WriteSyntheticFile(PosixFileSystem(), path, plan, kSeed);
    ASSERT_TRUE(again.ok()) << "step " << step << " (" << status << "): " << again;
    ASSERT_EQ(FilesIn(folder), MicroSet()) << "step " << step;
  }
  EXPECT_GT(step, 120) << "the faults did not cover the conversion";
  EXPECT_GE(between_renames, 2) << "no fault between two renames";
  EXPECT_EQ(taken_over, between_renames);
}

INSTANTIATE_TEST_SUITE_P(All, VolumeRecovery,
                         testing::Values(FaultCase{"DiskFull", Fault::kDiskFull, false},
                                         FaultCase{"DeviceError", Fault::kDeviceError, false},
                                         FaultCase{"DeviceErrorOverOldSet", Fault::kDeviceError, true},
                                         FaultCase{"Crash", Fault::kCrash, false},
                                         FaultCase{"CrashOverOldSet", Fault::kCrash, true},
                                         FaultCase{"PowerLoss", Fault::kCrashLosingUnsynced, false},
                                         FaultCase{"PowerLossOverOldSet", Fault::kCrashLosingUnsynced, true}),
                         [](const auto& info) { return info.param.name; });

TEST(VolumeResume, AnotherCutIsRefusedAndSaysSo) {
  const ScratchFolder folder(ScratchFolder::Place::kMemory);
  const std::string path = folder / "a.kpk";
  ASSERT_TRUE(PackedWriter::Open(PosixFileSystem(), path, CutPlan(MicroExperts()), {}).ok());
  const Files before = FilesIn(folder);
  for (const WritePlan& other : {CutPlan(MicroExperts(), 2), WholePlan(MicroExperts())}) {
    const absl::Status status = PackedWriter::Open(PosixFileSystem(), path, other, {}).status();
    EXPECT_EQ(status.code(), absl::StatusCode::kFailedPrecondition) << status;
    EXPECT_THAT(std::string(status.message()), HasSubstr("the volumes differ (3 volumes, the first with "));
    EXPECT_THAT(std::string(status.message()), HasSubstr("a-00001-of-00003.kpk.partial to "));
    EXPECT_EQ(FilesIn(folder), before) << "a refusal changes nothing";
  }
}

TEST(VolumeResume, ALostPartialVolumeIsWrittenAgainAndTheOthersKept) {
  const ScratchFolder folder(ScratchFolder::Place::kMemory);
  const std::string path = folder / "a.kpk";
  const WritePlan plan = CutPlan(MicroExperts());
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
  }
  std::filesystem::remove(folder / "a-00002-of-00003.kpk.partial");
  WriteWholeFile(folder / "a-00002-of-00003.kpk", WriteSet(plan, kSeed + 1).at("a-00002-of-00003.kpk"));
  {
    const auto writer = PackedWriter::Open(PosixFileSystem(), path, plan, {});
    ASSERT_TRUE(writer.ok()) << writer.status();
    const int64_t experts = plan.layout.Find(TensorRole::kExpertUp, 1).extent;
    for (int64_t r = 0; r < MicroExperts().moe().n_routed_experts(); ++r) {
      const uint64_t offset = plan.layout.extents()[static_cast<size_t>(experts)].record_offset(r);
      EXPECT_EQ((*writer)->IsDone(experts, r), VolumeOf(plan.manifest.volumes(), offset) != 2) << "expert " << r;
    }
  }
  ASSERT_TRUE(WriteSyntheticFile(PosixFileSystem(), path, plan, kSeed).ok());
  EXPECT_EQ(FilesIn(folder), MicroSet());
}

}  // namespace
}  // namespace kompakt
