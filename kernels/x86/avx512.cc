#include "kernels/x86/x86_isas.h"

#if defined(__x86_64__)

#define KOMPAKT_TARGET __attribute__((target("avx512f,avx512bw,avx512dq,avx512vl,avx512vnni")))
#define KOMPAKT_VBMI 0
#include "kernels/x86/avx512_body.h"
#include "kernels/x86/cpu.h"

namespace kompakt::x86 {

constinit const quantized::IntegerIsa kAvx512Isa = quantized::MakeIsa<Loops>("avx512", HasAvx512Vnni, &kAvx512Floats);

}  // namespace kompakt::x86

#endif
