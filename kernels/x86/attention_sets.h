// The rows of AllAttentionIsas.
#pragma once

#include "kernels/x86/attention_isa.h"

namespace kompakt::x86 {

extern const AttentionIsa kAvx2Attention;
extern const AttentionIsa kAvx512Attention;
extern const AttentionIsa kAvx512Bf16Attention;

}  // namespace kompakt::x86
