// What this processor can do, beyond what __builtin_cpu_supports knows in every compiler.
#pragma once

#if defined(__x86_64__)

namespace kompakt::x86 {

bool HasAvx2();     // with FMA and F16C
bool HasAvxVnni();  // and vpdpbusd on registers of 256 bits
bool HasAvx512();   // F, BW, DQ and VL
bool HasAvx512Bf16();
bool HasAvx512Vnni();
bool HasAvx512Vbmi();  // and VNNI

}  // namespace kompakt::x86

#endif
