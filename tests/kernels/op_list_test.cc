// Every case of the op list, on every kernel set that this machine runs, against the reference.
#include "kernels/op_list.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <set>
#include <string>

#include "kernels/op_run.h"

namespace kompakt {
namespace {

struct Result {
  std::vector<float> values;
  std::vector<int32_t> ids;
};

class OpList : public testing::Test {
 protected:
  Result RunOn(const KernelSet& set, PreparedOp& op) {
    KernelContext context{.team = &team_, .workspace = &workspace_};
    op.Reset();
    EXPECT_TRUE(op.Run(set, context).ok());
    return {op.values(), op.ids()};
  }

  Workspace workspace_;
  ThreadTeam team_{2};
  OpArena arena_;
};

double RootMeanSquare(const std::vector<float>& values) {
  double sum = 0;
  for (const float v : values) sum += static_cast<double>(v) * static_cast<double>(v);
  return values.empty() ? 0 : std::sqrt(sum / static_cast<double>(values.size()));
}

// Inputs are normal, so the rounding errors of a sum add up like a random walk: 2^-24 per step, some hundred times that
// after the thousands of steps of the longest sum, relative to the size of results.
constexpr double kF32Tolerance = 1e-4;

// Over a cache that is rounded, a set may multiply in bf16 (x86_attention_test.cc): values are of order 1, and their
// means within five roundings of 2^-9 of those.
constexpr double kBf16Tolerance = 5 * 0x1p-9;

TEST_F(OpList, EverySetAgreesWithTheReferenceOnEveryCase) {
  KernelContext context{.team = &team_, .workspace = &workspace_};
  std::set<std::string> done;
  for (const OpCase& full : AllOpCases()) {
    const OpCase c = Trimmed(full);
    if (!done.insert(c.Name()).second) continue;
    const auto op = PreparedOp::Create(c, 0, arena_, context);
    ASSERT_TRUE(op.ok()) << c.Name() << ": " << op.status();
    const Result want = RunOn(*AllKernelSets()[0], **op);
    const double size = RootMeanSquare(want.values);
    const double tolerance = c.cache == CacheFormat::kF32 ? kF32Tolerance * size : kBf16Tolerance * (1 + size);
    for (const KernelSet* const set : AllKernelSets().subspan(1)) {
      if (!set->available()) continue;
      const Result got = RunOn(*set, **op);
      ASSERT_EQ(got.ids, want.ids) << set->name << ": " << c.Name();
      ASSERT_EQ(got.values.size(), want.values.size());
      for (size_t i = 0; i < want.values.size(); ++i) {
        ASSERT_LE(std::fabs(static_cast<double>(got.values[i]) - static_cast<double>(want.values[i])), tolerance)
            << set->name << ": " << c.Name() << ": value " << i << " is " << got.values[i] << ", expected "
            << want.values[i];
      }
    }
  }
}

TEST_F(OpList, EveryCaseHasAnotherName) {
  std::vector<std::string> names;
  for (const OpCase& c : AllOpCases()) names.push_back(c.Name());
  std::sort(names.begin(), names.end());
  EXPECT_EQ(std::adjacent_find(names.begin(), names.end()), names.end());
}

TEST_F(OpList, EveryOpHasATimedCaseAndAnUntimedOne) {
  bool timed[kOpCount] = {}, small[kOpCount] = {};
  for (const OpCase& c : AllOpCases()) (c.shape.timed ? timed : small)[static_cast<size_t>(c.op)] = true;
  for (size_t i = 0; i < kOpCount; ++i) {
    EXPECT_TRUE(timed[i]) << NameOf(static_cast<OpId>(i));
    EXPECT_TRUE(small[i]) << NameOf(static_cast<OpId>(i));
  }
}

}  // namespace
}  // namespace kompakt
