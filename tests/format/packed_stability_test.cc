// The format does not drift: a file written by the first version still reads, and the writer still writes it.
#include <filesystem>

#include "format/packed_index.h"
#include "format/packed_reader.h"
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

}  // namespace
}  // namespace kompakt
