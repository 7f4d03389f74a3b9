// What this processor can do.
#pragma once

#if defined(__aarch64__)

namespace kompakt::arm {

bool HasNeon();     // every processor of 64 bits
bool HasDotprod();  // sdot: Armv8.2, Cortex-A55 and A76 and later
bool HasI8mm();     // smmla, and sdot: Armv8.6, Cortex-A510 and X2 and later

}  // namespace kompakt::arm

#endif
