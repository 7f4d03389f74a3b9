// The router and the gated FFNs on every device of this machine. Each step is compared with the exact product of what
// the step before has left, so that tolerances are those of F32 sums.
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <limits>
#include <random>
#include <string>
#include <utility>
#include <vector>

#include "kernels/cuda/sim/block.h"
#include "kernels/router.h"
#include "tests/fixtures/test_name.h"
#include "tests/kernels/on_device.h"

namespace kompakt {
namespace {

class CudaFfn : public testing::TestWithParam<std::string> {
 protected:
  void TearDown() override { cuda_sim::SetSchedule({}); }
};
INSTANTIATE_TEST_SUITE_P(Devices, CudaFfn, testing::ValuesIn(AvailableDevices()),
                         [](const auto& info) { return TestNameOf(info.param); });

// ---- The router.

// A router of 32 columns whose logits are given: x is the unit vector of the token, w the logits.
RandomMatrix LogitsAsMatrix(const std::vector<float>& logits, int64_t tokens, int64_t n) {
  RandomMatrix w = MakeRandomMatrix(FormatId::kF32, n, 32, 0.1f, 1);
  auto* const tiles = reinterpret_cast<float*>(w.bytes.data());
  for (int64_t e = 0; e < n; ++e) {
    for (int64_t t = 0; t < 32; ++t) {
      tiles[(e / 16 * 32 + t) * 16 + e % 16] = t < tokens ? logits[static_cast<size_t>(t * n + e)] : 0;
    }
  }
  return w;
}

struct RouterCase {
  const char* name;
  RouterRule rule;
  bool bias;
};

std::vector<RouterCase> RouterCases() {
  return {
      {"V2-Lite", {.n_experts = 64, .experts_per_token = 6}, false},
      {"V3",
       {.sigmoid = true,
        .n_experts = 256,
        .experts_per_token = 8,
        .group_score = GroupScore::kSumOfTwoBest,
        .n_group = 8,
        .topk_group = 4,
        .normalize = true,
        .factor = 2.5f},
       true},
      {"groups by their best",
       {.n_experts = 30,
        .experts_per_token = 3,
        .group_score = GroupScore::kBest,
        .n_group = 5,
        .topk_group = 2,
        .factor = 16},
       false},
      {"few, all chosen", {.sigmoid = true, .n_experts = 5, .experts_per_token = 5, .normalize = true}, true},
      {"groups of one",
       {.sigmoid = true,
        .n_experts = 7,
        .experts_per_token = 2,
        .group_score = GroupScore::kSumOfTwoBest,
        .n_group = 7,
        .topk_group = 3},
       true},
      {"many", {.sigmoid = true, .n_experts = 384, .experts_per_token = 8, .normalize = true}, true},
  };
}

TEST_P(CudaFfn, TheChoiceOfExpertsIsThatOfTheCpu) {
  for (const RouterCase& c : RouterCases()) {
    const int64_t n = c.rule.n_experts, k = c.rule.experts_per_token;
    for (const int64_t tokens : {1, 8, 11}) {
      SCOPED_TRACE(testing::Message() << c.name << ", " << tokens << " tokens");
      // Steps of a quarter: many are equal.
      std::vector<float> logits = RandomVector(tokens * n, 1, static_cast<uint64_t>(n));
      for (float& l : logits) l = std::round(l * 4) / 4;
      std::vector<float> bias = RandomVector(n, 0.1f, 2);
      for (float& b : bias) b = std::round(b * 8) / 8;
      OnDevice on(GetParam());
      std::vector<float> x(static_cast<size_t>(tokens * 32), 0);
      for (int64_t t = 0; t < tokens; ++t) x[static_cast<size_t>(t * 33)] = 1;
      const cuda::RouteParams p{
          .rule = c.rule,
          .w = on.Upload(LogitsAsMatrix(logits, tokens, n)),
          .bias = c.bias ? on.Upload(bias) : nullptr,
          .x = on.Quantized(x, tokens, 32, 0),
          .tokens = tokens,
          .parts = on.Zeros<float>(cuda::kMaxRouteParts * std::min(tokens, cuda::kDecodeTokens) * n),
          .logits = on.Zeros<float>(tokens * n),
          .ids = on.Zeros<int32_t>(tokens * k),
          .weights = on.Zeros<float>(tokens * k),
          .scores = on.Zeros<float>(tokens * n),
          .done = on.Zeros<uint32_t>(1)};
      for (int run = 0; run < 2; ++run) on.Run(on.kernels().route(p, nullptr), "route");
      ASSERT_EQ(on.Download(p.logits, tokens * n), logits);
      const std::vector<int32_t> ids = on.Download(p.ids, tokens * k);
      const std::vector<float> weights = on.Download(p.weights, tokens * k);
      const std::vector<float> scores = on.Download(p.scores, tokens * n);
      std::vector<float> scratch(static_cast<size_t>(2 * n + c.rule.n_group));
      std::vector<int32_t> expected_ids(static_cast<size_t>(k));
      std::vector<float> expected_weights(static_cast<size_t>(k));
      for (int64_t t = 0; t < tokens; ++t) {
        ChooseExperts(c.rule, logits.data() + t * n, c.bias ? bias.data() : nullptr, scratch.data(),
                      expected_ids.data(), expected_weights.data());
        for (int64_t i = 0; i < k; ++i) {
          const auto at = static_cast<size_t>(t * k + i);
          EXPECT_EQ(ids[at], expected_ids[static_cast<size_t>(i)]) << "token " << t << " choice " << i;
          // Softmax adds up in another order, in F64: its F32 may round to a neighbour.
          EXPECT_NEAR(weights[at], expected_weights[static_cast<size_t>(i)],
                      std::abs(expected_weights[static_cast<size_t>(i)]) * 3e-7f);
        }
        for (int64_t e = 0; e < n; ++e) {
          EXPECT_NEAR(scores[static_cast<size_t>(t * n + e)], scratch[static_cast<size_t>(e)], 1e-7f) << e;
        }
      }
    }
  }
}

TEST_P(CudaFfn, NansAmongLogitsStillGiveAValidChoice) {
  constexpr int64_t kExperts = 40;
  std::vector<float> logits = RandomVector(kExperts, 1, 4);
  for (int64_t e = 0; e < kExperts; e += 3) logits[static_cast<size_t>(e)] = std::numeric_limits<float>::quiet_NaN();
  OnDevice on(GetParam());
  std::vector<float> x(32, 0);
  x[0] = 1;
  const cuda::RouteParams p{
      .rule = {.sigmoid = true, .n_experts = kExperts, .experts_per_token = 30},
      .w = on.Upload(LogitsAsMatrix(logits, 1, kExperts)),
      .x = on.Quantized(x, 1, 32, 0),
      .tokens = 1,
      .parts = on.Zeros<float>(cuda::kMaxRouteParts * kExperts),
      .logits = on.Zeros<float>(kExperts),
      .ids = on.Zeros<int32_t>(30),
      .weights = on.Zeros<float>(30),
      .done = on.Zeros<uint32_t>(1),
  };
  on.Run(on.kernels().route(p, nullptr), "route");
  const std::vector<int32_t> ids = on.Download(p.ids, 30);
  EXPECT_TRUE(std::is_sorted(ids.begin(), ids.end()));
  EXPECT_EQ(std::adjacent_find(ids.begin(), ids.end()), ids.end());
  EXPECT_GE(ids.front(), 0);
  EXPECT_LT(ids.back(), kExperts);
}

// ---- FFNs.

struct Ffn {
  RandomMatrix gate, up, down;
};

Ffn MakeFfn(FormatId gate, FormatId up, FormatId down, int64_t hidden, int64_t inter, uint64_t seed) {
  return {MakeRandomMatrix(gate, inter, hidden, 0.2f, seed), MakeRandomMatrix(up, inter, hidden, 0.2f, seed + 1),
          MakeRandomMatrix(down, hidden, inter, 0.2f, seed + 2)};
}

// Of `rows` tokens that all go through this FFN: is `inner` silu(gate x) * (up x), to half a step of its codes and the
// rounding of the products? `meaning` of inner.
void ExpectInner(const Ffn& ffn, const std::vector<double>& x, const std::vector<double>& inner, int64_t rows,
                 int planes) {
  const int64_t inter = ffn.gate.view.shape.rows;
  const Product gate = Multiply(ffn.gate, x, rows), up = Multiply(ffn.up, x, rows);
  for (int64_t t = 0; t < rows; ++t) {
    std::vector<double> exact, slack;
    for (int64_t i = 0; i < inter; ++i) {
      const auto at = static_cast<size_t>(t * inter + i);
      const double silu = gate.y[at] / (1 + std::exp(-gate.y[at]));
      exact.push_back(silu * up.y[at]);
      // The derivative of silu is at most 1.1.
      slack.push_back(kSumTolerance *
                          (1.1 * gate.magnitude[at] * std::abs(up.y[at]) + std::abs(silu) * up.magnitude[at]) +
                      1e-6 * std::abs(exact.back()));
    }
    for (int64_t i = 0; i < inter; ++i) {
      double largest = 0;
      for (int64_t j = i / 32 * 32; j < std::min(inter, i / 32 * 32 + 32); ++j) {
        largest = std::max(largest, std::abs(exact[static_cast<size_t>(j)]));
      }
      const double step = planes == 0 ? 0 : largest / (planes == 1 ? 127 : 32512);
      ASSERT_NEAR(inner[static_cast<size_t>(t * inter + i)], exact[static_cast<size_t>(i)],
                  0.501 * step + slack[static_cast<size_t>(i)] + 1e-12)
          << "token " << t << " of " << rows << ", inner column " << i;
    }
  }
}

TEST_P(CudaFfn, ADenseFfnIsItsThreeProducts) {
  struct Case {
    FormatId gate, up, down;
    int planes;
  };
  constexpr Case kCases[] = {{FormatId::kQ4G16, FormatId::kQ4G16, FormatId::kQ4G32, 1},
                             {FormatId::kQ6G32, FormatId::kQ8G32, FormatId::kQ6G32, 2},
                             {FormatId::kBf16, FormatId::kBf16, FormatId::kBf16, 0},
                             {FormatId::kMxfp4, FormatId::kNvfp4, FormatId::kInt4G32, 1},
                             {FormatId::kFp8B128, FormatId::kF16, FormatId::kF32, 0},
                             {FormatId::kQ3G16, FormatId::kQ2G16, FormatId::kQ5G32, 0},
                             {FormatId::kQ4G16, FormatId::kBf16, FormatId::kQ4G16, 1}};
  constexpr int64_t kHidden = 70, kInter = 41;
  for (const Case& c : kCases) {
    const Ffn ffn = MakeFfn(c.gate, c.up, c.down, kHidden, kInter, 5);
    for (const int64_t tokens : {1, 3, 8, 10}) {
      SCOPED_TRACE(testing::Message() << FormatOf(c.gate).name << " " << tokens << " tokens");
      OnDevice on(GetParam());
      // Where formats mix, both forms of x mean the same: x itself is of few bits.
      std::vector<float> values = RandomVector(tokens * kHidden, 1, 3);
      for (float& v : values) v = std::round(v * 20) / 20;
      const cuda::Activations x = on.Quantized(values, tokens, kHidden, c.planes);
      const cuda::Activations inner = on.MakeActivations(tokens, kInter, c.planes, true);
      float* const y = on.Zeros<float>(tokens * kHidden);
      const cuda::FfnParams p{.w = {.gate = on.Upload(ffn.gate), .up = on.Upload(ffn.up), .down = on.Upload(ffn.down)},
                              .x = x,
                              .tokens = tokens,
                              .blocks = 2,
                              .inner = inner,
                              .out = {.y = y, .y_stride = kHidden}};
      on.Run(on.kernels().ffn(p, nullptr), "ffn");
      const std::vector<double> inner_meaning = on.Meaning(inner, tokens);
      if (c.up != FormatId::kBf16 || c.gate == FormatId::kBf16) {
        ExpectInner(ffn, on.Meaning(x, tokens), inner_meaning, tokens, c.planes);
      }
      EXPECT_EQ(
          FirstDifference(on.Download(y, tokens * kHidden), Multiply(ffn.down, inner_meaning, tokens), kSumTolerance),
          "");
    }
  }
}

// A small layer of experts, its records in device memory.
struct Experts {
  static constexpr int64_t kHidden = 70, kInter = 41, kSharedInter = 75, kCount = 6, kPerToken = 3;
  std::vector<Ffn> routed;
  Ffn shared;
  std::vector<int32_t> ids;
  std::vector<float> weights;
};

Experts MakeExperts(FormatId format, FormatId down, FormatId shared, int64_t tokens) {
  Experts e;
  for (uint64_t i = 0; i < Experts::kCount; ++i) {
    e.routed.push_back(MakeFfn(format, format, down, Experts::kHidden, Experts::kInter, 10 * i + 1));
  }
  e.shared = MakeFfn(shared, shared, shared, Experts::kHidden, Experts::kSharedInter, 99);
  std::mt19937_64 random(5);
  for (int64_t t = 0; t < tokens; ++t) {
    // Expert 3 is never chosen, expert 0 by all but every fourth token.
    std::vector<int32_t> all = {1, 2, 4, 5};
    std::shuffle(all.begin(), all.end(), random);
    all.resize(Experts::kPerToken);
    if (t % 4 != 3) all[0] = 0;
    std::sort(all.begin(), all.end());
    e.ids.insert(e.ids.end(), all.begin(), all.end());
  }
  for (float w : RandomVector(tokens * Experts::kPerToken, 1, 8)) e.weights.push_back(std::abs(w));
  return e;
}

struct ExpertRun {
  std::vector<float> y;
  std::vector<double> x, inner, shared_inner;
};

// `missing`: the expert that is not on the device, or -1. y begins as `residual`.
ExpertRun RunExperts(const std::string& device, const Experts& e, int64_t tokens, int planes, int missing,
                     const std::vector<float>& residual, const std::vector<float>& host_part, int32_t blocks = 3) {
  constexpr int64_t kHidden = Experts::kHidden;
  OnDevice on(device);
  std::vector<const uint8_t*> records;
  cuda::ExpertFfnParams p;
  for (const Ffn& ffn : e.routed) {
    std::vector<uint8_t> record;
    const auto append = [&](const RandomMatrix& m) {
      const uint64_t offset = record.size();
      record.insert(record.end(), m.view.data, m.view.data + m.view.layout.total_bytes);
      return offset;
    };
    p.gate_offset = append(ffn.gate);
    p.up_offset = append(ffn.up);
    p.down_offset = append(ffn.down);
    const bool here = static_cast<int>(records.size()) != missing;
    records.push_back(here ? on.Upload(record) : nullptr);
  }
  p.records = on.Upload(records);
  p.routed = {
      .gate = on.Upload(e.routed[0].gate), .up = on.Upload(e.routed[0].up), .down = on.Upload(e.routed[0].down)};
  p.routed.gate.data = p.routed.up.data = p.routed.down.data = nullptr;
  p.n_experts = Experts::kCount;
  p.ids = on.Upload(e.ids);
  p.weights = on.Upload(e.weights);
  p.k = Experts::kPerToken;
  p.shared = {.gate = on.Upload(e.shared.gate), .up = on.Upload(e.shared.up), .down = on.Upload(e.shared.down)};
  p.x = on.Quantized(RandomVector(tokens * kHidden, 1, 3), tokens, kHidden, planes);
  p.tokens = tokens;
  p.blocks = blocks;
  p.host_part = host_part.empty() ? nullptr : on.Upload(host_part);
  // Zeros: rows of an expert that is not there are not written, but downloaded with the others.
  const cuda::ActivationLayout inner{.cols = Experts::kInter, .planes = planes, .with_x = true};
  p.inner = inner.Place(on.Zeros<uint8_t>(static_cast<int64_t>(inner.bytes(tokens * p.k))), tokens * p.k, 0);
  p.shared_inner = on.MakeActivations(tokens, Experts::kSharedInter, planes, true);
  p.scratch = on.Allocate(cuda::ExpertScratchBytes(p.n_experts, p.k, tokens, kHidden));
  p.done = on.Zeros<uint32_t>(tokens * cuda::Groups(kHidden));
  float* const y = on.Upload(residual);
  p.out = {.y = y, .y_stride = kHidden, .accumulate = true};
  on.Run(on.kernels().expert_ffn(p, nullptr), "expert_ffn");
  ExpertRun run{.y = on.Download(y, tokens * kHidden),
                .x = on.Meaning(p.x, tokens),
                .inner = on.Meaning(p.inner, tokens * p.k),
                .shared_inner = on.Meaning(p.shared_inner, tokens)};
  for (const uint32_t word : on.Download(p.done, tokens * cuda::Groups(kHidden))) EXPECT_EQ(word, 0u);
  return run;
}

TEST_P(CudaFfn, ExpertsAreAddedUpWithTheirWeights) {
  constexpr int64_t kHidden = Experts::kHidden, kInter = Experts::kInter, kPerToken = Experts::kPerToken;
  struct Case {
    FormatId routed, down, shared;
    int planes;
  };
  constexpr Case kCases[] = {{FormatId::kQ4G16, FormatId::kQ4G32, FormatId::kQ6G32, 1},
                             {FormatId::kQ2G32, FormatId::kQ5G32, FormatId::kQ8G32, 2},
                             {FormatId::kMxfp4, FormatId::kMxfp4, FormatId::kQ8G32, 0},
                             {FormatId::kBf16, FormatId::kBf16, FormatId::kBf16, 0},
                             {FormatId::kFp8B128, FormatId::kF32, FormatId::kF16, 0}};
  for (const Case& c : kCases) {
    for (const int64_t tokens : {1, 2, 17}) {
      for (const int missing : {-1, 2}) {
        if (missing >= 0 && tokens == 1) continue;
        SCOPED_TRACE(testing::Message() << FormatOf(c.routed).name << " " << tokens << " tokens, without " << missing);
        const Experts e = MakeExperts(c.routed, c.down, c.shared, tokens);
        const std::vector<float> residual = RandomVector(tokens * kHidden, 1, 20);
        const std::vector<float> host_part = missing < 0 ? std::vector<float>() : RandomVector(tokens * kHidden, 1, 21);
        const ExpertRun run = RunExperts(GetParam(), e, tokens, c.planes, missing, residual, host_part);
        Product expected = Multiply(e.shared.down, run.shared_inner, tokens);
        ExpectInner(e.shared, run.x, run.shared_inner, tokens, c.planes);
        for (int64_t t = 0; t < tokens; ++t) {
          const std::vector<double> x(run.x.begin() + t * kHidden, run.x.begin() + (t + 1) * kHidden);
          for (int64_t i = 0; i < kPerToken; ++i) {
            const int64_t slot = t * kPerToken + i;
            const int32_t id = e.ids[static_cast<size_t>(slot)];
            if (id == missing) continue;
            const Ffn& ffn = e.routed[static_cast<size_t>(id)];
            const std::vector<double> inner(run.inner.begin() + slot * kInter, run.inner.begin() + (slot + 1) * kInter);
            ExpectInner(ffn, x, inner, 1, c.planes);
            const Product down = Multiply(ffn.down, inner, 1);
            const double weight = double{e.weights[static_cast<size_t>(slot)]};
            for (int64_t r = 0; r < kHidden; ++r) {
              expected.y[static_cast<size_t>(t * kHidden + r)] += weight * down.y[static_cast<size_t>(r)];
              expected.magnitude[static_cast<size_t>(t * kHidden + r)] +=
                  weight * down.magnitude[static_cast<size_t>(r)];
            }
          }
          for (int64_t r = 0; r < kHidden; ++r) {
            const auto at = static_cast<size_t>(t * kHidden + r);
            const double more = double{residual[at]} + (host_part.empty() ? 0 : double{host_part[at]});
            expected.y[at] += more;
            expected.magnitude[at] += std::abs(more);
          }
        }
        EXPECT_EQ(FirstDifference(run.y, expected, kSumTolerance), "");
      }
    }
  }
}

TEST_P(CudaFfn, NeitherScheduleNorNumberOfBlocksChangesAResult) {
  constexpr int64_t kTokens = 12, kHidden = Experts::kHidden;
  const std::vector<float> residual = RandomVector(kTokens * kHidden, 1, 20);
  using Order = cuda_sim::Schedule::Order;
  for (const int64_t tokens : {3, 12}) {
    const Experts e = MakeExperts(FormatId::kQ4G16, FormatId::kQ4G16, FormatId::kQ6G32, tokens);
    const std::vector<float> own(residual.begin(), residual.begin() + tokens * kHidden);
    const ExpertRun first = RunExperts(GetParam(), e, tokens, 1, -1, own, {});
    for (const cuda_sim::Schedule schedule : {cuda_sim::Schedule{Order::kBackward}, {Order::kShuffled, 3}}) {
      cuda_sim::SetSchedule(schedule);
      EXPECT_EQ(RunExperts(GetParam(), e, tokens, 1, -1, own, {}, 1).y, first.y);
      EXPECT_EQ(RunExperts(GetParam(), e, tokens, 1, -1, own, {}, 0).y, first.y);
    }
    cuda_sim::SetSchedule({});
  }
}

TEST_P(CudaFfn, ATokensExpertsGiveTheSameBitsWhateverIsBesideIt) {
  constexpr int64_t kHidden = Experts::kHidden;
  // Of 17 tokens the first 9; of 8 the first: the tokens and their experts are the same.
  for (const auto& [few, many] : {std::pair<int64_t, int64_t>{1, 8}, {9, 17}}) {
    const Experts e = MakeExperts(FormatId::kQ4G16, FormatId::kQ4G16, FormatId::kQ6G32, many);
    const std::vector<float> residual = RandomVector(many * kHidden, 1, 20);
    const Experts first = MakeExperts(FormatId::kQ4G16, FormatId::kQ4G16, FormatId::kQ6G32, few);
    ASSERT_TRUE(std::equal(first.ids.begin(), first.ids.end(), e.ids.begin()));
    ASSERT_TRUE(std::equal(first.weights.begin(), first.weights.end(), e.weights.begin()));
    const std::vector<float> own(residual.begin(), residual.begin() + few * kHidden);
    const std::vector<float> alone = RunExperts(GetParam(), first, few, 1, -1, own, {}).y;
    const std::vector<float> all = RunExperts(GetParam(), e, many, 1, -1, residual, {}).y;
    for (size_t i = 0; i < alone.size(); ++i) ASSERT_EQ(alone[i], all[i]) << few << " of " << many << ", result " << i;
  }
}

}  // namespace
}  // namespace kompakt
