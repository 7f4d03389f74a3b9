// Latent attention on the loops of every x86 instruction set that this machine runs, F32 and bf16, against the plain
// formula in F64.
#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <limits>
#include <numeric>
#include <string>

#include "kernels/x86/mla_ops.h"
#include "tests/kernels/attention_case.h"

namespace kompakt::x86 {
namespace {

enum class Form { kPlain, kAbsorbed };

std::vector<const AttentionIsa*> Available() {
  std::vector<const AttentionIsa*> isas;
  for (const AttentionIsa* isa : AllAttentionIsas()) {
    if (isa->available()) isas.push_back(isa);
  }
  return isas;
}

class X86Attention : public testing::TestWithParam<const AttentionIsa*> {
 protected:
  std::vector<float> Run(const AttentionCase& c, Form form, int threads = 2) {
    std::vector<float> y(static_cast<size_t>(c.tokens * c.shape.heads * c.shape.value), std::nanf(""));
    ThreadTeam team(threads);
    KernelContext context{.team = &team, .workspace = &workspace_};
    const MlaParams p = c.Params(y.data());
    const absl::Status run =
        form == Form::kAbsorbed ? MlaDecodeWith(*GetParam(), p, context) : MlaPrefillWith(*GetParam(), p, context);
    EXPECT_TRUE(run.ok()) << run;
    return y;
  }

  bool Suited(const AttentionCase& c) { return Suits(*GetParam(), c.Params(nullptr)); }

  // F32: as every set, 2e-5 for sums of up to 512 products of order 1. bf16: the operands are within 2^-9 of what they
  // round, in the plain form one after another the weights, the keys and values, the queries, and the softmax's
  // weights. Scores of order 1 then are within 3 * 2^-9, and a mean of values within as much and half of it again.
  double Tolerance(const AttentionCase& c) const {
    double largest = 0;
    for (const double y : PlainAttention(c)) largest = std::max(largest, std::fabs(y));
    return GetParam()->unit_values == 1 ? 2e-5 * (1 + largest) : 5 * 0x1p-9 * (1 + largest);
  }

  void Expect(const AttentionCase& c) {
    if (!Suited(c)) return;
    const std::vector<double> want = PlainAttention(c);
    const double tolerance = Tolerance(c);
    for (const Form form : {Form::kPlain, Form::kAbsorbed}) {
      const std::vector<float> got = Run(c, form);
      double squares = 0, error = 0;
      for (size_t i = 0; i < want.size(); ++i) {
        const double off = std::fabs(static_cast<double>(got[i]) - want[i]);
        ASSERT_LE(off, tolerance) << c.kv_b.view.format->name << " rank " << c.shape.rank << ", cache "
                                  << CacheFormatName(c.cache_format)
                                  << (form == Form::kAbsorbed ? " absorbed" : " plain") << ", position " << c.position
                                  << ", " << c.tokens << " tokens: value " << i << " is " << got[i] << ", expected "
                                  << want[i];
        squares += want[i] * want[i];
        error += off * off;
      }
      // Four roundings, each of 2^-9 / sqrt(3) of the values; their mean is a few times smaller than they are.
      if (GetParam()->unit_values == 2) {
        EXPECT_LE(std::sqrt(error), 4 * 0x1p-9 * std::sqrt(squares));
      }
    }
  }

  Workspace workspace_;
};

INSTANTIATE_TEST_SUITE_P(Isas, X86Attention, testing::ValuesIn(Available()),
                         [](const auto& info) { return std::string(info.param->name); });
GTEST_ALLOW_UNINSTANTIATED_PARAMETERIZED_TEST(X86Attention);

// Head shapes of the fixtures, V2-Lite's and V3's dimensions, many heads, and where nothing is a multiple of anything.
constexpr AttentionShape kShapes[] = {{4, 32, 16, 32, 64},    {5, 48, 16, 64, 96}, {3, 20, 6, 13, 41},
                                      {2, 128, 64, 128, 512}, {19, 24, 8, 40, 50}, {16, 16, 8, 16, 32}};

TEST_P(X86Attention, EqualsThePlainFormulaInBothFormsAndEveryCacheFormat) {
  for (const AttentionShape& shape : kShapes) {
    for (const CacheFormat format : AllCacheFormats()) {
      for (const int64_t position : {0, 5, 131}) {
        for (const int64_t tokens : {1, 9}) {
          Expect(MakeAttentionCase(shape, FormatId::kBf16, position, tokens, format));
        }
      }
    }
    Expect(MakeAttentionCase(shape, FormatId::kBf16, 60, 67, CacheFormat::kBf16));
  }
  // Parts of every length.
  for (const CacheFormat format : AllCacheFormats()) {
    Expect(MakeAttentionCase(kShapes[5], FormatId::kBf16, 2700, 2, format));
  }
}

TEST_P(X86Attention, TakesKvBInEveryFormat) {
  for (const BlockFormat& format : AllFormats()) {
    Expect(MakeAttentionCase({3, 20, 6, 13, 42}, format.id, 20, 9, CacheFormat::kBf16));
    Expect(MakeAttentionCase({2, 32, 8, 32, 64}, format.id, 20, 9));
  }
}

TEST_P(X86Attention, OfATokenDependsNeitherOnThreadsNorOnItsNeighbours) {
  for (const AttentionShape& shape : {kShapes[0], kShapes[2], kShapes[4]}) {
    for (const CacheFormat format : AllCacheFormats()) {
      const AttentionCase c = MakeAttentionCase(shape, FormatId::kQ8G32, 40, 90, format);
      if (!Suited(c)) continue;
      for (const Form form : {Form::kPlain, Form::kAbsorbed}) {
        const std::vector<float> y = Run(c, form, 1);
        EXPECT_EQ(y, Run(c, form, 2));
        EXPECT_EQ(y, Run(c, form, 9));
        // The last 11 tokens by themselves, and the last one.
        for (const int64_t tokens : {11, 1}) {
          AttentionCase tail = MakeAttentionCase(shape, FormatId::kQ8G32, 130 - tokens, tokens, format);
          tail.cache = c.cache;
          tail.q.assign(c.q.end() - std::ssize(tail.q), c.q.end());
          const std::vector<float> of_tail = Run(tail, form, 2);
          EXPECT_TRUE(std::equal(of_tail.begin(), of_tail.end(), y.end() - std::ssize(of_tail)))
              << CacheFormatName(format) << ", " << tokens << " tokens";
        }
      }
    }
  }
}

TEST_P(X86Attention, SurvivesLargeScores) {
  for (const CacheFormat format : AllCacheFormats()) {
    AttentionCase c = MakeAttentionCase(kShapes[0], FormatId::kBf16, 100, 5, format);
    c.scale = 3000;
    if (!Suited(c)) continue;
    for (const Form form : {Form::kPlain, Form::kAbsorbed}) {
      for (const float y : Run(c, form)) ASSERT_TRUE(std::isfinite(y));
    }
  }
}

TEST_P(X86Attention, ANanInTheCacheReachesEveryTokenThatSeesIt) {
  for (const CacheFormat format : AllCacheFormats()) {
    for (const int64_t at : {int64_t{0}, int64_t{63}, int64_t{64 + 3}}) {  // of the latent, of the rotary part
      AttentionCase c = MakeAttentionCase(kShapes[0], FormatId::kBf16, 100, 3, format);
      if (!Suited(c)) continue;
      std::vector<float> row(static_cast<size_t>(c.cache.width()), 1.0f);
      row[static_cast<size_t>(at)] = std::nanf("");
      StoreLatentRow(c.cache, 70, row.data());
      for (const Form form : {Form::kPlain, Form::kAbsorbed}) {
        for (const float y : Run(c, form)) ASSERT_TRUE(std::isnan(y)) << CacheFormatName(format) << " value " << at;
      }
    }
  }
}

TEST_P(X86Attention, OverSelectedRowsIsDecodeOverThose) {
  constexpr int64_t kSelected = 77;
  for (const AttentionShape& shape : {kShapes[2], kShapes[0], kShapes[4]}) {
    for (const CacheFormat format : AllCacheFormats()) {
      const AttentionCase c = MakeAttentionCase(shape, FormatId::kQ8G32, 200, 11, format);
      if (!Suited(c)) continue;
      std::vector<int32_t> ids;
      for (int64_t t = 0; t < c.tokens; ++t) {
        for (int64_t j = 0; j < kSelected; ++j) ids.push_back(static_cast<int32_t>(j * 2 + (j > 30 + t ? t : 0)));
      }
      const size_t width = static_cast<size_t>(shape.heads * shape.value);
      std::vector<float> y(static_cast<size_t>(c.tokens) * width);
      ThreadTeam team(3);
      KernelContext context{.team = &team, .workspace = &workspace_};
      ASSERT_TRUE(
          MlaSparseWith(*GetParam(), {.mla = c.Params(y.data()), .ids = ids.data(), .selected = kSelected}, context)
              .ok());
      for (int64_t t = 0; t < c.tokens; ++t) {
        AttentionCase few = MakeAttentionCase(shape, FormatId::kQ8G32, kSelected - 1, 1, format);
        for (int64_t j = 0; j < kSelected; ++j) {
          CopyLatentRow(c.cache, ids[static_cast<size_t>(t * kSelected + j)], few.cache, j);
        }
        std::copy_n(c.q.begin() + t * std::ssize(few.q), few.q.size(), few.q.begin());
        const std::vector<float> want = Run(few, Form::kAbsorbed);
        EXPECT_TRUE(std::equal(want.begin(), want.end(), y.begin() + t * static_cast<int64_t>(width))) << "token " << t;
      }
    }
  }
}

}  // namespace
}  // namespace kompakt::x86
