// The answer of --json as text.
#pragma once

#include <string>

#include "nlohmann/json.hpp"

namespace kompakt {

// One line with an indent of -1. Paths and names may hold bytes that are not UTF-8; JSON cannot, so they become
// replacement characters.
inline std::string JsonText(const nlohmann::ordered_json& json, int indent = 2) {
  return json.dump(indent, ' ', false, nlohmann::ordered_json::error_handler_t::replace) + "\n";
}

}  // namespace kompakt
