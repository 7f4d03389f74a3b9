// The largest logit of each token, as blocks of 32 rows come to it and then the last block.
#pragma once

#include "kernels/cuda/choose_experts.cuh"
#include "kernels/cuda/linear_params.h"

namespace kompakt::KOMPAKT_BACKEND {

struct BestScratch {
  uint32_t* done;
  uint2* best;  // [T, Groups(vocab)]: bits of the value, id

  KOMPAKT_DEVICE explicit BestScratch(void* scratch)
      : done(static_cast<uint32_t*>(scratch)), best(reinterpret_cast<uint2*>(static_cast<uint8_t*>(scratch) + 256)) {}
};

// A warp's 32 logits of a token, lane = row.
KOMPAKT_DEVICE void StoreBest(const cuda::HeadParams& p, int64_t token, int block, float logit) {
  const int lane = static_cast<int>(threadIdx.x) % 32;
  const int id = block * 32 + lane;
  const Candidate best = WarpBest({logit == logit ? logit : Lowest(), id < p.w.rows ? id : -1});
  if (lane == 0) {
    BestScratch(p.scratch).best[token * cuda::Groups(p.w.rows) + block] =
        make_uint2(__float_as_uint(best.value), static_cast<unsigned>(best.index));
  }
}

// By a warp of the last block.
KOMPAKT_DEVICE void ChooseBest(const cuda::HeadParams& p, int64_t token) {
  const int lane = static_cast<int>(threadIdx.x) % 32;
  const auto groups = static_cast<int>(cuda::Groups(p.w.rows));
  const auto* const best = reinterpret_cast<const uint32_t*>(BestScratch(p.scratch).best + token * groups);
  Candidate mine{0, -1};
  for (int i = lane; i < groups; i += 32) {
    const Candidate other{__uint_as_float(LoadFresh(best + 2 * i)), static_cast<int>(LoadFresh(best + 2 * i + 1))};
    if (Before(other, mine)) mine = other;
  }
  mine = WarpBest(mine);
  if (lane == 0) p.best[token] = mine.index;
}

}  // namespace kompakt::KOMPAKT_BACKEND
