// Parameters of the products with packed matrices (linear.cu, head.cu). See matrix_params.h.
#pragma once

#include <cstdint>

#include "kernels/cuda/matrix_params.h"

namespace kompakt::cuda {

inline constexpr int kMaxJobs = 4;
// So many tokens are multiplied row by row (decode); more go over tensor cores where weights and activations are
// integers.
inline constexpr int64_t kDecodeTokens = 8;

// v = x W^T of up to four matrices that see the same x, one launch. Formats may differ.
//
// Takes codes where the matrix has integer codes and x.planes > 0, else x.x, in F32. A matrix of a float format (f32
// f16 bf16 fp8_b128) always takes x.x.
struct LinearParams {
  struct Job {
    Matrix w = {};  // [rows, x.cols]
    RowsOut out = {};
  };
  Job jobs[kMaxJobs] = {};
  int32_t n_jobs = 0;
  Activations x = {};
  int64_t tokens = 0;  // T >= 1
  int32_t blocks = 0;  // that the device runs at once: its multiprocessors, times two
};

// The rows of x as activations: v = x, or v * norm with squares, RowsOut::next.
struct QuantizeParams {
  const float* x = nullptr;  // [T, x_stride]
  int64_t x_stride = 0;
  int64_t tokens = 0;
  RowsOut out = {};  // next.cols values a row; y: a copy of them
};

// v[t] = row ids[t] of the table.
struct EmbedParams {
  Matrix table = {};             // [vocab, cols]
  const int32_t* ids = nullptr;  // [T], each within the table
  int64_t tokens = 0;
  RowsOut out = {};
};

// logits = x W^T and the token of the largest one; a tie goes to the lower id. A NaN is never chosen before a number.
struct HeadParams {
  Matrix w = {};  // [vocab, x.cols]
  Activations x = {};
  int64_t tokens = 0;
  float* logits = nullptr;  // [T, vocab]
  int32_t* best = nullptr;  // [T]
  // HeadScratchBytes, zero before its first use; left so.
  void* scratch = nullptr;
};
constexpr uint64_t HeadScratchBytes(int64_t vocab, int64_t tokens) {
  return 256 + static_cast<uint64_t>(tokens * Groups(vocab)) * 8;
}

}  // namespace kompakt::cuda
