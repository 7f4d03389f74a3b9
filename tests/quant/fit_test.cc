#include "quant/fit.h"

#include <string>

#include "gmock/gmock.h"
#include "gtest/gtest.h"
#include "quant/convert.h"
#include "tests/fixtures/small_arch.h"
#include "tests/fixtures/synthetic_source.h"

namespace kompakt {
namespace {

using testing::HasSubstr;

SyntheticSource Source(FormatId matrices) {
  SyntheticOptions options;
  options.arch = SmallV3Arch();
  options.assets = SmallAssets();
  options.form = [matrices](const TensorInfo& tensor) {
    return tensor.is_vector() || tensor.role == TensorRole::kRouter ? DefaultForm(tensor) : matrices;
  };
  return SyntheticSource(options);
}

uint64_t FileBytes(const TensorSource& source, const QuantRecipe& recipe) {
  const auto plan = PlanConversion(source, recipe, 1);
  EXPECT_TRUE(plan.ok()) << plan.status();
  return plan.ok() ? plan->file_bytes : 0;
}

TEST(FitRecipe, StaysWithinEveryBudgetAndUsesMoreOfALargerOne) {
  for (const FormatId matrices : {FormatId::kBf16, FormatId::kFp8B128, FormatId::kInt4G32}) {
    const SyntheticSource source = Source(matrices);
    const uint64_t lossless = FileBytes(source, *QuantRecipe::Builtin("lossless"));
    const uint64_t besides = FootprintOf(source.schema().arch(), 100, 2, CacheFormat::kF32).total();
    uint64_t last = 0;
    int fitted = 0;
    for (int i = 1; i <= 40; ++i) {
      const uint64_t budget = besides + lossless * static_cast<uint64_t>(i) / 36;
      const auto fit = FitRecipe(source, {.budget_bytes = budget, .context = 100, .threads = 2, .overrides = {}});
      if (!fit.ok()) {
        EXPECT_EQ(last, 0u) << "a budget of " << budget << " is refused after a smaller one was met: " << fit.status();
        EXPECT_EQ(fit.status().code(), absl::StatusCode::kResourceExhausted) << fit.status();
        continue;
      }
      ++fitted;
      EXPECT_EQ(FileBytes(source, fit->recipe), fit->file_bytes) << fit->chosen;
      EXPECT_LE(fit->file_bytes + fit->footprint.total(), budget) << fit->chosen;
      // The text of a recipe is part of the file: layers that are named cost some bytes that whole steps do not.
      EXPECT_GE(fit->file_bytes + 4096, last) << fit->chosen;
      last = fit->file_bytes;
    }
    EXPECT_GT(fitted, 3) << FormatOf(matrices).name;
    EXPECT_EQ(last, lossless) << "with more than enough, everything is kept";
  }
}

TEST(FitRecipe, SaysWhatTheSmallestFileNeeds) {
  const SyntheticSource source = Source(FormatId::kBf16);
  const auto fit = FitRecipe(source, {.budget_bytes = 1000, .context = 7, .threads = 1, .overrides = {}});
  ASSERT_FALSE(fit.ok());
  EXPECT_THAT(std::string(fit.status().message()), HasSubstr("found 1000"));
  EXPECT_THAT(std::string(fit.status().message()), HasSubstr("KV cache of 7 tokens"));
}

TEST(FitRecipe, KeepsWhatTheCommandLineAskedFor) {
  const SyntheticSource source = Source(FormatId::kBf16);
  const uint64_t plenty = uint64_t{1} << 30;
  const auto fit =
      FitRecipe(source, {.budget_bytes = plenty, .context = 7, .threads = 1, .overrides = {"lm_head=q4_g16"}});
  ASSERT_TRUE(fit.ok()) << fit.status();
  const auto plan = PlanConversion(source, fit->recipe, 1);
  ASSERT_TRUE(plan.ok()) << plan.status();
  const auto head = static_cast<size_t>(source.schema().Find(TensorRole::kLmHead));
  EXPECT_EQ(plan->choices[head].format, FormatId::kQ4G16);
}

}  // namespace
}  // namespace kompakt
