// Which of several rows of equal score torch.topk takes on a CPU (kernels/top_rows.h): what std::nth_element and
// std::partial_sort of the GNU C++ library leave in front, step by step, by one thread. For scores that decide the
// choice this would give the rows that any other algorithm gives, so it is only for those that are equal.
#pragma once

#include "kernels/cuda/language.cuh"

namespace kompakt::KOMPAKT_BACKEND {

// Rows and their scores; a row that is not seen scores minus infinity.
struct TiedRows {
  const float* scores;  // [seen], no NaN
  int seen;
  int32_t* order;  // [capacity]

  KOMPAKT_DEVICE float ScoreOf(int32_t row) const { return row < seen ? scores[row] : -INFINITY; }
  KOMPAKT_DEVICE float ScoreAt(int i) const { return ScoreOf(order[i]); }
  // Does what stands at i belong before what stands at j?
  KOMPAKT_DEVICE bool Before(int i, int j) const { return ScoreAt(i) > ScoreAt(j); }
  KOMPAKT_DEVICE void Swap(int i, int j) const {
    const int32_t row = order[i];
    order[i] = order[j];
    order[j] = row;
  }

  // ---- A heap of order[begin, begin + n), the last of them on top.

  KOMPAKT_DEVICE void Sift(int begin, int hole, int n, int32_t row) const {
    const int top = hole;
    int child = hole;
    while (child < (n - 1) / 2) {
      child = 2 * (child + 1);
      if (Before(begin + child, begin + child - 1)) --child;
      order[begin + hole] = order[begin + child];
      hole = child;
    }
    if (n % 2 == 0 && child == (n - 2) / 2) {
      child = 2 * child + 1;
      order[begin + hole] = order[begin + child];
      hole = child;
    }
    const float score = ScoreOf(row);
    int parent = (hole - 1) / 2;
    while (hole > top && ScoreAt(begin + parent) > score) {
      order[begin + hole] = order[begin + parent];
      hole = parent;
      parent = (hole - 1) / 2;
    }
    order[begin + hole] = row;
  }
  // The best middle - begin of order[begin, end) into order[begin, middle).
  KOMPAKT_DEVICE void SelectByHeap(int begin, int middle, int end) const {
    const int n = middle - begin;
    for (int parent = (n - 2) / 2; n >= 2 && parent >= 0; --parent) Sift(begin, parent, n, order[begin + parent]);
    for (int i = middle; i < end; ++i) {
      if (!Before(i, begin)) continue;
      const int32_t row = order[i];
      order[i] = order[begin];
      Sift(begin, 0, n, row);
    }
  }

  // ---- Partitions.

  // The median of three to `to`.
  KOMPAKT_DEVICE void MedianTo(int to, int a, int b, int c) const {
    int median;
    if (Before(a, b)) {
      median = Before(b, c) ? b : Before(a, c) ? c : a;
    } else {
      median = Before(a, c) ? a : Before(b, c) ? c : b;
    }
    Swap(to, median);
  }
  KOMPAKT_DEVICE int Partition(int begin, int end) const {
    MedianTo(begin, begin + 1, begin + (end - begin) / 2, end - 1);
    const float pivot = ScoreAt(begin);
    int first = begin + 1, last = end;
    while (true) {
      while (ScoreAt(first) > pivot) ++first;
      --last;
      while (pivot > ScoreAt(last)) --last;
      if (first >= last) return first;
      Swap(first, last);
      ++first;
    }
  }
  KOMPAKT_DEVICE void InsertionSort(int begin, int end) const {
    for (int i = begin + 1; i < end; ++i) {
      const int32_t row = order[i];
      const float score = ScoreOf(row);
      int at = i;
      for (; at > begin && score > ScoreAt(at - 1); --at) order[at] = order[at - 1];
      order[at] = row;
    }
  }
  // Of order[0, n), what stands in front of place `nth` belongs before what stands behind it.
  KOMPAKT_DEVICE void Nth(int nth, int n) const {
    int begin = 0, end = n;
    for (int depth = 2 * (31 - __clz(n)); end - begin > 3; --depth) {
      if (depth == 0) {
        SelectByHeap(begin, nth + 1, end);
        Swap(begin, nth);
        return;
      }
      const int cut = Partition(begin, end);
      if (cut <= nth) {
        begin = cut;
      } else {
        end = cut;
      }
    }
    InsertionSort(begin, end);
  }
};

// The `top_k` rows that are taken of rows.seen of a cache with room for `capacity`, into order[0, top_k), in no order;
// rows that are not seen may be among them.
KOMPAKT_DEVICE void TakeTiedRows(const TiedRows& rows, int capacity, int top_k) {
  for (int i = 0; i < capacity; ++i) rows.order[i] = i;
  if (static_cast<int64_t>(top_k) * 64 <= capacity) {
    rows.SelectByHeap(0, top_k, capacity);
  } else {
    rows.Nth(top_k - 1, capacity);
  }
}

}  // namespace kompakt::KOMPAKT_BACKEND
