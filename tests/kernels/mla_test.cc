// Attention of every kernel set, in both forms, against the plain formula in F64.
#include <gtest/gtest.h>

#include <cmath>
#include <limits>
#include <string>

#include "kernels/kernel_set.h"
#include "tests/kernels/random_matrix.h"

namespace kompakt {
namespace {

struct Shape {
  int64_t heads, nope, rope, value, rank;
};

// The fixtures' head shapes, V3's, and one where nothing is a multiple of anything.
constexpr Shape kShapes[] = {
    {4, 32, 16, 32, 64}, {5, 48, 16, 64, 64}, {4, 64, 32, 64, 96}, {3, 20, 6, 13, 41}, {2, 128, 64, 128, 512}};

struct Case {
  Shape shape;
  RandomMatrix kv_b;
  AlignedBuffer cache_bytes;
  LatentCache cache;
  std::vector<float> rows;  // [filled, width]
  std::vector<float> q;     // [T, H, nope + rope]
  int64_t tokens;
  int64_t position;
  float scale;
};

Case MakeCase(const Shape& s, FormatId format, int64_t position, int64_t tokens) {
  Case c;
  c.shape = s;
  c.tokens = tokens;
  c.position = position;
  c.kv_b =
      MakeRandomMatrix(format, s.heads * (s.nope + s.value), s.rank, 1.0f / std::sqrt(static_cast<float>(s.rank)), 1);
  const int64_t filled = position + tokens;
  c.cache_bytes =
      *AlignedBuffer::Create(static_cast<uint64_t>(filled + 3) * LatentCache::LatentRowBytes(s.rank, s.rope), "cache");
  c.cache = {.rank = s.rank, .rope = s.rope, .capacity = filled + 3, .data = c.cache_bytes.data()};
  c.rows = RandomVector(filled * c.cache.width(), 1.0f, 2);
  for (int64_t j = 0; j < filled; ++j) StoreLatentRow(c.cache, j, &c.rows[static_cast<size_t>(j * c.cache.width())]);
  // What lies behind the filled rows must not be seen.
  const std::vector<float> poison(static_cast<size_t>(c.cache.width()), std::nanf(""));
  for (int64_t j = filled; j < filled + 3; ++j) StoreLatentRow(c.cache, j, poison.data());
  c.q = RandomVector(tokens * s.heads * (s.nope + s.rope), 1.0f, 3);
  c.scale = 1.0f / std::sqrt(static_cast<float>(s.nope + s.rope));
  return c;
}

std::vector<double> Naive(const Case& c) {
  const Shape& s = c.shape;
  const int64_t filled = c.position + c.tokens;
  const int64_t width = s.rank + s.rope;
  std::vector<double> y(static_cast<size_t>(c.tokens * s.heads * s.value), 0);
  for (int64_t h = 0; h < s.heads; ++h) {
    const int64_t head_rows = s.nope + s.value;
    std::vector<double> kv(static_cast<size_t>(filled * head_rows), 0);
    for (int64_t j = 0; j < filled; ++j) {
      for (int64_t d = 0; d < head_rows; ++d) {
        double sum = 0;
        for (int64_t i = 0; i < s.rank; ++i) {
          sum += static_cast<double>(c.rows[static_cast<size_t>(j * width + i)]) *
                 static_cast<double>(c.kv_b.values[static_cast<size_t>((h * head_rows + d) * s.rank + i)]);
        }
        kv[static_cast<size_t>(j * head_rows + d)] = sum;
      }
    }
    for (int64_t t = 0; t < c.tokens; ++t) {
      const float* const q = &c.q[static_cast<size_t>((t * s.heads + h) * (s.nope + s.rope))];
      const int64_t seen = c.position + t + 1;
      std::vector<double> p(static_cast<size_t>(seen));
      double largest = -std::numeric_limits<double>::infinity();
      for (int64_t j = 0; j < seen; ++j) {
        double dot = 0;
        for (int64_t d = 0; d < s.nope; ++d)
          dot += static_cast<double>(q[d]) * kv[static_cast<size_t>(j * head_rows + d)];
        for (int64_t d = 0; d < s.rope; ++d) {
          dot += static_cast<double>(q[s.nope + d]) *
                 static_cast<double>(c.rows[static_cast<size_t>(j * width + s.rank + d)]);
        }
        p[static_cast<size_t>(j)] = dot * static_cast<double>(c.scale);
        largest = std::max(largest, p[static_cast<size_t>(j)]);
      }
      double sum = 0;
      for (double& x : p) sum += x = std::exp(x - largest);
      for (int64_t j = 0; j < seen; ++j) {
        for (int64_t d = 0; d < s.value; ++d) {
          y[static_cast<size_t>((t * s.heads + h) * s.value + d)] +=
              p[static_cast<size_t>(j)] / sum * kv[static_cast<size_t>(j * head_rows + s.nope + d)];
        }
      }
    }
  }
  return y;
}

class EveryAttention : public testing::TestWithParam<const KernelSet*> {
 protected:
  std::vector<float> Run(const Case& c, bool absorbed, int threads = 2) {
    std::vector<float> y(static_cast<size_t>(c.tokens * c.shape.heads * c.shape.value), std::nanf(""));
    ThreadTeam team(threads);
    KernelContext context{.team = &team, .workspace = &workspace_};
    const MlaParams p{.heads = c.shape.heads,
                      .nope_dim = c.shape.nope,
                      .rope_dim = c.shape.rope,
                      .value_dim = c.shape.value,
                      .softmax_scale = c.scale,
                      .kv_b = c.kv_b.view,
                      .q = c.q.data(),
                      .tokens = c.tokens,
                      .position = c.position,
                      .cache = c.cache,
                      .y = y.data()};
    EXPECT_TRUE((absorbed ? GetParam()->mla_decode(p, context) : GetParam()->mla_prefill(p, context)).ok());
    return y;
  }

  void Expect(const Case& c) {
    const std::vector<double> want = Naive(c);
    for (const bool absorbed : {false, true}) {
      const std::vector<float> got = Run(c, absorbed);
      for (size_t i = 0; i < want.size(); ++i) {
        // Values and scores are of order 1, sums of up to 512 products, so a weight is good to about 1e-6.
        ASSERT_LE(std::fabs(static_cast<double>(got[i]) - want[i]), 2e-5 * (1 + std::fabs(want[i])))
            << c.kv_b.view.format->name << " rank " << c.shape.rank << (absorbed ? " absorbed" : " plain")
            << ", position " << c.position << ", " << c.tokens << " tokens: value " << i << " is " << got[i]
            << ", expected " << want[i];
      }
    }
  }

  Workspace workspace_;
};

INSTANTIATE_TEST_SUITE_P(Kernels, EveryAttention,
                         testing::ValuesIn(AvailableKernelSets().begin(), AvailableKernelSets().end()),
                         [](const auto& info) { return std::string(info.param->name); });

TEST_P(EveryAttention, EqualsThePlainFormulaInBothForms) {
  for (const Shape& shape : kShapes) {
    for (const int64_t position : {0, 5, 130}) {
      for (const int64_t tokens : {1, 7, 67}) Expect(MakeCase(shape, FormatId::kBf16, position, tokens));
    }
  }
  Expect(MakeCase(kShapes[0], FormatId::kF32, 700, 3));
}

TEST_P(EveryAttention, TakesKvBInEveryFormat) {
  for (const BlockFormat& format : AllFormats()) Expect(MakeCase(kShapes[3], format.id, 20, 9));
}

TEST_P(EveryAttention, OfATokenDependsNeitherOnThreadsNorOnItsNeighbours) {
  for (const Shape& shape : {kShapes[0], kShapes[3]}) {
    const Case c = MakeCase(shape, FormatId::kBf16, 40, 90);
    for (const bool absorbed : {false, true}) {
      const std::vector<float> y = Run(c, absorbed, 1);
      EXPECT_EQ(y, Run(c, absorbed, 2)) << "absorbed " << absorbed;
      EXPECT_EQ(y, Run(c, absorbed, 9)) << "absorbed " << absorbed;
    }
    // The last 11 tokens by themselves.
    Case tail = MakeCase(shape, FormatId::kBf16, 119, 11);
    tail.rows = c.rows;
    tail.cache = c.cache;
    tail.q.assign(c.q.end() - std::ssize(tail.q), c.q.end());
    const std::vector<float> y = Run(c, false, 2);
    const std::vector<float> of_tail = Run(tail, false, 2);
    EXPECT_TRUE(std::equal(of_tail.begin(), of_tail.end(), y.end() - std::ssize(of_tail)));
  }
}

TEST_P(EveryAttention, SurvivesLargeScores) {
  // Scores around +-1e4: the softmax must subtract its maximum, in every block.
  Case c = MakeCase(kShapes[0], FormatId::kBf16, 100, 5);
  c.scale = 3000;
  for (const bool absorbed : {false, true}) {
    for (const float y : Run(c, absorbed)) ASSERT_TRUE(std::isfinite(y)) << "absorbed " << absorbed;
  }
}

}  // namespace
}  // namespace kompakt
