// The format does not drift: a file written by the first version still reads, and the writer still writes it.
#include "absl/strings/match.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_join.h"
#include "absl/strings/str_replace.h"
#include "format/block_q4_g16.h"
#include "format/block_q4_g32.h"
#include "format/packed_index.h"
#include "format/value_tables.h"
#include "gtest/gtest.h"
#include "tests/fixtures/memory_file.h"
#include "tests/fixtures/small_arch.h"
#include "tests/fixtures/synthetic_file.h"

namespace kompakt {
namespace {

// Also the corpus of the fuzz target.
constexpr char kVersion1[] = KOMPAKT_SOURCE_DIR "/tests/fuzz/corpus/packed_file/version-1.0.bin";

TEST(PackedStability, AFileOfVersion1IsStillReadAndStillWritten) {
  const std::vector<uint8_t> old_bytes = ReadWholeFile(kVersion1);
  const std::vector<uint8_t> new_bytes = SyntheticFileBytes(MicroArch(), kFormatsOfVersion10);
  const auto old_file = ReadPackedIndex(MemoryFile(old_bytes), "old");
  ASSERT_TRUE(old_file.ok()) << old_file.status();
  const auto new_file = ReadPackedIndex(MemoryFile(new_bytes), "new");
  ASSERT_TRUE(new_file.ok()) << new_file.status();
  // What 1.1 added is left out. Not the stored bytes: another libzstd may compress the assets differently.
  Manifest manifest = new_file->manifest;
  for (ExtentEntry& extent : *manifest.mutable_extents()) {
    for (PartEntry& part : *extent.mutable_parts()) {
      EXPECT_EQ(part.source_xxh3_size(), extent.record_xxh3_size());
      part.clear_source_xxh3();
    }
  }
  EXPECT_EQ(old_file->manifest.SerializeAsString(), manifest.SerializeAsString());
  EXPECT_EQ(MinorVersionOf(manifest), 0) << "nothing in it is younger";
  ASSERT_EQ(old_file->footer.manifest_offset, new_file->footer.manifest_offset);
  const size_t data = old_file->footer.manifest_offset - kHeaderBytes;
  EXPECT_TRUE(absl::MakeConstSpan(old_bytes).subspan(kHeaderBytes, data) ==
              absl::MakeConstSpan(new_bytes).subspan(kHeaderBytes, data))
      << "weights are laid out differently";
}

TEST(PackedStability, AFileHasTheLowestVersionThatDescribesIt) {
  const std::vector<uint8_t> bytes = SyntheticFileBytes(SmallV3Arch());
  const auto file = ReadPackedIndex(MemoryFile(bytes), "new");
  ASSERT_TRUE(file.ok()) << file.status();
  EXPECT_EQ(file->header.minor, 3) << "formats of 2 bits came with 1.3";
  Manifest manifest = file->manifest;
  EXPECT_EQ(MinorVersionOf(manifest), 3);
  for (ExtentEntry& extent : *manifest.mutable_extents()) {
    for (PartEntry& part : *extent.mutable_parts()) {
      if (absl::StartsWith(part.format(), "q2")) part.set_format("q3_g16");
    }
  }
  EXPECT_EQ(MinorVersionOf(manifest), 2) << "formats of 3, 5 and 6 bits came with 1.2";
  for (ExtentEntry& extent : *manifest.mutable_extents()) {
    for (PartEntry& part : *extent.mutable_parts()) {
      if (absl::StartsWith(part.format(), "q")) part.set_format("mxfp4");
    }
  }
  EXPECT_EQ(MinorVersionOf(manifest), 1) << "mxfp4, nvfp4 and source_xxh3 came with 1.1";
  for (ExtentEntry& extent : *manifest.mutable_extents()) {
    for (PartEntry& part : *extent.mutable_parts()) part.clear_source_xxh3();
  }
  EXPECT_EQ(MinorVersionOf(manifest), 1);
  for (ExtentEntry& extent : *manifest.mutable_extents()) {
    for (PartEntry& part : *extent.mutable_parts()) part.set_format("int4_g32");
  }
  EXPECT_EQ(MinorVersionOf(manifest), 0);
}

// The document is the specification; the code must not have numbers of its own.
TEST(FormatDocument, SaysTheNumbersOfTheCode) {
  const std::vector<uint8_t> bytes = ReadWholeFile(KOMPAKT_SOURCE_DIR "/docs/format.md");
  std::string document(bytes.begin(), bytes.end());
  while (absl::StrReplaceAll({{"  ", " "}}, &document) > 0) {
  }
  const auto expect_says = [&](const std::string& text) {
    EXPECT_TRUE(absl::StrContains(document, text)) << "docs/format.md does not say: " << text;
  };
  // Tables, 16 values a line.
  const auto expect_table = [&](absl::Span<const int8_t> values) {
    for (size_t i = 0; i < values.size(); i += 16) {
      expect_says(absl::StrCat(" ", absl::StrJoin(values.subspan(i, std::min<size_t>(16, values.size() - i)), " ")));
    }
  };
  expect_table(kQ2Table);
  expect_table(kQ3Table);
  expect_table(kQ4Table);
  expect_table(kQ5Table);
  expect_table(kQ6Table);
  for (const TableSpec& spec : {kQ4G32, kQ4G16}) {
    expect_says(absl::StrCat("(s - ", spec.scale_bias(), ") * (table[code] + shift * b)"));
  }
  expect_says(
      absl::StrCat("| shift | ", kQ2Shift, " | ", kQ3Shift, " | ", kQ4Shift, " | ", kQ5Shift, " | ", kQ6Shift, " |"));
  expect_says("is at most 268,435,456");
  EXPECT_EQ(kMaxManifestBytes, 268435456u);
  for (const BlockFormat& format : AllFormats()) {
    const absl::string_view side = format.side == SideKind::kNone         ? "none"
                                   : format.side == SideKind::kRowScale   ? "row scales"
                                   : format.side == SideKind::kBlockScale ? "block scales"
                                                                          : "tensor scale";
    expect_says(absl::StrCat("| `", format.name, "` | ", format.tile_bytes, " | ", side, " | "));
  }
  for (const RoleInfo& role : AllRoles()) {
    expect_says(absl::StrCat("| `", role.name, "` | ", role.is_vector ? "vector" : "["));
  }
}

}  // namespace
}  // namespace kompakt
