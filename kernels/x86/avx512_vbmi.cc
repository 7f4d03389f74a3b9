#include "kernels/x86/x86_isas.h"

#if defined(__x86_64__)

#define KOMPAKT_TARGET __attribute__((target("avx512f,avx512bw,avx512dq,avx512vl,avx512vnni,avx512vbmi")))
#define KOMPAKT_VBMI 1
#include "kernels/x86/avx512_body.h"
#include "kernels/x86/cpu.h"

namespace kompakt::x86 {

constinit const quantized::IntegerIsa kAvx512VbmiIsa =
    quantized::MakeIsa<Loops>("avx512vbmi", HasAvx512Vbmi, &kAvx512Floats);

}  // namespace kompakt::x86

#endif
