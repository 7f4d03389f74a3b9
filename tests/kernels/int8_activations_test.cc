#include "kernels/int8_activations.h"

#include <cmath>
#include <random>
#include <vector>

#include "gtest/gtest.h"

namespace kompakt {
namespace {

TEST(RoundToInt8, IsTheNearestOf255StepsPerGroupOf32) {
  std::mt19937 rng(1);
  std::normal_distribution<float> normal(0, 1);
  for (const int64_t n : {1, 31, 32, 33, 200}) {
    std::vector<float> x(static_cast<size_t>(n));
    for (float& v : x) v = normal(rng);
    std::vector<float> rounded = x;
    RoundToInt8(rounded.data(), n);
    for (int64_t begin = 0; begin < n; begin += kInt8Group) {
      const int64_t end = std::min(n, begin + kInt8Group);
      float largest = 0;
      for (int64_t i = begin; i < end; ++i) largest = std::max(largest, std::abs(x[static_cast<size_t>(i)]));
      const float scale = largest / 127;
      for (int64_t i = begin; i < end; ++i) {
        const float y = rounded[static_cast<size_t>(i)];
        // Half a step, and the rounding of F32.
        EXPECT_LE(std::abs(y - x[static_cast<size_t>(i)]), scale * 0.50001f) << n << " " << i;
        const float code = y / scale;
        EXPECT_NEAR(code, std::nearbyint(code), 1e-4) << n << " " << i;
      }
    }
  }
}

TEST(RoundToInt8, LeavesZerosAndWhatIsNotFinite) {
  std::vector<float> zeros(40, 0.0f);
  RoundToInt8(zeros.data(), 40);
  for (const float x : zeros) EXPECT_EQ(x, 0);
  std::vector<float> odd = {1, INFINITY, -2};
  RoundToInt8(odd.data(), 3);
  EXPECT_EQ(odd[0], 1);
  EXPECT_TRUE(std::isinf(odd[1]));
  std::vector<float> tiny = {1e-44f, -1e-44f};
  RoundToInt8(tiny.data(), 2);
  for (const float x : tiny) EXPECT_TRUE(std::isfinite(x));
}

}  // namespace
}  // namespace kompakt
