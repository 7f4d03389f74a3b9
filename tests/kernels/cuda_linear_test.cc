// Products with packed matrices on every device of this machine, against the exact product of what the codes mean.
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <cmath>
#include <limits>
#include <string>
#include <vector>

#include "format/block_format.h"
#include "kernels/cuda/sim/block.h"
#include "tests/fixtures/test_name.h"
#include "tests/kernels/on_device.h"

namespace kompakt {
namespace {

class CudaLinear : public testing::TestWithParam<std::string> {
 protected:
  void TearDown() override { cuda_sim::SetSchedule({}); }
};
INSTANTIATE_TEST_SUITE_P(Devices, CudaLinear, testing::ValuesIn(AvailableDevices()),
                         [](const auto& info) { return TestNameOf(info.param); });

bool TakesCodes(FormatId format) { return FormatOf(format).group_cols > 0 || format == FormatId::kQ8G32; }

// x W^T on the device, alone.
std::vector<float> LinearOf(OnDevice& on, const RandomMatrix& w, const cuda::Activations& x, int64_t tokens) {
  const int64_t rows = w.view.shape.rows;
  float* const y = on.Zeros<float>(tokens * rows);
  cuda::LinearParams p{.n_jobs = 1, .x = x, .tokens = tokens, .blocks = 3};
  p.jobs[0] = {.w = on.Upload(w), .out = {.y = y, .y_stride = rows}};
  on.Run(on.kernels().linear(p, nullptr), "linear");
  return on.Download(y, tokens * rows);
}

struct Shape {
  int64_t rows, cols;
};

TEST_P(CudaLinear, EveryFormatGivesTheExactProductOfWhatTheCodesMean) {
  // One tile; tails of rows and columns; several stages and an odd number of tiles.
  constexpr Shape kShapes[] = {{16, 32}, {33, 70}, {75, 161}};
  for (const BlockFormat& format : AllFormats()) {
    for (const Shape shape : kShapes) {
      const RandomMatrix w = MakeRandomMatrix(format.id, shape.rows, shape.cols, 0.1f, 7);
      for (int planes = 0; planes <= (TakesCodes(format.id) ? 2 : 0); ++planes) {
        for (const int64_t tokens : {1, 5, 17}) {
          SCOPED_TRACE(testing::Message() << format.name << " " << shape.rows << " x " << shape.cols << ", " << tokens
                                          << " tokens, " << planes << " planes");
          OnDevice on(GetParam());
          const cuda::Activations x = on.Quantized(RandomVector(tokens * shape.cols, 1, 3), tokens, shape.cols, planes);
          const std::vector<float> y = LinearOf(on, w, x, tokens);
          EXPECT_EQ(FirstDifference(y, Multiply(w, on.Meaning(x, tokens), tokens), kSumTolerance), "");
        }
      }
    }
  }
}

TEST_P(CudaLinear, EveryTokenCountFrom1To17AndOf70) {
  const RandomMatrix w = MakeRandomMatrix(FormatId::kQ4G16, 40, 96, 0.1f, 7);
  for (int64_t tokens = 1; tokens <= 70; tokens += tokens == 17 ? 53 : 1) {
    SCOPED_TRACE(tokens);
    OnDevice on(GetParam());
    const cuda::Activations x = on.Quantized(RandomVector(tokens * 96, 1, 3), tokens, 96, 1);
    EXPECT_EQ(FirstDifference(LinearOf(on, w, x, tokens), Multiply(w, on.Meaning(x, tokens), tokens), kSumTolerance),
              "");
  }
}

TEST_P(CudaLinear, ATokenGetsTheSameBitsWhateverIsBesideIt) {
  for (const FormatId format : {FormatId::kQ4G16, FormatId::kQ6G32, FormatId::kBf16}) {
    const RandomMatrix w = MakeRandomMatrix(format, 40, 161, 0.1f, 7);
    const std::vector<float> x = RandomVector(19 * 161, 1, 3);
    const auto rows_from = [&](int64_t first, int64_t n) {
      OnDevice on(GetParam());
      const std::vector<float> some(x.begin() + first * 161, x.begin() + (first + n) * 161);
      return LinearOf(on, w, on.Quantized(some, n, 161, format == FormatId::kBf16 ? 0 : 1), n);
    };
    // Decode: alone, and among up to 8. Prefill: 9 and more.
    const std::vector<float> eight = rows_from(5, 8);
    const std::vector<float> nine = rows_from(5, 9);
    const std::vector<float> all = rows_from(0, 19);
    for (int64_t t = 0; t < 8; ++t) {
      const std::vector<float> alone = rows_from(5 + t, 1);
      for (int64_t r = 0; r < 40; ++r) {
        const auto at = static_cast<size_t>(t * 40 + r);
        ASSERT_EQ(alone[static_cast<size_t>(r)], eight[at]) << FormatOf(format).name << " token " << t << " row " << r;
        ASSERT_EQ(nine[at], all[at + 5 * 40]) << FormatOf(format).name << " token " << t << " row " << r;
      }
    }
  }
}

TEST_P(CudaLinear, TheSimulatorsScheduleChangesNothing) {
  const RandomMatrix w = MakeRandomMatrix(FormatId::kQ5G32, 75, 161, 0.1f, 7);
  for (const int64_t tokens : {1, 6, 11}) {
    std::vector<float> first;
    using Order = cuda_sim::Schedule::Order;
    for (const cuda_sim::Schedule schedule : {cuda_sim::Schedule{Order::kForward}, cuda_sim::Schedule{Order::kBackward},
                                              cuda_sim::Schedule{Order::kShuffled, 5}}) {
      cuda_sim::SetSchedule(schedule);
      OnDevice on(GetParam());
      const std::vector<float> y =
          LinearOf(on, w, on.Quantized(RandomVector(tokens * 161, 1, 3), tokens, 161, 2), tokens);
      if (first.empty()) first = y;
      EXPECT_EQ(y, first) << tokens;
    }
  }
}

TEST_P(CudaLinear, JobsOfOneLaunchMayDifferInAllButTheirColumns) {
  const RandomMatrix a = MakeRandomMatrix(FormatId::kQ4G32, 40, 96, 0.1f, 1);
  const RandomMatrix b = MakeRandomMatrix(FormatId::kBf16, 70, 96, 0.1f, 2);
  const RandomMatrix c = MakeRandomMatrix(FormatId::kQ8G32, 16, 96, 0.1f, 3);
  for (const int64_t tokens : {1, 3, 12}) {
    OnDevice on(GetParam());
    const cuda::Activations x = on.Quantized(RandomVector(tokens * 96, 1, 3), tokens, 96, 1);
    cuda::LinearParams p{.n_jobs = 3, .x = x, .tokens = tokens, .blocks = 2};
    std::vector<float*> y;
    const RandomMatrix* const all[] = {&a, &b, &c};
    for (int i = 0; i < 3; ++i) {
      const int64_t rows = all[i]->view.shape.rows;
      y.push_back(on.Zeros<float>(tokens * (rows + 1)));
      p.jobs[i] = {.w = on.Upload(*all[i]), .out = {.y = y.back(), .y_stride = rows + 1}};
    }
    on.Run(on.kernels().linear(p, nullptr), "linear");
    cuda::Activations as_floats = x;
    as_floats.planes = 0;
    for (int i = 0; i < 3; ++i) {
      const int64_t rows = all[i]->view.shape.rows;
      std::vector<float> got;
      const std::vector<float> padded = on.Download(y[static_cast<size_t>(i)], tokens * (rows + 1));
      for (int64_t t = 0; t < tokens; ++t) {
        got.insert(got.end(), padded.begin() + t * (rows + 1), padded.begin() + t * (rows + 1) + rows);
        EXPECT_EQ(padded[static_cast<size_t>(t * (rows + 1) + rows)], 0) << "behind the rows";
      }
      const std::vector<double> meaning = on.Meaning(i == 1 ? as_floats : x, tokens);
      EXPECT_EQ(FirstDifference(got, Multiply(*all[i], meaning, tokens), kSumTolerance), "") << i;
    }
  }
}

// RMSNorm is carried over a product: scaled codes and sums of squares here, the factor there.
TEST_P(CudaLinear, ResultsBecomeNormedActivationsOfTheNextProduct) {
  const RandomMatrix w1 = MakeRandomMatrix(FormatId::kQ4G16, 70, 96, 0.1f, 1);
  const RandomMatrix w2 = MakeRandomMatrix(FormatId::kQ6G32, 33, 70, 0.1f, 2);
  const std::vector<float> norm = RandomVector(70, 1, 9);
  constexpr float kEps = 1e-3f;
  for (const int64_t tokens : {1, 4, 10}) {
    for (const int planes : {0, 1, 2}) {
      SCOPED_TRACE(testing::Message() << tokens << " tokens, " << planes << " planes");
      OnDevice on(GetParam());
      const cuda::Activations x = on.Quantized(RandomVector(tokens * 96, 1, 3), tokens, 96, 1);
      const std::vector<float> before = RandomVector(tokens * 70, 1, 4);
      float* const residual = on.Upload(before);
      const cuda::Activations next = on.MakeActivations(tokens, 70, planes, true, true, kEps);
      cuda::LinearParams p{.n_jobs = 1, .x = x, .tokens = tokens};
      p.jobs[0] = {.w = on.Upload(w1),
                   .out = {.y = residual, .y_stride = 70, .accumulate = true, .next = next, .norm = on.Upload(norm)}};
      on.Run(on.kernels().linear(p, nullptr), "linear");
      // The residual stream.
      Product sum = Multiply(w1, on.Meaning(x, tokens), tokens);
      for (size_t i = 0; i < before.size(); ++i) {
        sum.y[i] += double{before[i]};
        sum.magnitude[i] += std::abs(double{before[i]});
      }
      const std::vector<float> stream = on.Download(residual, tokens * 70);
      EXPECT_EQ(FirstDifference(stream, sum, kSumTolerance), "");
      // What the next product sees: stream * norm, to half a step of the codes.
      const std::vector<double> meaning = on.Meaning(next, tokens);
      for (int64_t t = 0; t < tokens; ++t) {
        for (int64_t c = 0; c < 70; ++c) {
          const auto at = static_cast<size_t>(t * 70 + c);
          double largest = 0;
          for (int64_t i = c / 32 * 32; i < std::min<int64_t>(70, c / 32 * 32 + 32); ++i) {
            largest = std::max(largest, std::abs(double{stream[static_cast<size_t>(t * 70 + i)]} *
                                                 double{norm[static_cast<size_t>(i)]}));
          }
          const double step = planes == 0 ? 0 : largest / (planes == 1 ? 127 : 32512);
          EXPECT_NEAR(meaning[at], double{stream[at]} * double{norm[static_cast<size_t>(c)]},
                      step * 0.501 + largest * 1e-6);
        }
      }
      Product expected = Multiply(w2, meaning, tokens);
      for (int64_t t = 0; t < tokens; ++t) {
        double squares = 0;
        for (int64_t c = 0; c < 70; ++c) squares += std::pow(double{stream[static_cast<size_t>(t * 70 + c)]}, 2);
        const double factor = 1 / std::sqrt(squares / 70 + double{kEps});
        for (int64_t r = 0; r < 33; ++r) {
          expected.y[static_cast<size_t>(t * 33 + r)] *= factor;
          expected.magnitude[static_cast<size_t>(t * 33 + r)] *= factor;
        }
      }
      EXPECT_EQ(FirstDifference(LinearOf(on, w2, next, tokens), expected, kSumTolerance), "");
    }
  }
}

// The last kernel of attention quantizes for o_proj as kernels().quantize would, and where a group of 32 goes from head
// to head, too.
TEST_P(CudaLinear, AttentionLeavesTheActivationsOfTheNextProduct) {
  constexpr int kNope = 20, kRank = 70, kTokens = 2;
  struct Heads {
    int heads, value;
  };
  for (const auto& [heads, value] : {Heads{3, 64}, {1, 32}, {1, 7}, {9, 28}, {5, 48}, {35, 1}, {2, 255}}) {
    const RandomMatrix kv_b = MakeRandomMatrix(FormatId::kBf16, heads * (kNope + value), kRank, 0.1f, 7);
    const int64_t width = heads * value;
    for (const int planes : {0, 1, 2}) {
      SCOPED_TRACE(testing::Message() << heads << " heads of " << value << " values, " << planes << " planes");
      OnDevice on(GetParam());
      float* const y = on.Zeros<float>(kTokens * width);
      const cuda::Activations next = on.MakeActivations(kTokens, width, planes, planes == 0);
      on.Run(on.kernels().mla_combine({.heads = heads,
                                       .nope_dim = kNope,
                                       .value_dim = value,
                                       .rank = kRank,
                                       .tokens = kTokens,
                                       .splits = 1,
                                       .kv_b = {.format = cuda::KvBFormat::kBf16, .tiles = on.Upload(kv_b).data},
                                       .mean = on.Upload(RandomVector(kTokens * heads * kRank, 1, 3)),
                                       .log_sum = on.Zeros<float>(kTokens * heads),
                                       .y = y,
                                       .next = next},
                                      nullptr),
             "mla_combine");
      const std::vector<float> values = on.Download(y, kTokens * width);
      EXPECT_NE(values, std::vector<float>(values.size(), 0.0f));
      const cuda::Activations expected = on.Quantized(values, kTokens, width, planes);
      EXPECT_EQ(on.Meaning(next, kTokens), on.Meaning(expected, kTokens));
      if (planes == 0) {
        const int64_t padded = kTokens * cuda::Padded(width);
        EXPECT_EQ(on.Download(next.x, padded), on.Download(expected.x, padded)) << "with the padding";
        continue;
      }
      const int64_t sums = kTokens * cuda::Groups(width) * 2;
      EXPECT_EQ(on.Download(next.sums, sums), on.Download(expected.sums, sums));
    }
  }
}

// mla_absorb multiplies by q_b_proj itself: queries with the bits that linear gives them, wherever heads begin.
TEST_P(CudaLinear, AbsorbedQueriesAreTheSameWithAndWithoutALaunchOfTheirOwn) {
  constexpr int kValue = 8, kRank = 70, kLatent = 96, kTokens = 6;
  struct Heads {
    int heads, nope, rope;
  };
  for (const auto& [heads, nope, rope] : {Heads{2, 128, 64}, {1, 32, 16}, {5, 20, 6}, {3, 191, 64}}) {
    const int width = nope + rope;
    const RandomMatrix kv_b = MakeRandomMatrix(FormatId::kQ8G32, heads * (nope + kValue), kRank, 0.1f, 7);
    for (const FormatId format : {FormatId::kQ8G32, FormatId::kQ5G32, FormatId::kBf16}) {
      SCOPED_TRACE(testing::Message() << heads << " heads of " << nope << " + " << rope << ", "
                                      << FormatOf(format).name);
      const RandomMatrix q_b = MakeRandomMatrix(format, heads * width, kLatent, 0.1f, 8);
      OnDevice on(GetParam());
      const std::vector<float> norm = RandomVector(kLatent, 1, 2);
      const cuda::Activations x = on.Quantized(RandomVector(kTokens * kLatent, 1, 3), kTokens, kLatent,
                                               format == FormatId::kBf16 ? 0 : 1, on.Upload(norm), 1e-3f);
      float* const q = on.Zeros<float>(kTokens * heads * width);
      cuda::LinearParams p{.n_jobs = 1, .x = x, .tokens = kTokens};
      p.jobs[0] = {.w = on.Upload(q_b), .out = {.y = q, .y_stride = heads * width}};
      on.Run(on.kernels().linear(p, nullptr), "linear");
      const int64_t latent = kTokens * heads * (80 + (rope + 15) / 16 * 16);
      const cuda::Matrix up = on.Upload(kv_b);
      cuda::MlaAbsorbParams absorb{.heads = heads,
                                   .nope_dim = nope,
                                   .rope_dim = rope,
                                   .value_dim = kValue,
                                   .rank = kRank,
                                   .softmax_scale = 0.3f,
                                   .kv_b = {.format = cuda::KvBFormat::kQ8G32,
                                            .tiles = up.data,
                                            .side = reinterpret_cast<const float*>(up.data + up.side_offset)},
                                   .q = q,
                                   .cos_sin = on.Upload(RandomVector(kTokens * rope, 1, 5)),
                                   .tokens = kTokens,
                                   .latent_q = on.Zeros<uint16_t>(latent),
                                   .append = {}};
      on.Run(on.kernels().mla_absorb(absorb, nullptr), "mla_absorb");
      const std::vector<uint16_t> expected = on.Download(absorb.latent_q, latent);
      EXPECT_NE(expected, std::vector<uint16_t>(expected.size(), 0));
      absorb.q = nullptr;
      absorb.q_b = p.jobs[0].w;
      absorb.compressed = x;
      absorb.queries = on.Zeros<float>(kTokens * heads * width);
      absorb.done = on.Zeros<uint32_t>(kTokens * heads);
      for (const int tokens : {1, 1, kTokens}) {
        const int64_t part = latent / kTokens * tokens;
        absorb.tokens = tokens;
        absorb.latent_q = on.Zeros<uint16_t>(latent);
        on.Run(on.kernels().mla_absorb(absorb, nullptr), "mla_absorb with q_b");
        EXPECT_EQ(on.Download(absorb.latent_q, part), std::vector<uint16_t>(expected.begin(), expected.begin() + part))
            << tokens << " tokens";
      }
    }
  }
}

TEST_P(CudaLinear, ActivationsFollowTheRuleOfTheCpu) {
  // A group of zeros, one of subnormals, a tail; then rows with an infinity and a NaN.
  constexpr int64_t kCols = 105;
  std::vector<float> x = RandomVector(3 * kCols, 3, 5);
  for (int i = 32; i < 64; ++i) x[static_cast<size_t>(i)] = 0;
  for (int i = 64; i < 96; ++i) x[static_cast<size_t>(i)] = 1e-38f;
  x[kCols + 40] = std::numeric_limits<float>::infinity();
  x[2 * kCols + 104] = std::numeric_limits<float>::quiet_NaN();
  for (const int planes : {1, 2}) {
    OnDevice on(GetParam());
    const cuda::Activations a = on.Quantized(x, 3, kCols, planes);
    const std::vector<float> scales = on.Download(a.scales, 3 * 4);
    const std::vector<float> sums = on.Download(a.sums, 3 * 8);
    const std::vector<int8_t> codes = on.Download(a.codes, 3 * planes * 128);
    const std::vector<float> copy = on.Download(a.x, 3 * 128);
    for (int64_t t = 0; t < 3; ++t) {
      for (int64_t group = 0; group < 4; ++group) {
        SCOPED_TRACE(testing::Message() << planes << " planes, token " << t << " group " << group);
        float largest = 0;
        bool finite = true;
        for (int64_t c = group * 32; c < std::min(kCols, group * 32 + 32); ++c) {
          const float v = x[static_cast<size_t>(t * kCols + c)];
          finite = finite && std::isfinite(v);
          largest = std::max(largest, std::abs(v));
        }
        const float scale = scales[static_cast<size_t>(t * 4 + group)];
        const float d = largest / (planes == 1 ? 127.0f : 32512.0f);
        const bool zero = d < std::numeric_limits<float>::min();
        if (!finite) {
          EXPECT_TRUE(std::isnan(scale));
        } else {
          EXPECT_EQ(scale, zero ? 0 : d);
        }
        for (int64_t half = 0; half < 2; ++half) {
          int sum = 0;
          for (int64_t c = group * 32 + half * 16; c < group * 32 + half * 16 + 16; ++c) {
            const int8_t* const own = codes.data() + t * planes * 128 + c;
            const int code = planes == 2 ? own[0] * 256 + own[128] : own[0];
            const float v = c < kCols ? x[static_cast<size_t>(t * kCols + c)] : 0;
            if (finite) {
              EXPECT_EQ(copy[static_cast<size_t>(t * 128 + c)], v) << c;
              EXPECT_EQ(code, zero ? 0 : static_cast<int>(std::nearbyint(v * (1.0f / d)))) << c;
            } else {
              EXPECT_EQ(code, 0) << c;
            }
            sum += code;
          }
          EXPECT_EQ(sums[static_cast<size_t>(t * 8 + group * 2 + half)], static_cast<float>(sum));
        }
      }
    }
  }
}

TEST_P(CudaLinear, RowsOfATableAreWhatTheCpuDecodes) {
  for (const BlockFormat& format : AllFormats()) {
    const RandomMatrix table = MakeRandomMatrix(format.id, 50, 70, 0.1f, 7);
    const std::vector<int32_t> ids = {49, 0, 17, 17, 31};
    OnDevice on(GetParam());
    float* const y = on.Zeros<float>(5 * 70);
    const cuda::Activations next = on.MakeActivations(5, 70, 1, true);
    on.Run(on.kernels().embed({.table = on.Upload(table),
                               .ids = on.Upload(ids),
                               .tokens = 5,
                               .out = {.y = y, .y_stride = 70, .next = next}},
                              nullptr),
           "embed");
    const std::vector<float> rows = on.Download(y, 5 * 70);
    const std::vector<double> meaning = on.Meaning(next, 5);
    for (size_t t = 0; t < 5; ++t) {
      for (size_t c = 0; c < 70; ++c) {
        const float expected = table.values[static_cast<size_t>(ids[t]) * 70 + c];
        // nvfp4 divides by its tensor scale once more; all others are exact.
        EXPECT_NEAR(rows[t * 70 + c], expected, format.side == SideKind::kTensorScale ? std::abs(expected) * 2e-7f : 0)
            << format.name << " token " << t << " column " << c;
        EXPECT_NEAR(meaning[t * 70 + c], double{expected}, 0.5) << format.name;
      }
    }
  }
}

TEST_P(CudaLinear, TheHeadChoosesTheLargestLogitAndOfEqualOnesTheFirst) {
  RandomMatrix w = MakeRandomMatrix(FormatId::kF32, 70, 64, 0.1f, 7);
  // Rows 37 and 69 are the same and the largest for token 0.
  auto* const bytes = reinterpret_cast<float*>(w.bytes.data());
  const std::vector<float> x = RandomVector(5 * 64, 1, 3);
  for (int64_t row : {37, 69}) {
    for (int64_t c = 0; c < 64; ++c) {
      bytes[((row / 16 * 2 + c / 32) * 32 + c % 32) * 16 + row % 16] = x[static_cast<size_t>(c)];
    }
  }
  for (const int64_t tokens : {1, 5}) {
    OnDevice on(GetParam());
    float* const logits = on.Zeros<float>(tokens * 70);
    int32_t* const best = on.Zeros<int32_t>(tokens);
    void* const scratch = on.Zeros<uint8_t>(static_cast<int64_t>(cuda::HeadScratchBytes(70, tokens)));
    const cuda::HeadParams p{.w = on.Upload(w),
                             .x = on.Quantized(x, tokens, 64, 0),
                             .tokens = tokens,
                             .logits = logits,
                             .best = best,
                             .scratch = scratch};
    for (int run = 0; run < 2; ++run) on.Run(on.kernels().head(p, nullptr), "head");
    const std::vector<float> values = on.Download(logits, tokens * 70);
    const std::vector<int32_t> chosen = on.Download(best, tokens);
    EXPECT_EQ(chosen[0], 37);
    for (int64_t t = 0; t < tokens; ++t) {
      const auto own = values.begin() + t * 70;
      EXPECT_EQ(chosen[static_cast<size_t>(t)], std::max_element(own, own + 70) - own) << t;
    }
  }
}

}  // namespace
}  // namespace kompakt
