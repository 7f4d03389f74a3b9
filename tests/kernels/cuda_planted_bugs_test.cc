// Do the tests of the matrix kernels have teeth? Their parts are put together here once as they are, which must pass,
// and then each time with one mistake of the kind that such kernels have, which must be found: by the comparison that
// the tests use, or by the simulator.
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <functional>
#include <string>
#include <vector>

#include "kernels/cuda/decode_block.cuh"
#include "kernels/cuda/sim/block.h"
#include "kernels/cuda/tile_products.cuh"
#include "tests/kernels/on_device.h"

namespace kompakt::cuda_sim {
namespace {

using testing::HasSubstr;

constexpr int64_t kRows = 40, kCols = 50;

// What a run left, and what was wrong with it: the simulator's error, or the first difference.
struct Outcome {
  std::string error;
  std::string difference;
  bool found() const { return !error.empty() || !difference.empty(); }
};

class PlantedBugs : public testing::Test {
 protected:
  static Outcome Compare(OnDevice& on, const RandomMatrix& w, const cuda::Activations& x, int64_t tokens,
                         const float* y, const std::string& error) {
    if (!error.empty()) return {error, ""};
    return {"",
            FirstDifference(on.Download(y, tokens * kRows), Multiply(w, on.Meaning(x, tokens), tokens), kSumTolerance)};
  }

  // ---- Decode: one token, a warp per row tile.

  template <typename F>
  Outcome Decode(int64_t extra_cols = 0, int first_tile = 0) {
    const RandomMatrix w = MakeRandomMatrix(F::kId, kRows, kCols, 0.1f, 7);
    OnDevice on("cuda-sim");
    const cuda::Activations x = on.Quantized(RandomVector(kCols, 1, 3), 1, kCols, 1);
    cuda::Matrix m = on.Upload(w);
    m.cols += static_cast<int32_t>(extra_cols);
    float* const y = on.Zeros<float>(kRows);
    const std::string error = RunGrid("decode", Dim3(3), Dim3(32), 0, [=] {
      KOMPAKT_SHARED(uint8_t, ring, kRingBytes);
      Sums<1> sums = {};
      PairsOfRowTile pairs(m, F::kTileBytes, static_cast<int>(blockIdx.x), first_tile, 1);
      const int ahead = StartRing(pairs, RingShape(F::kId), ring);
      MultiplyPairs<F, 1, true>(pairs, ahead, x, TokenRows<1>{}, ring, sums);
      const int lane = static_cast<int>(threadIdx.x);
      for (int r = 0; r < 4; ++r) {
        float v = sums[r][0];
        for (int offset = 4; offset < 32; offset *= 2) v += __shfl_xor_sync(kFullWarp, v, offset);
        const int row = static_cast<int>(blockIdx.x) * 16 + lane % 4 * 4 + r;
        if (lane < 4 && row < kRows)
          y[row] = v * RowFactor<F>(reinterpret_cast<const float*>(m.data + m.side_offset), row);
      }
    });
    return Compare(on, w, x, 1, y, error);
  }

  // ---- Prefill: a block of four row tiles and one stage, 9 tokens of 50 columns.

  struct Mistakes {
    std::function<void(TileFragment&)> fragment = [](TileFragment&) {};
    bool wait = true;
    bool barrier = true;
    int swap_tokens = 0;      // which of the two of a lane's fragment
    bool second_tile = true;  // false: the tail of the columns is left out
  };

  template <typename F>
  Outcome Prefill(const Mistakes& mistakes) {
    constexpr int64_t kTokens = 9;
    const RandomMatrix w = MakeRandomMatrix(F::kId, kRows, kCols, 0.1f, 7);
    OnDevice on("cuda-sim");
    const cuda::Activations x = on.Quantized(RandomVector(kTokens * kCols, 1, 3), kTokens, kCols, 1);
    const cuda::Matrix m = on.Upload(w);
    float* const y = on.Zeros<float>(kTokens * kRows);
    const std::string error = RunGrid("prefill", Dim3(1), Dim3(kManyThreads), 0, [&] {
      KOMPAKT_SHARED(uint8_t, pool, kPoolBytes);
      KOMPAKT_SHARED(int, rows, kManyTokens);
      const int warp = static_cast<int>(threadIdx.x) / 32, lane = static_cast<int>(threadIdx.x) % 32;
      if (threadIdx.x < kManyTokens) rows[threadIdx.x] = std::min(static_cast<int>(threadIdx.x), 8);
      __syncthreads();
      const Products p{.w = m, .row_tile = warp, .rows = warp < 3, .x = x, .tokens = 9};
      FillStage(p, F::kTileBytes, 0, rows, pool);
      CommitAsync();
      if (mistakes.wait) WaitAsync<0>();
      if (mistakes.barrier) __syncthreads();
      if (!p.rows) return;
      const SharedPtr<const uint8_t> stage = pool;
      float acc[2][4] = {};
      for (int tile = 0; tile < (mistakes.second_tile ? 2 : 1); ++tile) {
        TileFragment fragment;
        LoadTile<F>(stage + (warp * kWarpTileBytes + tile * F::kTileBytes), &fragment);
        mistakes.fragment(fragment);
        for (int n = 0; n < 2; ++n) {
          if constexpr (F::kGroupCols == 16) {
            AddGroup<0>(fragment, stage, tile, n, 1, acc[n]);
            AddGroup<1>(fragment, stage, tile, n, 1, acc[n]);
          } else {
            AddGroup<-1>(fragment, stage, tile, n, 1, acc[n]);
          }
        }
      }
      for (int n = 0; n < 2; ++n) {
        for (int i = 0; i < 4; ++i) {
          const int row = warp * 16 + lane / 4 + i / 2 * 8;
          const int token = n * 8 + lane % 4 * 2 + (i % 2 ^ mistakes.swap_tokens);
          if (row >= kRows || token >= kTokens) continue;
          y[token * kRows + row] =
              acc[n][i] * RowFactor<F>(reinterpret_cast<const float*>(m.data + m.side_offset), row);
        }
      }
    });
    return Compare(on, w, x, kTokens, y, error);
  }
};

using Q4G16 = TableFormat<kQ4G16>;
using Q6G32 = TableFormat<kQ6G32>;

TEST_F(PlantedBugs, NothingIsFoundWhereThereIsNoMistake) {
  EXPECT_FALSE(Decode<Q4G16>().found());
  EXPECT_FALSE(Decode<Q6G32>().found());
  for (const Outcome& outcome : {Prefill<Q4G16>({}), Prefill<Q6G32>({})}) {
    EXPECT_EQ(outcome.error, "");
    EXPECT_EQ(outcome.difference, "");
  }
}

// ---- Decode.

// Without a table Values is asked for eight columns, too.
struct NibblesTheOtherWayRound : Q4G16 {
  static constexpr int kTableBits = 0;
  KOMPAKT_DEVICE static uint32_t Values(uint32_t codes) { return __byte_perm(Q4G16::Values(codes), 0, 0x0123); }
};
struct ShiftForgotten : Q4G16 {
  KOMPAKT_DEVICE static float Shift(uint32_t) { return 0; }
};
struct ScaleOfAnotherWidth : Q4G16 {
  KOMPAKT_DEVICE static float Scale(uint32_t bits) { return Q4G16::Scale(bits) + 1; }
};
struct HighPlaneLost : Q6G32 {
  static constexpr int kTableBits = 0;
  KOMPAKT_DEVICE static uint32_t Values(uint32_t codes) { return Q6G32::Values(codes & 0x0f0f0f0fu); }
};

TEST_F(PlantedBugs, AWrongDecodeOfCodesOrScalesIsADifference) {
  EXPECT_THAT(Decode<NibblesTheOtherWayRound>().difference, HasSubstr("expected"));
  EXPECT_THAT(Decode<ShiftForgotten>().difference, HasSubstr("expected"));
  EXPECT_THAT(Decode<ScaleOfAnotherWidth>().difference, HasSubstr("expected"));
  EXPECT_THAT(Decode<HighPlaneLost>().difference, HasSubstr("expected"));
}

TEST_F(PlantedBugs, AColumnTileTooManyIsAnAccessOutOfBounds) {
  EXPECT_THAT(Decode<Q4G16>(32).error, HasSubstr("cp.async"));
}

TEST_F(PlantedBugs, AColumnTileTooFewIsADifference) {
  EXPECT_THAT(Decode<Q4G16>(-32).difference, HasSubstr("expected"));
  EXPECT_THAT(Decode<Q4G16>(0, 1).difference, HasSubstr("expected"));
}

TEST_F(PlantedBugs, PartialSumsWithoutABarrierAreARace) {
  const auto sum = [](bool barrier) {
    return RunGrid("partial", Dim3(1), Dim3(kDecodeThreads), 0, [&] {
      KOMPAKT_SHARED(float, partial, PartialFloats(1));
      RowSums<1> sums;
      StorePartial(sums, partial);
      if (barrier) __syncthreads();
      if (threadIdx.x < 32) Collect<kDecodeWarps / 2>(partial, 0, 0);
    });
  };
  EXPECT_EQ(sum(true), "");
  EXPECT_THAT(sum(false), HasSubstr("shared memory"));
}

// ---- Prefill.

TEST_F(PlantedBugs, AWrongRegisterOfAFragmentIsADifference) {
  const auto rows_for_columns = [](TileFragment& w) { std::swap(w.a[1], w.a[2]); };
  const auto rows_swapped = [](TileFragment& w) { std::swap(w.a[0], w.a[1]); };
  const auto scales_swapped = [](TileFragment& w) { std::swap(w.scale[0][0], w.scale[0][1]); };
  for (const auto& mistake :
       std::vector<std::function<void(TileFragment&)>>{rows_for_columns, rows_swapped, scales_swapped}) {
    EXPECT_THAT(Prefill<Q4G16>({.fragment = mistake}).difference, HasSubstr("expected"));
    EXPECT_THAT(Prefill<Q6G32>({.fragment = mistake}).difference, HasSubstr("expected"));
  }
  EXPECT_THAT(Prefill<Q4G16>({.swap_tokens = 1}).difference, HasSubstr("expected"));
}

TEST_F(PlantedBugs, ColumnsOfTheTailLeftOutAreADifference) {
  EXPECT_THAT(Prefill<Q4G16>({.second_tile = false}).difference, HasSubstr("expected"));
}

TEST_F(PlantedBugs, ReadingAStageTooEarlyIsFound) {
  EXPECT_THAT(Prefill<Q4G16>({.wait = false}).error, HasSubstr("cp.async"));
  EXPECT_NE(Prefill<Q4G16>({.barrier = false}).error, "");
}

}  // namespace
}  // namespace kompakt::cuda_sim
