// Random packed matrices of every format, for op tests.
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

std::vector<float> RandomVector(int64_t n, float magnitude, uint64_t seed);

}  // namespace kompakt
