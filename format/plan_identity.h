// Is an existing file, or an interrupted conversion, the same job as the one asked for now? And if not, what differs?
#pragma once

#include <string>

#include "format/manifest.pb.h"

namespace kompakt {

// What decides the bytes of a packed file: the manifest without record checksums and statistics, the content of every
// asset replaced by its XXH3 (16 hex digits).
Manifest PlanIdentity(const Manifest& manifest);

// Two identities compared: empty when equal, else what differs, for people: "the recipe differs; source file
// model-00002.safetensors changed (XXH3 1f.. before, 2e.. now)". `before` and `now` come from PlanIdentity.
std::string PlanDifference(const Manifest& before, const Manifest& now);

}  // namespace kompakt
