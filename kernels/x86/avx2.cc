#include "kernels/x86/x86_isas.h"

#if defined(__x86_64__)

#define KOMPAKT_TARGET __attribute__((target("avx2,fma,f16c")))
#define KOMPAKT_VNNI 0
#include "kernels/x86/avx2_body.h"
#include "kernels/x86/cpu.h"

namespace kompakt::x86 {

constinit const quantized::IntegerIsa kAvx2Isa = quantized::MakeIsa<Loops>("avx2", HasAvx2, &kAvx2Floats);

}  // namespace kompakt::x86

#endif
