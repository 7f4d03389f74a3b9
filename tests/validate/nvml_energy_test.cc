#include "validate/nvml_energy.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <cstdlib>
#include <fstream>

#include "tests/fixtures/scratch_folder.h"
#include "validate/answer_energy.h"

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

// A text whose seconds and joules the test makes up.
class FakeText : public FakeGpu {
 protected:
  FakeText() : energy_(MakeWatch()) {}
  void Work(int seconds, uint64_t joules) {
    seconds_ += seconds;
    joules_ += joules;
    Set(joules_ * 1000);
  }
  EnergyWatch MakeWatch() {
    setenv("FAKE_NVML_ENERGY", File().c_str(), 1);
    Set(0);
    return EnergyWatch(OpenNvml("GPU-fake", KOMPAKT_FAKE_NVML),
                       [this] { return std::chrono::steady_clock::time_point(std::chrono::seconds(seconds_)); });
  }

  using Part = AnswerEnergy::Part;
  int seconds_ = 0;
  uint64_t joules_ = 0;
  AnswerEnergy energy_;
};

TEST_F(FakeText, IsCutWhereTheThoughtEnds) {
  Work(21, 100);
  energy_.PromptEnds();
  energy_.Continues(Part::kUnknown);
  Work(3, 10);  // white space before the thought
  energy_.Continues(Part::kUnknown);
  energy_.Continues(Part::kThought);
  Work(20, 1000);
  energy_.Continues(Part::kThought);
  Work(10, 500);
  energy_.Continues(Part::kAnswer);
  Work(25, 2000);
  energy_.Continues(Part::kAnswer);
  energy_.Ends();
  Work(100, 100000);  // whatever comes afterwards
  EXPECT_EQ(energy_.prompt(), 100.0);
  EXPECT_EQ(energy_.thought(), 1510.0);
  EXPECT_EQ(energy_.answer(), 2000.0);
  EXPECT_EQ(energy_.text(), 3510.0);
  EXPECT_EQ(energy_.Description(), "NVML: Fake GPU");
}

TEST_F(FakeText, ThoughtsInSeveralPiecesAddUp) {
  energy_.PromptEnds();
  energy_.Continues(Part::kThought);
  Work(12, 1);
  energy_.Continues(Part::kAnswer);
  Work(12, 10);
  energy_.Continues(Part::kThought);
  Work(12, 100);
  energy_.Ends();
  EXPECT_EQ(energy_.thought(), 101.0);
  EXPECT_FALSE(energy_.answer().has_value()) << "12 s";
  EXPECT_EQ(energy_.text(), 111.0);
}

TEST_F(FakeText, AShortPartSaysNothingAndAShortTextNothingAtAll) {
  Work(5, 5);
  energy_.PromptEnds();
  energy_.Continues(Part::kAnswer);
  Work(19, 5);
  energy_.Ends();
  EXPECT_FALSE(energy_.prompt().has_value());
  EXPECT_FALSE(energy_.answer().has_value());
  EXPECT_FALSE(energy_.text().has_value());
  EXPECT_THAT(energy_.Description(), HasSubstr("not measured: NVML: Fake GPU: 20 s of work are needed"));
  EXPECT_THAT(energy_.Description(), HasSubstr("19.0 s"));
}

TEST_F(FakeText, IsNotMeasuredWhenTheCounterGoesAwayInBetween) {
  energy_.PromptEnds();
  energy_.Continues(Part::kThought);
  Work(30, 100);
  setenv("FAKE_NVML_ENERGY", "/nowhere", 1);
  energy_.Continues(Part::kAnswer);
  setenv("FAKE_NVML_ENERGY", File().c_str(), 1);
  Work(30, 100);
  energy_.Ends();
  EXPECT_FALSE(energy_.thought().has_value());
  EXPECT_FALSE(energy_.text().has_value());
  EXPECT_THAT(energy_.Description(), HasSubstr("Not Supported"));
}

}  // namespace
}  // namespace kompakt
