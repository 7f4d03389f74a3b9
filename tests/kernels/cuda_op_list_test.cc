// The op list on every device of this machine, the simulator at least: the cases and the tolerances are those of the
// kernel sets of a CPU (op_list_test.cc).
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <algorithm>
#include <set>
#include <string>
#include <vector>

#include "kernels/device.h"
#include "kernels/op_list.h"
#include "tests/fixtures/test_name.h"
#include "tests/kernels/device_kernel_set.h"
#include "tests/kernels/op_list_check.h"

namespace kompakt {
namespace {

// What a device does not have. An op that it has and that stands here fails the test, too.
struct Gap {
  OpId op;
  const char* why;
};
constexpr Gap kGaps[] = {
    {OpId::kRope, "no kernel of its own: mla_absorb, mla_prefill and mla_append rotate what they read, in their cases"},
};

const Gap* GapOf(OpId op) {
  const auto* const gap = std::find_if(std::begin(kGaps), std::end(kGaps), [&](const Gap& g) { return g.op == op; });
  return gap == std::end(kGaps) ? nullptr : gap;
}

// Of an op with the columns of a real model and many tokens, a format with one precision of the three, the next format
// with the next one: the simulator takes half a minute for these alone. Small shapes have all of them.
bool IsLeftOut(const OpCase& c) {
  if (!TakesActPrecision(c.op) || !c.shape.timed || c.tokens == 1) return false;
  return static_cast<int>(c.act) != static_cast<int>(c.format) % 3;
}

class CudaOpList : public testing::TestWithParam<std::string> {};
INSTANTIATE_TEST_SUITE_P(Devices, CudaOpList, testing::ValuesIn(AvailableDevices()),
                         [](const auto& info) { return TestNameOf(info.param); });

TEST_P(CudaOpList, HasEveryOpButTheGapsThatAreListed) {
  const KernelSet& set = DeviceKernelSet(GetParam());
  for (size_t i = 0; i < kOpCount; ++i) {
    const auto op = static_cast<OpId>(i);
    EXPECT_EQ(HasOp(set, op), GapOf(op) == nullptr) << NameOf(op);
  }
}

TEST_P(CudaOpList, AgreesWithTheReference) {
  std::vector<OpCase> cases;
  std::set<std::string> known;
  for (OpCase c : CasesToCheck(OpsToCheck::kAll)) {
    if (GapOf(c.op) != nullptr || IsLeftOut(c)) continue;
    // A device has no cache of F32: cases of one are those of BF16, which the list has with one format of kv_b_proj.
    if (HasCache(c.op) && c.cache == CacheFormat::kF32) c.cache = CacheFormat::kBf16;
    if (known.insert(c.Name()).second) cases.push_back(c);
  }
  EXPECT_GT(cases.size(), 1900u);
  EXPECT_THAT(DisagreementsWithReference({&DeviceKernelSet(GetParam())}, cases, 1), testing::IsEmpty());
}

}  // namespace
}  // namespace kompakt
