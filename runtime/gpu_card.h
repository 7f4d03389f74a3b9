// Published figures of graphics cards, for estimates before anything was measured.
#pragma once

#include <cstdint>

#include "absl/status/statusor.h"
#include "absl/strings/string_view.h"
#include "absl/types/span.h"

namespace kompakt {

// As their makers' data sheets state them. Nothing here was measured by us.
struct GpuCard {
  absl::string_view name;  // "3090"
  absl::string_view full_name;
  uint64_t memory_bytes = 0;
  double memory_bytes_per_second = 0;
  double link_bytes_per_second = 0;  // PCIe x16, one direction
  double int8_ops_per_second = 0;    // tensor cores, dense
  double bf16_ops_per_second = 0;    // tensor cores, dense, F32 accumulation
};

absl::Span<const GpuCard> AllGpuCards();
// kInvalidArgument naming the known cards. "RTX 4090", "rtx4090" and "4090" are the same.
absl::StatusOr<const GpuCard*> GpuCardByName(absl::string_view name);

}  // namespace kompakt
