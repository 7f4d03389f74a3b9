#include "runtime/activation_policy.h"

#include <gtest/gtest.h>

#include <string>

#include "absl/strings/match.h"

namespace kompakt {
namespace {

ActivationPolicy Named(absl::string_view name) { return *ActivationPolicy::FromName(name); }

TEST(ActivationPolicy, IsExactUnlessToldOtherwise) {
  for (const RoleInfo& role : AllRoles()) {
    EXPECT_EQ(ActivationPolicy().Of(role.role), ActPrecision::kF32) << role.name;
    EXPECT_EQ(Named("f32").Of(role.role), ActPrecision::kF32) << role.name;
  }
}

TEST(ActivationPolicy, NeverRoundsWhatTheRouterSeesAndIsCarefulWithAnIndexer) {
  for (const char* const name : {"int8", "int16", "auto"}) {
    EXPECT_EQ(Named(name).name(), name);
    EXPECT_EQ(Named(name).Of(TensorRole::kRouter), ActPrecision::kF32) << name;
    EXPECT_EQ(Named(name).Of(TensorRole::kIndexQB), ActPrecision::kInt16) << name;
    EXPECT_EQ(Named(name).Of(TensorRole::kIndexK), ActPrecision::kInt16) << name;
    EXPECT_EQ(Named(name).Of(TensorRole::kIndexWeights), ActPrecision::kInt16) << name;
  }
}

TEST(ActivationPolicy, AutoRoundsRoutedExpertsAndSharedGatesToInt8AndAllElseToInt16) {
  EXPECT_EQ(Named("auto").Of(TensorRole::kExpertGate), ActPrecision::kInt8);
  EXPECT_EQ(Named("auto").Of(TensorRole::kExpertDown), ActPrecision::kInt8);
  EXPECT_EQ(Named("auto").Of(TensorRole::kSharedGate), ActPrecision::kInt8);
  EXPECT_EQ(Named("auto").Of(TensorRole::kSharedUp), ActPrecision::kInt8);
  EXPECT_EQ(Named("auto").Of(TensorRole::kLmHead), ActPrecision::kInt16);
  EXPECT_EQ(Named("auto").Of(TensorRole::kSharedDown), ActPrecision::kInt16);
  EXPECT_EQ(Named("int8").Of(TensorRole::kLmHead), ActPrecision::kInt8);
  EXPECT_EQ(Named("int16").Of(TensorRole::kExpertGate), ActPrecision::kInt16);
}

TEST(ActivationPolicy, RefusesAnUnknownName) {
  const absl::Status status = ActivationPolicy::FromName("int9").status();
  EXPECT_EQ(status.code(), absl::StatusCode::kInvalidArgument);
  EXPECT_TRUE(absl::StrContains(status.message(), "\"int9\"")) << status;
}

}  // namespace
}  // namespace kompakt
