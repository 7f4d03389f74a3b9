// How a row of the latent cache is stored and read back, in every format.
#include "kernels/latent_cache.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <limits>
#include <vector>

#include "format/float_formats.h"
#include "kernels/workspace.h"
#include "tests/kernels/random_matrix.h"

namespace kompakt {
namespace {

struct Shape {
  int64_t rank, rope;
};
constexpr Shape kShapes[] = {{512, 64}, {64, 16}, {41, 6}, {40, 7}, {1, 2}, {33, 64}};

struct Cache {
  AlignedBuffer bytes;
  LatentCache view;

  Cache(Shape shape, CacheFormat format, int64_t rows) {
    view = {.rank = shape.rank, .rope = shape.rope, .capacity = rows, .format = format};
    bytes = *AlignedBuffer::Create(static_cast<uint64_t>(rows) * view.row_bytes(), "cache");
    view.data = bytes.data();
  }

  std::vector<float> Row(int64_t row) const {
    std::vector<float> scratch(static_cast<size_t>(view.width()));
    const float* const values = LatentRows(view, row, row + 1, scratch.data());
    return {values, values + view.width()};
  }
};

float Bf16(float x) { return Bf16ToF32(F32ToBf16(x)); }

TEST(LatentCache, F32KeepsEveryBitAndBf16RoundsToNearest) {
  for (const Shape& shape : kShapes) {
    const std::vector<float> x = RandomVector(shape.rank + shape.rope, 3.0f, 1);
    Cache exact(shape, CacheFormat::kF32, 3);
    Cache bf16(shape, CacheFormat::kBf16, 3);
    StoreLatentRow(exact.view, 1, x.data());
    StoreLatentRow(bf16.view, 1, x.data());
    EXPECT_EQ(exact.Row(1), x);
    std::vector<float> rounded = x;
    for (float& value : rounded) value = Bf16(value);
    EXPECT_EQ(bf16.Row(1), rounded);
    for (const int64_t row : {0, 2}) {  // neighbours are not touched
      EXPECT_EQ(bf16.Row(row), std::vector<float>(x.size(), 0.0f));
    }
  }
}

TEST(LatentCache, Int8IsWithinHalfAStepOfItsGroupAndItsRopePartIsBf16) {
  for (const Shape& shape : kShapes) {
    std::vector<float> x = RandomVector(shape.rank + shape.rope, 1.0f, 2);
    for (int64_t i = 0; i < shape.rank; ++i) x[static_cast<size_t>(i)] *= std::exp2(static_cast<float>(i / 32 % 5) * 9);
    Cache cache(shape, CacheFormat::kInt8, 3);
    StoreLatentRow(cache.view, 1, x.data());
    const std::vector<float> y = cache.Row(1);
    for (int64_t begin = 0; begin < shape.rank; begin += kInt8CacheGroup) {
      const auto first = x.begin() + begin;
      const auto last = x.begin() + std::min(shape.rank, begin + kInt8CacheGroup);
      const float largest =
          std::fabs(*std::max_element(first, last, [](float a, float b) { return std::fabs(a) < std::fabs(b); }));
      // The scale is rounded up to bf16: at most 2^-7 more.
      const float step = largest / 127 * (1 + 0x1p-7f);
      for (auto i = first; i < last; ++i) {
        const auto at = static_cast<size_t>(i - x.begin());
        ASSERT_LE(std::fabs(y[at] - *i), 0.5f * step * (1 + 1e-5f)) << "value " << at << " of rank " << shape.rank;
      }
    }
    for (int64_t i = shape.rank; i < shape.rank + shape.rope; ++i) {
      ASSERT_EQ(y[static_cast<size_t>(i)], Bf16(x[static_cast<size_t>(i)]));
    }
  }
}

TEST(LatentCache, CodesOfInt8ReachTheirLargestValueAndNoFurther) {
  const Shape shape = {32, 2};
  Cache cache(shape, CacheFormat::kInt8, 1);
  for (const float largest : {1.0f, 3.3333333f, 1e-38f, 1e-44f, 3e38f, 127.0f, 0.1f}) {
    std::vector<float> x(34, 0.0f);
    x[3] = largest;
    x[4] = -largest;
    StoreLatentRow(cache.view, 0, x.data());
    const std::vector<float> y = cache.Row(0);
    EXPECT_EQ(y[3], -y[4]);
    EXPECT_EQ(y[0], 0.0f);
    // Half a step, which among the least subnormals is more than the value.
    EXPECT_LE(std::fabs(y[3] - largest), std::max(largest / 200, 0x1p-133f)) << largest;
  }
}

TEST(LatentCache, WhatIsNotFiniteStaysSo) {
  for (const CacheFormat format : AllCacheFormats()) {
    for (const Shape& shape : kShapes) {
      for (const float bad : {std::nanf(""), -std::nanf("0x7fffff"), std::numeric_limits<float>::infinity()}) {
        for (const int64_t at : {int64_t{0}, shape.rank - 1, shape.rank, shape.rank + shape.rope - 1}) {
          Cache cache(shape, format, 1);
          std::vector<float> x = RandomVector(shape.rank + shape.rope, 1.0f, 3);
          x[static_cast<size_t>(at)] = bad;
          StoreLatentRow(cache.view, 0, x.data());
          EXPECT_FALSE(std::isfinite(cache.Row(0)[static_cast<size_t>(at)]))
              << CacheFormatName(format) << ", value " << at << " is " << bad;
        }
      }
    }
  }
}

TEST(LatentCache, RowsAsBf16AreTheRowsAsF32Rounded) {
  for (const CacheFormat format : {CacheFormat::kBf16, CacheFormat::kInt8}) {
    for (const Shape& shape : kShapes) {
      constexpr int64_t kRows = 5;
      Cache cache(shape, format, kRows);
      const int64_t width = shape.rank + shape.rope;
      const std::vector<float> x = RandomVector(kRows * width, 1.0f, 4);
      for (int64_t j = 0; j < kRows; ++j) StoreLatentRow(cache.view, j, &x[static_cast<size_t>(j * width)]);
      std::vector<uint16_t> scratch(static_cast<size_t>(kRows * (width + 1)), 0xffff);
      const Bf16Rows rows = LatentRowsBf16(cache.view, 1, kRows, scratch.data());
      ASSERT_EQ(rows.stride % 2, 0);
      for (int64_t j = 1; j < kRows; ++j) {
        const std::vector<float> want = cache.Row(j);
        const uint16_t* const row = rows.values + (j - 1) * rows.stride;
        for (int64_t i = 0; i < width; ++i) ASSERT_EQ(row[i], F32ToBf16(want[static_cast<size_t>(i)]));
        if (width % 2 != 0) {
          ASSERT_EQ(row[width], 0);
        }
      }
    }
  }
}

TEST(LatentCache, ARowIsCopiedAsItIsStored) {
  for (const CacheFormat format : AllCacheFormats()) {
    Cache from({41, 6}, format, 4);
    Cache to({41, 6}, format, 2);
    const std::vector<float> x = RandomVector(47, 1.0f, 5);
    StoreLatentRow(from.view, 3, x.data());
    CopyLatentRow(from.view, 3, to.view, 1);
    EXPECT_EQ(to.Row(1), from.Row(3));
    EXPECT_EQ(to.Row(0), std::vector<float>(47, 0.0f));
  }
}

TEST(LatentCache, FormatsHaveNamesAndSizes) {
  EXPECT_EQ(LatentCache::LatentRowBytes(512, 64, CacheFormat::kF32), 2304u);
  EXPECT_EQ(LatentCache::LatentRowBytes(512, 64, CacheFormat::kBf16), 1152u);
  EXPECT_EQ(LatentCache::LatentRowBytes(512, 64, CacheFormat::kInt8), 672u);
  for (const CacheFormat format : AllCacheFormats()) EXPECT_EQ(*CacheFormatFromName(CacheFormatName(format)), format);
  EXPECT_EQ(CacheFormatFromName("fp16").status().message(),
            "expected one of f32, bf16, int8, found \"fp16\" (did you mean \"bf16\"?)");
}

TEST(IndexCache, KeysAreBf16WhereTheCacheIsNotF32) {
  for (const CacheFormat format : AllCacheFormats()) {
    IndexCache cache{.dim = 21, .capacity = 3, .format = format};
    AlignedBuffer bytes = *AlignedBuffer::Create(3 * cache.row_bytes(), "keys");
    cache.data = bytes.data();
    std::vector<float> x = RandomVector(21, 1.0f, 6);
    x[5] = std::nanf("");
    StoreIndexKey(cache, 1, x.data());
    std::vector<float> scratch(2 * 21);
    const float* const keys = IndexKeys(cache, 0, 2, scratch.data());
    for (size_t i = 0; i < 21; ++i) {
      EXPECT_EQ(keys[i], 0.0f);
      if (i == 5) {
        EXPECT_TRUE(std::isnan(keys[21 + i]));
      } else {
        EXPECT_EQ(keys[21 + i], format == CacheFormat::kF32 ? x[i] : Bf16(x[i]));
      }
    }
  }
}

}  // namespace
}  // namespace kompakt
