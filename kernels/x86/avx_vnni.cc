#include "kernels/x86/x86_isas.h"

#if defined(__x86_64__)

#define KOMPAKT_TARGET __attribute__((target("avx2,fma,f16c,avxvnni")))
#define KOMPAKT_VNNI 1
#include "kernels/x86/avx2_body.h"
#include "kernels/x86/cpu.h"

namespace kompakt::x86 {

constinit const quantized::IntegerIsa kAvxVnniIsa = quantized::MakeIsa<Loops>("avxvnni", HasAvxVnni, &kAvx2Floats);

}  // namespace kompakt::x86

#endif
