#include <algorithm>
#include <atomic>
#include <bit>
#include <cmath>
#include <cstring>

#include "format/status.h"
#include "kernels/reference/reference_ops.h"
#include "kernels/reference/rotate.h"

namespace kompakt::reference {
namespace {

// Values and tokens per task: enough to be worth a thread.
constexpr int64_t kValues = 32768;
constexpr int64_t kTokens = 8;

void NormRow(const float* x, const float* weight, double eps, int64_t width, float* y) {
  // A single chain of additions would take longer than all else here.
  constexpr int64_t kChains = 8;
  double sums[kChains] = {};
  const auto square = [x](int64_t i) { return static_cast<double>(x[i]) * static_cast<double>(x[i]); };
  const int64_t whole = width / kChains * kChains;
  for (int64_t i = 0; i < whole; i += kChains) {
    for (int64_t j = 0; j < kChains; ++j) sums[j] += square(i + j);
  }
  double sum = 0;
  for (int64_t i = whole; i < width; ++i) sum += square(i);
  for (const double of_chain : sums) sum += of_chain;
  const auto scale = static_cast<float>(1.0 / std::sqrt(sum / static_cast<double>(width) + eps));
  for (int64_t i = 0; i < width; ++i) y[i] = x[i] * scale * weight[i];
}

}  // namespace

absl::Status Embed(const EmbedParams& p, KernelContext& context) {
  const MatrixView& table = p.table;
  const int64_t width = table.shape.cols;
  context.RunPieces(p.tokens, kTokens, [&](int64_t begin, int64_t end, int) {
    DecodedTile decoded;
    for (int64_t t = begin; t < end; ++t) {
      const int64_t row_tile = p.ids[t] / kTileRows;
      for (int64_t c = 0; c < table.layout.col_tiles; ++c) {
        table.format->decode_tile(table.tile(row_tile, c), table.side(row_tile, c), &decoded);
        const int64_t n = std::min(kTileCols, width - c * kTileCols);
        std::memcpy(p.y + t * width + c * kTileCols, decoded.w[p.ids[t] % kTileRows],
                    static_cast<size_t>(n) * sizeof(float));
      }
    }
  });
  return absl::OkStatus();
}

absl::Status RmsNorm(const RmsNormParams& p, KernelContext& context) {
  context.RunPieces(p.tokens, kTokens, [&](int64_t begin, int64_t end, int) {
    for (int64_t t = begin; t < end; ++t) {
      NormRow(p.x + t * p.x_stride, p.weight, p.eps, p.width, p.y + t * p.y_stride);
    }
  });
  return absl::OkStatus();
}

absl::Status Rope(const RopeParams& p, KernelContext& context) {
  context.RunPieces(p.tokens, kTokens, [&](int64_t begin, int64_t end, int) {
    for (int64_t t = begin; t < end; ++t) {
      for (int64_t h = 0; h < p.heads; ++h) {
        RotateRow(p.cos_sin + t * p.dim, p.dim, p.pairs, p.x + t * p.x_stride + h * p.head_stride);
      }
    }
  });
  return absl::OkStatus();
}

absl::Status LatentAppend(const LatentAppendParams& p, KernelContext& context) {
  const int64_t rank = p.cache.rank;
  const int64_t width = p.cache.width();
  Workspace::Scope scope(*context.workspace);
  KOMPAKT_ASSIGN_OR_RETURN(float* const rows, context.workspace->Floats(context.threads() * width));
  context.RunPieces(p.tokens, kTokens, [&](int64_t begin, int64_t end, int thread) {
    float* const row = rows + thread * width;
    for (int64_t t = begin; t < end; ++t) {
      const float* const a = p.a + t * width;
      NormRow(a, p.norm_weight, p.eps, rank, row);
      std::memcpy(row + rank, a + rank, static_cast<size_t>(p.cache.rope) * sizeof(float));
      RotateRow(p.cos_sin + t * p.cache.rope, p.cache.rope, RotaryPairs::kAdjacent, row + rank);
      StoreLatentRow(p.cache, p.position + t, row);
    }
  });
  return absl::OkStatus();
}

absl::Status Add(const AddParams& p, KernelContext& context) {
  context.RunPieces(p.n, kValues, [&](int64_t begin, int64_t end, int) {
    for (int64_t i = begin; i < end; ++i) p.y[i] += p.x[i];
  });
  return absl::OkStatus();
}

absl::Status AllFinite(const FiniteParams& p, KernelContext& context) {
  std::atomic<bool> finite = true;
  context.RunPieces(p.n, kValues, [&](int64_t begin, int64_t end, int) {
    // In integers, of which compilers make vectors as they do not of a sum of floats.
    constexpr uint32_t kExponent = 0x7f800000;
    uint32_t bad = 0;
    for (int64_t i = begin; i < end; ++i) bad |= (std::bit_cast<uint32_t>(p.x[i]) & kExponent) == kExponent ? 1 : 0;
    if (bad != 0) finite.store(false, std::memory_order_relaxed);
  });
  *p.finite = finite.load();
  return absl::OkStatus();
}

}  // namespace kompakt::reference
