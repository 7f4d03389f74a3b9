// Conversions that the power or a kill cuts off, again and again, with whatever lies at the destination: the same
// command goes on, never asks for --force where it did not before, and ends with the expected bytes.
#include <map>
#include <random>
#include <string>
#include <vector>

#include "gtest/gtest.h"
#include "quant/convert.h"
#include "tests/fixtures/intact_files.h"
#include "tests/fixtures/power_loss_file_system.h"
#include "tests/fixtures/small_arch.h"
#include "tests/fixtures/synthetic_source.h"

namespace kompakt {
namespace {

using Files = std::map<std::string, std::vector<uint8_t>>;

const std::string kPath = "folder/a.kpk";

SyntheticSource Source(uint64_t seed) {
  SyntheticOptions options;
  options.arch = MicroArch();
  options.arch.mutable_moe()->set_n_routed_experts(8);
  options.arch.mutable_moe()->set_moe_intermediate_size(200);
  options.seed = seed;
  options.header_seed = 1;
  options.assets = SmallAssets();
  return SyntheticSource(options);
}

// How a destination is written.
struct Form {
  uint64_t volume_bytes = 0;
  int64_t shares = 1;
};

struct LossCase {
  std::string name;
  Form form;
  bool with_old = false;
  Form old_form = {};
};

// The whole, or every share, one after another.
absl::Status Pack(FileSystem& fs, const TensorSource& source, const Form& form, bool force) {
  absl::Status status;
  for (int64_t s = 0; s < form.shares && status.ok(); ++s) {
    ConvertOptions options;
    options.force = force;
    options.volume_bytes = form.volume_bytes;
    options.share = {s, form.shares};
    status = Convert(source, *QuantRecipe::Builtin("q4"), kPath, options, fs).status();
  }
  return status;
}

Files FilesOf(const TensorSource& source, const Form& form) {
  PowerLossFileSystem fs(0);
  const absl::Status status = Pack(fs, source, form, false);
  EXPECT_TRUE(status.ok()) << status;
  return fs.Files();
}

class ConvertPowerLoss : public testing::TestWithParam<LossCase> {};

TEST_P(ConvertPowerLoss, TheSameCommandGoesOnAndEndsInTheExpectedBytes) {
  const LossCase& param = GetParam();
  const SyntheticSource source = Source(1);
  const Files expected = FilesOf(source, {param.form.volume_bytes, 1});
  const Files old = param.with_old ? FilesOf(Source(2), param.old_form) : Files();
  const bool complete_is_one_file = param.form.volume_bytes == 0 && param.old_form.volume_bytes == 0;
  std::vector<std::string> paths;
  for (const auto& [path, bytes] : expected) paths.push_back(path);
  EXPECT_EQ(paths.size() > 2, param.form.volume_bytes != 0);
  int64_t steps = 0;
  {
    PowerLossFileSystem fs(0);
    for (const auto& [path, bytes] : old) fs.Put(path, bytes);
    ASSERT_TRUE(Pack(fs, source, param.form, param.with_old).ok());
    steps = fs.steps();
  }
  int64_t outages = 0;
  for (uint64_t seed = 1; seed <= 80; ++seed) {
    std::mt19937_64 random(seed);
    PowerLossFileSystem fs(seed);
    for (const auto& [path, bytes] : old) fs.Put(path, bytes);
    for (int run = 0;; ++run) {
      ASSERT_LT(run, 200) << "seed " << seed << " never ends";
      const Outage outage = random() % 3 == 0 ? Outage::kKill : Outage::kPower;
      // The end, where names change, comes up as often as all that is before it.
      const auto last = static_cast<uint64_t>(steps);
      const uint64_t step = random() % 2 == 0 ? random() % last : last - last / 6 + random() % (last / 3);
      fs.Arm(outage, static_cast<int64_t>(step));
      const absl::Status status = Pack(fs, source, param.form, param.with_old);
      const bool happened = fs.happened();
      ASSERT_TRUE(happened || status.ok()) << "seed " << seed << ", run " << run << ": " << status;
      fs.Restart();
      SCOPED_TRACE(absl::StrCat("seed ", seed, ", run ", run, ": ", status.ToString()));
      ASSERT_EQ(OpensButDamaged(fs, kPath, paths), "");
      const Files files = fs.Files();
      if (const auto found = files.find(kPath); found != files.end()) {
        ASSERT_TRUE((expected.count(kPath) == 1 && found->second == expected.at(kPath)) ||
                    (old.count(kPath) == 1 && found->second == old.at(kPath)));
      } else {
        ASSERT_FALSE(complete_is_one_file && param.with_old) << "the old file is gone";
      }
      if (status.ok()) break;
      ++outages;
    }
    fs.LosePower();
    fs.Restart();
    ASSERT_EQ(OpensButDamaged(fs, kPath, paths), "") << "seed " << seed;
    const Files files = fs.Files();
    for (const auto& [path, bytes] : expected) {
      ASSERT_TRUE(files.count(path) == 1 && files.at(path) == bytes)
          << "seed " << seed << ": " << path << " " << (files.count(path) ? files.at(path).size() : 0) << " of "
          << bytes.size();
    }
  }
  EXPECT_GT(outages, 60);
}

INSTANTIATE_TEST_SUITE_P(All, ConvertPowerLoss,
                         testing::Values(LossCase{"File", {}}, LossCase{"FileOverOldFile", {}, true, {}},
                                         LossCase{"Volumes", {72000}},
                                         LossCase{"VolumesOverVolumes", {72000}, true, {72000}},
                                         LossCase{"VolumesOverOtherVolumes", {72000}, true, {110000}},
                                         LossCase{"VolumesOverOldFile", {72000}, true, {}}, LossCase{"Shares", {0, 3}},
                                         LossCase{"SharesOfVolumes", {72000, 2}}),
                         [](const auto& info) { return info.param.name; });

}  // namespace
}  // namespace kompakt
