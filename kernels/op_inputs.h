// What prepared ops (op_run.h) are run on: random weights, caches and inputs.
#pragma once

#include <cstdint>
#include <initializer_list>
#include <vector>

#include "absl/status/statusor.h"
#include "absl/types/span.h"
#include "kernels/kernel_set.h"
#include "kernels/op_list.h"
#include "kernels/workspace.h"

namespace kompakt {

// Memory that cases take in turn for their weights and caches, on huge pages: touching it anew for each would take
// longer than measuring. One PreparedOp uses it at a time.
class OpArena {
 public:
  enum Use : uint8_t { kWeights, kCache };
  // At least so many bytes; what was there is gone. kResourceExhausted.
  absl::StatusOr<uint8_t*> Take(Use use, uint64_t bytes);

 private:
  AlignedBuffer buffers_[2];
};

uint64_t Product(std::initializer_list<int64_t> factors);

// n values of that standard deviation.
std::vector<float> Normal(int64_t n, float magnitude, uint64_t seed);

// Cosines and sines of some angle for every pair. [tokens, dim / 2, 2]
std::vector<float> Rotations(int64_t tokens, int64_t dim);

// One row as kernels/activation.h has it.
void RoundRow(ActPrecision act, absl::Span<float> x);

// The same matrices several times over.
struct Weights {
  std::vector<MatrixView> views;  // [copies][matrices]
  size_t matrices = 0;
  uint64_t bytes = 0;  // of one copy

  size_t copies() const { return views.size() / matrices; }
  const MatrixView* of_run(uint64_t run) const { return views.data() + run % copies() * matrices; }
};
// As many copies as take `spread` bytes, at least one.
absl::StatusOr<Weights> MakeWeights(FormatId format, const std::vector<MatrixShape>& shapes, uint64_t spread,
                                    OpArena& arena, KernelContext& context);

// Latent caches, each filled with random rows up to the case's last token; copies as above.
using Caches = std::vector<LatentCache>;
absl::StatusOr<Caches> MakeCaches(const OpCase& c, uint64_t spread, OpArena& arena);

// Memory for the keys of an indexer.
struct Keys {
  Keys(const OpCase& c, int64_t rows) : cache{.dim = c.shape.cols, .capacity = rows, .format = c.cache} {
    words.resize(static_cast<size_t>(rows) * cache.row_bytes() / sizeof(uint32_t) + 1);
    cache.data = reinterpret_cast<uint8_t*>(words.data());
  }
  Keys(const Keys&) = delete;
  Keys& operator=(const Keys&) = delete;

  IndexCache cache;
  std::vector<uint32_t> words;
};

}  // namespace kompakt
