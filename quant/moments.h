// Moments: sums over tokens of x_j^2, or of all x_i x_j, in double. The order of every sum is that of the tokens, so
// the result does not depend on the number of threads.
#pragma once

#include <cstdint>
#include <vector>

#include "absl/status/statusor.h"
#include "absl/types/span.h"
#include "kernels/kernel_set.h"
#include "runtime/linear_observer.h"

namespace kompakt {

class Moments {
 public:
  // kResourceExhausted when the memory cannot be had.
  static absl::StatusOr<Moments> Create(int64_t width, bool matrix);
  static uint64_t BytesFor(int64_t width, bool matrix);

  // `input.width` must be the width.
  void Add(const LinearInput& input, KernelContext& context);

  int64_t tokens() const { return tokens_; }
  // Means over the tokens; zeros without any. The triangle (rows of columns j >= i) is empty without a matrix.
  std::vector<float> MeanSquares() const;
  std::vector<float> Triangle() const;

 private:
  int64_t width_ = 0;
  int64_t tokens_ = 0;
  bool matrix_ = false;
  AlignedBuffer sums_;  // double: [width], or the triangle
};

}  // namespace kompakt
