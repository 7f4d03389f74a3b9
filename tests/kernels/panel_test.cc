// Every instruction set of the portable kernels gives the bits of the plain loops.
#include "kernels/portable/panel.h"

#include <gtest/gtest.h>

#include <cmath>
#include <cstring>
#include <limits>

#include "kernels/portable/mla.h"
#include "tests/kernels/random_matrix.h"

namespace kompakt::portable {
namespace {

std::vector<const PanelIsa*> Runnable() {
  std::vector<const PanelIsa*> isas;
  for (const PanelIsa& isa : AllPanelIsas()) {
    if (isa.available()) isas.push_back(&isa);
  }
  return isas;
}

bool SameBits(float a, float b) { return std::memcmp(&a, &b, sizeof(a)) == 0; }

TEST(Panel, IsTheDecodedTileTransposed) {
  for (const PanelIsa* isa : Runnable()) {
    for (const BlockFormat& format : AllFormats()) {
      const RandomMatrix m = MakeRandomMatrix(format.id, 128, 256, 1.0f, 3);
      for (int64_t row_tile = 0; row_tile < 8; ++row_tile) {
        for (int64_t col_tile = 0; col_tile < 8; ++col_tile) {
          const uint8_t* const tile = m.view.tile(row_tile, col_tile);
          DecodedTile want;
          format.decode_tile(tile, m.view.side(row_tile, col_tile), &want);
          float panel[kTileElements];
          DecodePanel(*isa, format, tile, m.view.side(row_tile, col_tile), panel);
          for (int64_t r = 0; r < kTileRows; ++r) {
            for (int64_t k = 0; k < kTileCols; ++k) {
              ASSERT_EQ(panel[k * kTileRows + r], want.w[r][k])
                  << isa->name << " " << format.name << " row " << r << " column " << k;
            }
          }
        }
      }
    }
  }
}

// Every code of the one- and two-byte formats, those that no good file holds included: a damaged weight must not look
// finite.
TEST(Panel, DecodesEveryCodeOfTheFloatFormats) {
  for (const PanelIsa* isa : Runnable()) {
    for (const FormatId id : {FormatId::kFp8B128, FormatId::kF16, FormatId::kBf16}) {
      const BlockFormat& format = FormatOf(id);
      const float side = 0.3f;
      const uint32_t codes = id == FormatId::kFp8B128 ? 256 : 65536;
      std::vector<uint8_t> tile(format.tile_bytes);
      for (uint32_t first = 0; first < codes; first += kTileElements) {
        for (uint32_t i = 0; i < kTileElements; ++i) {
          const uint32_t code = (first + i) % codes;
          if (codes == 256) {
            tile[i] = static_cast<uint8_t>(code);
          } else {
            tile[2 * i] = static_cast<uint8_t>(code);
            tile[2 * i + 1] = static_cast<uint8_t>(code >> 8);
          }
        }
        DecodedTile want;
        format.decode_tile(tile.data(), &side, &want);
        float panel[kTileElements];
        DecodePanel(*isa, format, tile.data(), &side, panel);
        for (int64_t i = 0; i < kTileElements; ++i) {
          const float got = panel[i];
          const float expected = want.w[i % kTileRows][i / kTileRows];
          ASSERT_TRUE(SameBits(got, expected) || (std::isnan(got) && std::isnan(expected)))
              << isa->name << " " << format.name << " element " << i << " of codes from " << first << ": " << got
              << ", expected " << expected;
        }
      }
    }
  }
}

TEST(Panel, ProductIsOneChainPerValueWhateverIsComputedBesideIt) {
  constexpr int64_t kK = 77;
  constexpr int64_t kTiles = 7;
  constexpr int64_t kStride = kTiles * kTileRows;
  const std::vector<float> panel = RandomVector(kK * kStride, 1.0f, 1);
  for (const int64_t tokens : {1, 2, 3, 4, 5, 6, 7, 8, 9, 15, 16, 23}) {
    const std::vector<float> a = RandomVector(tokens * kK, 1.0f, 2);
    const std::vector<float> start = RandomVector(tokens * kStride, 1.0f, 3);
    std::vector<const float*> rows;
    for (int64_t t = 0; t < tokens; ++t) rows.push_back(&a[static_cast<size_t>(t * kK)]);
    for (const bool accumulate : {false, true}) {
      for (const int64_t tiles : {int64_t{1}, int64_t{3}, kTiles}) {
        for (const PanelIsa* isa : Runnable()) {
          std::vector<float> c = start;
          isa->multiply({.a = rows.data(),
                         .tokens = tokens,
                         .k = kK,
                         .panel = panel.data(),
                         .k_stride = kStride,
                         .tiles = tiles,
                         .tile_stride = kTileRows,
                         .c = c.data(),
                         .c_stride = kStride,
                         .accumulate = accumulate});
          for (int64_t t = 0; t < tokens; ++t) {
            for (int64_t r = 0; r < kStride; ++r) {
              const auto at = static_cast<size_t>(t * kStride + r);
              float want = accumulate || r >= tiles * kTileRows ? start[at] : 0.0f;
              for (int64_t k = 0; k < kK && r < tiles * kTileRows; ++k) {
                const float product = rows[static_cast<size_t>(t)][k] * panel[static_cast<size_t>(k * kStride + r)];
                want += product;
              }
              ASSERT_TRUE(SameBits(c[at], want))
                  << isa->name << ", " << tokens << " tokens, " << tiles << " tiles: token " << t << " row " << r;
            }
          }
        }
      }
    }
  }
}

TEST(Panel, ExpIsWithinTwoUlpAndKeepsItsLimits) {
  for (const PanelIsa* isa : Runnable()) {
    for (float x = -87.2f; x < 88.2f; x += 0.00137f) {
      float v[16] = {x};
      isa->exp(v, 16);
      const double want = std::exp(static_cast<double>(x));
      ASSERT_LE(std::fabs(static_cast<double>(v[0]) / want - 1), 2 * std::ldexp(1.0, -23)) << isa->name << " e^" << x;
    }
    float limits[16] = {0,
                        -INFINITY,
                        INFINITY,
                        std::nanf(""),
                        -100,
                        100,
                        -std::numeric_limits<float>::max(),
                        std::numeric_limits<float>::max()};
    isa->exp(limits, 16);
    EXPECT_EQ(limits[0], 1);
    EXPECT_EQ(limits[1], 0);
    EXPECT_EQ(limits[2], INFINITY);
    EXPECT_TRUE(std::isnan(limits[3]));
    EXPECT_EQ(limits[4], 0);
    EXPECT_EQ(limits[5], INFINITY);
    EXPECT_EQ(limits[6], 0);
    EXPECT_EQ(limits[7], INFINITY);
  }
}

TEST(Panel, ActivationsAndSoftmaxHaveTheSameBitsOnEveryInstructionSet) {
  const PanelIsa& first = AllPanelIsas().front();
  for (const PanelIsa* isa : Runnable()) {
    std::vector<float> gate = RandomVector(160, 20.0f, 1);
    const std::vector<float> up = RandomVector(160, 1.0f, 2);
    std::vector<float> want = gate;
    isa->silu_times(gate.data(), up.data(), 160);
    first.silu_times(want.data(), up.data(), 160);
    EXPECT_EQ(gate, want) << isa->name;

    std::vector<float> scores = RandomVector(64, 5.0f, 3);
    scores[63] = -INFINITY;
    std::vector<float> want_scores = scores;
    float largest = 0.5f, sum = 2.0f, want_largest = 0.5f, want_sum = 2.0f;
    const float keep = isa->softmax_step(scores.data(), 64, 0.3f, &largest, &sum);
    EXPECT_EQ(keep, first.softmax_step(want_scores.data(), 64, 0.3f, &want_largest, &want_sum)) << isa->name;
    EXPECT_EQ(scores, want_scores) << isa->name;
    EXPECT_EQ(largest, want_largest) << isa->name;
    EXPECT_EQ(sum, want_sum) << isa->name;
    EXPECT_EQ(scores[63], 0.0f) << isa->name;
  }
}

TEST(Panel, SiluIsTheFormula) {
  for (const PanelIsa* isa : Runnable()) {
    std::vector<float> gate = RandomVector(1600, 10.0f, 1);
    const std::vector<float> x = gate;
    const std::vector<float> ones(1600, 1.0f);
    isa->silu_times(gate.data(), ones.data(), 1600);
    for (size_t i = 0; i < x.size(); ++i) {
      const double want = static_cast<double>(x[i]) / (1 + std::exp(-static_cast<double>(x[i])));
      ASSERT_LE(std::fabs(static_cast<double>(gate[i]) - want), 4 * std::ldexp(std::fabs(want), -23))
          << isa->name << " silu " << x[i];
    }
  }
}

TEST(Panel, TransposeTakesAnyShape) {
  for (const PanelIsa* isa : Runnable()) {
    for (const auto& [rows, cols] : {std::pair{1, 1}, {16, 41}, {3, 70}, {13, 7}, {16, 64}}) {
      const std::vector<float> a = RandomVector(rows * 80, 1.0f, 1);
      std::vector<float> b(static_cast<size_t>(cols) * 16, -1.0f);
      Transpose(*isa, a.data(), 80, rows, cols, b.data(), 16);
      for (int i = 0; i < 16; ++i) {
        for (int j = 0; j < cols; ++j) {
          EXPECT_EQ(b[static_cast<size_t>(j * 16 + i)], i < rows ? a[static_cast<size_t>(i * 80 + j)] : -1.0f);
        }
      }
    }
  }
}

TEST(Panel, RowsThatDoNotBeginWithATileMoveToTheirLanes) {
  const RandomMatrix m = MakeRandomMatrix(FormatId::kQ8G32, 70, 41, 1.0f, 3);
  for (const PanelIsa* isa : Runnable()) {
    for (const auto& [begin, rows] : {std::pair{0, 16}, {0, 33}, {5, 3}, {13, 20}, {16, 20}, {37, 33}}) {
      const int64_t cols = m.view.layout.col_tiles * kTileCols;
      std::vector<float> panels(static_cast<size_t>((rows + 15) / 16 * 16 * cols));
      DecodeRowPanels(*isa, m.view, begin, rows, panels.data());
      for (int64_t r = 0; r < rows; ++r) {
        for (int64_t k = 0; k < 41; ++k) {
          EXPECT_EQ(panels[static_cast<size_t>(r / 16 * 16 * cols + k * 16 + r % 16)],
                    m.values[static_cast<size_t>((begin + r) * 41 + k)])
              << isa->name << " rows from " << begin << ", row " << r;
        }
      }
    }
  }
}

}  // namespace
}  // namespace kompakt::portable
