// Where a conversion writes: one file, or a set of volumes. May it, and what lies there already?
#pragma once

#include <string>
#include <vector>

#include "absl/status/status.h"
#include "format/file_system.h"

namespace kompakt {

// `paths`: the finished files (TargetPaths of format/packed_target.h); `destination`: the name that the user gave.

// The file that would be opened under the name of the destination, when there is one: the destination, or the first
// volume; else empty.
std::string ExistingDestination(FileSystem& fs, const std::string& destination, const std::vector<std::string>& paths);

// Of a set: none of its names, nor the whole name, is taken by a file that is not part of an interrupted run of this
// very set. kAlreadyExists naming it. A folder in the place of a file is kInvalidArgument.
absl::Status CheckNamesFree(FileSystem& fs, const std::string& destination, const std::vector<std::string>& paths);

// A folder or device in the place of a file would only be found by the rename, hours later. kInvalidArgument.
absl::Status CheckReplaceable(FileSystem& fs, const std::string& path);

// A full disk is told before any weight is read. kResourceExhausted.
absl::Status CheckRoom(FileSystem& fs, const std::string& destination, const std::vector<std::string>& paths,
                       uint64_t file_bytes);

// A destination that is in the way: "PATH exists and <why>; ..." kAlreadyExists.
absl::Status InTheWay(const std::string& path, absl::string_view why);

}  // namespace kompakt
