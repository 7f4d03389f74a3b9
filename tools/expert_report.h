// What an ExpertCache did, for people and as JSON.
#pragma once

#include <cstdint>
#include <string>

#include "absl/strings/string_view.h"
#include "nlohmann/json.hpp"
#include "runtime/expert_cache.h"

namespace kompakt {

// `tokens` went through the model meanwhile.
nlohmann::ordered_json ExpertJson(const ExpertCacheStats& stats, int64_t tokens);
std::string ExpertLine(absl::string_view what, const ExpertCacheStats& stats, int64_t tokens);

}  // namespace kompakt
