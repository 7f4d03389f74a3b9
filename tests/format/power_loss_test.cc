// The power may go, or the process, at any call of a conversion, and again while it is gone on with: the destination is
// absent, or its old self, or complete, what can be opened is intact, and the last run gives the expected bytes.
#include <map>
#include <string>
#include <vector>

#include "format/packed_target.h"
#include "format/packed_writer.h"
#include "format/volume_plan.h"
#include "gmock/gmock.h"
#include "gtest/gtest.h"
#include "tests/fixtures/intact_files.h"
#include "tests/fixtures/power_loss_file_system.h"
#include "tests/fixtures/small_arch.h"
#include "tests/fixtures/synthetic_file.h"

namespace kompakt {
namespace {

using Device = PowerLossFileSystem::Device;
using Files = std::map<std::string, std::vector<uint8_t>>;

constexpr uint64_t kSeed = 3;
constexpr uint64_t kOldSeed = 4;
const std::string kPath = "folder/a.kpk";

struct LossCase {
  std::string name;
  int volumes = 1;
  int64_t shares = 1;
  bool with_old = false;  // the destination is there, made from other weights
};

WritePlan PlanOf(const LossCase& c) {
  ArchSpec arch = MicroArch();
  if (c.volumes > 1) arch.mutable_moe()->set_n_routed_experts(8);  // enough for a volume of their own
  const auto schema = ModelSchema::Create(arch);
  EXPECT_TRUE(schema.ok()) << schema.status();
  const WritePlan whole = SyntheticPlan(*schema, EveryFormat(*schema));
  for (uint64_t bytes = 1024; c.volumes > 1; bytes += 1024) {
    WritePlan cut = whole;
    if (CutIntoVolumes(cut, bytes).ok() && cut.manifest.volumes().ends_size() <= c.volumes) return cut;
  }
  return whole;
}

// Every record that is not done, by the writer whose it is.
absl::Status WriteRecords(const std::vector<std::unique_ptr<PackedWriter>>& writers, const WritePlan& plan,
                          uint64_t seed) {
  for (int64_t e = 0; e < static_cast<int64_t>(plan.layout.extents().size()); ++e) {
    for (int64_t r = 0; r < plan.layout.extents()[static_cast<size_t>(e)].record_count; ++r) {
      for (const auto& writer : writers) {
        if (!writer->IsMine(e, r) || writer->IsDone(e, r)) continue;
        const auto record = writer->BeginRecord(e, r);
        if (absl::Status s = record->Append(SyntheticRecord(plan.layout, e, r, seed)); !s.ok()) return s;
        const std::vector<uint64_t> source = SyntheticSourceXxh3(plan, e, r);
        if (absl::Status s = record->Finish(SyntheticStats(plan, e), source); !s.ok()) return s;
      }
    }
  }
  return absl::OkStatus();
}

// All shares in one thread; when their records are done, each looks whether it is the last.
absl::Status WriteShares(FileSystem& fs, const WritePlan& plan, int64_t shares, uint64_t seed, bool start_over) {
  std::vector<std::unique_ptr<PackedWriter>> writers;
  for (int64_t s = 0; s < shares; ++s) {
    WriterOptions options;
    options.share = {s, shares};
    options.start_over = start_over && shares == 1;
    auto writer = PackedWriter::Open(fs, kPath, plan, options);
    if (!writer.ok()) return writer.status();
    writers.push_back(*std::move(writer));
  }
  if (absl::Status s = WriteRecords(writers, plan, seed); !s.ok()) return s;
  for (const auto& writer : writers) {
    if (shares > 1) {
      const auto unfinished = writer->UnfinishedShares();
      if (!unfinished.ok()) return unfinished.status();
      if (!unfinished->empty()) continue;
    }
    const absl::Status committed = writer->Commit();
    if (shares > 1 && absl::IsAborted(committed)) continue;  // another has
    if (!committed.ok()) return committed;
  }
  return absl::OkStatus();
}

Files FilesOf(const WritePlan& plan, uint64_t seed) {
  PowerLossFileSystem fs(0);
  const absl::Status status = WriteShares(fs, plan, 1, seed, false);
  EXPECT_TRUE(status.ok()) << status;
  return fs.Files();
}

struct Conversion {
  explicit Conversion(const LossCase& c)
      : loss_case(c),
        plan(PlanOf(c)),
        expected(FilesOf(plan, kSeed)),
        old(c.with_old ? FilesOf(plan, kOldSeed) : Files()) {}

  absl::Status Run(FileSystem& fs, bool start_over = false) const {
    return WriteShares(fs, plan, loss_case.shares, kSeed, start_over);
  }
  // A process for the whole goes on from what shares have left.
  absl::Status RunWhole(FileSystem& fs) const { return WriteShares(fs, plan, 1, kSeed, false); }

  std::unique_ptr<PowerLossFileSystem> Begin(uint64_t seed, Device device = Device::kHonest) const {
    auto fs = std::make_unique<PowerLossFileSystem>(seed, device);
    for (const auto& [path, bytes] : old) fs->Put(path, bytes);
    return fs;
  }

  const LossCase loss_case;
  const WritePlan plan;
  const Files expected;
  const Files old;
};

// Empty when all that lies there is as it must be at every moment.
std::string WhatIsWrong(const Conversion& conversion, PowerLossFileSystem& fs) {
  const Files files = fs.Files();
  const std::vector<std::string> paths = TargetPaths(kPath, conversion.plan.manifest);
  const auto is = [&](const Files& wanted) {
    return std::all_of(paths.begin(), paths.end(), [&](const std::string& path) {
      const auto found = files.find(path);
      return found != files.end() && wanted.count(path) == 1 && found->second == wanted.at(path);
    });
  };
  const bool complete = is(conversion.expected);
  const bool is_old = is(conversion.old);
  if (files.count(paths[0]) == 1 && !complete && !is_old) return paths[0] + " is there, but neither complete nor old";
  if (conversion.loss_case.volumes == 1 && conversion.loss_case.with_old && !complete && !is_old) {
    return "the old file is gone";
  }
  return OpensButDamaged(fs, kPath, paths);
}

class PowerLoss : public testing::TestWithParam<LossCase> {};

// What was reported as done is on the device.
void ExpectDurable(const Conversion& conversion, PowerLossFileSystem& fs) {
  fs.LosePower();
  fs.Restart();
  EXPECT_EQ(WhatIsWrong(conversion, fs), "");
  const Files files = fs.Files();
  for (const auto& [path, bytes] : conversion.expected) {
    EXPECT_TRUE(files.count(path) == 1 && files.at(path) == bytes) << path << " was reported as done";
  }
}

TEST_P(PowerLoss, AtAnyCallHarmsNothingAndTheNextRunFinishes) {
  const Conversion conversion(GetParam());
  int64_t resumed = 0;
  int64_t step = 0;
  for (bool done = false; !done; ++step) {
    for (uint64_t chance = 0; chance < 2 && !done; ++chance) {
      SCOPED_TRACE(absl::StrCat("step ", step, ", chance ", chance));
      const auto fs = conversion.Begin(static_cast<uint64_t>(step) * 2 + chance);
      fs->Arm(Outage::kPower, step);
      const absl::Status status = conversion.Run(*fs);
      done = !fs->happened();
      EXPECT_TRUE(!done || status.ok()) << status;
      fs->Restart();
      ASSERT_EQ(WhatIsWrong(conversion, *fs), "");
      {
        const auto writer = PackedWriter::Open(*fs, kPath, conversion.plan, {});
        ASSERT_TRUE(writer.ok()) << writer.status();
        resumed += (*writer)->resumed_records();
      }
      const absl::Status again = chance == 0 ? conversion.Run(*fs) : conversion.RunWhole(*fs);
      ASSERT_TRUE(again.ok()) << again;
      ASSERT_EQ(fs->Files(), conversion.expected);
      ExpectDurable(conversion, *fs);
      if (HasFailure()) return;
    }
  }
  EXPECT_GT(step, 100) << "the losses did not cover the conversion";
  EXPECT_GT(resumed, step) << "hardly anything was resumed";
}

TEST_P(PowerLoss, SeveralTimesInARowWithKillsAndFailedSyncsEndsInTheExpectedBytes) {
  const Conversion conversion(GetParam());
  int64_t steps = 0;
  {
    const auto fs = conversion.Begin(0);
    ASSERT_TRUE(conversion.Run(*fs).ok());
    steps = fs->steps();
  }
  int64_t outages = 0;
  for (uint64_t seed = 1; seed <= 100; ++seed) {
    std::mt19937_64 random(seed);
    const auto fs = conversion.Begin(seed);
    for (int run = 0;; ++run) {
      ASSERT_LT(run, 200) << "seed " << seed << " never ends";
      constexpr Outage kOutages[] = {Outage::kPower, Outage::kPower, Outage::kKill, Outage::kFailedSync};
      const Outage outage = kOutages[random() % 4];
      fs->Arm(outage, static_cast<int64_t>(random() % static_cast<uint64_t>(steps * 4 / 3)));
      const absl::Status status = random() % 4 == 0   ? conversion.RunWhole(*fs)
                                  : random() % 8 == 0 ? conversion.Run(*fs, /*start_over=*/true)
                                                      : conversion.Run(*fs);
      const bool happened = fs->happened();
      fs->Restart();
      ASSERT_EQ(WhatIsWrong(conversion, *fs), "") << "seed " << seed << ", run " << run << ": " << status;
      if (status.ok()) break;
      // A failed sync may have lost what reads still give; the bytes are then found damaged before the rename.
      ASSERT_TRUE(happened || absl::IsDataLoss(status)) << "seed " << seed << ", run " << run << ": " << status;
      ++outages;
    }
    EXPECT_EQ(fs->Files(), conversion.expected) << "seed " << seed;
    ExpectDurable(conversion, *fs);
    ASSERT_FALSE(HasFailure()) << "seed " << seed;
  }
  EXPECT_GT(outages, 100);
}

INSTANTIATE_TEST_SUITE_P(All, PowerLoss,
                         testing::Values(LossCase{"File"}, LossCase{"FileOverOld", 1, 1, true}, LossCase{"Volumes", 3},
                                         LossCase{"VolumesOverOld", 3, 1, true}, LossCase{"Shares", 1, 3},
                                         LossCase{"SharesOfVolumes", 3, 2}, LossCase{"SharesOverOld", 3, 2, true}),
                         [](const auto& info) { return info.param.name; });

// The source's weights have changed under the same headers, so that the plan is the same; --restart throws the old run
// away. Whatever of that the device has kept, no record of it gets into the new file.
TEST(PowerLossRestart, NoRecordOfTheRunThatWasThrownAwayIsTaken) {
  const Conversion conversion({"File"});
  WritePlan old_plan = conversion.plan, new_plan = conversion.plan;
  old_plan.source_states = {{"synthetic.safetensors", "as it was before"}};
  new_plan.source_states = {{"synthetic.safetensors", "as it is by now."}};
  int64_t thrown_away = 0;
  for (uint64_t seed = 0; seed < 400; ++seed) {
    std::mt19937_64 random(seed);
    PowerLossFileSystem fs(seed);
    fs.Arm(Outage::kKill, 30 + static_cast<int64_t>(random() % 60));
    (void)WriteShares(fs, old_plan, 1, kOldSeed, false);
    if (random() % 2 == 0) fs.LosePower();
    fs.Restart();
    // As quant/ does: what comes from a changed source is taken only when it compares equal, and it does not.
    for (int run = 0; run < 100; ++run) {
      if (run < 4) fs.Arm(Outage::kPower, static_cast<int64_t>(random() % (run == 0 ? 25 : 90)));
      WriterOptions options;
      options.start_over = run == 0;
      auto writer = PackedWriter::Open(fs, kPath, new_plan, options);
      if (writer.ok() && !(*writer)->changed_sources().empty()) {
        writer->reset();
        options.start_over = true;
        writer = PackedWriter::Open(fs, kPath, new_plan, options);
        ++thrown_away;
      }
      absl::Status status = writer.status();
      std::vector<std::unique_ptr<PackedWriter>> writers;
      if (writer.ok()) writers.push_back(*std::move(writer));
      if (status.ok()) status = WriteRecords(writers, new_plan, kSeed);
      if (status.ok()) status = writers[0]->Commit();
      writers.clear();
      fs.Restart();
      ASSERT_EQ(WhatIsWrong(conversion, fs), "") << "seed " << seed << ", run " << run << ": " << status;
      if (status.ok()) break;
    }
    ASSERT_EQ(fs.Files(), conversion.expected) << "seed " << seed;
  }
  EXPECT_GT(thrown_away, 40);
}

// The tests above have teeth: on a device that does not do as it is told they find what must not be.
TEST(PowerLossTeeth, ADeviceThatIgnoresSyncIsFoundOut) {
  for (const Device device : {Device::kIgnoresFileSync, Device::kIgnoresFolderSync}) {
    const Conversion conversion({"", 1, 1, true});
    int64_t wrong = 0;
    for (uint64_t seed = 0; seed < 40; ++seed) {
      const auto fs = conversion.Begin(seed, device);
      EXPECT_TRUE(conversion.Run(*fs).ok());
      fs->LosePower();
      fs->Restart();
      const Files files = fs->Files();
      const auto found = files.find(kPath);
      wrong += found == files.end() || found->second != conversion.expected.at(kPath) ? 1 : 0;
    }
    EXPECT_GT(wrong, 10) << "device " << static_cast<int>(device);
  }
}

}  // namespace
}  // namespace kompakt
