// The format does not drift: a file written by the first version still reads, and the writer still writes it.
#include "absl/strings/str_format.h"
#include "absl/strings/str_replace.h"
#include "format/block_q4_g16.h"
#include "format/block_q4_g32.h"
#include "format/packed_index.h"
#include "gmock/gmock.h"
#include "gtest/gtest.h"
#include "tests/fixtures/memory_file.h"
#include "tests/fixtures/small_arch.h"
#include "tests/fixtures/synthetic_file.h"

namespace kompakt {
namespace {

using testing::HasSubstr;

// Also the corpus of the fuzz target.
constexpr char kVersion1[] = KOMPAKT_SOURCE_DIR "/tests/fuzz/corpus/packed_file/version-1.0.bin";

TEST(PackedStability, AFileOfVersion1IsStillReadAndStillWritten) {
  const std::vector<uint8_t> old_bytes = ReadWholeFile(kVersion1);
  const std::vector<uint8_t> new_bytes = SyntheticFileBytes(MicroArch());
  const auto old_file = ReadPackedIndex(MemoryFile(old_bytes), "old");
  ASSERT_TRUE(old_file.ok()) << old_file.status();
  const auto new_file = ReadPackedIndex(MemoryFile(new_bytes), "new");
  ASSERT_TRUE(new_file.ok()) << new_file.status();
  // Not the stored bytes: another libzstd may compress the assets differently.
  EXPECT_EQ(old_file->manifest.SerializeAsString(), new_file->manifest.SerializeAsString());
  ASSERT_EQ(old_file->footer.manifest_offset, new_file->footer.manifest_offset);
  const size_t data = old_file->footer.manifest_offset - kHeaderBytes;
  EXPECT_TRUE(absl::MakeConstSpan(old_bytes).subspan(kHeaderBytes, data) ==
              absl::MakeConstSpan(new_bytes).subspan(kHeaderBytes, data))
      << "weights are laid out differently";
}

// The document is the specification; the code must not have numbers of its own.
TEST(FormatDocument, SaysTheNumbersOfTheCode) {
  const std::vector<uint8_t> bytes = ReadWholeFile(KOMPAKT_SOURCE_DIR "/docs/format.md");
  const std::string document(bytes.begin(), bytes.end());
  std::string table = "\n    table";
  for (const int8_t value : kQ4Table) absl::StrAppendFormat(&table, "%4d", value);
  EXPECT_THAT(document, HasSubstr(absl::StrReplaceAll(table, {{"table-127", "table -127"}})));
  EXPECT_THAT(document, HasSubstr(absl::StrCat("(s - ", kQ4G32ScaleBias, ") * (table[code] + ", kQ4Shift, " * b)")));
  EXPECT_THAT(document, HasSubstr(absl::StrCat("(s - ", kQ4G16ScaleBias, ") * (table[code] + ", kQ4Shift, " * b)")));
  EXPECT_THAT(document, HasSubstr(absl::StrCat("is at most ", 268435456)));
  EXPECT_EQ(kMaxManifestBytes, 268435456u);
  for (const BlockFormat& format : AllFormats()) {
    EXPECT_THAT(document, HasSubstr(absl::StrCat("| `", format.name, "` | ", format.tile_bytes, " | ",
                                                 format.side == SideKind::kNone       ? "none"
                                                 : format.side == SideKind::kRowScale ? "row scales"
                                                                                      : "block scales",
                                                 " | ")));
    EXPECT_THAT(document,
                testing::ContainsRegex(absl::StrCat("`", format.name, "` .*", format.exact ? "exact" : "lossy")));
  }
  for (const RoleInfo& role : AllRoles()) {
    EXPECT_THAT(document, HasSubstr(absl::StrCat("| `", role.name, "` | ", role.is_vector ? "vector" : "[")));
  }
}

}  // namespace
}  // namespace kompakt
