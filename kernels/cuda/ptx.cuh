// A wrapper for every PTX instruction that our kernels use beyond what CUDA C++ spells: the device body is inline PTX,
// the other one does the same for the simulator, fragment by fragment as the PTX manual lays them out (PTX ISA 8.x,
// "Warp-level matrix instructions" and "Data movement"). All need sm_80.
//
// Fragments, with g = lane / 4 and t = lane % 4; a 32-bit register holds consecutive elements, the first one lowest.
//   16-bit m16n8k16   A[row][k]   a[0]: (g, 2t..)      a[1]: (g + 8, 2t..)      a[2]: (g, 2t + 8..)   a[3]: (g + 8, 2t
//   + 8..)
//                     B[k][col]   b[0]: (2t.., g)      b[1]: (2t + 8.., g)
//   8-bit m16n8k32    A[row][k]   a[0]: (g, 4t..)      a[1]: (g + 8, 4t..)      a[2]: (g, 4t + 16..)  a[3]: (g + 8, 4t
//   + 16..)
//                     B[k][col]   b[0]: (4t.., g)      b[1]: (4t + 16.., g)
//   both              C[row][col] c[0]: (g, 2t)        c[1]: (g, 2t + 1)        c[2]: (g + 8, 2t)     c[3]: (g + 8, 2t
//   + 1) ldmatrix          8 x 8 matrices of 16-bit elements. Lane 8 i + r gives the address of row r of matrix i;
//   register i
//                     gets elements (g, 2t), (g, 2t + 1) of matrix i, with .trans (2t, g), (2t + 1, g).
#pragma once

#include "format/float_formats.h"
#include "kernels/cuda/language.cuh"

namespace kompakt::KOMPAKT_BACKEND {

inline constexpr unsigned kFullWarp = 0xffffffffu;

// ---- Conversions.

// Two values as BF16, rounded to nearest even: `low` in bits 0..15.
KOMPAKT_DEVICE uint32_t PackBf16(float low, float high) {
#if KOMPAKT_CUDA_SIM
  return static_cast<uint32_t>(F32ToBf16(high)) << 16 | F32ToBf16(low);
#else
  uint32_t r;
  asm("cvt.rn.bf16x2.f32 %0, %1, %2;" : "=r"(r) : "f"(high), "f"(low));
  return r;
#endif
}
// The same as F16; values past 65504 become infinite.
KOMPAKT_DEVICE uint32_t PackF16(float low, float high) {
#if KOMPAKT_CUDA_SIM
  return static_cast<uint32_t>(F32ToF16(high)) << 16 | F32ToF16(low);
#else
  uint32_t r;
  asm("cvt.rn.f16x2.f32 %0, %1, %2;" : "=r"(r) : "f"(high), "f"(low));
  return r;
#endif
}
KOMPAKT_DEVICE float LowBf16(uint32_t pair) { return __uint_as_float(pair << 16); }
KOMPAKT_DEVICE float HighBf16(uint32_t pair) { return __uint_as_float(pair & 0xffff0000u); }
// One F16 from its bits.
KOMPAKT_DEVICE float FromF16(uint16_t bits) {
#if KOMPAKT_CUDA_SIM
  return F16ToF32(bits);
#else
  float r;
  asm("cvt.f32.f16 %0, %1;" : "=f"(r) : "h"(bits));
  return r;
#endif
}
KOMPAKT_DEVICE float LowF16(uint32_t pair) { return FromF16(static_cast<uint16_t>(pair & 0xffffu)); }
KOMPAKT_DEVICE float HighF16(uint32_t pair) { return FromF16(static_cast<uint16_t>(pair >> 16)); }

// FP8 E4M3 from its code, exact; NaN (0x7f, 0xff) reads as 480, which nothing of ours stores.
KOMPAKT_DEVICE float DecodeE4m3(uint32_t code) {
  // As F16 the same bits mean 2^-8 of it: 4 exponent bits of 5, bias 15 instead of 7.
  return FromF16(static_cast<uint16_t>((code & 0x80u) << 8 | (code & 0x7fu) << 7)) * 256.0f;
}

// 2^x, to 2 ulp on a device; 2^-infinity = 0.
KOMPAKT_DEVICE float Exp2(float x) {
#if KOMPAKT_CUDA_SIM
  return std::exp2(x);
#else
  float r;
  asm("ex2.approx.ftz.f32 %0, %1;" : "=f"(r) : "f"(x));
  return r;
#endif
}

// a * b + c of two BF16 values each, one rounding.
KOMPAKT_DEVICE uint32_t FmaBf16x2(uint32_t a, uint32_t b, uint32_t c) {
#if KOMPAKT_CUDA_SIM
  // The product of two BF16 values is exact in F32 (but for its range), so the sum in F64 is exact, too, or nearly so.
  const double low = static_cast<double>(LowBf16(a)) * LowBf16(b) + LowBf16(c);
  const double high = static_cast<double>(HighBf16(a)) * HighBf16(b) + HighBf16(c);
  return PackBf16(static_cast<float>(low), static_cast<float>(high));
#else
  uint32_t r;
  asm("fma.rn.bf16x2 %0, %1, %2, %3;" : "=r"(r) : "r"(a), "r"(b), "r"(c));
  return r;
#endif
}

// Four of the eight bytes of x and y (4 to 7), by the low four nibbles of `selector`, whose upper bits are 0 in each.
KOMPAKT_DEVICE uint32_t PermuteBytes(uint32_t x, uint32_t y, uint32_t selector) {
#if KOMPAKT_CUDA_SIM
  return __byte_perm(x, y, selector);
#else
  uint32_t r;
  asm("prmt.b32 %0, %1, %2, %3;" : "=r"(r) : "r"(x), "r"(y), "r"(selector));
  return r;
#endif
}

// ---- Matrix multiplication on tensor cores.

#if KOMPAKT_CUDA_SIM
namespace detail {
struct MmaIo {
  const uint32_t* a;
  const uint32_t* b;
  void* c;
};

// c += a b for one warp. Element(register, i) is element i of a 32-bit register of A or B.
template <typename Sum, int kPerRegister, typename Element>
void Mma(void* const* lanes, const Element& element) {
  constexpr int kK = kPerRegister * 8;
  Sum a[16][kK];
  Sum b[kK][8];
  for (unsigned lane = 0; lane < kWarpSize; ++lane) {
    const MmaIo& io = *static_cast<const MmaIo*>(lanes[lane]);
    const unsigned g = lane / 4, t = lane % 4;
    for (unsigned i = 0; i < kPerRegister; ++i) {
      const unsigned k = t * kPerRegister + i;
      a[g][k] = element(io.a[0], i);
      a[g + 8][k] = element(io.a[1], i);
      a[g][k + kK / 2] = element(io.a[2], i);
      a[g + 8][k + kK / 2] = element(io.a[3], i);
      b[k][g] = element(io.b[0], i);
      b[k + kK / 2][g] = element(io.b[1], i);
    }
  }
  Sum c[16][8] = {};
  for (int row = 0; row < 16; ++row) {
    for (int k = 0; k < kK; ++k) {
      for (int col = 0; col < 8; ++col) c[row][col] += a[row][k] * b[k][col];
    }
  }
  for (unsigned lane = 0; lane < kWarpSize; ++lane) {
    Sum* const out = static_cast<Sum*>(static_cast<const MmaIo*>(lanes[lane])->c);
    const unsigned g = lane / 4, t = lane % 4;
    out[0] += c[g][2 * t];
    out[1] += c[g][2 * t + 1];
    out[2] += c[g + 8][2 * t];
    out[3] += c[g + 8][2 * t + 1];
  }
}
}  // namespace detail
#endif

// c += a b, BF16 x BF16 + F32.
KOMPAKT_DEVICE void MmaBf16(float (&c)[4], const uint32_t (&a)[4], const uint32_t (&b)[2] KOMPAKT_SITE) {
#if KOMPAKT_CUDA_SIM
  detail::MmaIo io{a, b, c};
  WarpOperation(
      "mma.m16n8k16.bf16", kFullWarp, &io,
      [](void* const* lanes, uint32_t) {
        detail::Mma<float, 2>(lanes, [](uint32_t r, unsigned i) { return i == 0 ? LowBf16(r) : HighBf16(r); });
      },
      site);
#else
  asm("mma.sync.aligned.m16n8k16.row.col.f32.bf16.bf16.f32 {%0,%1,%2,%3}, {%4,%5,%6,%7}, {%8,%9}, {%0,%1,%2,%3};"
      : "+f"(c[0]), "+f"(c[1]), "+f"(c[2]), "+f"(c[3])
      : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b[0]), "r"(b[1]));
#endif
}

// c += a b, F16 x F16 + F32.
KOMPAKT_DEVICE void MmaF16(float (&c)[4], const uint32_t (&a)[4], const uint32_t (&b)[2] KOMPAKT_SITE) {
#if KOMPAKT_CUDA_SIM
  detail::MmaIo io{a, b, c};
  WarpOperation(
      "mma.m16n8k16.f16", kFullWarp, &io,
      [](void* const* lanes, uint32_t) {
        detail::Mma<float, 2>(lanes, [](uint32_t r, unsigned i) { return i == 0 ? LowF16(r) : HighF16(r); });
      },
      site);
#else
  asm("mma.sync.aligned.m16n8k16.row.col.f32.f16.f16.f32 {%0,%1,%2,%3}, {%4,%5,%6,%7}, {%8,%9}, {%0,%1,%2,%3};"
      : "+f"(c[0]), "+f"(c[1]), "+f"(c[2]), "+f"(c[3])
      : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b[0]), "r"(b[1]));
#endif
}

// c += a b, int8 x int8 + int32.
KOMPAKT_DEVICE void MmaS8(int (&c)[4], const uint32_t (&a)[4], const uint32_t (&b)[2] KOMPAKT_SITE) {
#if KOMPAKT_CUDA_SIM
  detail::MmaIo io{a, b, c};
  WarpOperation(
      "mma.m16n8k32.s8", kFullWarp, &io,
      [](void* const* lanes, uint32_t) {
        detail::Mma<int, 4>(lanes, [](uint32_t r, unsigned i) { return int{static_cast<int8_t>(r >> (8 * i))}; });
      },
      site);
#else
  asm("mma.sync.aligned.m16n8k32.row.col.s32.s8.s8.s32 {%0,%1,%2,%3}, {%4,%5,%6,%7}, {%8,%9}, {%0,%1,%2,%3};"
      : "+r"(c[0]), "+r"(c[1]), "+r"(c[2]), "+r"(c[3])
      : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b[0]), "r"(b[1]));
#endif
}

// c += a b, int8 x int8 + int32, m16n8k16: the first halves of the operands of MmaS8.
KOMPAKT_DEVICE void MmaS8Half(int (&c)[4], const uint32_t (&a)[2], uint32_t b KOMPAKT_SITE) {
#if KOMPAKT_CUDA_SIM
  const uint32_t wide_a[4] = {a[0], a[1], 0, 0};
  const uint32_t wide_b[2] = {b, 0};
  detail::MmaIo io{wide_a, wide_b, c};
  WarpOperation(
      "mma.m16n8k16.s8", kFullWarp, &io,
      [](void* const* lanes, uint32_t) {
        detail::Mma<int, 4>(lanes, [](uint32_t r, unsigned i) { return int{static_cast<int8_t>(r >> (8 * i))}; });
      },
      site);
#else
  asm("mma.sync.aligned.m16n8k16.row.col.s32.s8.s8.s32 {%0,%1,%2,%3}, {%4,%5}, {%6}, {%0,%1,%2,%3};"
      : "+r"(c[0]), "+r"(c[1]), "+r"(c[2]), "+r"(c[3])
      : "r"(a[0]), "r"(a[1]), "r"(b));
#endif
}

// ---- Shared memory.

#if !KOMPAKT_CUDA_SIM
KOMPAKT_DEVICE uint32_t SharedAddress(const void* p) { return static_cast<uint32_t>(__cvta_generic_to_shared(p)); }
#endif

#if KOMPAKT_CUDA_SIM
namespace detail {
template <int kMatrices, bool kTransposed>
void LoadMatrices(const char* name, uint32_t* r, const uint8_t* row, Site site) {
  struct Io {
    uint32_t* r;
    const uint8_t* row;
  } io{r, row};
  WarpOperation(
      name, kFullWarp, &io,
      [](void* const* lanes, uint32_t) {
        for (unsigned m = 0; m < kMatrices; ++m) {
          uint16_t matrix[8][8];
          for (unsigned i = 0; i < 8; ++i) std::memcpy(matrix[i], static_cast<const Io*>(lanes[8 * m + i])->row, 16);
          for (unsigned lane = 0; lane < kWarpSize; ++lane) {
            const unsigned g = lane / 4, t = lane % 4;
            const uint16_t low = kTransposed ? matrix[2 * t][g] : matrix[g][2 * t];
            const uint16_t high = kTransposed ? matrix[2 * t + 1][g] : matrix[g][2 * t + 1];
            static_cast<const Io*>(lanes[lane])->r[m] = static_cast<uint32_t>(high) << 16 | low;
          }
        }
      },
      site);
}

// The row that this lane gives the address of; lanes past the matrices give none.
template <typename T>
const uint8_t* MatrixRow(SharedPtr<T> row, unsigned matrices, Site site) {
  if (current_place->lane() >= 8 * matrices) return nullptr;
  const auto bytes = SharedCast<const uint4>(row);
  const uint4* const p = bytes.Checked(0, 1, site);
  CheckSharedRead(p, 16, site);
  return reinterpret_cast<const uint8_t*>(p);
}
}  // namespace detail
#endif

// `row`: where this lane's row of 8 elements lies, 16-byte aligned (lanes 0..15 for x2).
template <typename T>
KOMPAKT_DEVICE void LoadMatrixX4(uint32_t (&r)[4], SharedPtr<T> row KOMPAKT_SITE) {
#if KOMPAKT_CUDA_SIM
  detail::LoadMatrices<4, false>("ldmatrix.x4", r, detail::MatrixRow(row, 4, site), site);
#else
  asm volatile("ldmatrix.sync.aligned.m8n8.x4.shared.b16 {%0,%1,%2,%3}, [%4];"
               : "=r"(r[0]), "=r"(r[1]), "=r"(r[2]), "=r"(r[3])
               : "r"(SharedAddress(row))
               : "memory");
#endif
}
template <typename T>
KOMPAKT_DEVICE void LoadMatrixX4Transposed(uint32_t (&r)[4], SharedPtr<T> row KOMPAKT_SITE) {
#if KOMPAKT_CUDA_SIM
  detail::LoadMatrices<4, true>("ldmatrix.x4.trans", r, detail::MatrixRow(row, 4, site), site);
#else
  asm volatile("ldmatrix.sync.aligned.m8n8.x4.trans.shared.b16 {%0,%1,%2,%3}, [%4];"
               : "=r"(r[0]), "=r"(r[1]), "=r"(r[2]), "=r"(r[3])
               : "r"(SharedAddress(row))
               : "memory");
#endif
}
template <typename T>
KOMPAKT_DEVICE void LoadMatrixX2(uint32_t (&r)[2], SharedPtr<T> row KOMPAKT_SITE) {
#if KOMPAKT_CUDA_SIM
  detail::LoadMatrices<2, false>("ldmatrix.x2", r, detail::MatrixRow(row, 2, site), site);
#else
  asm volatile("ldmatrix.sync.aligned.m8n8.x2.shared.b16 {%0,%1}, [%2];"
               : "=r"(r[0]), "=r"(r[1])
               : "r"(SharedAddress(row))
               : "memory");
#endif
}
template <typename T>
KOMPAKT_DEVICE void LoadMatrixX2Transposed(uint32_t (&r)[2], SharedPtr<T> row KOMPAKT_SITE) {
#if KOMPAKT_CUDA_SIM
  detail::LoadMatrices<2, true>("ldmatrix.x2.trans", r, detail::MatrixRow(row, 2, site), site);
#else
  asm volatile("ldmatrix.sync.aligned.m8n8.x2.trans.shared.b16 {%0,%1}, [%2];"
               : "=r"(r[0]), "=r"(r[1])
               : "r"(SharedAddress(row))
               : "memory");
#endif
}

// ---- Asynchronous copies from global to shared memory. The bytes may be read after a wait of the thread that copied
// them, and by other threads after a barrier behind that wait.

// 16 bytes, both sides aligned to 16; the first `valid` are read, the others are zero. Past L1.
template <typename T>
KOMPAKT_DEVICE void CopyAsync16(SharedPtr<T> to, const void* from, unsigned valid = 16 KOMPAKT_SITE) {
#if KOMPAKT_CUDA_SIM
  AsyncCopy(reinterpret_cast<uint8_t*>(SharedCast<uint4>(to).Checked(0, 1, site)), from, 16, valid, site);
#else
  asm volatile("cp.async.cg.shared.global.L2::128B [%0], [%1], 16, %2;" ::"r"(SharedAddress(to)), "l"(from), "r"(valid)
               : "memory");
#endif
}
// 4 bytes, aligned to 4.
template <typename T>
KOMPAKT_DEVICE void CopyAsync4(SharedPtr<T> to, const void* from, unsigned valid = 4 KOMPAKT_SITE) {
#if KOMPAKT_CUDA_SIM
  AsyncCopy(reinterpret_cast<uint8_t*>(SharedCast<uint32_t>(to).Checked(0, 1, site)), from, 4, valid, site);
#else
  asm volatile("cp.async.ca.shared.global [%0], [%1], 4, %2;" ::"r"(SharedAddress(to)), "l"(from), "r"(valid)
               : "memory");
#endif
}
// Closes a group of the copies since the last one, perhaps of none.
KOMPAKT_DEVICE void CommitAsync() {
#if KOMPAKT_CUDA_SIM
  AsyncCommit();
#else
  asm volatile("cp.async.commit_group;" ::: "memory");
#endif
}
// Waits until at most the last kPending groups of this thread are on their way.
template <int kPending>
KOMPAKT_DEVICE void WaitAsync() {
#if KOMPAKT_CUDA_SIM
  AsyncWait(kPending);
#else
  asm volatile("cp.async.wait_group %0;" ::"n"(kPending) : "memory");
#endif
}

// ---- Loads of what no kernel writes while this one runs.

// What is read once, weights above all: not kept in L1, fetched into L2 in 256-byte pieces. Aligned to its size.
template <typename V>
KOMPAKT_DEVICE V LoadStreaming(const void* p KOMPAKT_SITE) {
  static_assert(sizeof(V) == 4 || sizeof(V) == 8 || sizeof(V) == 16);
#if KOMPAKT_CUDA_SIM
  CheckGlobal(p, sizeof(V), sizeof(V), "ld.global.nc", site);
  V v;
  std::memcpy(&v, p, sizeof v);
  return v;
#else
  union {
    V value;
    uint32_t word[sizeof(V) / 4];
  } v;
  if constexpr (sizeof(V) == 16) {
    asm volatile("ld.global.nc.L1::no_allocate.L2::256B.v4.u32 {%0,%1,%2,%3}, [%4];"
                 : "=r"(v.word[0]), "=r"(v.word[1]), "=r"(v.word[2]), "=r"(v.word[3])
                 : "l"(p));
  } else if constexpr (sizeof(V) == 8) {
    asm volatile("ld.global.nc.L1::no_allocate.L2::256B.v2.u32 {%0,%1}, [%2];"
                 : "=r"(v.word[0]), "=r"(v.word[1])
                 : "l"(p));
  } else {
    asm volatile("ld.global.nc.L1::no_allocate.L2::256B.u32 %0, [%1];" : "=r"(v.word[0]) : "l"(p));
  }
  return v.value;
#endif
}

// What several warps read, activations and small tables: through L1. Aligned to its size; 1, 2, 4, 8 or 16 bytes.
template <typename V>
KOMPAKT_DEVICE V LoadCached(const V* p KOMPAKT_SITE) {
#if KOMPAKT_CUDA_SIM
  CheckGlobal(p, sizeof(V), alignof(V), "ld.global.nc", site);
  return *p;
#else
  return __ldg(p);
#endif
}

// Asks L2 for the line of `p`. May point anywhere.
KOMPAKT_DEVICE void PrefetchL2([[maybe_unused]] const void* p) {
#if !KOMPAKT_CUDA_SIM
  asm volatile("prefetch.global.L2 [%0];" ::"l"(p));
#endif
}

// ---- Reductions over a warp; every lane gets the result. The order of additions is fixed.

template <int kLanes = 32>
KOMPAKT_DEVICE float WarpSum(float v KOMPAKT_SITE) {
  KOMPAKT_UNROLL
  for (int offset = kLanes / 2; offset > 0; offset /= 2) v += __shfl_xor_sync(kFullWarp, v, offset, 32 KOMPAKT_HERE);
  return v;
}
template <int kLanes = 32>
KOMPAKT_DEVICE float WarpMax(float v KOMPAKT_SITE) {
  KOMPAKT_UNROLL
  for (int offset = kLanes / 2; offset > 0; offset /= 2) {
    v = fmaxf(v, __shfl_xor_sync(kFullWarp, v, offset, 32 KOMPAKT_HERE));
  }
  return v;
}

}  // namespace kompakt::KOMPAKT_BACKEND
