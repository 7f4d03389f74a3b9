#include "format/file_system.h"

#include <sys/stat.h>

#include <algorithm>
#include <cerrno>
#include <filesystem>

#include "format/read_fully.h"
#include "gmock/gmock.h"
#include "gtest/gtest.h"
#include "tests/fixtures/scratch_folder.h"
#include "tests/fixtures/synthetic_file.h"

namespace kompakt {
namespace {

using testing::HasSubstr;

std::vector<uint8_t> Bytes(const std::string& text) { return {text.begin(), text.end()}; }

TEST(WriteFully, ContinuesShortWritesAndRepeatsInterruptedOnes) {
  std::string written;
  int calls = 0;
  const auto three_at_a_time = [&](const uint8_t* data, uint64_t count, uint64_t offset) -> int64_t {
    if (++calls % 3 == 0) {
      errno = EINTR;
      return -1;
    }
    EXPECT_EQ(offset, 100 + written.size());
    const uint64_t n = std::min<uint64_t>(count, 3);
    written.append(reinterpret_cast<const char*>(data), n);
    return static_cast<int64_t>(n);
  };
  const absl::Status status = WriteFully(three_at_a_time, 100, Bytes("sixteen bytes..."), "f");
  EXPECT_TRUE(status.ok()) << status;
  EXPECT_EQ(written, "sixteen bytes...");
}

TEST(WriteFully, FailsByTheSystemsErrorWithThePath) {
  const auto failing = [](int error) {
    return [error](const uint8_t*, uint64_t, uint64_t) -> int64_t {
      errno = error;
      return -1;
    };
  };
  const absl::Status full = WriteFully(failing(ENOSPC), 0, Bytes("x"), "the/file");
  EXPECT_EQ(full.code(), absl::StatusCode::kResourceExhausted);
  EXPECT_THAT(std::string(full.message()), HasSubstr("the/file"));
  EXPECT_EQ(WriteFully(failing(EIO), 0, Bytes("x"), "f").code(), absl::StatusCode::kUnavailable);
  EXPECT_FALSE(WriteFully([](const uint8_t*, uint64_t, uint64_t) -> int64_t { return 0; }, 0, Bytes("x"), "f").ok())
      << "a write that makes no progress must not be repeated for ever";
  EXPECT_FALSE(WriteFully(failing(EIO), ~uint64_t{0}, Bytes("x"), "f").ok());
}

TEST(ReadFully, ContinuesShortReadsRepeatsInterruptedOnesAndStopsAtTheEnd) {
  const std::vector<uint8_t> file = Bytes("ten bytes.");
  int calls = 0;
  const auto short_reads = [&](uint8_t* data, uint64_t count, uint64_t offset) -> int64_t {
    if (++calls % 2 == 0) {
      errno = EINTR;
      return -1;
    }
    const uint64_t n = std::min<uint64_t>({3, count, file.size() - offset});
    std::copy_n(file.begin() + static_cast<ptrdiff_t>(offset), n, data);
    return static_cast<int64_t>(n);
  };
  std::vector<uint8_t> bytes(8);
  EXPECT_EQ(ReadFully(short_reads, 1, absl::MakeSpan(bytes), "f").value(), 8u);
  EXPECT_EQ(bytes, Bytes("en bytes"));
  EXPECT_GE(calls, 5);
  EXPECT_EQ(ReadFully(short_reads, 6, absl::MakeSpan(bytes), "f").value(), 4u) << "the file ends there";
}

TEST(ReadFully, FailsByTheSystemsErrorWithThePath) {
  std::vector<uint8_t> bytes(8);
  int calls = 0;
  const auto failing = [&](uint8_t*, uint64_t, uint64_t) -> int64_t {
    if (++calls == 1) return 5;  // what a bad sector behind it lets through
    errno = EIO;
    return -1;
  };
  const absl::Status status = ReadFully(failing, 0, absl::MakeSpan(bytes), "disk/f").status();
  EXPECT_EQ(status.code(), absl::StatusCode::kUnavailable) << status;
  EXPECT_THAT(std::string(status.message()), HasSubstr("disk/f"));
  EXPECT_EQ(ReadFully(failing, ~uint64_t{0}, absl::MakeSpan(bytes), "f").status().code(),
            absl::StatusCode::kOutOfRange);
}

TEST(PosixFileSystem, WritesReadsAndMaps) {
  const ScratchFolder folder;
  const auto file = PosixFileSystem().OpenForWrite(folder / "f");
  ASSERT_TRUE(file.ok()) << file.status();
  EXPECT_TRUE((*file)->WriteAt(3, Bytes("hello")).ok());
  EXPECT_EQ(*(*file)->Size(), 8u);
  std::vector<uint8_t> back(5);
  EXPECT_TRUE((*file)->ReadAt(3, absl::MakeSpan(back)).ok());
  EXPECT_EQ(back, Bytes("hello"));
  const absl::Status past = (*file)->ReadAt(4, absl::MakeSpan(back));
  EXPECT_EQ(past.code(), absl::StatusCode::kDataLoss);
  EXPECT_THAT(std::string(past.message()), HasSubstr("ends at byte 8"));
  EXPECT_FALSE((*file)->ReadAt(~uint64_t{0} - 1, absl::MakeSpan(back)).ok());
  const auto mapped = (*file)->Map(0, 8);
  ASSERT_TRUE(mapped.ok()) << mapped.status();
  EXPECT_EQ(*mapped, absl::MakeConstSpan(Bytes(std::string("\0\0\0hello", 8))));
  EXPECT_EQ(*(*file)->Map(4, 2), absl::MakeConstSpan(Bytes("el")));
  EXPECT_EQ((*file)->Map(4, 5).status().code(), absl::StatusCode::kDataLoss);
  EXPECT_EQ(PosixFileSystem().ListPrefix(folder / "f"), std::vector<std::string>{folder / "f"});
  EXPECT_TRUE((*file)->Sync().ok());
}

TEST(PosixFileSystem, AllocatesZerosAndAFullDiskFailsAtOnce) {
  const ScratchFolder folder;
  const auto file = PosixFileSystem().OpenForWrite(folder / "f");
  ASSERT_TRUE(file.ok()) << file.status();
  EXPECT_TRUE((*file)->Allocate(100000).ok());
  EXPECT_EQ(ReadWholeFile(folder / "f"), std::vector<uint8_t>(100000, 0));
  const absl::Status too_much = (*file)->Allocate(uint64_t{1} << 55);
  EXPECT_EQ(too_much.code(), absl::StatusCode::kResourceExhausted) << too_much;
  EXPECT_EQ((*file)->Allocate(~uint64_t{0}).code(), absl::StatusCode::kResourceExhausted);
}

TEST(PosixFileSystem, ALockIsHeldOnceAndNotOnAFileThatWasReplaced) {
  const ScratchFolder folder;
  FileSystem& fs = PosixFileSystem();
  auto first = fs.OpenForWrite(folder / "f");
  auto second = fs.OpenForWrite(folder / "f");
  ASSERT_TRUE(first.ok() && second.ok());
  auto reader = fs.OpenForRead(folder / "f");
  ASSERT_TRUE(reader.ok());
  EXPECT_EQ(*(*reader)->IsLocked(), false);
  EXPECT_TRUE((*first)->Lock().ok()) << "asking takes no lock";
  EXPECT_EQ(*(*reader)->IsLocked(), true);
  EXPECT_EQ((*second)->Lock().code(), absl::StatusCode::kAborted);
  ASSERT_TRUE(fs.Rename(folder / "f", folder / "g").ok());
  first->reset();
  const absl::Status late = (*second)->Lock();
  EXPECT_EQ(late.code(), absl::StatusCode::kAborted) << "it would write into what is now g";
}

TEST(PosixFileSystem, SaysWhatIsWrong) {
  const ScratchFolder folder;
  FileSystem& fs = PosixFileSystem();
  EXPECT_EQ(fs.OpenForRead(folder / "absent").status().code(), absl::StatusCode::kNotFound);
  EXPECT_EQ(fs.OpenForWrite(folder / "no/such/folder").status().code(), absl::StatusCode::kNotFound);
  EXPECT_THAT(std::string(fs.OpenForRead(folder.path()).status().message()),
              HasSubstr("expected a file, found a folder"));
  ASSERT_EQ(mkfifo((folder / "pipe").c_str(), 0600), 0);
  EXPECT_THAT(std::string(fs.OpenForRead(folder / "pipe").status().message()), HasSubstr("a device or pipe"));
  EXPECT_FALSE(fs.Exists(folder / "absent"));
  EXPECT_EQ(fs.Remove(folder / "absent").code(), absl::StatusCode::kNotFound);
  EXPECT_EQ(fs.Rename(folder / "absent", folder / "b").code(), absl::StatusCode::kNotFound);
}

}  // namespace
}  // namespace kompakt
