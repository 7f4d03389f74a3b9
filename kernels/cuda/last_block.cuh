// The block that ends last goes on with what the others wrote: a second step without a second launch.
#pragma once

#include "kernels/cuda/language.cuh"

namespace kompakt::KOMPAKT_BACKEND {

// True in all threads of one of `blocks` blocks, after every other one has come here; what they wrote before is visible
// there through LoadFresh. `done` is zero before and after. All threads of all these blocks call this.
KOMPAKT_DEVICE bool IsLastBlock(uint32_t* done, unsigned blocks) {
  KOMPAKT_SHARED(uint32_t, ticket, 4);
  __threadfence();
  __syncthreads();
  if (threadIdx.x == 0) ticket[0] = atomicAdd(done, 1u);
  __syncthreads();
  const uint32_t mine = ticket[0];
  if (mine + 1 != blocks) return false;
  if (threadIdx.x == 0) *done = 0;
  __threadfence();
  return true;
}

template <typename T>
KOMPAKT_DEVICE T LoadFresh(const T* p) {
  return *static_cast<const volatile T*>(p);
}

}  // namespace kompakt::KOMPAKT_BACKEND
