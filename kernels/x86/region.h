// Regions of code for one instruction set. The pragmas are what a target attribute on every function in between would
// be; both compilers apply them to templates too. Nothing of the standard library may be instantiated in a region, so
// that no code of a set can leak into a function that others call.
#pragma once

#define KOMPAKT_X86_INLINE inline __attribute__((always_inline))
#define KOMPAKT_X86_PRAGMA(text) _Pragma(#text)

// clang-format off
#if defined(__clang__)
#define KOMPAKT_X86_REGION(set) KOMPAKT_X86_PRAGMA(clang attribute push(__attribute__((target(set))), apply_to = function))
#define KOMPAKT_X86_END KOMPAKT_X86_PRAGMA(clang attribute pop)
#else
#define KOMPAKT_X86_REGION(set) KOMPAKT_X86_PRAGMA(GCC push_options) KOMPAKT_X86_PRAGMA(GCC target(set))
#define KOMPAKT_X86_END KOMPAKT_X86_PRAGMA(GCC pop_options)
#endif
// clang-format on
