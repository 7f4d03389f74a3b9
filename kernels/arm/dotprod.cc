#include "kernels/arm/arm_isas.h"

#if defined(__aarch64__)

#define KOMPAKT_TARGET __attribute__((target("arch=armv8.2-a+dotprod")))
#define KOMPAKT_PRODUCTS 1
#include "kernels/arm/cpu.h"
#include "kernels/arm/neon_body.h"

namespace kompakt::arm {

constinit const quantized::IntegerIsa kDotprodIsa = quantized::MakeIsa<Loops>("neon-dotprod", HasDotprod);

}  // namespace kompakt::arm

#endif
