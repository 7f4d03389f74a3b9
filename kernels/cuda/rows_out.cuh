// What a kernel does with 32 finished rows of one token, a warp at a time, lane = row: cuda::RowsOut.
#pragma once

#include "kernels/activation.h"
#include "kernels/cuda/matrix_params.h"
#include "kernels/cuda/ptx.cuh"

namespace kompakt::KOMPAKT_BACKEND {

// This lane's part of the sum of squares that the norm of a row of activations is made of; 0 without a norm.
KOMPAKT_DEVICE float LaneSquares(const cuda::Activations& x, int row) {
  if (x.squares == nullptr) return 0;
  const int groups = (x.cols + 31) / 32;
  float sum = 0;
  KOMPAKT_ROLLED
  for (int i = static_cast<int>(threadIdx.x % 32); i < groups; i += 32) sum += LoadCached(x.squares + row * groups + i);
  return sum;
}
// The factor that the row still waits for. By a whole warp.
KOMPAKT_DEVICE float NormFactor(const cuda::Activations& x, float lane_squares) {
  if (x.squares == nullptr) return 1;
  return 1.0f / sqrtf(WarpSum(lane_squares) / static_cast<float>(x.cols) + x.eps);
}

// 32 values as codes with one scale, by the rule of kernels/activation.h. `group`: of the row's columns.
KOMPAKT_DEVICE void StoreCodes(const cuda::Activations& to, int64_t row, int group, float v) {
  const int lane = static_cast<int>(threadIdx.x) % 32;
  const int64_t groups = cuda::Groups(to.cols);
  const bool finite = __all_sync(kFullWarp, fabsf(v) <= 3.402823466e+38f) != 0;
  const float largest = WarpMax(fabsf(v));
  const float scale = largest / (to.planes == 2 ? kInt16Largest : kInt8Largest);
  const bool zero = !(scale >= 1.17549435e-38f) || !finite;
  const int code = zero ? 0 : __float2int_rn(v * (1.0f / scale));
  int8_t* const codes = to.codes + row * to.planes * groups * 32 + group * 32 + lane;
  if (to.planes == 2) {
    const int high = (code + 128) >> 8;
    codes[0] = static_cast<int8_t>(high);
    codes[groups * 32] = static_cast<int8_t>(code - high * 256);
  } else {
    codes[0] = static_cast<int8_t>(code);
  }
  const float sum = WarpSum<16>(static_cast<float>(code));
  if (lane % 16 == 0) to.sums[(row * groups + group) * 2 + lane / 16] = sum;
  if (lane == 0) to.scales[row * groups + group] = !finite ? __int_as_float(0x7fc00000) : zero ? 0.0f : scale;
}

// Asks for what FinishRows reads of the weights, long before.
KOMPAKT_DEVICE void PrefetchRows(const cuda::RowsOut& out, int block) {
  if (out.norm != nullptr) PrefetchL2(out.norm + block * 32);
}

// v: the result of row 32 block + lane, of `rows`. All that it becomes.
KOMPAKT_DEVICE void FinishRows(const cuda::RowsOut& out, int64_t token, int block, int rows, float v) {
  const int lane = static_cast<int>(threadIdx.x) % 32;
  const int row = block * 32 + lane;
  const bool inside = row < rows;
  if (!inside) v = 0;
  float norm = 1;
  if (out.norm != nullptr && inside) norm = LoadCached(out.norm + row);
  if (inside && out.y != nullptr) {
    float* const y = out.y + token * out.y_stride + row;
    if (out.accumulate) v += *y;
    *y = v;
  }
  const cuda::Activations& next = out.next;
  if (next.x == nullptr && next.planes == 0) return;
  const int64_t groups = cuda::Groups(rows);
  if (next.squares != nullptr) {
    const float square = WarpSum(v * v);
    if (lane == 0) next.squares[token * groups + block] = square;
  }
  v *= norm;
  if (next.x != nullptr) next.x[token * groups * 32 + row] = v;
  if (next.planes > 0) StoreCodes(next, token, block, v);
}

}  // namespace kompakt::KOMPAKT_BACKEND
