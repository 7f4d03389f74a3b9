#include "kernels/arm/cpu.h"

#if defined(__aarch64__)

#include <sys/auxv.h>

namespace kompakt::arm {
namespace {

// asm/hwcap.h of Linux; spelled here, because older headers lack the second.
constexpr unsigned long kHwcapAsimdDp = 1ul << 20;
constexpr unsigned long kHwcap2I8mm = 1ul << 13;

}  // namespace

bool HasNeon() { return true; }
bool HasDotprod() { return (getauxval(AT_HWCAP) & kHwcapAsimdDp) != 0; }
bool HasI8mm() { return HasDotprod() && (getauxval(AT_HWCAP2) & kHwcap2I8mm) != 0; }

}  // namespace kompakt::arm

#endif
