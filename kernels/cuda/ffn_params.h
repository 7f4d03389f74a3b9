// Parameters of the gated FFNs (ffn.cu): v = down(silu(gate x) * (up x)), of one for all tokens or of routed experts.
#pragma once

#include <cstdint>

#include "kernels/cuda/matrix_params.h"

namespace kompakt::cuda {

struct FfnMatrices {
  Matrix gate = {};  // [inter, h]
  Matrix up = {};    // [inter, h]
  Matrix down = {};  // [h, inter]
};

// A dense FFN. Two launches.
struct FfnParams {
  FfnMatrices w = {};
  Activations x = {};  // h columns
  int64_t tokens = 0;
  int32_t blocks = 0;  // as in LinearParams
  Activations
      inner;  // T rows of inter columns, scratch: planes as the down projection wants them, x if it is of floats
  RowsOut out = {};
};

// The routed experts of a layer and its shared one: v = sum over k of weights[t, k] * ffn of expert ids[t, k], in an
// order that k alone decides, then the shared expert, then host_part. Without atomics: the same bits every time.
//
// Up to 8 tokens: two launches. More: tokens are sorted by expert on the device, and the products go over tensor cores.
struct ExpertFfnParams {
  // records[e]: the record of expert e (docs/format.md, section 2) in device memory, 64-byte aligned; null: not there,
  // its part is left out (the host adds it in host_part).
  const uint8_t* const* records = nullptr;  // [n_experts]
  FfnMatrices routed = {};                  // `data` is not read: the parts of a record begin at
  uint64_t gate_offset = 0;                 // bytes from the record's start
  uint64_t up_offset = 0;
  uint64_t down_offset = 0;
  int32_t n_experts = 0;
  const int32_t* ids = nullptr;    // [T, k] ascending, distinct
  const float* weights = nullptr;  // [T, k]
  int32_t k = 0;
  FfnMatrices shared = {};  // gate.rows = 0: none
  Activations x = {};       // h columns
  int64_t tokens = 0;
  int32_t blocks = 0;                // as in LinearParams
  const float* host_part = nullptr;  // [T, h], or null
  Activations inner = {};            // T * k rows of the routed experts' inter columns, scratch
  Activations shared_inner = {};     // T rows of the shared one's, scratch
  void* scratch = nullptr;           // ExpertScratchBytes, 256-byte aligned
  // [T * Groups(h)] counters, zero before their first use; left so.
  uint32_t* done = nullptr;
  RowsOut out = {};
};

// For calls of up to `tokens`.
constexpr uint64_t ExpertScratchBytes(int64_t n_experts, int64_t k, int64_t tokens, int64_t hidden) {
  const auto words = [](int64_t n) { return static_cast<uint64_t>(n + 63) / 64 * 256; };
  return words(n_experts + 1) * 2 + words(2) + words(tokens * k) + words(tokens * (k + 1) * hidden);
}

}  // namespace kompakt::cuda
