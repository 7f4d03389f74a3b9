#include "validate/energy.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <filesystem>
#include <fstream>

#include "tests/fixtures/scratch_folder.h"

namespace kompakt {
namespace {

using testing::HasSubstr;

// A folder like /sys/class/powercap.
class Counters : public testing::Test {
 protected:
  void Zone(const std::string& folder, const std::string& name, uint64_t energy, uint64_t range) {
    std::filesystem::create_directories(Path(folder));
    std::ofstream(Path(folder) + "/name") << name << "\n";
    std::ofstream(Path(folder) + "/max_energy_range_uj") << range << "\n";
    Set(folder, energy);
  }
  void Set(const std::string& folder, uint64_t energy) { std::ofstream(Path(folder) + "/energy_uj") << energy << "\n"; }
  std::string Path(const std::string& folder) const { return scratch_.path() + "/" + folder; }

  ScratchFolder scratch_;
};

TEST_F(Counters, OfPackagesAndTheirMemoryAddUp) {
  Zone("intel-rapl:0", "package-0", 5'000'000, 1'000'000'000);
  Zone("intel-rapl:0:0", "core", 1'000'000, 1'000'000'000);
  Zone("intel-rapl:0:1", "dram", 7'000'000, 1'000'000'000);
  Zone("intel-rapl:1", "psys", 9'000'000, 1'000'000'000);
  Zone("intel-rapl-mmio:0", "package-0", 5'000'000, 1'000'000'000);
  EnergyWatch watch(OpenRapl(scratch_.path()));
  EXPECT_EQ(watch.what(), "RAPL: package-0, dram");
  EXPECT_EQ(watch.Joules(), 0.0);
  Set("intel-rapl:0", 6'500'000);
  Set("intel-rapl:0:0", 2'000'000);
  Set("intel-rapl:0:1", 7'250'000);
  Set("intel-rapl:1", 99'000'000);
  EXPECT_DOUBLE_EQ(*watch.Joules(), 1.75);
  watch.Restart();
  EXPECT_DOUBLE_EQ(*watch.Joules(), 0.0);
}

TEST_F(Counters, MayStartAgainAtZero) {
  Zone("intel-rapl:0", "package-0", 900'000, 999'999);
  EnergyWatch watch(OpenRapl(scratch_.path()));
  Set("intel-rapl:0", 100'000);
  EXPECT_DOUBLE_EQ(*watch.Joules(), 0.2);
  Set("intel-rapl:0", 50'000);
  EXPECT_DOUBLE_EQ(*watch.Joules(), 1.15);
}

TEST_F(Counters, ThatAreMissingOrUnreadableAreNotMeasured) {
  EnergyWatch none(OpenRapl(scratch_.path() + "/absent"));
  EXPECT_FALSE(none.Joules().has_value());
  EXPECT_THAT(none.why_not(), HasSubstr("no energy counters"));
  Zone("intel-rapl:0", "package-0", 1, 10);
  std::ofstream(Path("intel-rapl:0") + "/energy_uj") << "many\n";
  EnergyWatch broken(OpenRapl(scratch_.path()));
  EXPECT_FALSE(broken.Joules().has_value());
  EXPECT_THAT(broken.why_not(), HasSubstr("expected a number"));
}

TEST_F(Counters, ThatGoAwayAreNotMeasuredAnyLonger) {
  Zone("intel-rapl:0", "package-0", 1, 10);
  EnergyWatch watch(OpenRapl(scratch_.path()));
  EXPECT_TRUE(watch.Joules().has_value());
  std::filesystem::remove(Path("intel-rapl:0") + "/energy_uj");
  EXPECT_FALSE(watch.Joules().has_value());
  EXPECT_THAT(watch.why_not(), HasSubstr("energy_uj"));
}

}  // namespace
}  // namespace kompakt
