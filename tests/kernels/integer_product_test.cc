// Products with rounded activations, of every kernel set that this machine runs, against the exact product with the
// codes that kernels/activation.h defines. So tolerances are those of F32 alone, whatever the rounding does.
#include <gtest/gtest.h>

#include <cmath>
#include <limits>
#include <memory>
#include <string>

#include "kernels/activation.h"
#include "kernels/kernel_set.h"
#include "kernels/portable/panel.h"
#include "tests/kernels/random_matrix.h"

namespace kompakt {
namespace {

constexpr float kNan = std::numeric_limits<float>::quiet_NaN();
constexpr ActPrecision kPrecisions[] = {ActPrecision::kInt8, ActPrecision::kInt16};

const char* NameOf(ActPrecision act) { return act == ActPrecision::kInt8 ? "int8" : "int16"; }

// Formats whose products integer sets make with integers.
bool IsInteger(const BlockFormat& format) { return !format.exact || format.native_low_bit(); }

// What a row becomes, in F64, as the head of kernels/activation.h says.
std::vector<double> Rounded(const float* x, int64_t n, ActPrecision act) {
  const float largest_code = act == ActPrecision::kInt8 ? kInt8Largest : kInt16Largest;
  std::vector<double> y(static_cast<size_t>(n), 0);
  for (int64_t begin = 0; begin < n; begin += kActGroup) {
    const int64_t end = std::min(n, begin + kActGroup);
    float largest = 0;
    for (int64_t i = begin; i < end; ++i) largest = std::max(largest, std::fabs(x[i]));
    const float scale = largest / largest_code;
    if (scale < std::numeric_limits<float>::min()) continue;
    const float inverse = 1.0f / scale;
    for (int64_t i = begin; i < end; ++i) {
      y[static_cast<size_t>(i)] = static_cast<double>(std::nearbyint(x[i] * inverse)) * static_cast<double>(scale);
    }
  }
  return y;
}

struct Expected {
  double value = 0;
  double magnitude = 0;  // sum of |x w|: what rounding errors are proportional to
};

Expected Dot(const std::vector<double>& x, const float* w) {
  Expected e;
  for (size_t i = 0; i < x.size(); ++i) {
    const double product = x[i] * static_cast<double>(w[i]);
    e.value += product;
    e.magnitude += std::fabs(product);
  }
  return e;
}

// One F32 operation per 16 columns and a few more around them, each within half an ulp; sums of F32 products of all
// columns where a set rounds nothing.
double Tolerance(const Expected& e, int64_t n, bool integer) {
  const int64_t operations = integer ? 2 * (n / 16) + 8 : n + 1;
  return static_cast<double>(operations) * (std::ldexp(e.magnitude, -24) + std::ldexp(1.0, -149));
}

class IntegerProducts : public testing::TestWithParam<const KernelSet*> {
 protected:
  const KernelSet& set() const { return *GetParam(); }
  bool Rounds(const BlockFormat& format) const {
    return set().name != "reference" && set().name != "portable" && IsInteger(format);
  }

  std::vector<float> Linear(const MatrixView& w, const std::vector<float>& x, ActPrecision act, int threads = 2) {
    const int64_t tokens = std::ssize(x) / w.shape.cols;
    std::vector<float> y(static_cast<size_t>(tokens * w.shape.rows), kNan);
    ThreadTeam team(threads);
    KernelContext context{.team = &team, .workspace = &workspace_};
    const LinearParams p{.w = w,
                         .x = x.data(),
                         .x_stride = w.shape.cols,
                         .tokens = tokens,
                         .y = y.data(),
                         .y_stride = w.shape.rows,
                         .act = act};
    EXPECT_TRUE(set().linear(p, context).ok());
    return y;
  }

  void ExpectLinear(const RandomMatrix& w, const std::vector<float>& x, ActPrecision act) {
    const int64_t rows = w.view.shape.rows;
    const int64_t cols = w.view.shape.cols;
    const bool rounds = Rounds(*w.view.format);
    const std::vector<float> y = Linear(w.view, x, act);
    for (int64_t t = 0; t < std::ssize(x) / cols; ++t) {
      const float* const row = &x[static_cast<size_t>(t * cols)];
      const std::vector<double> seen = rounds ? Rounded(row, cols, act) : std::vector<double>(row, row + cols);
      for (int64_t r = 0; r < rows; ++r) {
        const Expected e = Dot(seen, &w.values[static_cast<size_t>(r * cols)]);
        const double got = y[static_cast<size_t>(t * rows + r)];
        ASSERT_LE(std::fabs(got - e.value), Tolerance(e, cols, rounds))
            << w.view.format->name << ' ' << NameOf(act) << " [" << rows << ", " << cols << "]: token " << t << " row "
            << r << " is " << got << ", expected " << e.value;
      }
    }
  }

  Workspace workspace_;
};

INSTANTIATE_TEST_SUITE_P(Kernels, IntegerProducts,
                         testing::ValuesIn(AvailableKernelSets().begin(), AvailableKernelSets().end()),
                         [](const auto& info) { return std::string(info.param->name); });

TEST_P(IntegerProducts, EqualTheExactProductWithTheCodes) {
  // Row and column tails, every size of block, and more columns than a panel holds.
  const int64_t shapes[][3] = {{1, 1, 1},    {1, 33, 2},   {15, 31, 3},  {16, 32, 1},   {17, 33, 4},  {33, 160, 5},
                               {70, 64, 6},  {64, 96, 7},  {20, 257, 8}, {90, 600, 1},  {16, 100, 9}, {16, 40, 10},
                               {18, 70, 11}, {16, 64, 12}, {17, 90, 29}, {16, 2100, 6}, {40, 2100, 1}};
  uint64_t seed = 1;
  for (const BlockFormat& format : AllFormats()) {
    for (const auto& [rows, cols, tokens] : shapes) {
      const RandomMatrix w = MakeRandomMatrix(format.id, rows, cols, 0.5f, seed++);
      const std::vector<float> x = RandomVector(tokens * cols, 1.0f, seed++);
      for (const ActPrecision act : kPrecisions) ExpectLinear(w, x, act);
    }
  }
}

TEST_P(IntegerProducts, TakeZerosDenormalsAndLargestActivations) {
  constexpr int64_t kCols = 70;
  for (const BlockFormat& format : AllFormats()) {
    // F16 draws its codes over all exponents up to 2, so the largest activations would overflow there.
    if (format.id == FormatId::kF16) continue;
    const RandomMatrix w = MakeRandomMatrix(format.id, 35, kCols, 1e-4f, 77);
    for (const float value : {0.0f, 1e-42f, 1e-37f, 1e25f, std::numeric_limits<float>::max()}) {
      for (const int64_t tokens : {1, 3, 6}) {
        std::vector<float> x(static_cast<size_t>(tokens * kCols), value);
        for (size_t i = 0; i < x.size(); i += 3) x[i] = -value;
        for (const ActPrecision act : kPrecisions) ExpectLinear(w, x, act);
      }
    }
  }
}

TEST_P(IntegerProducts, ShowWhatIsNotFiniteInItsTokenOnly) {
  constexpr int64_t kRows = 19;
  constexpr int64_t kCols = 70;
  for (const BlockFormat& format : AllFormats()) {
    const RandomMatrix w = MakeRandomMatrix(format.id, kRows, kCols, 1.0f, 3);
    for (const int64_t tokens : {2, 7}) {
      const std::vector<float> x = RandomVector(tokens * kCols, 1.0f, 4);
      for (const ActPrecision act : kPrecisions) {
        const std::vector<float> y = Linear(w.view, x, act);
        for (const float bad : {kNan, std::numeric_limits<float>::infinity()}) {
          for (const int64_t at : {0, 31, 32, 69}) {
            std::vector<float> marred = x;
            marred[static_cast<size_t>(kCols + at)] = bad;
            const std::vector<float> z = Linear(w.view, marred, act);
            for (int64_t i = 0; i < std::ssize(y); ++i) {
              const auto n = static_cast<size_t>(i);
              if (i / kRows == 1) {
                // A weight of zero makes NaN of either.
                ASSERT_FALSE(std::isfinite(z[n])) << format.name << ' ' << NameOf(act) << " column " << at;
              } else {
                ASSERT_EQ(z[n], y[n]) << format.name << ' ' << NameOf(act);
              }
            }
          }
        }
      }
    }
  }
}

TEST_P(IntegerProducts, DependNeitherOnThreadsNorOnNeighbours) {
  constexpr int64_t kRows = 83;
  constexpr int64_t kCols = 300;
  constexpr int64_t kTokens = 29;
  for (const BlockFormat& format : AllFormats()) {
    const RandomMatrix w = MakeRandomMatrix(format.id, kRows, kCols, 1.0f, 5);
    const std::vector<float> x = RandomVector(kTokens * kCols, 1.0f, 6);
    for (const ActPrecision act : kPrecisions) {
      const std::vector<float> y = Linear(w.view, x, act, 1);
      EXPECT_EQ(y, Linear(w.view, x, act, 2)) << format.name;
      EXPECT_EQ(y, Linear(w.view, x, act, 3)) << format.name;
      for (const int64_t tokens : {1, 2, 3, 4, 5, 8, 11}) {
        const int64_t first = kTokens - tokens;
        const std::vector<float> some(x.begin() + first * kCols, x.end());
        const std::vector<float> expected(y.begin() + first * kRows, y.end());
        EXPECT_EQ(Linear(w.view, some, act), expected) << format.name << ' ' << NameOf(act) << ' ' << tokens;
      }
    }
  }
}

// Products with floats too: those of the portable set round every product as well as every sum.
TEST_P(IntegerProducts, AreTheSameBitsOnEverySet) {
  if (set().name == "reference" || set().name == "portable") GTEST_SKIP();
  constexpr int64_t kCols = 300;
  for (const BlockFormat& format : AllFormats()) {
    const RandomMatrix w = MakeRandomMatrix(format.id, 40, kCols, 1.0f, 8);
    const KernelSet* const best = *BestKernelSet();
    for (const int64_t tokens : {1, 4, 17, 60}) {
      const std::vector<float> x = RandomVector(tokens * kCols, 1.0f, 9);
      for (const ActPrecision act : kPrecisions) {
        std::vector<float> y(static_cast<size_t>(tokens * 40), kNan);
        KernelContext context{.team = nullptr, .workspace = &workspace_};
        ASSERT_TRUE(best->linear({.w = w.view,
                                  .x = x.data(),
                                  .x_stride = kCols,
                                  .tokens = tokens,
                                  .y = y.data(),
                                  .y_stride = 40,
                                  .act = act},
                                 context)
                        .ok());
        EXPECT_EQ(Linear(w.view, x, act), y) << format.name << ' ' << NameOf(act);
      }
    }
  }
}

struct Expert {
  RandomMatrix gate, up, down;
  FfnWeights weights() const { return {.gate = gate.view, .up = up.view, .down = down.view}; }
};

class IntegerFfns : public IntegerProducts {
 protected:
  static Expert MakeExpert(FormatId gate, FormatId up, FormatId down, int64_t hidden, int64_t inter, uint64_t seed) {
    return {MakeRandomMatrix(gate, inter, hidden, 0.3f, seed), MakeRandomMatrix(up, inter, hidden, 0.3f, seed + 1),
            MakeRandomMatrix(down, hidden, inter, 0.3f, seed + 2)};
  }

  // An FFN of this set's own products, which the tests above hold to the formula.
  std::vector<float> Composed(const Expert& e, const std::vector<float>& x, ActPrecision act, ActPrecision down_act) {
    std::vector<float> gate = Linear(e.gate.view, x, act);
    std::vector<float> up = Linear(e.up.view, x, act);
    const size_t n = gate.size();
    gate.resize((n + 15) / 16 * 16);
    up.resize(gate.size());
    portable::BestPanelIsa().silu_times(gate.data(), up.data(), std::ssize(gate));
    gate.resize(n);
    return Linear(e.down.view, gate, down_act);
  }
};

INSTANTIATE_TEST_SUITE_P(Kernels, IntegerFfns,
                         testing::ValuesIn(AvailableKernelSets().begin() + 1, AvailableKernelSets().end()),
                         [](const auto& info) { return std::string(info.param->name); });

TEST_P(IntegerFfns, AreMadeOfTheProductsOfTheSet) {
  constexpr int64_t kHidden = 70;
  constexpr int64_t kInter = 130;
  const std::pair<ActPrecision, ActPrecision> precisions[] = {{ActPrecision::kInt8, ActPrecision::kInt8},
                                                              {ActPrecision::kInt16, ActPrecision::kInt8},
                                                              {ActPrecision::kInt8, ActPrecision::kF32}};
  // A mixture of formats with and without integer products too.
  const FormatId formats[][3] = {{FormatId::kQ4G16, FormatId::kQ4G16, FormatId::kQ5G32},
                                 {FormatId::kMxfp4, FormatId::kMxfp4, FormatId::kMxfp4},
                                 {FormatId::kBf16, FormatId::kQ8G32, FormatId::kFp8B128},
                                 {FormatId::kQ3G32, FormatId::kBf16, FormatId::kQ6G32}};
  for (const auto& [gate, up, down] : formats) {
    const Expert e = MakeExpert(gate, up, down, kHidden, kInter, 31);
    for (const auto& [act, down_act] : precisions) {
      for (const int64_t tokens : {1, 4, 30}) {
        const std::vector<float> x = RandomVector(tokens * kHidden, 0.2f, 32);
        const std::vector<float> want = Composed(e, x, act, down_act);
        for (const int threads : {1, 3}) {
          std::vector<float> y(want.size(), kNan);
          ThreadTeam team(threads);
          KernelContext context{.team = &team, .workspace = &workspace_};
          ASSERT_TRUE(set()
                          .ffn({.w = e.weights(),
                                .x = x.data(),
                                .tokens = tokens,
                                .y = y.data(),
                                .act = act,
                                .down_act = down_act},
                               context)
                          .ok());
          EXPECT_EQ(y, want) << e.gate.view.format->name << ", " << tokens << " tokens, " << threads << " threads";
        }
      }
    }
  }
}

TEST_P(IntegerFfns, OfExpertsAddWhatEachTokenGetsAlone) {
  constexpr int64_t kHidden = 70;
  constexpr int64_t kInter = 40;
  constexpr int64_t kExperts = 5;
  constexpr int64_t kChosen = 3;
  // Expert 3 is in another format than the rest, and never chosen alone.
  std::vector<Expert> experts;
  std::vector<FfnWeights> weights;
  for (uint64_t e = 0; e < kExperts; ++e) {
    const FormatId format = e == 3 ? FormatId::kBf16 : FormatId::kQ4G16;
    experts.push_back(MakeExpert(format, format, format, kHidden, kInter, 100 + 3 * e));
  }
  for (const Expert& e : experts) weights.push_back(e.weights());
  for (const int64_t tokens : {1, 3, 50, 520}) {
    const auto [ids, routing] = RandomRouting(tokens, kExperts, kChosen);
    const std::vector<float> x = RandomVector(tokens * kHidden, 0.2f, 3);
    std::vector<float> want(x.size(), 0);
    for (int64_t e = 0; e < kExperts; ++e) {
      const std::vector<float> all =
          Composed(experts[static_cast<size_t>(e)], x, ActPrecision::kInt8, ActPrecision::kInt16);
      for (int64_t slot = 0; slot < tokens * kChosen; ++slot) {
        if (ids[static_cast<size_t>(slot)] != e) continue;
        const int64_t at = slot / kChosen * kHidden;
        for (int64_t i = at; i < at + kHidden; ++i) {
          want[static_cast<size_t>(i)] += routing[static_cast<size_t>(slot)] * all[static_cast<size_t>(i)];
        }
      }
    }
    for (const int threads : {1, 3}) {
      std::vector<float> y(want.size(), kNan);
      ThreadTeam team(threads);
      KernelContext context{.team = &team, .workspace = &workspace_};
      ASSERT_TRUE(set()
                      .expert_ffn({.experts = weights.data(),
                                   .n_experts = kExperts,
                                   .ids = ids.data(),
                                   .weights = routing.data(),
                                   .k = kChosen,
                                   .x = x.data(),
                                   .tokens = tokens,
                                   .y = y.data(),
                                   .act = ActPrecision::kInt8,
                                   .down_act = ActPrecision::kInt16},
                                  context)
                      .ok());
      EXPECT_EQ(y, want) << tokens << " tokens, " << threads << " threads";
    }
  }
}

}  // namespace
}  // namespace kompakt
