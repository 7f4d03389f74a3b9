// Regions of code for one instruction set. The pragmas are what a target attribute on every function in between would
// be; both compilers apply them to templates too.
#pragma once

#define KOMPAKT_INLINE inline __attribute__((always_inline))

#define KOMPAKT_PRAGMA(text) _Pragma(#text)
#define KOMPAKT_AVX512 "avx512f,avx512bw,avx512dq,avx512vl,avx512vbmi,avx512vnni"

// clang-format off
#if defined(__clang__)
#define KOMPAKT_REGION(set) KOMPAKT_PRAGMA(clang attribute push(__attribute__((target(set))), apply_to = function))
#define KOMPAKT_BEGIN_AVX2 KOMPAKT_REGION("avx2")
#define KOMPAKT_BEGIN_AVX512 KOMPAKT_REGION(KOMPAKT_AVX512)
#define KOMPAKT_END_REGION KOMPAKT_PRAGMA(clang attribute pop)
#else
#define KOMPAKT_REGION(...) KOMPAKT_PRAGMA(GCC push_options) KOMPAKT_PRAGMA(GCC target(__VA_ARGS__))
#define KOMPAKT_BEGIN_AVX2 KOMPAKT_REGION("avx2")
#define KOMPAKT_BEGIN_AVX512 KOMPAKT_REGION(KOMPAKT_AVX512, "prefer-vector-width=512")
#define KOMPAKT_END_REGION KOMPAKT_PRAGMA(GCC pop_options)
#endif
// clang-format on
