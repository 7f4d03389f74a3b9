// The flags of convert and plan that say how to open a source, and what to make of what is suspicious in it.
#pragma once

#include <memory>
#include <string>
#include <vector>

#include "CLI/CLI.hpp"
#include "absl/status/statusor.h"
#include "format/tensor_source.h"

namespace kompakt {

struct SourceFlags {
  bool keep_mtp = false;
  bool strict = false;
  bool silent = false;  // no notices: another rank of the same run prints them
};

// Adds --keep-mtp and --strict to a verb.
void DeclareSourceFlags(CLI::App& app, SourceFlags& flags);
// --strict alone.
void DeclareStrictFlag(CLI::App& app, SourceFlags& flags);

// OpenSource, and its notices on stderr: what a user of the packed file will miss, and warnings. With --strict a
// warning is an error, kFailedPrecondition naming all of them.
absl::StatusOr<std::unique_ptr<TensorSource>> OpenFlaggedSource(const std::string& path, const SourceFlags& flags);

// Notices and warnings of a source on stderr. With --strict a warning is an error, kFailedPrecondition naming all of
// them.
absl::Status ReportNotices(const std::vector<std::string>& notices, const SourceFlags& flags);

// What reading the source has shown, on stderr. With --strict a warning is an error, kFailedPrecondition.
absl::Status ReportObservations(const TensorSource& source, const SourceFlags& flags);

}  // namespace kompakt
