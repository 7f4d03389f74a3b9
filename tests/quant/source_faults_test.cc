// A source whose device fails, or whose files become others while they are converted or between two runs.
#include <fcntl.h>
#include <sys/stat.h>

#include <atomic>
#include <cerrno>
#include <filesystem>
#include <fstream>

#include "converters/checkpoint.h"
#include "format/status.h"
#include "gmock/gmock.h"
#include "gtest/gtest.h"
#include "quant/convert.h"
#include "tests/fixtures/scratch_folder.h"
#include "tests/fixtures/small_arch.h"
#include "tests/fixtures/synthetic_file.h"
#include "tests/fixtures/synthetic_source.h"

namespace kompakt {
namespace {

using testing::HasSubstr;

SyntheticOptions SmallOptions() {
  SyntheticOptions options;
  options.arch = MicroArch();
  options.assets = SmallAssets();
  return options;
}

// Read number `bad_read` meets a bad sector; later ones do not.
class FailingSource : public SyntheticSource {
 public:
  explicit FailingSource(int64_t bad_read) : SyntheticSource(SmallOptions()), bad_read_(bad_read) {}

  absl::StatusOr<StoredRows> ReadStored(const TensorInfo& tensor, int64_t row_begin, int64_t row_end,
                                        Xxh3Stream* source_bytes) const override {
    KOMPAKT_RETURN_IF_ERROR(Read());
    return SyntheticSource::ReadStored(tensor, row_begin, row_end, source_bytes);
  }
  absl::Status ReadF32(const TensorInfo& tensor, int64_t row_begin, int64_t row_end, absl::Span<float> out,
                       Xxh3Stream* source_bytes) const override {
    KOMPAKT_RETURN_IF_ERROR(Read());
    return SyntheticSource::ReadF32(tensor, row_begin, row_end, out, source_bytes);
  }
  bool failed() const { return reads_ > bad_read_; }

 private:
  absl::Status Read() const {
    return reads_++ == bad_read_ ? IoError(EIO, "read", "disk/model-00007.safetensors") : absl::OkStatus();
  }

  const int64_t bad_read_;
  mutable std::atomic<int64_t> reads_ = 0;
};

TEST(SourceFaults, AReadErrorAnywhereEndsTheConversionByNameAndTheNextRunFinishesIt) {
  const ScratchFolder expected(ScratchFolder::Place::kMemory);
  ASSERT_TRUE(
      Convert(SyntheticSource(SmallOptions()), *QuantRecipe::Builtin("q4"), expected / "a.kpk", {}, PosixFileSystem())
          .ok());
  int64_t read = 0;
  for (bool done = false; !done; ++read) {
    const ScratchFolder folder(ScratchFolder::Place::kMemory);
    const FailingSource source(read);
    const auto convert = [&] {
      return Convert(source, *QuantRecipe::Builtin("q4"), folder / "a.kpk", {.threads = 2}, PosixFileSystem());
    };
    const absl::Status status = convert().status();
    done = !source.failed();
    if (done) continue;
    ASSERT_EQ(status.code(), absl::StatusCode::kUnavailable) << "read " << read << ": " << status;
    ASSERT_THAT(std::string(status.message()), HasSubstr("disk/model-00007.safetensors")) << "read " << read;
    ASSERT_FALSE(std::filesystem::exists(folder / "a.kpk")) << "read " << read;
    const absl::Status again = convert().status();
    ASSERT_TRUE(again.ok()) << "read " << read << ": " << again;
    ASSERT_TRUE(ReadWholeFile(folder / "a.kpk") == ReadWholeFile(expected / "a.kpk")) << "read " << read;
  }
  EXPECT_GT(read, 30);
}

// A checkpoint of real files, copied so that it may be harmed.
class ChangingFiles : public testing::Test {
 protected:
  void SetUp() override {
    std::filesystem::copy(KOMPAKT_TEST_DATA "/checkpoints/v2lite", folder_ / "source",
                          std::filesystem::copy_options::recursive);
    for (const auto& entry : std::filesystem::directory_iterator(folder_ / "source")) {
      std::filesystem::permissions(entry.path(), std::filesystem::perms::owner_all);
      if (entry.path().extension() == ".safetensors" && entry.file_size() > shard_bytes_) {
        shard_ = entry.path().string();
        shard_bytes_ = entry.file_size();
      }
    }
    ASSERT_FALSE(shard_.empty());
  }

  // `at_bytes`: how much is done when `what` happens to the files.
  absl::Status ConvertWith(uint64_t at_bytes, const std::function<void(std::atomic<bool>*)>& what) {
    const auto source = OpenCheckpoint(folder_ / "source");
    if (!source.ok()) return source.status();
    std::atomic<bool> interrupted = false;
    bool happened = false;
    ConvertOptions options;
    options.interrupted = &interrupted;
    options.progress = [&](uint64_t done, uint64_t) {
      if (happened || done < at_bytes) return;
      happened = true;
      what(&interrupted);
    };
    return Convert(**source, *QuantRecipe::Builtin("q4"), folder_ / "a.kpk", options, PosixFileSystem()).status();
  }

  // One bit of the last weight byte; the tensor that is last in the file.
  void FlipABit() const {
    std::fstream file(shard_, std::ios::in | std::ios::out | std::ios::binary);
    file.seekg(-2, std::ios::end);
    const char byte = static_cast<char>(file.get());
    file.seekp(-2, std::ios::end);
    file.put(static_cast<char>(byte ^ 1));
  }

  const ScratchFolder folder_;
  std::string shard_;
  uint64_t shard_bytes_ = 0;
};

TEST_F(ChangingFiles, AShardThatIsCutWhileItIsReadIsNamed) {
  const absl::Status status =
      ConvertWith(1, [&](std::atomic<bool>*) { std::filesystem::resize_file(shard_, shard_bytes_ / 3); });
  EXPECT_EQ(status.code(), absl::StatusCode::kDataLoss) << status;
  EXPECT_THAT(std::string(status.message()), HasSubstr(shard_ + ": the file shrank while it was read"));
  EXPECT_FALSE(std::filesystem::exists(folder_ / "a.kpk"));
}

TEST_F(ChangingFiles, AWriteIntoAShardWhileItIsConvertedIsNoticedThoughItsTimeIsSetBack) {
  const absl::Status status = ConvertWith(1, [&](std::atomic<bool>*) {
    struct stat before;
    ASSERT_EQ(stat(shard_.c_str(), &before), 0);
    FlipABit();
    const timespec times[2] = {before.st_atim, before.st_mtim};
    ASSERT_EQ(utimensat(AT_FDCWD, shard_.c_str(), times, 0), 0);
  });
  EXPECT_EQ(status.code(), absl::StatusCode::kFailedPrecondition) << status;
  EXPECT_THAT(std::string(status.message()), HasSubstr("changed while it was converted"));
  EXPECT_FALSE(std::filesystem::exists(folder_ / "a.kpk"));
}

TEST_F(ChangingFiles, AWriteBetweenTwoRunsIsNoticedThoughItsTimeIsSetBackAndEveryOtherByteIsTheSame) {
  const absl::Status first =
      ConvertWith(~uint64_t{0} >> 1, [](std::atomic<bool>*) {});  // to know how much there is: completes
  ASSERT_TRUE(first.ok()) << first;
  const uint64_t all = std::filesystem::file_size(folder_ / "a.kpk");
  std::filesystem::remove(folder_ / "a.kpk");
  const absl::Status stopped = ConvertWith(all * 3 / 4, [](std::atomic<bool>* interrupted) { *interrupted = true; });
  ASSERT_EQ(stopped.code(), absl::StatusCode::kCancelled) << stopped;
  struct stat before;
  ASSERT_EQ(stat(shard_.c_str(), &before), 0);
  // Every tensor of the shard gets another bit, one of them is among the finished.
  {
    std::fstream file(shard_, std::ios::in | std::ios::out | std::ios::binary);
    for (uint64_t at = shard_bytes_ - 2; at > shard_bytes_ / 2; at -= 4096) {
      file.seekg(static_cast<std::streamoff>(at));
      const char byte = static_cast<char>(file.get());
      file.seekp(static_cast<std::streamoff>(at));
      file.put(static_cast<char>(byte ^ 1));
    }
  }
  const timespec times[2] = {before.st_atim, before.st_mtim};
  ASSERT_EQ(utimensat(AT_FDCWD, shard_.c_str(), times, 0), 0);
  const absl::Status resumed = ConvertWith(~uint64_t{0}, [](std::atomic<bool>*) {});
  EXPECT_EQ(resumed.code(), absl::StatusCode::kFailedPrecondition) << resumed;
  EXPECT_THAT(std::string(resumed.message()), HasSubstr("has changed since the interrupted run: tensor "));
  EXPECT_FALSE(std::filesystem::exists(folder_ / "a.kpk"));
}

}  // namespace
}  // namespace kompakt
