#include "kernels/arm/arm_isas.h"

#if defined(__aarch64__)

#define KOMPAKT_TARGET __attribute__((target("arch=armv8.2-a+dotprod+i8mm")))
#define KOMPAKT_PRODUCTS 2
#include "kernels/arm/cpu.h"
#include "kernels/arm/neon_body.h"

namespace kompakt::arm {

constinit const quantized::IntegerIsa kI8mmIsa = quantized::MakeIsa<Loops>("neon-i8mm", HasI8mm);

}  // namespace kompakt::arm

#endif
