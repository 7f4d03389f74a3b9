#include "kernels/op_inputs.h"

#include <algorithm>
#include <cmath>
#include <limits>
#include <map>

#include "format/status.h"
#include "kernels/probe.h"
#include "kernels/random_tiles.h"

namespace kompakt {
namespace {

constexpr int64_t kFillRowTiles = 64;

}  // namespace

absl::StatusOr<uint8_t*> OpArena::Take(Use use, uint64_t bytes) {
  AlignedBuffer& buffer = buffers_[use];
  if (bytes > buffer.bytes()) {
    buffer = {};
    KOMPAKT_ASSIGN_OR_RETURN(buffer, AlignedBuffer::Create(bytes, "weights and caches of an op"));
    AdviseHugePages({buffer.data(), buffer.bytes()});
  }
  return buffer.data();
}

uint64_t Product(std::initializer_list<int64_t> factors) {
  uint64_t product = 1;
  for (const int64_t f : factors) product *= static_cast<uint64_t>(f);
  return product;
}

std::vector<float> Normal(int64_t n, float magnitude, uint64_t seed) {
  std::vector<float> x(static_cast<size_t>(n));
  FillNormal(seed, magnitude, absl::MakeSpan(x));
  return x;
}

std::vector<float> Rotations(int64_t tokens, int64_t dim) {
  std::vector<float> out;
  for (int64_t i = 0; i < tokens * dim / 2; ++i) {
    out.push_back(std::cos(static_cast<float>(i)));
    out.push_back(std::sin(static_cast<float>(i)));
  }
  return out;
}

void RoundRow(ActPrecision act, absl::Span<float> x) {
  const float most = act == ActPrecision::kInt16 ? kInt16Largest : kInt8Largest;
  for (size_t begin = 0; begin < x.size(); begin += kActGroup) {
    const absl::Span<float> group = x.subspan(begin, kActGroup);
    float largest = 0;
    for (const float v : group) largest = std::max(largest, std::fabs(v));
    const float scale = largest / most;
    if (scale < std::numeric_limits<float>::min()) continue;
    for (float& v : group) v = std::nearbyint(v * (1 / scale)) * scale;
  }
}

absl::StatusOr<Weights> MakeWeights(FormatId format, const std::vector<MatrixShape>& shapes, uint64_t spread,
                                    OpArena& arena, KernelContext& context) {
  Weights w;
  w.matrices = shapes.size();
  std::vector<BlobLayout> layouts;
  for (const MatrixShape& shape : shapes) {
    KOMPAKT_ASSIGN_OR_RETURN(const BlobLayout layout, LayoutOfMatrix(FormatOf(format), shape));
    layouts.push_back(layout);
    w.bytes += layout.total_bytes;
  }
  const uint64_t copies = std::max((spread + w.bytes - 1) / w.bytes, uint64_t{1});
  KOMPAKT_ASSIGN_OR_RETURN(uint8_t * at, arena.Take(OpArena::kWeights, copies * w.bytes));
  // Sums over the columns keep the size of what is multiplied.
  std::map<int64_t, RandomTiles> tiles;  // by columns
  for (const MatrixShape& shape : shapes) {
    if (tiles.contains(shape.cols)) continue;
    tiles.emplace(shape.cols, RandomTiles(format, 1 / std::sqrt(static_cast<float>(shape.cols)), tiles.size() + 1));
  }
  for (uint64_t copy = 0; copy < copies; ++copy) {
    for (size_t i = 0; i < shapes.size(); ++i) {
      const RandomTiles& random = tiles.at(shapes[i].cols);
      context.RunPieces(layouts[i].row_tiles, kFillRowTiles, [&](int64_t begin, int64_t end, int /*thread*/) {
        random.FillTiles(layouts[i], copy * shapes.size() + i, begin, end, at);
      });
      random.FillSide(layouts[i], at);
      w.views.push_back({.format = &FormatOf(format), .shape = shapes[i], .layout = layouts[i], .data = at});
      at += layouts[i].total_bytes;
    }
  }
  return w;
}

absl::StatusOr<Caches> MakeCaches(const OpCase& c, uint64_t spread, OpArena& arena) {
  const int64_t filled = c.position + c.tokens;
  LatentCache cache{.rank = c.shape.rank, .rope = c.shape.rope, .capacity = filled, .format = c.cache};
  const uint64_t bytes =
      (static_cast<uint64_t>(filled) * cache.row_bytes() + kMemoryAlign - 1) / kMemoryAlign * kMemoryAlign;
  const uint64_t copies = std::max((spread + bytes - 1) / bytes, uint64_t{1});
  KOMPAKT_ASSIGN_OR_RETURN(cache.data, arena.Take(OpArena::kCache, copies * bytes));
  // Prime, so that blocks of rows differ.
  constexpr int64_t kDistinct = 61;
  const std::vector<float> rows = Normal(kDistinct * cache.width(), 1, 7);
  Caches caches;
  for (uint64_t copy = 0; copy < copies; ++copy) {
    for (int64_t j = 0; j < filled; ++j) StoreLatentRow(cache, j, rows.data() + j % kDistinct * cache.width());
    caches.push_back(cache);
    cache.data += bytes;
  }
  return caches;
}

}  // namespace kompakt
