// Cutting a packed file into volumes: a pure function of the layout and the size.
#include "format/volume_plan.h"

#include <algorithm>
#include <random>

#include "format/volume_name.h"
#include "gmock/gmock.h"
#include "gtest/gtest.h"
#include "tests/fixtures/scratch_folder.h"
#include "tests/fixtures/small_arch.h"
#include "tests/fixtures/synthetic_file.h"
#include "tests/format/example_arch.h"

namespace kompakt {
namespace {

using testing::HasSubstr;

WritePlan PlanOf(const ArchSpec& arch) {
  const auto schema = ModelSchema::Create(arch);
  EXPECT_TRUE(schema.ok()) << schema.status();
  return SyntheticPlan(*schema, EveryFormat(*schema));
}

uint64_t WholeBytes(const WritePlan& plan) { return *PackedFileBytes(plan); }

// The least size that a refusal names.
uint64_t LeastBytes(const WritePlan& plan) {
  WritePlan tried = plan;
  const absl::Status status = CutIntoVolumes(tried, 1);
  EXPECT_EQ(status.code(), absl::StatusCode::kInvalidArgument) << status;
  const std::string message(status.message());
  const std::string words = "expected at least ";
  EXPECT_THAT(message, HasSubstr(words));
  return std::stoull(message.substr(message.find(words) + words.size()));
}

// Offsets where a record begins.
std::vector<uint64_t> RecordOffsets(const PackedLayout& layout) {
  std::vector<uint64_t> offsets;
  for (const Extent& extent : layout.extents()) {
    for (int64_t r = 0; r < extent.record_count; ++r) offsets.push_back(extent.record_offset(r));
  }
  return offsets;
}

void ExpectSoundSet(const WritePlan& plan, uint64_t volume_bytes) {
  const Volumes& volumes = plan.manifest.volumes();
  const std::vector<uint64_t> records = RecordOffsets(plan.layout);
  const auto files = VolumeFileBytes(plan);
  ASSERT_TRUE(files.ok()) << files.status();
  ASSERT_EQ(files->size(), static_cast<size_t>(volumes.ends_size()));
  uint64_t begin = 0;
  for (int index = 1; index <= volumes.ends_size(); ++index) {
    const VolumeSpan span = SpanOfVolume(volumes, index);
    EXPECT_EQ(span.begin, begin) << "volumes leave no gap";
    EXPECT_GT(span.end, span.begin);
    EXPECT_LE((*files)[static_cast<size_t>(index - 1)], volume_bytes) << "volume " << index;
    if (index < volumes.ends_size()) {
      EXPECT_EQ(span.end % kPageBytes, 0u);
      EXPECT_TRUE(std::binary_search(records.begin(), records.end(), span.end)) << "a record lies in two volumes";
    }
    EXPECT_EQ(VolumeOf(volumes, span.begin), index);
    EXPECT_EQ(VolumeOf(volumes, span.end - 1), index);
    begin = span.end;
  }
  EXPECT_EQ(begin, plan.layout.data_end());
  EXPECT_TRUE(CheckCuts(volumes, plan.layout).ok());
}

TEST(VolumePlan, VolumesCoverEverythingAreCutAtRecordsAndKeepTheSize) {
  std::mt19937_64 random(5);
  for (const ArchSpec& arch : {SmallV3Arch(), SmallV2LiteArch(), DeepSeekV2LiteArch()}) {
    const WritePlan plan = PlanOf(arch);
    const uint64_t least = LeastBytes(plan), whole = WholeBytes(plan);
    ASSERT_LT(least, whole);
    for (int i = 0; i < 40; ++i) {
      const uint64_t volume_bytes = i == 0 ? least : i == 1 ? whole - 1 : least + random() % (whole - least);
      WritePlan cut = plan;
      const absl::Status status = CutIntoVolumes(cut, volume_bytes);
      ASSERT_TRUE(status.ok()) << volume_bytes << ": " << status;
      ASSERT_GE(cut.manifest.volumes().ends_size(), 2) << volume_bytes << " of " << whole;
      SCOPED_TRACE(volume_bytes);
      ExpectSoundSet(cut, volume_bytes);
    }
  }
}

TEST(VolumePlan, EveryVolumeIsAsLargeAsItMayBe) {
  const WritePlan plan = PlanOf(SmallV3Arch());
  const uint64_t volume_bytes = LeastBytes(plan) + 20000;
  WritePlan cut = plan;
  ASSERT_TRUE(CutIntoVolumes(cut, volume_bytes).ok());
  const Volumes& volumes = cut.manifest.volumes();
  const auto files = VolumeFileBytes(cut);
  ASSERT_TRUE(files.ok()) << files.status();
  const std::vector<uint64_t> records = RecordOffsets(plan.layout);
  for (int index = 1; index < volumes.ends_size(); ++index) {
    const uint64_t end = SpanOfVolume(volumes, index).end;
    auto next = std::upper_bound(records.begin(), records.end(), end);
    while (next != records.end() && *next % kPageBytes != 0) ++next;
    const uint64_t next_end = next == records.end() ? plan.layout.data_end() : *next;
    // 16: an upper bound of what the volumes' numbers take is assumed.
    EXPECT_GT((*files)[static_cast<size_t>(index - 1)] + (next_end - end) + 16, volume_bytes) << "volume " << index;
  }
}

TEST(VolumePlan, WhatFitsIntoOneFileStaysOneFile) {
  const WritePlan plan = PlanOf(SmallV3Arch());
  for (const uint64_t more : {uint64_t{0}, uint64_t{1}, uint64_t{1} << 60}) {
    WritePlan cut = plan;
    ASSERT_TRUE(CutIntoVolumes(cut, WholeBytes(plan) + more).ok());
    EXPECT_EQ(cut.manifest.SerializeAsString(), plan.manifest.SerializeAsString());
    EXPECT_EQ(*VolumeFileBytes(cut), std::vector<uint64_t>{WholeBytes(plan)});
  }
}

TEST(VolumePlan, ARefusalNamesTheLeastSizeThatWorks) {
  for (const ArchSpec& arch : {MicroArch(), SmallV3Arch(), DeepSeekV2LiteArch()}) {
    const WritePlan plan = PlanOf(arch);
    const uint64_t least = LeastBytes(plan);
    WritePlan cut = plan;
    EXPECT_TRUE(CutIntoVolumes(cut, least).ok()) << least;
    cut = plan;
    const absl::Status status = CutIntoVolumes(cut, least - 1);
    EXPECT_EQ(status.code(), absl::StatusCode::kInvalidArgument) << status;
    EXPECT_THAT(std::string(status.message()), HasSubstr(absl::StrCat("at least ", least, " ")));
  }
}

TEST(VolumePlan, AVolumeIsDescribedByItsFirstAndLastRecord) {
  const WritePlan plan = PlanOf(MicroArch());
  EXPECT_EQ(ContentOfVolume(plan.layout, {0, plan.layout.data_end()}), "model.embed_tokens.weight to lm_head.weight");
  const Extent& experts = plan.layout.extents()[static_cast<size_t>(plan.layout.Find(TensorRole::kExpertUp, 1).extent)];
  EXPECT_EQ(ContentOfVolume(plan.layout, {experts.offset, experts.offset + 1}), "layer 1 expert 0");
}

TEST(VolumeName, ReadsBackWhatItWrites) {
  EXPECT_EQ(VolumePath("a/b.kpk", 3, 12), "a/b-00003-of-00012.kpk");
  EXPECT_EQ(VolumePath("b", 1, 2), "b-00001-of-00002.kpk");
  const auto name = ParseVolumePath("a/b-00003-of-00012.kpk");
  ASSERT_TRUE(name.has_value());
  EXPECT_EQ(name->whole, "a/b.kpk");
  EXPECT_EQ(name->index, 3u);
  EXPECT_EQ(name->count, 12u);
  for (const char* other : {"b.kpk", "b-00003-of-00012", "b-0003-of-00012.kpk", "b-00003_of-00012.kpk",
                            "b-00013-of-00012.kpk", "b-00000-of-00012.kpk", "b-0000x-of-00012.kpk", ""}) {
    EXPECT_FALSE(ParseVolumePath(other).has_value()) << other;
  }
}

TEST(VolumeName, AWholeNameLeadsToTheFirstVolumeWhereOnlyVolumesExist) {
  const ScratchFolder folder;
  FileSystem& fs = PosixFileSystem();
  EXPECT_EQ(*ResolvePackedPath(fs, folder / "a.kpk"), folder / "a.kpk") << "nothing there";
  for (const char* name : {"a-00001-of-00002.kpk", "a-00002-of-00002.kpk", "aa-00001-of-00003.kpk"}) {
    WriteWholeFile(folder / name, {});
  }
  EXPECT_EQ(*ResolvePackedPath(fs, folder / "a.kpk"), folder / "a-00001-of-00002.kpk");
  WriteWholeFile(folder / "a-00001-of-00005.kpk", {});
  const auto two = ResolvePackedPath(fs, folder / "a.kpk");
  EXPECT_EQ(two.status().code(), absl::StatusCode::kFailedPrecondition);
  EXPECT_THAT(std::string(two.status().message()), HasSubstr("a-00001-of-00002.kpk, "));
  WriteWholeFile(folder / "a.kpk", {});
  EXPECT_EQ(*ResolvePackedPath(fs, folder / "a.kpk"), folder / "a.kpk") << "the file itself comes first";
}

}  // namespace
}  // namespace kompakt
