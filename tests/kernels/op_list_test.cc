// The op list: every case on every kernel set that this machine runs, and what the list itself promises.
#include "kernels/op_list.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <algorithm>
#include <string>
#include <vector>

#include "tests/kernels/op_list_check.h"

namespace kompakt {
namespace {

TEST(OpCases, AgreeWithTheReferenceOnEverySetOfThisMachine) {
  const std::vector<OpCase> cases = CasesToCheck(OpsToCheck::kAll);
  EXPECT_THAT(DisagreementsWithReference(AvailableKernelSets(), cases, 2), testing::IsEmpty());
  EXPECT_GT(cases.size(), 500u);
}

TEST(OpCases, HaveNamesOfTheirOwn) {
  std::vector<std::string> names;
  for (const OpCase& c : AllOpCases()) names.push_back(c.Name());
  std::sort(names.begin(), names.end());
  EXPECT_EQ(std::adjacent_find(names.begin(), names.end()), names.end());
}

TEST(OpCases, OfEveryOpAreTimedAndAreTails) {
  bool timed[kOpCount] = {}, small[kOpCount] = {};
  for (const OpCase& c : AllOpCases()) (c.shape.timed ? timed : small)[static_cast<size_t>(c.op)] = true;
  for (size_t i = 0; i < kOpCount; ++i) {
    EXPECT_TRUE(timed[i]) << NameOf(static_cast<OpId>(i));
    EXPECT_TRUE(small[i]) << NameOf(static_cast<OpId>(i));
  }
}

}  // namespace
}  // namespace kompakt
