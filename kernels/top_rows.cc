#include "kernels/top_rows.h"

#include <algorithm>
#include <cmath>
#include <limits>
#include <numeric>

namespace kompakt {
namespace {

constexpr float kNegInf = -std::numeric_limits<float>::infinity();

// torch.topk on a CPU sorts a heap where fewer than one in so many are wanted, else it partitions.
constexpr int64_t kHeapFrom = 64;

}  // namespace

bool CleanScores(float* scores, int64_t n) {
  bool finite = true;
  for (int64_t i = 0; i < n; ++i) {
    finite = finite && std::isfinite(scores[i]);
    if (std::isnan(scores[i])) scores[i] = kNegInf;
  }
  return finite;
}

void SelectTopRows(const float* scores, int64_t seen, int64_t capacity, int64_t top_k, int32_t* order, int32_t* ids) {
  std::iota(order, order + seen, 0);
  if (top_k < seen) {
    const auto higher = [scores](int32_t a, int32_t b) {
      return scores[a] != scores[b] ? scores[a] > scores[b] : a < b;
    };
    std::nth_element(order, order + top_k, order + seen, higher);
    const int32_t last = *std::max_element(order, order + top_k, higher);
    if (scores[last] == scores[order[top_k]]) {
      const auto score = [=](int32_t row) { return row < seen ? scores[row] : kNegInf; };
      const auto greater = [score](int32_t a, int32_t b) { return score(a) > score(b); };
      std::iota(order, order + capacity, 0);
      if (top_k * kHeapFrom <= capacity) {
        std::partial_sort(order, order + top_k, order + capacity, greater);
      } else {
        std::nth_element(order, order + top_k - 1, order + capacity, greater);
      }
      // Rows that are seen may score minus infinity too; a row that is not seen is never taken for one of them.
      int32_t spare = 0;
      for (int64_t i = 0; i < top_k; ++i) {
        if (order[i] < seen) continue;
        while (std::find(order, order + top_k, spare) != order + top_k) ++spare;
        order[i] = spare;
      }
    }
  }
  std::copy(order, order + top_k, ids);
  std::sort(ids, ids + top_k);
}

}  // namespace kompakt
