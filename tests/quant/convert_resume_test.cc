// Conversions that are cut short, repeated, or meet something at their destination.
#include <sys/wait.h>
#include <unistd.h>

#include <atomic>
#include <csignal>
#include <filesystem>

#include "gmock/gmock.h"
#include "gtest/gtest.h"
#include "quant/convert.h"
#include "tests/fixtures/faulty_file_system.h"
#include "tests/fixtures/scratch_folder.h"
#include "tests/fixtures/small_arch.h"
#include "tests/fixtures/synthetic_file.h"
#include "tests/fixtures/synthetic_source.h"

namespace kompakt {
namespace {

using testing::HasSubstr;

SyntheticSource Source(uint64_t seed = 1) {
  SyntheticOptions options;
  options.arch = SmallV3Arch();
  options.seed = seed;
  options.assets = SmallAssets();
  return SyntheticSource(options);
}

QuantRecipe Recipe(const std::string& name) { return *QuantRecipe::Builtin(name); }

absl::StatusOr<ConvertReport> RunConvert(const TensorSource& source, const std::string& recipe, const std::string& path,
                                         ConvertOptions options = {}) {
  return Convert(source, Recipe(recipe), path, options, PosixFileSystem());
}

const std::vector<uint8_t>& ExpectedBytes() {
  static const std::vector<uint8_t> bytes = [] {
    const ScratchFolder folder;
    EXPECT_TRUE(RunConvert(Source(), "q4", folder / "a.kpk").ok());
    return ReadWholeFile(folder / "a.kpk");
  }();
  return bytes;
}

// Runs until `stop_at` tensor bytes are done, as a user who presses Ctrl-C then.
absl::Status RunInterrupted(const TensorSource& source, const std::string& path, uint64_t stop_at, int threads) {
  std::atomic<bool> interrupted = false;
  ConvertOptions options;
  options.threads = threads;
  options.interrupted = &interrupted;
  options.progress = [&](uint64_t done, uint64_t) {
    if (done >= stop_at) interrupted = true;
  };
  return RunConvert(source, "q4", path, options).status();
}

TEST(ConvertResume, InterruptedAtTwentyPointsTheNextRunGivesTheSameBytes) {
  const SyntheticSource source = Source();
  const uint64_t total = PlanConversion(source, Recipe("q4"), 1)->tensor_bytes;
  int64_t resumed = 0;
  for (uint64_t point = 0; point < 20; ++point) {
    const ScratchFolder folder(ScratchFolder::Place::kMemory);
    const std::string path = folder / "a.kpk";
    const int threads = 1 + static_cast<int>(point % 3);
    const absl::Status status = RunInterrupted(source, path, total * point / 20, threads);
    EXPECT_EQ(status.code(), absl::StatusCode::kCancelled) << status;
    EXPECT_FALSE(std::filesystem::exists(path));
    EXPECT_TRUE(std::filesystem::exists(path + ".partial"));
    const auto report = RunConvert(source, "q4", path, {.threads = 2});
    ASSERT_TRUE(report.ok()) << report.status();
    EXPECT_TRUE(ReadWholeFile(path) == ExpectedBytes()) << "point " << point;
    resumed += report->resumed_records;
  }
  EXPECT_GT(resumed, 20 * 10) << "of 61 records half should have been kept on average";
}

// A process that ends as by kill -9 when `stop_at` tensor bytes are done.
void RunAndKill(const std::string& path, uint64_t stop_at) {
  const pid_t child = fork();
  ASSERT_GE(child, 0);
  if (child == 0) {
    ConvertOptions options;
    options.threads = 2;
    options.progress = [&](uint64_t done, uint64_t) {
      if (done >= stop_at) (void)raise(SIGKILL);
    };
    (void)RunConvert(Source(), "q4", path, options);
    _exit(1);  // not reached: the last progress is the total
  }
  int status = 0;
  ASSERT_EQ(waitpid(child, &status, 0), child);
  ASSERT_TRUE(WIFSIGNALED(status) && WTERMSIG(status) == SIGKILL) << "status " << status;
}

TEST(ConvertResume, KilledAtTwentyPointsTheNextRunGivesTheSameBytes) {
  const uint64_t total = PlanConversion(Source(), Recipe("q4"), 1)->tensor_bytes;
  int64_t resumed = 0;
  for (uint64_t point = 1; point <= 20; ++point) {
    const ScratchFolder folder(ScratchFolder::Place::kMemory);
    const std::string path = folder / "a.kpk";
    RunAndKill(path, total * point / 20);
    EXPECT_FALSE(std::filesystem::exists(path));
    const auto report = RunConvert(Source(), "q4", path, {.threads = 2});
    ASSERT_TRUE(report.ok()) << report.status();
    EXPECT_TRUE(ReadWholeFile(path) == ExpectedBytes()) << "point " << point;
    EXPECT_GT(report->resumed_records, 0) << "point " << point;
    resumed += report->resumed_records;
  }
  EXPECT_GT(resumed, 20 * 10) << "of 61 records half should have been kept on average";
}

TEST(ConvertResume, AFaultAtAnyStepLeavesNothingHalfAndTheNextRunGivesTheSameBytes) {
  const SyntheticSource source = Source();
  for (const Fault fault : {Fault::kDiskFull, Fault::kDeviceError, Fault::kCrash, Fault::kCrashLosingUnsynced}) {
    bool done = false;
    for (int64_t step = 0; !done; step += 1 + step / 6) {
      const ScratchFolder folder(ScratchFolder::Place::kMemory);
      const std::string path = folder / "a.kpk";
      FaultyFileSystem faulty(PosixFileSystem(), fault, step);
      const auto report = Convert(source, Recipe("q4"), path, {.threads = 2}, faulty);
      done = !faulty.failed();
      EXPECT_TRUE(report.ok() || !done) << report.status();
      if (std::filesystem::exists(path)) {
        ASSERT_TRUE(ReadWholeFile(path) == ExpectedBytes()) << "step " << step;
      }
      const auto again = RunConvert(source, "q4", path, {.threads = 2});
      ASSERT_TRUE(again.ok()) << "step " << step << ": " << again.status();
      ASSERT_TRUE(ReadWholeFile(path) == ExpectedBytes()) << "step " << step;
      int files = 0;
      for ([[maybe_unused]] const auto& entry : std::filesystem::directory_iterator(folder.path())) ++files;
      EXPECT_EQ(files, 1) << "step " << step;
    }
  }
}

TEST(ConvertResume, TheSameCommandAgainVerifiesAndChangesNothing) {
  const ScratchFolder folder;
  const std::string path = folder / "a.kpk";
  const SyntheticSource source = Source();
  ASSERT_TRUE(RunConvert(source, "q4", path).ok());
  const auto time = std::filesystem::last_write_time(path);
  const auto report = RunConvert(source, "q4", path);
  ASSERT_TRUE(report.ok()) << report.status();
  EXPECT_TRUE(report->already_complete);
  EXPECT_FALSE(report->errors.empty());
  EXPECT_EQ(std::filesystem::last_write_time(path), time);
}

TEST(ConvertResume, ADestinationMadeFromSomethingElseIsKeptUnlessForced) {
  const ScratchFolder folder;
  const std::string path = folder / "a.kpk";
  ASSERT_TRUE(RunConvert(Source(), "q4", path).ok());

  const auto other_recipe = RunConvert(Source(), "q8", path);
  EXPECT_EQ(other_recipe.status().code(), absl::StatusCode::kAlreadyExists);
  EXPECT_THAT(std::string(other_recipe.status().message()), HasSubstr("the recipe differs; --force replaces it"));

  const auto other_source = RunConvert(Source(2), "q4", path);
  EXPECT_EQ(other_source.status().code(), absl::StatusCode::kAlreadyExists);
  EXPECT_THAT(std::string(other_source.status().message()), HasSubstr("source file synthetic.safetensors changed"));
  EXPECT_TRUE(ReadWholeFile(path) == ExpectedBytes());

  const auto forced = RunConvert(Source(2), "q4", path, {.force = true});
  ASSERT_TRUE(forced.ok()) << forced.status();
  EXPECT_FALSE(ReadWholeFile(path) == ExpectedBytes());
}

TEST(ConvertResume, ADamagedDestinationIsNotTakenForTheResult) {
  const ScratchFolder folder;
  const std::string path = folder / "a.kpk";
  std::vector<uint8_t> damaged = ExpectedBytes();
  damaged[5000] ^= 1;
  WriteWholeFile(path, damaged);
  const auto kept = RunConvert(Source(), "q4", path);
  EXPECT_EQ(kept.status().code(), absl::StatusCode::kAlreadyExists);
  EXPECT_THAT(std::string(kept.status().message()), HasSubstr("is damaged"));
  const auto forced = RunConvert(Source(), "q4", path, {.force = true});
  ASSERT_TRUE(forced.ok()) << forced.status();
  EXPECT_TRUE(ReadWholeFile(path) == ExpectedBytes());
}

TEST(ConvertResume, AFileOrFolderThatIsNoPackedFileIsNotOverwritten) {
  const ScratchFolder folder;
  const std::string path = folder / "a.kpk";
  WriteWholeFile(path, std::vector<uint8_t>{'m', 'y', ' ', 't', 'h', 'e', 's', 'i', 's'});
  const auto report = RunConvert(Source(), "q4", path);
  EXPECT_EQ(report.status().code(), absl::StatusCode::kAlreadyExists);
  EXPECT_THAT(std::string(report.status().message()), HasSubstr("not a .kpk file"));
  for (const bool force : {false, true}) {
    const auto into_folder = RunConvert(Source(), "q4", folder.path(), {.force = force});
    EXPECT_EQ(into_folder.status().code(), absl::StatusCode::kInvalidArgument) << into_folder.status();
  }
  EXPECT_EQ(RunConvert(Source(), "q4", folder / "no/such/a.kpk").status().code(), absl::StatusCode::kNotFound);
}

TEST(ConvertResume, AChangedSourceOrRecipeIsRefusedByName) {
  const ScratchFolder folder;
  const std::string path = folder / "a.kpk";
  ASSERT_EQ(RunInterrupted(Source(), path, 20000, 1).code(), absl::StatusCode::kCancelled);
  const auto changed = RunConvert(Source(2), "q4", path);
  EXPECT_EQ(changed.status().code(), absl::StatusCode::kFailedPrecondition);
  EXPECT_THAT(std::string(changed.status().message()), HasSubstr("source file synthetic.safetensors changed"));
  const auto recipe = RunConvert(Source(), "q8", path);
  EXPECT_EQ(recipe.status().code(), absl::StatusCode::kFailedPrecondition);
  EXPECT_THAT(std::string(recipe.status().message()), HasSubstr("the recipe differs"));
  const auto resumed = RunConvert(Source(), "q4", path);
  ASSERT_TRUE(resumed.ok()) << resumed.status();
  EXPECT_TRUE(ReadWholeFile(path) == ExpectedBytes());
}

// The file of Source(), written again or replaced by another one with the same header.
SyntheticSource ChangedSource(uint64_t seed, const std::string& state) {
  SyntheticOptions options;
  options.arch = SmallV3Arch();
  options.seed = seed;
  options.header_seed = 1;
  options.assets = SmallAssets();
  options.state = state;
  return SyntheticSource(options);
}

TEST(ConvertResume, ASourceFileThatWasTouchedButHoldsTheSameIsComparedAndGoneOnWith) {
  const ScratchFolder folder;
  const std::string path = folder / "a.kpk";
  ASSERT_EQ(RunInterrupted(Source(), path, 20000, 1).code(), absl::StatusCode::kCancelled);
  const auto resumed = RunConvert(ChangedSource(1, "copied"), "q4", path);
  ASSERT_TRUE(resumed.ok()) << resumed.status();
  EXPECT_GT(resumed->resumed_records, 0);
  EXPECT_TRUE(ReadWholeFile(path) == ExpectedBytes());
}

TEST(ConvertResume, ASourceFileWithOtherWeightsUnderTheSameHeaderIsRefusedByItsTensor) {
  const ScratchFolder folder;
  const std::string path = folder / "a.kpk";
  ASSERT_EQ(RunInterrupted(Source(), path, 20000, 1).code(), absl::StatusCode::kCancelled);
  const auto changed = RunConvert(ChangedSource(2, "written again"), "q4", path);
  EXPECT_EQ(changed.status().code(), absl::StatusCode::kFailedPrecondition);
  EXPECT_THAT(std::string(changed.status().message()),
              HasSubstr("synthetic.safetensors has changed since the interrupted run: tensor "
                        "model.embed_tokens.weight differs"));
  EXPECT_THAT(std::string(changed.status().message()), HasSubstr("--restart"));
  EXPECT_FALSE(std::filesystem::exists(path));
  // A refusal changes nothing: the first source still goes on, and so does a later run with the second from scratch.
  const auto again = RunConvert(ChangedSource(2, "written again"), "q4", path);
  EXPECT_EQ(again.status().code(), absl::StatusCode::kFailedPrecondition);
  ASSERT_TRUE(RunConvert(Source(), "q4", path).ok());
  EXPECT_TRUE(ReadWholeFile(path) == ExpectedBytes());
}

TEST(ConvertResume, RestartThrowsTheInterruptedRunAway) {
  const ScratchFolder folder;
  const std::string path = folder / "a.kpk";
  ASSERT_EQ(RunInterrupted(ChangedSource(2, "old"), path, 20000, 1).code(), absl::StatusCode::kCancelled);
  ASSERT_EQ(RunConvert(Source(), "q4", path).status().code(), absl::StatusCode::kFailedPrecondition);
  const auto report = RunConvert(Source(), "q4", path, {.restart = true});
  ASSERT_TRUE(report.ok()) << report.status();
  EXPECT_EQ(report->resumed_records, 0);
  EXPECT_TRUE(ReadWholeFile(path) == ExpectedBytes());
}

TEST(ConvertResume, AFinishedFileOfOtherWeightsUnderTheSameHeaderIsNotTakenForTheResult) {
  const ScratchFolder folder;
  const std::string path = folder / "a.kpk";
  ASSERT_TRUE(RunConvert(Source(), "q4", path).ok());
  const auto changed = RunConvert(ChangedSource(2, "as it was"), "q4", path, {.threads = 3});
  EXPECT_EQ(changed.status().code(), absl::StatusCode::kAlreadyExists);
  EXPECT_THAT(std::string(changed.status().message()), HasSubstr("tensor model.embed_tokens.weight differs"));
}

// States that differ from call to call: somebody writes while we read.
class ChangingSource : public SyntheticSource {
 public:
  using SyntheticSource::SyntheticSource;
  absl::StatusOr<std::vector<SourceState>> States() const override {
    return std::vector<SourceState>{{"synthetic.safetensors", absl::StrCat("call ", calls_++)}};
  }

 private:
  mutable std::atomic<int> calls_ = 0;
};

TEST(ConvertResume, ASourceFileThatChangesWhileItIsReadEndsTheConversionBeforeItIsComplete) {
  const ScratchFolder folder;
  const std::string path = folder / "a.kpk";
  SyntheticOptions options;
  options.arch = SmallV3Arch();
  options.assets = SmallAssets();
  const auto report = RunConvert(ChangingSource(options), "q4", path);
  EXPECT_EQ(report.status().code(), absl::StatusCode::kFailedPrecondition);
  EXPECT_THAT(std::string(report.status().message()),
              HasSubstr("synthetic.safetensors changed while it was converted"));
  EXPECT_FALSE(std::filesystem::exists(path));
  const auto again = RunConvert(Source(), "q4", path);
  ASSERT_TRUE(again.ok()) << again.status();
  EXPECT_TRUE(ReadWholeFile(path) == ExpectedBytes());
}

}  // namespace
}  // namespace kompakt
