// Random packed matrices of every format, vectors and choices of experts, for op tests.
#pragma once

#include <cstdint>
#include <random>
#include <vector>

#include "format/block_format.h"
#include "kernels/workspace.h"

namespace kompakt {

struct RandomMatrix {
  AlignedBuffer bytes;
  MatrixView view;
  std::vector<float> values;  // row-major [rows, cols], by DecodeRows
};

// Codes uniform over the format's codes (NaN codes left out), values around `magnitude`.
RandomMatrix MakeRandomMatrix(FormatId format, int64_t rows, int64_t cols, float magnitude, uint64_t seed);

// These values [rows, cols] as a matrix of F32.
RandomMatrix MakeF32Matrix(std::vector<float> values, int64_t rows, int64_t cols);

// Experts of each token, ascending and distinct, and their weights: [tokens, chosen] both. `never`: one that no token
// gets.
struct RandomChoice {
  std::vector<int32_t> ids;
  std::vector<float> weights;
};
RandomChoice RandomRouting(int64_t tokens, int64_t n_experts, int64_t chosen, int32_t never = -1);

std::vector<float> RandomVector(int64_t n, float magnitude, uint64_t seed);

}  // namespace kompakt
