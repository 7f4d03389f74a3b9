// Attention of every kernel set, in both forms, against the plain formula in F64.
#include <gtest/gtest.h>

#include <cmath>
#include <string>

#include "kernels/kernel_set.h"
#include "tests/kernels/attention_case.h"

namespace kompakt {
namespace {

// The fixtures' head shapes, V3's, and one where nothing is a multiple of anything.
constexpr AttentionShape kShapes[] = {
    {4, 32, 16, 32, 64}, {5, 48, 16, 64, 64}, {4, 64, 32, 64, 96}, {3, 20, 6, 13, 41}, {2, 128, 64, 128, 512}};

class EveryAttention : public testing::TestWithParam<const KernelSet*> {
 protected:
  std::vector<float> Run(const AttentionCase& c, bool absorbed, int threads = 2) {
    std::vector<float> y(static_cast<size_t>(c.tokens * c.shape.heads * c.shape.value), std::nanf(""));
    ThreadTeam team(threads);
    KernelContext context{.team = &team, .workspace = &workspace_};
    const MlaParams p = c.Params(y.data());
    EXPECT_TRUE((absorbed ? GetParam()->mla_decode(p, context) : GetParam()->mla_prefill(p, context)).ok());
    return y;
  }

  void Expect(const AttentionCase& c) {
    const std::vector<double> want = PlainAttention(c);
    // A set may multiply a cache that is rounded to bf16 or int8 in bf16; x86_attention_test.cc reckons what that
    // costs.
    const bool rounds =
        c.cache_format != CacheFormat::kF32 && GetParam()->name != "reference" && GetParam()->name != "portable";
    double largest = 0;
    for (const double y : want) largest = std::max(largest, std::fabs(y));
    for (const bool absorbed : {false, true}) {
      const std::vector<float> got = Run(c, absorbed);
      for (size_t i = 0; i < want.size(); ++i) {
        // Values and scores are of order 1, sums of up to 512 products, so a weight is good to about 1e-6.
        ASSERT_LE(std::fabs(static_cast<double>(got[i]) - want[i]),
                  (rounds ? 5 * 0x1p-9 * (1 + largest) : 2e-5 * (1 + std::fabs(want[i]))))
            << c.kv_b.view.format->name << " rank " << c.shape.rank << (absorbed ? " absorbed" : " plain")
            << ", position " << c.position << ", " << c.tokens << " tokens: value " << i << " is " << got[i]
            << ", expected " << want[i];
      }
    }
  }

  Workspace workspace_;
};

INSTANTIATE_TEST_SUITE_P(Kernels, EveryAttention,
                         testing::ValuesIn(AvailableKernelSets().begin(), AvailableKernelSets().end()),
                         [](const auto& info) { return std::string(info.param->name); });

TEST_P(EveryAttention, EqualsThePlainFormulaInBothForms) {
  for (const AttentionShape& shape : kShapes) {
    for (const int64_t position : {0, 5, 130}) {
      for (const int64_t tokens : {1, 7, 67}) Expect(MakeAttentionCase(shape, FormatId::kBf16, position, tokens));
    }
    for (const CacheFormat format : {CacheFormat::kBf16, CacheFormat::kInt8}) {
      for (const int64_t position : {0, 130}) Expect(MakeAttentionCase(shape, FormatId::kBf16, position, 7, format));
    }
  }
  Expect(MakeAttentionCase(kShapes[0], FormatId::kF32, 700, 3));
}

TEST_P(EveryAttention, TakesKvBInEveryFormat) {
  for (const BlockFormat& format : AllFormats()) Expect(MakeAttentionCase(kShapes[3], format.id, 20, 9));
}

TEST_P(EveryAttention, OfATokenDependsNeitherOnThreadsNorOnItsNeighbours) {
  for (const AttentionShape& shape : {kShapes[0], kShapes[3]}) {
    const AttentionCase c = MakeAttentionCase(shape, FormatId::kBf16, 40, 90);
    for (const bool absorbed : {false, true}) {
      const std::vector<float> y = Run(c, absorbed, 1);
      EXPECT_EQ(y, Run(c, absorbed, 2)) << "absorbed " << absorbed;
      EXPECT_EQ(y, Run(c, absorbed, 9)) << "absorbed " << absorbed;
    }
    // The last 11 tokens by themselves.
    AttentionCase tail = MakeAttentionCase(shape, FormatId::kBf16, 119, 11);
    tail.rows = c.rows;
    tail.cache = c.cache;
    tail.q.assign(c.q.end() - std::ssize(tail.q), c.q.end());
    const std::vector<float> y = Run(c, false, 2);
    const std::vector<float> of_tail = Run(tail, false, 2);
    EXPECT_TRUE(std::equal(of_tail.begin(), of_tail.end(), y.end() - std::ssize(of_tail)));
  }
}

TEST_P(EveryAttention, SurvivesLargeScores) {
  // Scores around +-1e4: the softmax must subtract its maximum, in every block.
  AttentionCase c = MakeAttentionCase(kShapes[0], FormatId::kBf16, 100, 5);
  c.scale = 3000;
  for (const bool absorbed : {false, true}) {
    for (const float y : Run(c, absorbed)) ASSERT_TRUE(std::isfinite(y)) << "absorbed " << absorbed;
  }
}

}  // namespace
}  // namespace kompakt
