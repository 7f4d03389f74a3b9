// linear, ffn, expert_ffn and embed of every kernel set against sums in F64 made here.
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <cmath>
#include <cstring>
#include <limits>
#include <memory>
#include <string>

#include "kernels/kernel_set.h"
#include "tests/kernels/random_matrix.h"

namespace kompakt {
namespace {

struct Expected {
  double value;
  double magnitude;  // sum of |x w|: what rounding errors are proportional to
};

Expected NaiveDot(const float* x, const float* w, int64_t n) {
  Expected e{0, 0};
  for (int64_t i = 0; i < n; ++i) {
    const double product = static_cast<double>(x[i]) * static_cast<double>(w[i]);
    e.value += product;
    e.magnitude += std::fabs(product);
  }
  return e;
}

// Adding n products one by one in F32 errs by at most n half-ulps of the sum of magnitudes; below the normal range by
// one denormal per step.
double Tolerance(const Expected& e, int64_t n) {
  return static_cast<double>(n + 1) * (std::ldexp(e.magnitude, -24) + std::ldexp(1.0, -149));
}

class EveryKernelSet : public testing::TestWithParam<const KernelSet*> {
 protected:
  const KernelSet& set() const { return *GetParam(); }
  KernelContext context(int threads = 2) {
    team_ = std::make_unique<ThreadTeam>(threads);
    return KernelContext{.team = team_.get(), .workspace = &workspace_};
  }

  std::vector<float> RunLinear(const MatrixView& w, const std::vector<float>& x, int64_t tokens, int threads = 2) {
    std::vector<float> y(static_cast<size_t>(tokens * w.shape.rows), std::nanf(""));
    KernelContext c = context(threads);
    const LinearParams p{
        .w = w, .x = x.data(), .x_stride = w.shape.cols, .tokens = tokens, .y = y.data(), .y_stride = w.shape.rows};
    EXPECT_TRUE(set().linear(p, c).ok());
    return y;
  }

  void ExpectLinear(const RandomMatrix& w, const std::vector<float>& x, int64_t tokens) {
    const int64_t rows = w.view.shape.rows;
    const int64_t cols = w.view.shape.cols;
    const std::vector<float> y = RunLinear(w.view, x, tokens);
    for (int64_t t = 0; t < tokens; ++t) {
      for (int64_t r = 0; r < rows; ++r) {
        const Expected e = NaiveDot(&x[static_cast<size_t>(t * cols)], &w.values[static_cast<size_t>(r * cols)], cols);
        const double got = y[static_cast<size_t>(t * rows + r)];
        ASSERT_LE(std::fabs(got - e.value), Tolerance(e, cols))
            << w.view.format->name << " [" << rows << ", " << cols << "], " << tokens << " tokens: token " << t
            << " row " << r << " is " << got << ", expected " << e.value;
      }
    }
  }

  Workspace workspace_;
  std::unique_ptr<ThreadTeam> team_;
};

INSTANTIATE_TEST_SUITE_P(Kernels, EveryKernelSet,
                         testing::ValuesIn(AvailableKernelSets().begin(), AvailableKernelSets().end()),
                         [](const auto& info) { return std::string(info.param->name); });

TEST_P(EveryKernelSet, LinearEqualsTheNaiveSumInEveryFormatAndShape) {
  const int64_t shapes[][3] = {{1, 1, 1},    {1, 33, 2},  {15, 31, 3},   {16, 32, 1},   {17, 33, 4},   {33, 160, 5},
                               {130, 64, 8}, {64, 96, 9}, {70, 257, 31}, {200, 600, 1}, {48, 1000, 2}, {20, 40, 70}};
  uint64_t seed = 1;
  for (const BlockFormat& format : AllFormats()) {
    for (const auto& [rows, cols, tokens] : shapes) {
      const RandomMatrix w = MakeRandomMatrix(format.id, rows, cols, 0.5f, seed++);
      ExpectLinear(w, RandomVector(tokens * cols, 1.0f, seed++), tokens);
    }
  }
}

TEST_P(EveryKernelSet, LinearTakesZerosDenormalsAndLargestActivations) {
  constexpr int64_t kRows = 35;
  constexpr int64_t kCols = 70;
  constexpr int64_t kTokens = 3;
  for (const BlockFormat& format : AllFormats()) {
    // F16 draws its codes over all exponents up to 2, so the largest activations would overflow there.
    if (format.id == FormatId::kF16) continue;
    const RandomMatrix w = MakeRandomMatrix(format.id, kRows, kCols, 1e-4f, 77);
    for (const float value : {0.0f, 1e-42f, std::numeric_limits<float>::max()}) {
      std::vector<float> x(kTokens * kCols, value);
      for (size_t i = 0; i < x.size(); i += 3) x[i] = -value;
      ExpectLinear(w, x, kTokens);
    }
  }
}

TEST_P(EveryKernelSet, LinearOfATokenDependsNeitherOnThreadsNorOnItsNeighbours) {
  constexpr int64_t kRows = 83;
  constexpr int64_t kCols = 300;
  constexpr int64_t kTokens = 29;
  for (const BlockFormat& format : AllFormats()) {
    const RandomMatrix w = MakeRandomMatrix(format.id, kRows, kCols, 1.0f, 5);
    const std::vector<float> x = RandomVector(kTokens * kCols, 1.0f, 6);
    const std::vector<float> y = RunLinear(w.view, x, kTokens, 1);
    EXPECT_EQ(y, RunLinear(w.view, x, kTokens, 2)) << format.name;
    EXPECT_EQ(y, RunLinear(w.view, x, kTokens, 3)) << format.name;
    for (int64_t t = 0; t < kTokens; ++t) {
      const std::vector<float> one(x.begin() + t * kCols, x.begin() + (t + 1) * kCols);
      const std::vector<float> expected(y.begin() + t * kRows, y.begin() + (t + 1) * kRows);
      EXPECT_EQ(RunLinear(w.view, one, 1, 2), expected) << format.name << " token " << t;
    }
  }
}

TEST_P(EveryKernelSet, LinearOfFp8TakesLargeScalesAndShowsNanCodes) {
  constexpr int64_t kRows = 20;
  constexpr int64_t kCols = 40;
  for (const int64_t tokens : {1, 2, 3, 13, 50}) {
    RandomMatrix w = MakeRandomMatrix(FormatId::kFp8B128, kRows, kCols, 1.0f, 12);
    // The first scale that leaves F32 when it is multiplied by 2^120, and some beyond.
    for (const float scale : {0x1p7f, 0x1p8f, 0x1p60f}) {
      std::memcpy(w.bytes.data() + w.view.layout.side_offset, &scale, sizeof(scale));
      DecodeRows(w.view, 0, kRows, absl::MakeSpan(w.values));
      ExpectLinear(w, RandomVector(tokens * kCols, 1.0f, 13), tokens);
    }
    // Row 1, column 33 of the second tile.
    w.bytes.data()[w.view.format->tile_bytes + 1 * 4 + 1] = 0xff;
    const std::vector<float> y = RunLinear(w.view, RandomVector(tokens * kCols, 1.0f, 14), tokens);
    for (int64_t i = 0; i < std::ssize(y); ++i) {
      EXPECT_EQ(std::isnan(y[static_cast<size_t>(i)]), i % kRows == 1) << "token " << i / kRows << " row " << i % kRows;
    }
  }
}

// A damaged file must not give results that look finite.
TEST_P(EveryKernelSet, LinearShowsWeightsThatAreNotFinite) {
  constexpr int64_t kRows = 19;
  constexpr int64_t kCols = 140;
  const std::pair<FormatId, std::vector<uint32_t>> cases[] = {
      {FormatId::kF32, {0x7f800000u, 0x7fc00000u}},
      {FormatId::kBf16, {0x7f80u, 0xff80u, 0xffc0u}},
      {FormatId::kF16, {0x7c00u, 0xfc00u, 0x7e00u}},
  };
  for (const auto& [format, codes] : cases) {
    for (const uint32_t code : codes) {
      RandomMatrix w = MakeRandomMatrix(format, kRows, kCols, 1.0f, 12);
      // Column 0 of row 17, the second row of the second row tile, in its last column tile.
      const uint64_t code_bytes = w.view.format->stored_element_bytes;
      std::memcpy(w.bytes.data() + (w.view.tile(1, 4) - w.view.data) + 4, &code, code_bytes);
      for (const int64_t tokens : {1, 3, 13, 50}) {
        const std::vector<float> y = RunLinear(w.view, RandomVector(tokens * kCols, 1.0f, 13), tokens);
        for (int64_t i = 0; i < std::ssize(y); ++i) {
          EXPECT_EQ(!std::isfinite(y[static_cast<size_t>(i)]), i % kRows == 17)
              << w.view.format->name << " code " << code << ", " << tokens << " tokens: row " << i % kRows;
        }
      }
    }
  }
}

TEST_P(EveryKernelSet, EmbedCopiesTheNamedRows) {
  for (const BlockFormat& format : AllFormats()) {
    const RandomMatrix table = MakeRandomMatrix(format.id, 45, 70, 1.0f, 9);
    const std::vector<int32_t> ids = {44, 0, 17, 17, 15, 16};
    std::vector<float> y(ids.size() * 70, std::nanf(""));
    KernelContext c = context();
    ASSERT_TRUE(
        set().embed({.table = table.view, .ids = ids.data(), .tokens = std::ssize(ids), .y = y.data()}, c).ok());
    for (size_t t = 0; t < ids.size(); ++t) {
      for (size_t i = 0; i < 70; ++i) {
        ASSERT_EQ(y[t * 70 + i], table.values[static_cast<size_t>(ids[t]) * 70 + i]) << format.name << " id " << ids[t];
      }
    }
  }
}

struct Expert {
  RandomMatrix gate, up, down;
  FfnWeights weights() const { return {.gate = gate.view, .up = up.view, .down = down.view}; }
};

Expert MakeExpert(FormatId format, int64_t hidden, int64_t inter, uint64_t seed) {
  return {MakeRandomMatrix(format, inter, hidden, 0.3f, seed), MakeRandomMatrix(format, inter, hidden, 0.3f, seed + 1),
          MakeRandomMatrix(format, hidden, inter, 0.3f, seed + 2)};
}

// One token through one FFN, in F64.
std::vector<double> NaiveFfn(const Expert& e, const float* x) {
  const int64_t hidden = e.gate.view.shape.cols;
  const int64_t inter = e.gate.view.shape.rows;
  std::vector<double> act(static_cast<size_t>(inter));
  for (int64_t i = 0; i < inter; ++i) {
    const double gate = NaiveDot(x, &e.gate.values[static_cast<size_t>(i * hidden)], hidden).value;
    const double up = NaiveDot(x, &e.up.values[static_cast<size_t>(i * hidden)], hidden).value;
    act[static_cast<size_t>(i)] = gate / (1 + std::exp(-gate)) * up;
  }
  std::vector<double> y(static_cast<size_t>(hidden), 0);
  for (int64_t r = 0; r < hidden; ++r) {
    for (int64_t i = 0; i < inter; ++i) {
      y[static_cast<size_t>(r)] +=
          act[static_cast<size_t>(i)] * static_cast<double>(e.down.values[static_cast<size_t>(r * inter + i)]);
    }
  }
  return y;
}

double LargestMagnitude(const std::vector<double>& x) {
  double largest = 0;
  for (const double value : x) largest = std::max(largest, std::fabs(value));
  return largest;
}

TEST_P(EveryKernelSet, FfnEqualsTheNaiveFormula) {
  const int64_t shapes[][3] = {{32, 48, 1}, {70, 33, 5}, {96, 200, 11}, {40, 17, 64}};
  for (const BlockFormat& format : AllFormats()) {
    for (const auto& [hidden, inter, tokens] : shapes) {
      const Expert e = MakeExpert(format.id, hidden, inter, 21);
      const std::vector<float> x = RandomVector(tokens * hidden, 0.2f, 22);
      const std::vector<float> start = RandomVector(tokens * hidden, 1.0f, 23);
      for (const bool accumulate : {false, true}) {
        std::vector<float> y = start;
        KernelContext c = context();
        ASSERT_TRUE(
            set()
                .ffn({.w = e.weights(), .x = x.data(), .tokens = tokens, .y = y.data(), .accumulate = accumulate}, c)
                .ok());
        for (int64_t t = 0; t < tokens; ++t) {
          const std::vector<double> want = NaiveFfn(e, &x[static_cast<size_t>(t * hidden)]);
          // Three roundings chains of some hundred steps each; 2e-5 of the largest value is ten times what is seen.
          const double tolerance = 2e-5 * (1 + LargestMagnitude(want));
          for (int64_t i = 0; i < hidden; ++i) {
            const auto at = static_cast<size_t>(t * hidden + i);
            const double expected = want[static_cast<size_t>(i)] + (accumulate ? static_cast<double>(start[at]) : 0);
            ASSERT_LE(std::fabs(static_cast<double>(y[at]) - expected), tolerance)
                << format.name << " [" << hidden << ", " << inter << "] token " << t << " value " << i << " is "
                << y[at] << ", expected " << expected;
          }
        }
      }
    }
  }
}

TEST_P(EveryKernelSet, ExpertFfnAddsTheWeightedExpertsOfEachToken) {
  constexpr int64_t kHidden = 70;
  constexpr int64_t kInter = 40;
  constexpr int64_t kExperts = 7;
  constexpr int64_t kChosen = 3;
  for (const BlockFormat& format : AllFormats()) {
    std::vector<Expert> experts;
    std::vector<FfnWeights> weights;
    for (uint64_t e = 0; e < kExperts; ++e) experts.push_back(MakeExpert(format.id, kHidden, kInter, 100 + 3 * e));
    for (const Expert& e : experts) weights.push_back(e.weights());
    for (const int64_t tokens : {1, 2, 37}) {
      // Expert 4 is never chosen: an expert without tokens must not disturb.
      const auto [ids, routing] = RandomRouting(tokens, kExperts, kChosen, 4);
      const std::vector<float> x = RandomVector(tokens * kHidden, 0.2f, 3);
      std::vector<float> first;
      for (const int threads : {1, 2, 5}) {
        std::vector<float> y(static_cast<size_t>(tokens * kHidden), std::nanf(""));
        KernelContext c = context(threads);
        ASSERT_TRUE(set()
                        .expert_ffn({.experts = weights.data(),
                                     .n_experts = kExperts,
                                     .ids = ids.data(),
                                     .weights = routing.data(),
                                     .k = kChosen,
                                     .x = x.data(),
                                     .tokens = tokens,
                                     .y = y.data()},
                                    c)
                        .ok());
        if (first.empty()) first = y;
        EXPECT_EQ(y, first) << format.name << ", " << threads << " threads";
      }
      for (int64_t t = 0; t < tokens; ++t) {
        std::vector<double> want(kHidden, 0);
        for (int64_t i = 0; i < kChosen; ++i) {
          const auto slot = static_cast<size_t>(t * kChosen + i);
          const std::vector<double> out =
              NaiveFfn(experts[static_cast<size_t>(ids[slot])], &x[static_cast<size_t>(t * kHidden)]);
          for (size_t j = 0; j < kHidden; ++j) want[j] += static_cast<double>(routing[slot]) * out[j];
        }
        const double tolerance = 2e-5 * (1 + LargestMagnitude(want));
        for (int64_t j = 0; j < kHidden; ++j) {
          const float got = first[static_cast<size_t>(t * kHidden + j)];
          ASSERT_LE(std::fabs(static_cast<double>(got) - want[static_cast<size_t>(j)]), tolerance)
              << format.name << " token " << t << " value " << j << " is " << got << ", expected "
              << want[static_cast<size_t>(j)];
        }
      }
    }
  }
}

TEST_P(EveryKernelSet, ExpertFfnInAscendingPartsIsTheWholeBitForBit) {
  constexpr int64_t kHidden = 70;
  constexpr int64_t kInter = 40;
  constexpr int32_t kExperts = 7;
  constexpr int64_t kChosen = 3;
  const std::vector<std::vector<int64_t>> cuts = {{0, 3, 7}, {0, 1, 2, 3, 4, 5, 6, 7}, {0, 0, 4, 4, 5, 7}};
  for (const BlockFormat& format : AllFormats()) {
    std::vector<Expert> experts;
    std::vector<FfnWeights> weights;
    for (uint64_t e = 0; e < kExperts; ++e) experts.push_back(MakeExpert(format.id, kHidden, kInter, 100 + 3 * e));
    for (const Expert& e : experts) weights.push_back(e.weights());
    for (const int64_t tokens : {1, 2, 37}) {
      std::vector<int32_t> ids;
      for (int64_t t = 0; t < tokens; ++t) {
        const auto first = static_cast<int32_t>(t % (kExperts - 3));
        ids.insert(ids.end(), {first, first + 1 + static_cast<int32_t>(t % 2), first + 3});
      }
      const std::vector<float> routing = RandomVector(tokens * kChosen, 1.0f, 2);
      const std::vector<float> x = RandomVector(tokens * kHidden, 0.2f, 3);
      std::vector<float> y(static_cast<size_t>(tokens * kHidden), std::nanf(""));
      KernelContext c = context(2);
      for (const ActPrecision act : {ActPrecision::kF32, ActPrecision::kInt8, ActPrecision::kInt16}) {
        ExpertFfnParams params{.experts = weights.data(),
                               .n_experts = kExperts,
                               .ids = ids.data(),
                               .weights = routing.data(),
                               .k = kChosen,
                               .x = x.data(),
                               .tokens = tokens,
                               .y = y.data(),
                               .act = act,
                               .down_act = act};
        ASSERT_TRUE(set().expert_ffn(params, c).ok());
        for (const std::vector<int64_t>& cut : cuts) {
          std::vector<float> parts(y.size(), std::nanf(""));
          params.y = parts.data();
          for (size_t j = 0; j + 1 < cut.size(); ++j) {
            // Of experts outside of the part there is a shape, but no data.
            std::vector<FfnWeights> here = weights;
            for (int64_t e = 0; e < kExperts; ++e) {
              if (e >= cut[j] && e < cut[j + 1]) continue;
              FfnWeights& w = here[static_cast<size_t>(e)];
              w.gate.data = w.up.data = w.down.data = nullptr;
            }
            params.experts = here.data();
            params.expert_begin = cut[j];
            params.expert_end = cut[j + 1];
            params.accumulate = j > 0;
            ASSERT_TRUE(set().expert_ffn(params, c).ok());
          }
          EXPECT_EQ(parts, y) << format.name << ", activations " << static_cast<int>(act) << ", " << tokens
                              << " tokens in " << cut.size() - 1 << " parts";
        }
      }
    }
  }
}

}  // namespace
}  // namespace kompakt
