#include "validate/nvml_energy.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <cstdlib>
#include <fstream>

#include "tests/fixtures/scratch_folder.h"

namespace kompakt {
namespace {

using testing::HasSubstr;

// A library with NVML's functions (fake_nvml/), whose counter is a file.
class FakeGpu : public testing::Test {
 protected:
  void SetUp() override { setenv("FAKE_NVML_ENERGY", File().c_str(), 1); }
  void TearDown() override {
    unsetenv("FAKE_NVML_ENERGY");
    unsetenv("FAKE_NVML_NO_DRIVER");
  }
  std::string File() const { return scratch_.path() + "/millijoules"; }
  void Set(uint64_t millijoules) { std::ofstream(File()) << millijoules << "\n"; }
  static std::string WhyNot(const std::string& uuid) {
    const auto meter = OpenNvml(uuid, KOMPAKT_FAKE_NVML);
    return meter.ok() ? "" : std::string(meter.status().message());
  }

  ScratchFolder scratch_;
};

TEST_F(FakeGpu, CountsJoulesSinceItWasOpened) {
  Set(5'000'000);
  auto meter = OpenNvml("GPU-fake", KOMPAKT_FAKE_NVML);
  ASSERT_TRUE(meter.ok()) << meter.status();
  EXPECT_EQ((*meter)->what(), "NVML: Fake GPU");
  EXPECT_EQ(*(*meter)->Joules(), 0.0);
  Set(5'001'500);
  EXPECT_DOUBLE_EQ(*(*meter)->Joules(), 1.5);
  EXPECT_TRUE(OpenNvml("", KOMPAKT_FAKE_NVML).ok()) << "without a name it is the first one";
}

TEST_F(FakeGpu, SaysWhatIsMissing) {
  EXPECT_THAT(WhyNot("GPU-fake"), HasSubstr("energy counter: Not Supported"));
  Set(1);
  EXPECT_THAT(WhyNot("GPU-other"), HasSubstr("GPU-other: Not Found"));
  setenv("FAKE_NVML_NO_DRIVER", "1", 1);
  EXPECT_THAT(WhyNot("GPU-fake"), HasSubstr("Driver Not Loaded"));
  const auto none = OpenNvml("", scratch_.path() + "/absent.so");
  EXPECT_EQ(none.status().code(), absl::StatusCode::kUnavailable);
  EXPECT_THAT(std::string(none.status().message()), HasSubstr("absent.so"));
}

TEST_F(FakeGpu, IsNotMeasuredWhenTheCounterGoesAwayOrTheWorkIsShort) {
  Set(1000);
  EnergyWatch watch(OpenNvml("GPU-fake", KOMPAKT_FAKE_NVML));
  Set(3000);
  EXPECT_FALSE(watch.Joules().has_value()) << "nobody works 20 s in this test";
  EXPECT_THAT(watch.why_not(), HasSubstr("20 s"));
}

}  // namespace
}  // namespace kompakt
