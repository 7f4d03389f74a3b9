// Lanes: the rows of a tile side by side in vector registers, W rows at a time. Each lane sees the same operations in
// the same order whatever W is, so every width gives the same bits; only the speed differs.
//
// GNU vector extensions (g++ and clang++): plain operators, no intrinsics.
#pragma once

#include <cstdint>
#include <cstring>

#define KOMPAKT_INLINE inline __attribute__((always_inline))

#if defined(__x86_64__)
#define KOMPAKT_TARGET_AVX2 __attribute__((target("avx2")))
#if defined(__clang__)
#define KOMPAKT_TARGET_AVX512 __attribute__((target("avx512f,avx512bw,avx512dq,avx512vl")))
#else
#define KOMPAKT_TARGET_AVX512 __attribute__((target("avx512f,avx512bw,avx512dq,avx512vl,prefer-vector-width=512")))
#endif
#endif

namespace kompakt {

template <int W>
struct Lanes {
  typedef float F __attribute__((vector_size(W * 4)));
  typedef int32_t I __attribute__((vector_size(W * 4)));
  typedef double D __attribute__((vector_size(W * 8)));
};

// By reference throughout: vectors wider than the baseline's registers have no agreed calling convention.
template <typename V, typename T>
KOMPAKT_INLINE void LoadLanes(const T* from, V* to) {
  std::memcpy(to, from, sizeof(V));
}
template <typename V, typename T>
KOMPAKT_INLINE void StoreLanes(const V& from, T* to) {
  std::memcpy(to, &from, sizeof(V));
}

// How many rows one register holds on this machine: 4, 8 or 16.
enum class LaneWidth { k4 = 4, k8 = 8, k16 = 16 };
LaneWidth BestLaneWidth();

}  // namespace kompakt
