// The indexer's kernels on every device of this machine: scores against exact dot products of what is stored, the
// choice of rows against that of the CPU.
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <limits>
#include <numeric>
#include <random>
#include <string>
#include <vector>

#include "format/float_formats.h"
#include "kernels/cuda/sim/block.h"
#include "kernels/kernel_set.h"
#include "kernels/reference/reference_ops.h"
#include "kernels/top_rows.h"
#include "tests/fixtures/test_name.h"
#include "tests/kernels/on_device.h"

namespace kompakt {
namespace {

constexpr float kInf = std::numeric_limits<float>::infinity();

class CudaIndex : public testing::TestWithParam<std::string> {
 protected:
  void TearDown() override { cuda_sim::SetSchedule({}); }
};
INSTANTIATE_TEST_SUITE_P(Devices, CudaIndex, testing::ValuesIn(AvailableDevices()),
                         [](const auto& info) { return TestNameOf(info.param); });

// ---- Scores.

struct Shape {
  int heads, dim, rope;
  bool halves;
};
// V3.2's and GLM-5's; where nothing is a multiple of anything; more than 16 heads; one head that turns all its values.
constexpr Shape kShapes[] = {
    {64, 128, 64, true}, {32, 128, 64, false}, {5, 20, 6, true}, {19, 40, 10, false}, {1, 32, 32, true}};

std::vector<float> Angles(int tokens, int dim) {
  std::vector<float> cos_sin;
  for (int i = 0; i < tokens * dim / 2; ++i) {
    cos_sin.push_back(static_cast<float>(std::cos(0.1 * i)));
    cos_sin.push_back(static_cast<float>(std::sin(0.1 * i)));
  }
  return cos_sin;
}

// [tokens, heads, dim], rotated as the reference does it.
std::vector<float> RotatedQueries(const Shape& s, std::vector<float> q, int tokens, const std::vector<float>& cos_sin) {
  Workspace workspace;
  KernelContext context{.workspace = &workspace};
  EXPECT_TRUE(reference::Rope({.x = q.data(),
                               .x_stride = s.heads * s.dim,
                               .head_stride = s.dim,
                               .heads = s.heads,
                               .dim = s.rope,
                               .cos_sin = cos_sin.data(),
                               .tokens = tokens,
                               .pairs = s.halves ? RotaryPairs::kHalves : RotaryPairs::kAdjacent},
                              context)
                  .ok());
  return q;
}

TEST_P(CudaIndex, ScoresAreTheSumsOverTheHeads) {
  // `first` tokens of the call came before; one block of rows and more; a warp's tail.
  const struct { int position, first, tokens; } places[] = {{0, 0, 1}, {39, 0, 1}, {270, 3, 2}, {15, 0, 3}};
  for (const Shape& s : kShapes) {
    for (const auto& place : places) {
      OnDevice on(GetParam());
      const int rows = place.position + place.first + place.tokens, capacity = rows + 5;
      cuda::DeviceIndexCache cache{.dim = s.dim, .capacity = capacity};
      // Rows behind the filled ones are NaN.
      std::vector<uint16_t> stored(static_cast<size_t>(capacity * cache.dim_padded()), 0x7fc0);
      const std::vector<float> keys = RandomVector(int64_t{rows} * s.dim, 1, 1);
      for (int j = 0; j < rows; ++j) {
        for (int i = 0; i < cache.dim_padded(); ++i) {
          stored[static_cast<size_t>(j * cache.dim_padded() + i)] =
              i < s.dim ? F32ToBf16(keys[static_cast<size_t>(j * s.dim + i)]) : uint16_t{0};
        }
      }
      cache.data = on.Upload(stored);
      const std::vector<float> q = RandomVector(int64_t{place.tokens} * s.heads * s.dim, 1, 2);
      const std::vector<float> w = RandomVector(int64_t{place.tokens} * s.heads, 1, 3);
      const std::vector<float> cos_sin = Angles(place.tokens, s.rope);
      const int32_t position = place.position;
      const cuda::IndexScoresParams p{
          .heads = s.heads,
          .q = on.Upload(q),
          .w = on.Upload(w),
          .scale = 0.5f,
          .rotation = {.cos_sin = on.Upload(cos_sin), .dim = s.rope, .halves = s.halves},
          .position = on.Upload(&position, 1),
          .first = place.first,
          .tokens = place.tokens,
          .rows = rows + 3,
          .cache = cache,
          .scores = on.Upload(std::vector<float>(static_cast<size_t>(place.tokens * capacity), 77))};
      on.Run(on.kernels().index_scores(p, nullptr), "index_scores");
      const std::vector<float> scores = on.Download<float>(p.scores, place.tokens * capacity);
      const std::vector<float> rotated = RotatedQueries(s, q, place.tokens, cos_sin);
      for (int t = 0; t < place.tokens; ++t) {
        for (int j = 0; j < capacity; ++j) {
          const float got = scores[static_cast<size_t>(t * capacity + j)];
          if (j > place.position + place.first + t) {
            ASSERT_EQ(got, 77) << "row " << j << " of token " << t << " is not seen";
            continue;
          }
          double score = 0, magnitude = 0;
          for (int h = 0; h < s.heads; ++h) {
            double dot = 0, terms = 0;
            for (int i = 0; i < s.dim; ++i) {
              const double term = double{rotated[static_cast<size_t>((t * s.heads + h) * s.dim + i)]} *
                                  double{Bf16ToF32(stored[static_cast<size_t>(j * cache.dim_padded() + i)])};
              dot += term;
              terms += std::fabs(term);
            }
            const double weight = 0.5 * double{w[static_cast<size_t>(t * s.heads + h)]};
            score += weight * std::max(dot, 0.0);
            magnitude += std::fabs(weight) * terms;
          }
          // What two BF16 values leave of a query: 2^-17 of it at most; and sums in F32.
          ASSERT_NEAR(got, score, magnitude * (0x1p-17 + kSumTolerance))
              << s.heads << " heads of " << s.dim << ", token " << t << ", row " << j;
        }
      }
    }
  }
}

// ---- The choice.

struct Choice {
  std::vector<std::vector<int32_t>> ids;  // of each token
  std::vector<bool> by_one_thread;        // did one thread tell equal scores apart?
  bool finite = true;
};

// Tokens at positions from `position` on; scores: [tokens][rows that it sees].
Choice Select(OnDevice& on, const std::vector<std::vector<float>>& scores, int position, int top_k, int64_t capacity) {
  const auto tokens = static_cast<int>(scores.size());
  std::vector<float> all(static_cast<size_t>(tokens * capacity), std::nanf(""));
  for (int t = 0; t < tokens; ++t) {
    std::copy(scores[static_cast<size_t>(t)].begin(), scores[static_cast<size_t>(t)].end(), all.begin() + t * capacity);
  }
  // The call began at `begin`, some tokens before.
  const int32_t begin = std::min(position, 3) == 3 ? position - 3 : 0;
  const cuda::IndexSelectParams p{.top_k = top_k,
                                  .position = on.Upload(&begin, 1),
                                  .first = position - begin,
                                  .tokens = tokens,
                                  .capacity = capacity,
                                  .scores = on.Upload(all),
                                  .order = on.Upload(std::vector<int32_t>(static_cast<size_t>(tokens * capacity), -1)),
                                  .ids = on.Upload(std::vector<int32_t>(static_cast<size_t>(tokens * top_k), -1)),
                                  .not_finite = on.Zeros<uint32_t>(1)};
  on.Run(on.kernels().index_select(p, nullptr), "index_select");
  Choice choice;
  const std::vector<int32_t> ids = on.Download<int32_t>(p.ids, tokens * top_k);
  const std::vector<int32_t> order = on.Download<int32_t>(p.order, tokens * capacity);
  for (int t = 0; t < tokens; ++t) {
    choice.ids.emplace_back(ids.begin() + t * top_k, ids.begin() + (t + 1) * top_k);
    choice.by_one_thread.push_back(order[static_cast<size_t>(t * capacity)] >= 0);
  }
  choice.finite = on.Download<uint32_t>(p.not_finite, 1)[0] == 0;
  return choice;
}

std::vector<int32_t> OnCpu(std::vector<float> scores, int top_k, int64_t capacity) {
  CleanScores(scores.data(), std::ssize(scores));
  std::vector<int32_t> order(static_cast<size_t>(capacity)), ids(static_cast<size_t>(top_k));
  SelectTopRows(scores.data(), std::ssize(scores), capacity, top_k, order.data(), ids.data());
  return ids;
}

// Does the choice depend on which of several equal scores is taken?
bool IsTied(std::vector<float> scores, int top_k) {
  std::sort(scores.begin(), scores.end(), std::greater<>());
  return scores[static_cast<size_t>(top_k - 1)] == scores[static_cast<size_t>(top_k)];
}

// `kinds` different values, 0 to make nearly all differ; a third of the zeros are negative ones.
std::vector<float> Scores(int n, int kinds, std::mt19937& random) {
  std::normal_distribution<float> normal(0, 1);
  std::vector<float> scores;
  for (int i = 0; i < n; ++i) {
    float score = kinds == 0
                      ? normal(random)
                      : static_cast<float>(static_cast<int>(random() % static_cast<unsigned>(kinds)) - kinds / 2);
    if (score == 0 && random() % 3 == 0) score = -0.0f;
    scores.push_back(score);
  }
  return scores;
}

TEST_P(CudaIndex, TheChoiceIsThatOfTheCpuAmongDistinctScoresAndAmongEqualOnes) {
  std::mt19937 random(1);
  for (const int seen : {2, 17, 100, 1500}) {
    for (const int kinds : {0, 1, 2, 3, 40}) {
      for (const int top_k : {1, 2, 9, 16, 64, 1030}) {
        // Room for no row more, for some, and for so many that the CPU's rule is another one.
        for (const int64_t room : {0, 7, 64 * top_k}) {
          if (top_k >= seen || room > 5000) continue;
          OnDevice on(GetParam());
          const std::vector<std::vector<float>> scores = {Scores(seen, kinds, random), Scores(seen + 1, kinds, random)};
          const int64_t capacity = seen + 1 + room;
          const Choice got = Select(on, scores, seen - 1, top_k, capacity);
          EXPECT_TRUE(got.finite);
          for (size_t t = 0; t < 2; ++t) {
            ASSERT_EQ(got.ids[t], OnCpu(scores[t], top_k, capacity))
                << seen << " rows of " << kinds << " kinds, top " << top_k << ", room for " << room << ", token " << t;
            EXPECT_EQ(got.by_one_thread[t], IsTied(scores[t], top_k)) << "slow for nothing";
          }
        }
      }
    }
  }
}

// A sequence that leads medians of three astray (Musser, 1997): std::nth_element gives up halving and takes a heap.
TEST_P(CudaIndex, TheChoiceIsThatOfTheCpuWhereHalvingFails) {
  constexpr int kRows = 4000;
  for (const bool up : {false, true}) {
    std::vector<float> scores(kRows);
    for (int i = 0; i < kRows / 2; ++i) {
      const int odd = i % 2 == 0 ? i + 1 : kRows / 2 + i;
      scores[static_cast<size_t>(i)] = static_cast<float>(up ? odd : -odd);
      scores[static_cast<size_t>(kRows / 2 + i)] = static_cast<float>(up ? 2 * (i + 1) : -2 * (i + 1));
    }
    for (const int top_k : {100, 1999, 3000}) {
      // Make the last one that is taken as good as the first one that is not.
      std::vector<float> tied = scores, sorted = scores;
      std::sort(sorted.begin(), sorted.end(), std::greater<>());
      const float least = sorted[static_cast<size_t>(top_k - 1)], most = sorted[static_cast<size_t>(top_k)];
      std::replace(tied.begin(), tied.end(), least, most);
      OnDevice on(GetParam());
      EXPECT_EQ(Select(on, {tied}, kRows - 1, top_k, kRows).ids[0], OnCpu(tied, top_k, kRows)) << top_k;
    }
  }
}

TEST_P(CudaIndex, ATokenThatSeesFewRowsGetsThemAll) {
  OnDevice on(GetParam());
  const Choice got = Select(on, {{3, std::nanf(""), 5}, {1, 2, 3, 4}, {5, 4, 3, 2, 1}}, 2, 4, 9);
  EXPECT_TRUE(got.finite) << "nothing was to be chosen by the score that is none";
  EXPECT_EQ(got.ids[0], (std::vector<int32_t>{0, 1, 2, -1}));
  EXPECT_EQ(got.ids[1], (std::vector<int32_t>{0, 1, 2, 3}));
  EXPECT_EQ(got.ids[2], (std::vector<int32_t>{0, 1, 2, 3}));
}

TEST_P(CudaIndex, AScoreThatIsNotFiniteIsReportedAndTheChoiceIsStillOfRows) {
  for (const float bad : {std::nanf(""), kInf, -kInf}) {
    for (const int many : {1, 6, 10}) {
      std::vector<float> scores = {3, 1, 4, 1, 5, 9, 2, 6, 5, 3};
      std::fill_n(scores.begin(), many, bad);
      OnDevice on(GetParam());
      const Choice got = Select(on, {scores}, 9, 6, 12);
      EXPECT_FALSE(got.finite) << bad;
      EXPECT_EQ(got.ids[0], OnCpu(scores, 6, 12)) << many << " times " << bad;
    }
  }
}

TEST_P(CudaIndex, TheSimulatorsScheduleChangesNothing) {
  std::mt19937 random(3);
  const std::vector<std::vector<float>> scores = {Scores(300, 3, random), Scores(301, 0, random)};
  using Order = cuda_sim::Schedule::Order;
  for (const cuda_sim::Schedule schedule : {cuda_sim::Schedule{Order::kForward}, cuda_sim::Schedule{Order::kBackward},
                                            cuda_sim::Schedule{Order::kShuffled, 5}}) {
    cuda_sim::SetSchedule(schedule);
    OnDevice on(GetParam());
    const Choice got = Select(on, scores, 299, 20, 310);
    for (size_t t = 0; t < 2; ++t) EXPECT_EQ(got.ids[t], OnCpu(scores[t], 20, 310));
  }
}

}  // namespace
}  // namespace kompakt
