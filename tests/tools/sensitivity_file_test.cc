#include "tools/sensitivity_file.h"

#include <string>

#include "gmock/gmock.h"
#include "gtest/gtest.h"

namespace kompakt {
namespace {

using nlohmann::ordered_json;
using testing::HasSubstr;

SensitivityReport Report() {
  SensitivityReport report;
  report.model = "model";
  report.text = "text";
  report.format = "q4_g32";
  report.format_error = 0.5;
  report.calibration = "x.kcal";
  report.num_hidden_layers = 4;
  report.context = 512;
  report.chunks = 4;
  report.tokens_scored = 1020;
  report.floor_free = 0.25;
  report.floor_frozen = 0.125;
  report.units.push_back({"head", -1, -1, 1, 100, 0.75, 1.25, 0.1, 1.0, 0.1});
  report.units.push_back({"experts.down", 1, 3, 4, 300, 0.25, 0.125, 0.1, 0.0, 0.1});
  return report;
}

TEST(SensitivityFile, ReadsWhatItWrites) {
  const auto read = ParseSensitivity(SensitivityJson(Report()).dump(), "x");
  ASSERT_TRUE(read.ok()) << read.status();
  EXPECT_EQ(SensitivityJson(*read), SensitivityJson(Report()));
}

TEST(SensitivityFile, WeighsByWhatIsAboveTheFloorPerErrorAndRole) {
  const auto weights = Report().Weights();
  EXPECT_EQ(weights[0].weight, (1.25 - 0.25) / 0.5);
  EXPECT_EQ(weights[1].weight, 0);  // below the floor
  EXPECT_EQ(weights[1].first_layer, 1);
  EXPECT_EQ(weights[1].last_layer, 3);
}

TEST(SensitivityFile, RefusesEveryFieldThatIsMissingOrOfAnotherKind) {
  const ordered_json good = SensitivityJson(Report());
  const auto refused = [](const ordered_json& json, const std::string& field) {
    const absl::Status status = ParseSensitivity(json.dump(), "x.json").status();
    EXPECT_EQ(status.code(), absl::StatusCode::kDataLoss) << field;
    EXPECT_THAT(std::string(status.message()), HasSubstr("x.json")) << field;
    EXPECT_THAT(std::string(status.message()), HasSubstr(field)) << field;
  };
  for (const auto& [key, value] : good.items()) {
    for (const ordered_json& other : {ordered_json(nullptr), ordered_json(-3), ordered_json(true)}) {
      ordered_json bad = good;
      bad[key] = other;
      refused(bad, key);
    }
    ordered_json bad = good;
    bad.erase(key);
    refused(bad, key);
  }
  for (const auto& [key, value] : good["units"][1].items()) {
    if (key == "weight") continue;  // for people
    for (const ordered_json& other : {ordered_json(nullptr), ordered_json(-3), ordered_json("1")}) {
      if (key == "class" && other.is_string()) continue;
      ordered_json bad = good;
      bad["units"][1][key] = other;
      refused(bad, key);
    }
  }
  ordered_json bad = good;
  bad["units"][0]["class"] = "heda";
  refused(bad, "did you mean \"head\"");
  bad = good;
  bad["units"][1]["last_layer"] = 4;
  refused(bad, "last_layer");
  bad["units"] = ordered_json::array({1});
  refused(bad, "unit 0");
  EXPECT_FALSE(ParseSensitivity("", "x").ok());
  EXPECT_FALSE(ParseSensitivity("{\"kompakt_sensitivity\": 1", "x").ok());
  EXPECT_FALSE(ParseSensitivity("[1e999]", "x").ok());
}

TEST(SensitivityFile, OfAModelOfAnotherDepthIsRefused) {
  ArchSpec arch;
  arch.set_num_hidden_layers(4);
  EXPECT_TRUE(CheckSameDepth(Report(), arch, "x").ok());
  arch.set_num_hidden_layers(5);
  EXPECT_EQ(CheckSameDepth(Report(), arch, "x").code(), absl::StatusCode::kFailedPrecondition);
}

}  // namespace
}  // namespace kompakt
