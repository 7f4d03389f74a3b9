#include "kernels/arm/arm_isas.h"

#if defined(__aarch64__)

#define KOMPAKT_TARGET
#define KOMPAKT_PRODUCTS 0
#include "kernels/arm/cpu.h"
#include "kernels/arm/neon_body.h"

namespace kompakt::arm {

constinit const quantized::IntegerIsa kNeonIsa = quantized::MakeIsa<Loops>("neon", HasNeon);

}  // namespace kompakt::arm

#endif
