// What the kernels of gated FFNs share.
#pragma once

#include "kernels/cuda/ffn_params.h"
#include "kernels/cuda/ptx.cuh"

namespace kompakt::KOMPAKT_BACKEND {

KOMPAKT_DEVICE float Silu(float x) { return x / (1.0f + expf(-x)); }

// One of two, field by field: a choice between the places of two structures would put both into local memory.
KOMPAKT_DEVICE cuda::Matrix Either(bool first, const cuda::Matrix& a, const cuda::Matrix& b) {
  return {.data = first ? a.data : b.data,
          .side_offset = first ? a.side_offset : b.side_offset,
          .rows = first ? a.rows : b.rows,
          .cols = first ? a.cols : b.cols,
          .format = first ? a.format : b.format};
}
KOMPAKT_DEVICE cuda::Activations Either(bool first, const cuda::Activations& a, const cuda::Activations& b) {
  return {.cols = first ? a.cols : b.cols,
          .planes = first ? a.planes : b.planes,
          .x = first ? a.x : b.x,
          .codes = first ? a.codes : b.codes,
          .scales = first ? a.scales : b.scales,
          .sums = first ? a.sums : b.sums,
          .squares = first ? a.squares : b.squares,
          .eps = first ? a.eps : b.eps};
}

// Null: not on the device.
KOMPAKT_DEVICE const uint8_t* RecordOf(const cuda::ExpertFfnParams& p, int expert) {
  const auto* const records = reinterpret_cast<const unsigned long long*>(p.records);
  return reinterpret_cast<const uint8_t*>(LoadCached(records + expert));
}

}  // namespace kompakt::KOMPAKT_BACKEND
