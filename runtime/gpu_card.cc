#include "runtime/gpu_card.h"

#include <array>
#include <cctype>
#include <string>

#include "absl/strings/str_join.h"
#include "absl/strings/strip.h"
#include "format/status.h"

namespace kompakt {
namespace {

constexpr uint64_t kGiB = uint64_t{1} << 30;

// PCIe 4.0 x16 moves 31.5 GB/s in one direction, 5.0 63 GB/s. GeForce cards halve BF16 where F32 is accumulated.
constexpr std::array<GpuCard, 6> kCards = {{
    {"3060", "GeForce RTX 3060", 12 * kGiB, 360e9, 31.5e9, 102e12, 25.5e12},
    {"3090", "GeForce RTX 3090", 24 * kGiB, 936e9, 31.5e9, 284e12, 71e12},
    {"4090", "GeForce RTX 4090", 24 * kGiB, 1008e9, 31.5e9, 660e12, 165e12},
    {"5090", "GeForce RTX 5090", 32 * kGiB, 1792e9, 63e9, 838e12, 209e12},
    {"a100", "A100 80GB SXM", 80 * kGiB, 2039e9, 31.5e9, 624e12, 312e12},
    {"h100", "H100 SXM", 80 * kGiB, 3350e9, 63e9, 1979e12, 989e12},
}};

std::string Plain(absl::string_view name) {
  std::string plain;
  for (const char c : name) {
    if (std::isalnum(static_cast<unsigned char>(c)) != 0) plain += static_cast<char>(std::tolower(c));
  }
  absl::string_view rest = plain;
  absl::ConsumePrefix(&rest, "geforce");
  absl::ConsumePrefix(&rest, "rtx");
  return std::string(rest);
}

}  // namespace

absl::Span<const GpuCard> AllGpuCards() { return kCards; }

absl::StatusOr<const GpuCard*> GpuCardByName(absl::string_view name) {
  const std::string plain = Plain(name);
  for (const GpuCard& card : kCards) {
    if (card.name == plain) return &card;
  }
  return UsageError("unknown card \"", name, "\"; known are ",
                    absl::StrJoin(kCards, ", ", [](std::string* out, const GpuCard& card) {
                      out->append(card.name.data(), card.name.size());
                    }));
}

}  // namespace kompakt
