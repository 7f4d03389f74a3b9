// kompakt convert SRC DST [--recipe NAME|FILE | --fit SIZE [-c N]] [--tensor PATTERN=FORMAT]... [-t N] [--dry-run]
// [--force] [--restart] [--ram SIZE] [--part I/N] [--keep-mtp] [--strict] [--calibration FILE | --calibrate TEXT]
#include "quant/convert.h"

#include <chrono>

#include "absl/strings/numbers.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_format.h"
#include "absl/strings/str_join.h"
#include "absl/strings/str_split.h"
#include "absl/strings/strip.h"
#include "format/packed_target.h"
#include "format/status.h"
#include "format/volume_name.h"
#include "nlohmann/json.hpp"
#include "tools/calibration_run.h"
#include "tools/json_text.h"
#include "tools/machine_memory.h"
#include "tools/model_input.h"
#include "tools/plan_report.h"
#include "tools/ranks.h"
#include "tools/source_flags.h"
#include "tools/terminal.h"
#include "tools/verbs.h"

namespace kompakt {
namespace {

constexpr int64_t kMostParts = 65536;

class ConvertVerb : public Verb {
 public:
  void Declare(CLI::App& app) override {
    app.add_option("source", source_, "Checkpoint folder (config.json and safetensors), or a .kpk")->required();
    app.add_option("destination", destination_, "The .kpk file to write");
    DeclareRecipeFlags(app, flags_);
    DeclareSourceFlags(app, source_flags_);
    DeclareCalibrationFlag(app, calibration_);
    DeclareCalibrateFlag(app, calibration_);
    app.add_option("-t,--threads", threads_, "Threads; 0 (default) takes every processor");
    DeclareRamFlag(app, ram_);
    app.add_option(
        "--part", part_,
        "I/N: write the I-th of N parts of the file (1 to N), for as many processes or machines that see the "
        "same destination; the last to finish completes it");
    app.add_flag("--dry-run", dry_run_, "Read headers only and print the plan");
    app.add_flag("--force", force_, "Replace a destination that was made from something else");
    app.add_flag("--restart", restart_, "Throw away what an interrupted conversion left, instead of going on from it");
  }

  absl::StatusOr<ExitCode> Run() override {
    KOMPAKT_ASSIGN_OR_RETURN(const int threads, ResolveThreads(threads_));
    if (destination_.empty() && !dry_run_)
      return UsageError("convert needs a destination: kompakt convert SRC DST.kpk");
    KOMPAKT_ASSIGN_OR_RETURN(const RamLimit ram, ChooseRam(ram_));
    ram_bytes_ = ram.bytes;
    KOMPAKT_ASSIGN_OR_RETURN(share_, ParsePart(part_));
    KOMPAKT_ASSIGN_OR_RETURN(const std::unique_ptr<Ranks> ranks, JoinRanks());
    if (ranks->count() > 1) {
      if (!part_.empty()) return UsageError("--part and a start by mpirun exclude each other: each rank is a part");
      share_ = {ranks->index(), ranks->count()};
    }
    absl::StatusOr<ExitCode> code = RunShare(threads, ram, ranks->index() == 0);
    // A rank that failed says why before the others end: then mpirun ends it, perhaps before its error is printed. What
    // the others have done is kept.
    if (!code.ok() && ranks->count() > 1) {
      PrintNotice(absl::StrCat("rank ", ranks->index(), " of ", ranks->count(), ": ", code.status().message()));
    }
    const bool all_good = ranks->AllGood(code.ok());
    if (code.ok() && !all_good) {
      return absl::UnavailableError(
          absl::StrCat("another rank has failed; what is done is kept, go on with: ", CommandLineText()));
    }
    return code;
  }

 private:
  absl::StatusOr<ExitCode> RunShare(int threads, const RamLimit& ram, bool speaks) {
    source_flags_.silent = !speaks;
    KOMPAKT_ASSIGN_OR_RETURN(const std::unique_ptr<TensorSource> source, OpenFlaggedSource(source_, source_flags_));
    if (!calibration_.text.empty() && !dry_run_) {
      if (!share_.is_whole()) {
        return UsageError(
            "--calibrate and parts exclude each other: make a file with kompakt calibrate, and give it to ",
            "every part with --calibration");
      }
      KOMPAKT_RETURN_IF_ERROR(CalibrateFor(source_, source_flags_.keep_mtp, threads, destination_, &calibration_));
    }
    KOMPAKT_ASSIGN_OR_RETURN(importance_, OpenCalibration(calibration_, *source));
    if (dry_run_) {
      if (!speaks) return kExitYes;
      return AnswerPlan(*source, flags_, destination_, threads, ram, importance_.get(), json_);
    }
    KOMPAKT_ASSIGN_OR_RETURN(volume_bytes_, VolumeBytes(flags_));
    KOMPAKT_ASSIGN_OR_RETURN(const ChosenRecipe chosen, ChooseRecipe(flags_, *source, threads, importance_.get()));
    if (chosen.fit.has_value() && speaks) PrintNotice(absl::StrCat("note: --fit chose ", chosen.fit->chosen));
    return Convert(*source, chosen.recipe, threads);
  }

  // "2/4"; empty: the whole file.
  static absl::StatusOr<WriteShare> ParsePart(const std::string& text) {
    WriteShare share;
    if (text.empty()) return share;
    const std::vector<std::string> numbers = absl::StrSplit(text, '/');
    if (numbers.size() != 2 || !absl::SimpleAtoi(numbers[0], &share.index) ||
        !absl::SimpleAtoi(numbers[1], &share.count) || share.index < 1 || share.index > share.count ||
        share.count > kMostParts) {
      return UsageError("--part: expected I/N with 1 <= I <= N <= ", kMostParts, ", found ", text);
    }
    share.index -= 1;
    return share;
  }

  absl::StatusOr<ExitCode> Convert(const TensorSource& source, const QuantRecipe& recipe, int threads) {
    const auto start = std::chrono::steady_clock::now();
    absl::StatusOr<ConvertReport> report;
    {
      const StopsByItself stops_by_itself;
      Progress progress("convert", "bytes");
      ConvertOptions options;
      options.threads = threads;
      options.ram_bytes = ram_bytes_;
      options.share = share_;
      options.importance = importance_.get();
      options.force = force_;
      options.volume_bytes = volume_bytes_;
      options.restart = restart_;
      options.interrupted = &Interrupted();
      options.progress = [&](uint64_t done, uint64_t total) { progress.Update(done, total); };
      report = kompakt::Convert(source, recipe, destination_, options, PosixFileSystem());
    }
    if (absl::IsCancelled(report.status())) {
      // Once more with --restart would throw away what this run has done.
      return absl::CancelledError(absl::StrCat(WhatIsKept(), "; go on with:\n  ", CommandLineText("--restart")));
    }
    if (!report.ok()) return report.status();
    const double seconds = std::chrono::duration<double>(std::chrono::steady_clock::now() - start).count();
    // Of several ranks the one that completed the file tells; of several parts each tells.
    const bool waits = !report->unfinished_shares.empty() || report->committed_by_another;
    if (!waits || !part_.empty()) {
      PrintAnswer(json_ ? JsonText(Json(*report, seconds)) : waits ? WaitingText(*report) : Text(*report, seconds));
    }
    // Known only now: the file is right, its source is suspicious.
    KOMPAKT_RETURN_IF_ERROR(ReportObservations(source, source_flags_));
    return kExitYes;
  }

  // The names of volumes depend on their number, which only the plan knows: what lies there tells.
  std::string WhatIsKept() const {
    std::vector<std::string> kept;
    for (const std::string& path : PosixFileSystem().ListPrefix(std::string(absl::StripSuffix(destination_, ".kpk")))) {
      const absl::string_view whole = absl::StripSuffix(path, ".partial");
      if (whole.size() == path.size()) continue;
      const absl::optional<VolumeName> volume = ParseVolumePath(std::string(whole));
      if (whole == destination_ || (volume.has_value() && volume->whole == destination_)) kept.push_back(path);
    }
    if (kept.empty()) return "nothing was written yet";
    if (kept.size() > 3) kept = {absl::StrCat(kept.front(), " to ", kept.back())};
    return absl::StrCat("what is done is kept in ", absl::StrJoin(kept, ", "));
  }

  std::string WaitingText(const ConvertReport& report) const {
    const std::string done =
        absl::StrCat("part ", share_.index + 1, " of ", share_.count, " of ", destination_, " is done");
    if (report.committed_by_another) return absl::StrCat(done, "; another part completes the file\n");
    std::vector<int64_t> parts;
    for (const int64_t share : report.unfinished_shares) parts.push_back(share + 1);
    return absl::StrCat(done, "; not finished yet: ", absl::StrJoin(parts, ", "),
                        ". The last to finish completes the file; `kompakt verify ", destination_,
                        "` tells how far it is\n");
  }

  std::string Text(const ConvertReport& report, double seconds) const {
    std::string text = absl::StrFormat(
        "%s  %s bytes, %s in %.2f s\n", FilesText(report), GroupedDigits(static_cast<int64_t>(report.file_bytes)),
        report.already_complete ? "was already complete and is intact, checked" : "written and verified", seconds);
    if (importance_ != nullptr) absl::StrAppend(&text, CalibrationText(*importance_), "\n");
    if (report.resumed_records > 0) {
      absl::StrAppend(&text, "resumed: ", report.resumed_records, " records of an earlier run were checked and kept\n");
    }
    if (!report.errors.empty()) {
      absl::StrAppend(&text, absl::StrFormat("\n%-15s  %-9s  %11s  %10s  %s\n", "class", "format", "parameters",
                                             "NMSE dB", "largest error"));
    }
    for (const auto& e : report.errors) {
      absl::StrAppend(&text, absl::StrFormat("%-15s  %-9s  %11s  %10.2f  %.3g\n", e.tensor_class, e.format,
                                             HumanCount(e.parameters), e.nmse_db, e.max_abs_error));
    }
    return text;
  }

  static std::string FilesText(const ConvertReport& report) {
    if (report.paths.size() == 1) return report.paths[0];
    return absl::StrCat(report.paths.front(), " to ", report.paths.back(), ", ", report.paths.size(), " volumes:");
  }

  nlohmann::ordered_json Json(const ConvertReport& report, double seconds) const {
    nlohmann::ordered_json errors = nlohmann::ordered_json::array();
    for (const auto& e : report.errors) {
      errors.push_back({{"class", e.tensor_class},
                        {"format", e.format},
                        {"parameters", e.parameters},
                        {"nmse_db", e.nmse_db},
                        {"max_abs_error", e.max_abs_error}});
    }
    nlohmann::ordered_json parts = nlohmann::ordered_json::array();
    for (const int64_t share : report.unfinished_shares) parts.push_back(share + 1);
    return {{"file", report.paths[0]},
            {"files", report.paths},
            {"file_bytes", report.file_bytes},
            {"seconds", seconds},
            {"already_complete", report.already_complete},
            {"calibrated", importance_ != nullptr},
            {"calibration", CalibrationJson(importance_.get())},
            {"resumed_records", report.resumed_records},
            {"complete", report.unfinished_shares.empty() && !report.committed_by_another},
            {"unfinished_parts", std::move(parts)},
            {"errors", std::move(errors)}};
  }

  std::string source_;
  std::string destination_;
  RecipeFlags flags_;
  SourceFlags source_flags_;
  CalibrationFlags calibration_;
  std::shared_ptr<const Importance> importance_;  // null: data-free
  uint64_t volume_bytes_ = 0;
  int threads_ = 0;
  bool dry_run_ = false;
  bool force_ = false;
  bool restart_ = false;
  std::string ram_;
  uint64_t ram_bytes_ = 0;
  std::string part_;
  WriteShare share_;
};

}  // namespace

std::unique_ptr<Verb> MakeConvertVerb() { return std::make_unique<ConvertVerb>(); }

}  // namespace kompakt
