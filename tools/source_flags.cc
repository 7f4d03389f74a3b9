#include "tools/source_flags.h"

#include <string>
#include <utility>
#include <vector>

#include "absl/strings/match.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_join.h"
#include "absl/strings/strip.h"
#include "format/status.h"
#include "runtime/tokenizer.h"
#include "tools/model_input.h"
#include "tools/terminal.h"

namespace kompakt {
namespace {

constexpr absl::string_view kWarning = "warning: ";

}  // namespace

absl::Status ReportNotices(const std::vector<std::string>& notices, const SourceFlags& flags) {
  std::vector<absl::string_view> warnings;
  for (const std::string& notice : notices) {
    const bool warning = absl::StartsWith(notice, kWarning);
    if (warning) warnings.push_back(absl::StripPrefix(notice, kWarning));
    if (!flags.silent && (!warning || !flags.strict)) PrintNotice(warning ? notice : absl::StrCat("note: ", notice));
  }
  if (!flags.strict || warnings.empty()) return absl::OkStatus();
  return absl::FailedPreconditionError(
      absl::StrCat("--strict: ", warnings.size(),
                   warnings.size() == 1 ? " warning: " : " warnings: ", absl::StrJoin(warnings, "; ")));
}

void DeclareSourceFlags(CLI::App& app, SourceFlags& flags) {
  app.add_flag("--keep-mtp", flags.keep_mtp, "Keep the layers that predict further tokens, at 8 bits");
  DeclareStrictFlag(app, flags);
}

void DeclareStrictFlag(CLI::App& app, SourceFlags& flags) {
  app.add_flag("--strict", flags.strict, "Take a warning about the source as an error (exit 3)");
}

absl::StatusOr<std::unique_ptr<TensorSource>> OpenFlaggedSource(const std::string& path, const SourceFlags& flags) {
  KOMPAKT_ASSIGN_OR_RETURN(std::unique_ptr<TensorSource> source, OpenSource(path, flags.keep_mtp));
  std::vector<std::string> notices = source->notices();
  // A source without a tokenizer says so itself.
  const absl::Status tokenizer = Tokenizer::Create(source->assets()).status();
  if (!tokenizer.ok() && !absl::IsNotFound(tokenizer)) {
    notices.push_back(absl::StrCat(kWarning, "the packed file will take token ids only, because its tokenizer cannot ",
                                   "be used: ", tokenizer.message()));
  }
  KOMPAKT_RETURN_IF_ERROR(ReportNotices(notices, flags));
  return source;
}

absl::Status ReportObservations(const TensorSource& source, const SourceFlags& flags) {
  return ReportNotices(source.observations(), flags);
}

}  // namespace kompakt
