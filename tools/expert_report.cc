#include "tools/expert_report.h"

#include <algorithm>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_format.h"
#include "tools/terminal.h"

namespace kompakt {
namespace {

double Share(uint64_t part, uint64_t whole) {
  return whole == 0 ? 0 : static_cast<double>(part) / static_cast<double>(whole);
}

double PerToken(const ExpertCacheStats& stats, int64_t tokens) {
  return static_cast<double>(stats.read_bytes) / static_cast<double>(std::max<int64_t>(tokens, 1));
}

double DiskRate(const ExpertCacheStats& stats) {
  return stats.read_seconds > 0 ? static_cast<double>(stats.read_bytes) / stats.read_seconds : 0;
}

}  // namespace

nlohmann::ordered_json ExpertJson(const ExpertCacheStats& stats, int64_t tokens) {
  return {{"tokens", tokens},
          {"uses", stats.uses},
          {"hits", stats.hits},
          {"guessed", stats.guessed},
          {"misses", stats.misses()},
          {"guesses", stats.guesses},
          {"hit_rate", Share(stats.hits, stats.uses)},
          {"guess_use_rate", Share(stats.guessed, stats.guesses)},
          {"read_bytes", stats.read_bytes},
          {"read_bytes_per_token", PerToken(stats, tokens)},
          {"read_seconds", stats.read_seconds},
          {"disk_bytes_per_second", DiskRate(stats)},
          {"wait_seconds", stats.wait_seconds}};
}

std::string ExpertLine(absl::string_view what, const ExpertCacheStats& stats, int64_t tokens) {
  return absl::StrFormat(
      "%s: %.1f %% in memory, %.1f %% read ahead by guesses, %.1f %% waited for; %.0f %% of %d guesses used; %s read "
      "per token at %s/s, waited %.1f s",
      what, 100 * Share(stats.hits, stats.uses), 100 * Share(stats.guessed, stats.uses),
      100 * Share(stats.misses(), stats.uses), 100 * Share(stats.guessed, stats.guesses), stats.guesses,
      HumanBytes(static_cast<uint64_t>(PerToken(stats, tokens))), HumanBytes(static_cast<uint64_t>(DiskRate(stats))),
      stats.wait_seconds);
}

}  // namespace kompakt
