// The CUDA language as the simulator offers it to device sources: keywords, built-in variables and functions with their
// CUDA names, and checked pointers into shared memory. See kernels/cuda/language.cuh.
//
// Every device function that waits takes the place of its call as a last, hidden argument, so that errors can name it.
#pragma once

#include <algorithm>
#include <bit>
#include <cmath>  // IWYU pragma: keep: expf and the like, in the global namespace
#include <concepts>
#include <cstdint>
#include <cstring>
#include <functional>
#include <type_traits>

#include "kernels/cuda/sim/block.h"

#define __global__
#define __device__
#define __host__
#define __constant__
#define __forceinline__ inline
#define __launch_bounds__(...)

// NOLINTBEGIN(bugprone-reserved-identifier): CUDA's names.
namespace kompakt::cuda_sim {

using dim3 = Dim3;

struct alignas(8) int2 {
  int x, y;
};
struct alignas(16) int4 {
  int x, y, z, w;
};
struct alignas(8) uint2 {
  unsigned x, y;
};
struct alignas(16) uint4 {
  unsigned x, y, z, w;
};
struct alignas(8) float2 {
  float x, y;
};
struct alignas(16) float4 {
  float x, y, z, w;
};

inline int2 make_int2(int x, int y) { return {x, y}; }
inline int4 make_int4(int x, int y, int z, int w) { return {x, y, z, w}; }
inline uint2 make_uint2(unsigned x, unsigned y) { return {x, y}; }
inline uint4 make_uint4(unsigned x, unsigned y, unsigned z, unsigned w) { return {x, y, z, w}; }
inline float2 make_float2(float x, float y) { return {x, y}; }
inline float4 make_float4(float x, float y, float z, float w) { return {x, y, z, w}; }

#define threadIdx (::kompakt::cuda_sim::current_place->thread_idx)
#define blockIdx (::kompakt::cuda_sim::current_place->block_idx)
#define blockDim (::kompakt::cuda_sim::current_place->block_dim)
#define gridDim (::kompakt::cuda_sim::current_place->grid_dim)

#define KOMPAKT_SITE , [[maybe_unused]] ::kompakt::cuda_sim::Site site = ::kompakt::cuda_sim::Site::current()
#define KOMPAKT_HERE , site
#define KOMPAKT_UNROLL
#define KOMPAKT_ROLLED

// ---- Waiting.

inline void __syncthreads(Site site = Site::current()) { SyncThreads(false, "__syncthreads", site); }
inline int __syncthreads_or(int p, Site site = Site::current()) {
  return SyncThreads(p != 0, "__syncthreads_or", site) > 0;
}
inline int __syncthreads_count(int p, Site site = Site::current()) {
  return static_cast<int>(SyncThreads(p != 0, "__syncthreads_count", site));
}
inline void __syncwarp(unsigned mask = 0xffffffffu, Site site = Site::current()) { SyncWarp(mask, site); }

// ---- Shuffles and votes.

namespace detail {

template <typename T>
struct Exchange {
  T value;
  unsigned source;
  bool in_warp;  // false: keeps its own value
  T result;
};

template <typename T>
T Shuffle(const char* name, unsigned mask, T value, unsigned source, bool in_warp, Site site) {
  static_assert(std::is_trivially_copyable_v<T> && (sizeof(T) == 4 || sizeof(T) == 8));
  if (in_warp && (mask >> source & 1u) == 0) {
    Fail(std::string(name) + " reads lane " + std::to_string(source) + ", which is not in the mask", site);
  }
  Exchange<T> io{value, source, in_warp, value};
  WarpOperation(
      name, mask, &io,
      [](void* const* lanes, uint32_t members) {
        for (unsigned i = 0; i < kWarpSize; ++i) {
          if ((members >> i & 1u) == 0) continue;
          auto& lane = *static_cast<Exchange<T>*>(lanes[i]);
          if (lane.in_warp) lane.result = static_cast<Exchange<T>*>(lanes[lane.source])->value;
        }
      },
      site);
  return io.result;
}

inline unsigned Ballot(const char* name, unsigned mask, bool predicate, Site site) {
  struct Io {
    bool predicate;
    unsigned result;
  } io{predicate, 0};
  WarpOperation(
      name, mask, &io,
      [](void* const* lanes, uint32_t members) {
        unsigned result = 0;
        for (unsigned i = 0; i < kWarpSize; ++i) {
          if ((members >> i & 1u) != 0 && static_cast<Io*>(lanes[i])->predicate) result |= 1u << i;
        }
        for (unsigned i = 0; i < kWarpSize; ++i) {
          if ((members >> i & 1u) != 0) static_cast<Io*>(lanes[i])->result = result;
        }
      },
      site);
  return io.result;
}

}  // namespace detail

// `width` is a power of two: the warp is cut into segments of that many lanes.
template <typename T>
T __shfl_sync(unsigned mask, T value, int source, int width = 32, Site site = Site::current()) {
  const unsigned w = static_cast<unsigned>(width);
  const unsigned segment = current_place->lane() / w * w;
  return detail::Shuffle("__shfl_sync", mask, value, segment + static_cast<unsigned>(source) % w, true, site);
}
template <typename T>
T __shfl_xor_sync(unsigned mask, T value, int lane_mask, int width = 32, Site site = Site::current()) {
  const unsigned w = static_cast<unsigned>(width);
  const unsigned lane = current_place->lane();
  const unsigned source = lane ^ static_cast<unsigned>(lane_mask);
  return detail::Shuffle("__shfl_xor_sync", mask, value, source % kWarpSize, source / w <= lane / w, site);
}
template <typename T>
T __shfl_down_sync(unsigned mask, T value, unsigned delta, int width = 32, Site site = Site::current()) {
  const unsigned w = static_cast<unsigned>(width);
  const unsigned source = current_place->lane() + delta;
  return detail::Shuffle("__shfl_down_sync", mask, value, source % kWarpSize, source / w == current_place->lane() / w,
                         site);
}
template <typename T>
T __shfl_up_sync(unsigned mask, T value, unsigned delta, int width = 32, Site site = Site::current()) {
  const unsigned w = static_cast<unsigned>(width);
  const unsigned lane = current_place->lane();
  const bool in_warp = lane % w >= delta;
  return detail::Shuffle("__shfl_up_sync", mask, value, in_warp ? lane - delta : lane, in_warp, site);
}
inline unsigned __ballot_sync(unsigned mask, int p, Site site = Site::current()) {
  return detail::Ballot("__ballot_sync", mask, p != 0, site);
}
inline int __any_sync(unsigned mask, int p, Site site = Site::current()) {
  return detail::Ballot("__any_sync", mask, p != 0, site) != 0;
}
inline int __all_sync(unsigned mask, int p, Site site = Site::current()) {
  return detail::Ballot("__all_sync", mask, p != 0, site) == mask;
}

// ---- Arithmetic.

inline int __dp4a(int a, int b, int c) {
  for (int i = 0; i < 32; i += 8) c += static_cast<int8_t>(a >> i) * static_cast<int8_t>(b >> i);
  return c;
}
inline unsigned __dp4a(unsigned a, unsigned b, unsigned c) {
  for (int i = 0; i < 32; i += 8) c += (a >> i & 255u) * (b >> i & 255u);
  return c;
}
// Bytes selected from the eight of {y, x} by the nibbles of s; bit 3 of a nibble replicates the byte's sign.
inline unsigned __byte_perm(unsigned x, unsigned y, unsigned s) {
  const uint64_t bytes = static_cast<uint64_t>(y) << 32 | x;
  unsigned result = 0;
  for (unsigned i = 0; i < 4; ++i) {
    const unsigned selector = s >> (4 * i) & 15u;
    unsigned byte = static_cast<unsigned>(bytes >> (8 * (selector & 7u))) & 255u;
    if ((selector & 8u) != 0) byte = (byte & 128u) != 0 ? 255u : 0u;
    result |= byte << (8 * i);
  }
  return result;
}
inline int __popc(unsigned x) { return std::popcount(x); }
inline int __ffs(int x) { return x == 0 ? 0 : std::countr_zero(static_cast<unsigned>(x)) + 1; }
inline int __clz(int x) { return std::countl_zero(static_cast<unsigned>(x)); }
inline unsigned __brev(unsigned x) {
  unsigned result = 0;
  for (int i = 0; i < 32; ++i) result |= (x >> i & 1u) << (31 - i);
  return result;
}
inline float __int_as_float(int x) { return std::bit_cast<float>(x); }
inline int __float_as_int(float x) { return std::bit_cast<int>(x); }
inline float __uint_as_float(unsigned x) { return std::bit_cast<float>(x); }
inline unsigned __float_as_uint(float x) { return std::bit_cast<unsigned>(x); }
// As cvt.rni.s32.f32: saturates, and NaN is 0.
inline int __float2int_rn(float x) {
  const float rounded = std::nearbyint(x);
  if (rounded != rounded) return 0;
  if (rounded >= 0x1p31f) return INT32_MAX;
  return rounded <= -0x1p31f ? INT32_MIN : static_cast<int>(rounded);
}
inline float __int2float_rn(int x) { return static_cast<float>(x); }
inline float __fdividef(float x, float y) { return x / y; }
inline float __expf(float x) { return std::exp(x); }
inline float rsqrtf(float x) { return 1.0f / std::sqrt(x); }
inline float __frcp_rn(float x) { return 1.0f / x; }
using std::max;
using std::min;

// ---- Pointers into shared memory.

// An index, and where in the source it is used.
struct SharedIndex {
  int64_t value;
  Site site;
  template <std::integral I>
  // NOLINTNEXTLINE(google-explicit-constructor): stands for the index.
  constexpr SharedIndex(I i, Site s = Site::current()) : value(static_cast<int64_t>(i)), site(s) {}
};

// One element of shared memory.
template <typename T>
class SharedRef {
 public:
  SharedRef(T* p, Site site) : p_(p), site_(site) {}
  SharedRef(const SharedRef&) = default;
  // NOLINTNEXTLINE(google-explicit-constructor): stands for the element.
  operator T() const {
    CheckSharedRead(p_, sizeof(T), site_);
    return *p_;
  }
  const SharedRef& operator=(const T& value) const {
    CheckSharedWrite(p_, sizeof(T), site_);
    *p_ = value;
    return *this;
  }
  // NOLINTNEXTLINE(bugprone-unhandled-self-assignment): assigns the element.
  SharedRef& operator=(const SharedRef& other) {
    *this = static_cast<T>(other);
    return *this;
  }
  const SharedRef& operator+=(const T& value) const { return *this = static_cast<T>(T(*this) + value); }
  const SharedRef& operator*=(const T& value) const { return *this = static_cast<T>(T(*this) * value); }

 private:
  T* p_;
  Site site_;
};

template <typename T>
class SharedPtr {
 public:
  using Bytes = std::conditional_t<std::is_const_v<T>, const uint8_t, uint8_t>;

  SharedPtr() = default;
  SharedPtr(T* p, const uint8_t* begin, const uint8_t* end) : p_(p), begin_(begin), end_(end) {}
  // NOLINTNEXTLINE(google-explicit-constructor): as T* to const T*.
  operator SharedPtr<const T>() const requires(!std::is_const_v<T>) { return {p_, begin_, end_}; }

  SharedRef<T> operator[](SharedIndex i) const { return {Checked(i.value, 1, i.site), i.site}; }
  SharedRef<T> At(Site site) const { return {Checked(0, 1, site), site}; }
  template <std::integral I>
  SharedPtr operator+(I n) const {
    return {
        reinterpret_cast<T*>(reinterpret_cast<Bytes*>(p_) + static_cast<int64_t>(n) * static_cast<int64_t>(sizeof(T))),
        begin_, end_};
  }
  // `n` elements from element i on, all inside.
  T* Checked(int64_t i, int64_t n, Site site) const {
    const int64_t at = reinterpret_cast<const uint8_t*>(p_) - begin_ + i * static_cast<int64_t>(sizeof(T));
    const int64_t bytes = end_ - begin_;
    if (at < 0 || at + n * static_cast<int64_t>(sizeof(T)) > bytes) {
      Fail("bytes " + std::to_string(at) + " to " + std::to_string(at + n * static_cast<int64_t>(sizeof(T))) +
               " of a piece of shared memory of " + std::to_string(bytes) + " bytes",
           site);
    }
    T* const p = p_ + i;
    if (reinterpret_cast<uintptr_t>(p) % alignof(T) != 0) {
      Fail("misaligned access of " + std::to_string(alignof(T)) + " bytes of shared memory", site);
    }
    return p;
  }
  T* get() const { return p_; }
  const uint8_t* begin() const { return begin_; }
  const uint8_t* end() const { return end_; }

 private:
  T* p_ = nullptr;
  const uint8_t* begin_ = nullptr;
  const uint8_t* end_ = nullptr;
};

template <typename T>
SharedPtr<T> DeclareShared(SharedSlot& slot, size_t n, Site site = Site::current()) {
  uint8_t* const p = StaticShared(slot, n * sizeof(T), std::max<size_t>(16, alignof(T)), site);
  return {reinterpret_cast<T*>(p), p, p + n * sizeof(T)};
}

#define KOMPAKT_SHARED(T, name, n)                                 \
  static thread_local ::kompakt::cuda_sim::SharedSlot name##_slot; \
  const ::kompakt::cuda_sim::SharedPtr<T> name =                   \
      ::kompakt::cuda_sim::DeclareShared<T>(name##_slot, static_cast<size_t>(n))

#define KOMPAKT_DYNAMIC_SHARED(name) const ::kompakt::cuda_sim::DynamicBytes name = ::kompakt::cuda_sim::DynamicShared()

template <typename T>
SharedPtr<T> SharedSlice(DynamicBytes base, size_t at, size_t n, Site site = Site::current()) {
  if (at % alignof(T) != 0) Fail("a misaligned slice of dynamic shared memory", site);
  if (at + n * sizeof(T) > base.bytes) {
    Fail("bytes " + std::to_string(at) + " to " + std::to_string(at + n * sizeof(T)) + " of " +
             std::to_string(base.bytes) + " bytes of dynamic shared memory",
         site);
  }
  return {reinterpret_cast<T*>(base.data + at), base.data + at, base.data + at + n * sizeof(T)};
}

template <typename V, typename T>
SharedPtr<V> SharedCast(SharedPtr<T> p) {
  return {reinterpret_cast<V*>(p.get()), p.begin(), p.end()};
}

// ---- Atomics. Blocks run one after the other, threads take turns: an ordinary read and write.

namespace detail {
template <typename T, typename F>
T Atomic(T* p, F update, Site site) {
  CheckGlobal(p, sizeof(T), sizeof(T), "atomic", site);
  const T old = *p;
  *p = update(old);
  return old;
}
template <typename T, typename F>
T Atomic(SharedPtr<T> p, F update, Site site) {
  T* const at = p.Checked(0, 1, site);
  CheckSharedAtomic(at, sizeof(T), site);
  const T old = *at;
  *at = update(old);
  return old;
}
}  // namespace detail

template <typename P, typename T>
auto atomicAdd(P p, T v, Site site = Site::current()) {
  return detail::Atomic(
      p, [v](auto old) { return static_cast<decltype(old)>(old + static_cast<decltype(old)>(v)); }, site);
}
template <typename P, typename T>
auto atomicMax(P p, T v, Site site = Site::current()) {
  return detail::Atomic(
      p, [v](auto old) { return std::max(old, static_cast<decltype(old)>(v)); }, site);
}
template <typename P, typename T>
auto atomicMin(P p, T v, Site site = Site::current()) {
  return detail::Atomic(
      p, [v](auto old) { return std::min(old, static_cast<decltype(old)>(v)); }, site);
}
template <typename P, typename T>
auto atomicExch(P p, T v, Site site = Site::current()) {
  return detail::Atomic(
      p, [v](auto old) { return static_cast<decltype(old)>(v); }, site);
}
template <typename P, typename T>
auto atomicCAS(P p, T compare, T v, Site site = Site::current()) {
  return detail::Atomic(
      p,
      [compare, v](auto old) {
        return old == static_cast<decltype(old)>(compare) ? static_cast<decltype(old)>(v) : old;
      },
      site);
}
inline void __threadfence() {}

// Starts the kernel, or, while `stream` is captured, adds it to the graph (kernels/cuda/sim/sim_device.h). 0, or a
// code.
int Enqueue(const char* name, Dim3 grid, Dim3 block, size_t shared_bytes, void* stream, std::function<void()> body);

}  // namespace kompakt::cuda_sim
// NOLINTEND(bugprone-reserved-identifier)
