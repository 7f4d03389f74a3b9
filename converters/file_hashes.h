// XXH3-64 of whole files, several at a time.
#pragma once

#include <string>
#include <vector>

#include "absl/status/statusor.h"
#include "format/manifest.pb.h"

namespace kompakt {

// Size and hash of each of `names`, relative to `folder`; ascending by name. Up to `threads` files at once.
absl::StatusOr<std::vector<SourceFile>> HashFolderFiles(const std::string& folder, std::vector<std::string> names,
                                                        int threads);

// The same without reading them: names and sizes only.
absl::StatusOr<std::vector<SourceFile>> ListFolderFiles(const std::string& folder, std::vector<std::string> names);

}  // namespace kompakt
