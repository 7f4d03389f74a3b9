// Which sanitizer this is built with: they take memory and time of their own, and some want to be told of things.
#pragma once

#if defined(__SANITIZE_ADDRESS__)
#define KOMPAKT_ASAN 1
#endif
#if defined(__SANITIZE_THREAD__)
#define KOMPAKT_TSAN 1
#endif
#if defined(__has_feature)
#if __has_feature(address_sanitizer)
#define KOMPAKT_ASAN 1
#endif
#if __has_feature(thread_sanitizer)
#define KOMPAKT_TSAN 1
#endif
#endif

namespace kompakt {

#if defined(KOMPAKT_ASAN)
inline constexpr bool kAddressSanitized = true;
#else
inline constexpr bool kAddressSanitized = false;
#endif
#if defined(KOMPAKT_TSAN)
inline constexpr bool kThreadSanitized = true;
#else
inline constexpr bool kThreadSanitized = false;
#endif
inline constexpr bool kSanitized = kAddressSanitized || kThreadSanitized;

}  // namespace kompakt
