// The ops of an indexer, of every kernel set, against the plain formulas in F64.
#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <limits>
#include <numeric>
#include <string>

#include "kernels/kernel_set.h"
#include "kernels/top_rows.h"
#include "tests/kernels/random_matrix.h"

namespace kompakt {
namespace {

class EveryIndexer : public testing::TestWithParam<const KernelSet*> {
 protected:
  Workspace workspace_;
};

INSTANTIATE_TEST_SUITE_P(Sets, EveryIndexer,
                         testing::ValuesIn(AvailableKernelSets().begin(), AvailableKernelSets().end()),
                         [](const auto& info) { return std::string(info.param->name); });

TEST_P(EveryIndexer, AppendsLayerNormedAndRotatedKeys) {
  for (const RotaryPairs pairs : {RotaryPairs::kAdjacent, RotaryPairs::kHalves}) {
    constexpr int64_t kDim = 21, kRope = 6, kTokens = 13, kPosition = 4;
    const std::vector<float> a = RandomVector(kTokens * kDim, 3.0f, 1);
    const std::vector<float> norm = RandomVector(kDim, 1.0f, 2);
    const std::vector<float> bias = RandomVector(kDim, 1.0f, 3);
    std::vector<float> cos_sin;
    for (int64_t i = 0; i < kTokens * kRope / 2; ++i) {
      cos_sin.push_back(std::cos(static_cast<float>(i)));
      cos_sin.push_back(std::sin(static_cast<float>(i)));
    }
    std::vector<float> keys(20 * kDim, std::nanf(""));
    ThreadTeam team(2);
    KernelContext context{.team = &team, .workspace = &workspace_};
    const IndexAppendParams p{.a = a.data(),
                              .norm = norm.data(),
                              .bias = bias.data(),
                              .eps = 1e-6,
                              .cos_sin = cos_sin.data(),
                              .rope_dim = kRope,
                              .pairs = pairs,
                              .tokens = kTokens,
                              .position = kPosition,
                              .cache = {.dim = kDim, .capacity = 20, .data = reinterpret_cast<uint8_t*>(keys.data())}};
    ASSERT_TRUE(GetParam()->index_append(p, context).ok());
    for (int64_t t = 0; t < kTokens; ++t) {
      const float* const x = &a[static_cast<size_t>(t * kDim)];
      double mean = 0, variance = 0;
      for (int64_t i = 0; i < kDim; ++i) mean += static_cast<double>(x[i]) / kDim;
      for (int64_t i = 0; i < kDim; ++i) variance += std::pow(static_cast<double>(x[i]) - mean, 2) / kDim;
      std::vector<double> want(kDim);
      for (size_t i = 0; i < kDim; ++i) {
        want[i] = (static_cast<double>(x[i]) - mean) / std::sqrt(variance + 1e-6) * static_cast<double>(norm[i]) +
                  static_cast<double>(bias[i]);
      }
      for (size_t j = 0; j < kRope / 2; ++j) {
        const size_t one = pairs == RotaryPairs::kAdjacent ? 2 * j : j;
        const size_t two = pairs == RotaryPairs::kAdjacent ? 2 * j + 1 : j + kRope / 2;
        const auto angle = static_cast<double>(static_cast<size_t>(t) * kRope / 2 + j);
        const double x0 = want[one], x1 = want[two];
        want[one] = x0 * std::cos(angle) - x1 * std::sin(angle);
        want[two] = x0 * std::sin(angle) + x1 * std::cos(angle);
      }
      for (size_t i = 0; i < kDim; ++i) {
        // F32 rounding of values up to about 10.
        ASSERT_NEAR(static_cast<double>(keys[static_cast<size_t>(kPosition + t) * kDim + i]), want[i], 1e-5)
            << "token " << t << ", value " << i;
      }
    }
    EXPECT_TRUE(std::all_of(keys.begin(), keys.begin() + kPosition * kDim, [](float x) { return std::isnan(x); }));
    EXPECT_TRUE(std::isnan(keys[static_cast<size_t>((kPosition + kTokens) * kDim)]));
  }
}

struct SelectCase {
  int64_t heads, dim, top_k, position, tokens;
};

constexpr SelectCase kSelectCases[] = {{4, 64, 16, 20, 28},   {3, 21, 1, 0, 9},     {17, 40, 100, 99, 3},
                                       {64, 128, 64, 300, 1}, {5, 32, 63, 200, 19}, {1, 7, 5, 4, 1}};

std::vector<std::vector<double>> Scores(const SelectCase& c, const std::vector<float>& q, const std::vector<float>& w,
                                        const std::vector<float>& keys) {
  std::vector<std::vector<double>> scores;
  for (int64_t t = 0; t < c.tokens; ++t) {
    scores.emplace_back();
    for (int64_t j = 0; j <= c.position + t; ++j) {
      double score = 0;
      for (int64_t h = 0; h < c.heads; ++h) {
        double dot = 0;
        for (int64_t i = 0; i < c.dim; ++i) {
          dot += static_cast<double>(q[static_cast<size_t>((t * c.heads + h) * c.dim + i)]) *
                 static_cast<double>(keys[static_cast<size_t>(j * c.dim + i)]);
        }
        score += static_cast<double>(w[static_cast<size_t>(t * c.heads + h)]) * std::max(dot, 0.0);
      }
      scores.back().push_back(score);
    }
  }
  return scores;
}

TEST_P(EveryIndexer, SelectsTheRowsOfHighestScoreWhateverTheThreadsAndTheTokensBeside) {
  for (const SelectCase& c : kSelectCases) {
    const int64_t filled = c.position + c.tokens;
    const std::vector<float> q = RandomVector(c.tokens * c.heads * c.dim, 1.0f, 11);
    const std::vector<float> w = RandomVector(c.tokens * c.heads, 1.0f, 12);
    std::vector<float> keys = RandomVector(filled * c.dim, 1.0f, 13);
    keys.resize(static_cast<size_t>((filled + 7) * c.dim), std::nanf(""));  // must not be seen
    const auto scores = Scores(c, q, w, keys);
    const auto run = [&](int threads, int64_t first, int64_t tokens) {
      std::vector<int32_t> ids(static_cast<size_t>(tokens * c.top_k), -1);
      ThreadTeam team(threads);
      KernelContext context{.team = &team, .workspace = &workspace_};
      bool finite = false;
      const IndexSelectParams p{
          .heads = c.heads,
          .q = q.data() + first * c.heads * c.dim,
          .w = w.data() + first * c.heads,
          .scale = 0.25f,
          .top_k = c.top_k,
          .tokens = tokens,
          .position = c.position + first,
          .cache = {.dim = c.dim, .capacity = filled + 7, .data = reinterpret_cast<uint8_t*>(keys.data())},
          .ids = ids.data(),
          .finite = &finite};
      EXPECT_TRUE(GetParam()->index_select(p, context).ok());
      EXPECT_TRUE(finite);
      return ids;
    };
    const std::vector<int32_t> ids = run(2, 0, c.tokens);
    for (int64_t t = 0; t < c.tokens; ++t) {
      const auto begin = ids.begin() + t * c.top_k;
      const std::vector<int32_t> got(begin, begin + c.top_k);
      ASSERT_TRUE(std::is_sorted(got.begin(), got.end()) && std::adjacent_find(got.begin(), got.end()) == got.end());
      ASSERT_GE(got.front(), 0);
      ASSERT_LE(got.back(), c.position + t);
      const auto& s = scores[static_cast<size_t>(t)];
      double least = std::numeric_limits<double>::infinity(), most = -least, range = 0;
      for (size_t j = 0; j < s.size(); ++j) {
        range = std::max(range, std::fabs(s[j]));
        if (std::binary_search(got.begin(), got.end(), static_cast<int32_t>(j))) {
          least = std::min(least, s[j]);
        } else {
          most = std::max(most, s[j]);
        }
      }
      // Rounding in F32 may swap rows that are this close.
      EXPECT_GE(least, most - 1e-5 * range) << "token " << t << " of top " << c.top_k;
    }
    EXPECT_EQ(run(1, 0, c.tokens), ids);
    EXPECT_EQ(run(5, 0, c.tokens), ids);
    for (int64_t t = 0; t < c.tokens; ++t) {
      const auto begin = ids.begin() + t * c.top_k;
      EXPECT_EQ(run(2, t, 1), std::vector<int32_t>(begin, begin + c.top_k)) << "token " << t << " alone";
    }
  }
}

TEST_P(EveryIndexer, ReportsAScoreThatIsNotANumber) {
  for (const float bad : {std::nanf(""), std::numeric_limits<float>::infinity()}) {
    std::vector<float> keys = RandomVector(10 * 8, 1.0f, 1);
    const std::vector<float> q(3 * 8, 1.0f), w = {1, 1, -1};
    keys[3 * 8 + 2] = bad;
    std::vector<int32_t> ids(4);
    KernelContext context{.workspace = &workspace_};
    bool finite = true;
    const IndexSelectParams p{.heads = 3,
                              .q = q.data(),
                              .w = w.data(),
                              .scale = 1,
                              .top_k = 4,
                              .tokens = 1,
                              .position = 9,
                              .cache = {.dim = 8, .capacity = 10, .data = reinterpret_cast<uint8_t*>(keys.data())},
                              .ids = ids.data(),
                              .finite = &finite};
    ASSERT_TRUE(GetParam()->index_select(p, context).ok());
    EXPECT_FALSE(finite) << bad;
    EXPECT_TRUE(std::is_sorted(ids.begin(), ids.end()) && ids[0] >= 0 && ids[3] <= 9);
  }
}

TEST_P(EveryIndexer, SparseAttentionOverAllRowsIsDecodeAndOverSomeIsDecodeOfThose) {
  constexpr int64_t kHeads = 3, kNope = 20, kRope = 6, kValue = 13, kRank = 41, kRows = 50;
  const RandomMatrix kv_b = MakeRandomMatrix(FormatId::kBf16, kHeads * (kNope + kValue), kRank, 0.2f, 1);
  const std::vector<float> rows = RandomVector(kRows * (kRank + kRope), 1.0f, 2);
  const std::vector<float> q = RandomVector(2 * kHeads * (kNope + kRope), 1.0f, 3);
  const auto cache_of = [&](const std::vector<int32_t>& which, AlignedBuffer* bytes) {
    *bytes =
        *AlignedBuffer::Create(which.size() * LatentCache::LatentRowBytes(kRank, kRope, CacheFormat::kF32), "cache");
    const LatentCache cache{.rank = kRank, .rope = kRope, .capacity = std::ssize(which), .data = bytes->data()};
    for (size_t j = 0; j < which.size(); ++j) {
      StoreLatentRow(cache, static_cast<int64_t>(j), &rows[static_cast<size_t>(which[j]) * (kRank + kRope)]);
    }
    return cache;
  };
  std::vector<int32_t> everything(kRows);
  std::iota(everything.begin(), everything.end(), 0);
  AlignedBuffer bytes;
  ThreadTeam team(2);
  KernelContext context{.team = &team, .workspace = &workspace_};
  MlaParams p{.heads = kHeads,
              .nope_dim = kNope,
              .rope_dim = kRope,
              .value_dim = kValue,
              .softmax_scale = 0.2f,
              .kv_b = kv_b.view,
              .q = q.data(),
              .tokens = 2,
              .position = kRows - 2,
              .cache = cache_of(everything, &bytes)};
  constexpr size_t kWidth = kHeads * kValue;
  std::vector<float> sparse(2 * kWidth), want(kWidth);
  const std::vector<int32_t> ids = {0, 3, 4, 17, 48, 1, 2, 30, 47, 49};
  p.y = sparse.data();
  ASSERT_TRUE(GetParam()->mla_sparse({.mla = p, .ids = ids.data(), .selected = 5}, context).ok());
  for (size_t t = 0; t < 2; ++t) {
    AlignedBuffer few;
    MlaParams one = p;
    one.cache =
        cache_of({ids.begin() + static_cast<int64_t>(5 * t), ids.begin() + static_cast<int64_t>(5 * t + 5)}, &few);
    one.tokens = 1;
    one.position = 4;
    one.q = q.data() + static_cast<int64_t>(t) * kHeads * (kNope + kRope);
    one.y = want.data();
    ASSERT_TRUE(GetParam()->mla_decode(one, context).ok());
    EXPECT_EQ(std::vector<float>(sparse.begin() + static_cast<int64_t>(t * kWidth),
                                 sparse.begin() + static_cast<int64_t>((t + 1) * kWidth)),
              want);
  }
}

TEST(TopRows, TakesHighestAndAmongEqualsWhatTheCapacityDecidesAlone) {
  const std::vector<float> scores = {1, 5, 0, 0, 7, 0, 0, 2};
  std::vector<int32_t> order(64), ids(4);
  SelectTopRows(scores.data(), 8, 8, 4, order.data(), ids.data());
  EXPECT_EQ(ids, (std::vector<int32_t>{0, 1, 4, 7}));
  // Two zeros of four: the same ones however often it is asked, and never a row that is not seen.
  ids.resize(6);
  std::vector<int32_t> again(6);
  for (const int64_t capacity : {8, 9, 20, 64}) {
    SelectTopRows(scores.data(), 8, capacity, 6, order.data(), ids.data());
    SelectTopRows(scores.data(), 8, capacity, 6, order.data(), again.data());
    EXPECT_EQ(ids, again);
    EXPECT_LT(ids.back(), 8);
    for (const int32_t sure : {0, 1, 4, 7}) EXPECT_TRUE(std::binary_search(ids.begin(), ids.end(), sure)) << capacity;
  }
  const std::vector<float> nothing(8, -std::numeric_limits<float>::infinity());
  SelectTopRows(nothing.data(), 8, 64, 6, order.data(), ids.data());
  EXPECT_LT(ids.back(), 8);
  EXPECT_EQ(std::adjacent_find(ids.begin(), ids.end()), ids.end());
}

}  // namespace
}  // namespace kompakt
