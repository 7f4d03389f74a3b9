// kompakt verify FILE [--source FOLDER] [--samples N] [--calibration FILE]
#include "absl/strings/str_cat.h"
#include "absl/strings/str_format.h"
#include "absl/strings/str_join.h"
#include "format/packed_reader.h"
#include "format/status.h"
#include "format/write_share.h"
#include "nlohmann/json.hpp"
#include "quant/source_check.h"
#include "tools/calibration_run.h"
#include "tools/json_text.h"
#include "tools/model_input.h"
#include "tools/terminal.h"
#include "tools/verbs.h"

namespace kompakt {
namespace {

class VerifyVerb : public Verb {
 public:
  void Declare(CLI::App& app) override {
    app.add_option("file", path_, "The .kpk file")->required();
    app.add_option("--source", source_, "The checkpoint it was made from: re-derive a sample of tensors and compare");
    app.add_option("--calibration", calibration_.file,
                   "With --source: the calibration that the file was made with, to derive its lossy tensors again");
    app.add_option("--samples", samples_, "With --source: how many tensors; 0 takes all")->capture_default_str();
    app.add_option("-t,--threads", threads_, "Threads; 0 (default) takes every processor");
  }

  absl::StatusOr<ExitCode> Run() override {
    KOMPAKT_ASSIGN_OR_RETURN(const int threads, ResolveThreads(threads_));
    if (samples_ < 0) return UsageError("--samples must be 0 or more, found ", samples_);
    absl::StatusOr<std::shared_ptr<const PackedReader>> file = PackedReader::Open(path_);
    if (!file.ok()) {
      if (absl::IsNotFound(file.status())) {
        const absl::StatusOr<UnfinishedFile> unfinished = InspectUnfinished(PosixFileSystem(), path_);
        if (unfinished.ok()) return AnswerUnfinished(*unfinished);
      }
      // kDataLoss: recognisably a packed file, but damaged; anything else is not ours to judge.
      if (!absl::IsDataLoss(file.status())) return file.status();
      return Answer({std::string(file.status().message())}, 0, nullptr);
    }
    std::vector<std::string> damage;
    {
      Progress progress("verify", "bytes");
      const uint64_t total = (*file)->file_bytes();
      for (const absl::Status& status :
           (*file)->Verify(threads, [&](uint64_t done) { progress.Update(done, total); })) {
        damage.emplace_back(status.message());
      }
    }
    if (source_.empty()) return Answer(damage, (*file)->file_bytes(), nullptr);
    KOMPAKT_ASSIGN_OR_RETURN(const std::unique_ptr<TensorSource> source,
                             OpenSource(source_, (*file)->schema().arch().mtp_layers() > 0));
    KOMPAKT_ASSIGN_OR_RETURN(const auto importance, OpenCalibration(calibration_, *source));
    Progress progress("compare with the source", "tensors");
    KOMPAKT_ASSIGN_OR_RETURN(const SourceCheck check, CheckAgainstSource(
                                                          **file, *source, samples_, threads,
                                                          [&](int64_t done, int64_t total) {
                                                            progress.Update(static_cast<uint64_t>(done),
                                                                            static_cast<uint64_t>(total));
                                                          },
                                                          importance.get()));
    if (check.lacks_calibration) {
      PrintNotice(
          "note: the file was made with a calibration; without it (--calibration) only what was kept exactly is "
          "derived again");
    }
    return Answer(damage, (*file)->file_bytes(), &check);
  }

 private:
  absl::StatusOr<ExitCode> AnswerUnfinished(const UnfinishedFile& state) {
    nlohmann::ordered_json splits = nlohmann::ordered_json::array();
    std::string text = absl::StrCat(path_, ": not complete: ", state.finished, " of ", state.records,
                                    " records are finished in ", path_, ".partial\n");
    for (const UnfinishedFile::Split& split : state.splits) {
      std::vector<int64_t> parts;
      for (const int64_t share : split.unfinished) parts.push_back(share + 1);
      splits.push_back({{"parts", split.count}, {"unfinished", parts}});
      if (split.count == 1) continue;
      absl::StrAppend(&text, "  of ", split.count, " parts ",
                      parts.empty() ? "all are finished, and none has completed the file: run any of them again"
                                    : absl::StrCat("these are not finished: ", absl::StrJoin(parts, ", ")),
                      "\n");
    }
    const nlohmann::ordered_json json = {{"file", path_},
                                         {"intact", false},
                                         {"complete", false},
                                         {"records", state.records},
                                         {"finished_records", state.finished},
                                         {"splits", std::move(splits)}};
    PrintAnswer(json_ ? JsonText(json) : text);
    return kExitNo;
  }

  absl::StatusOr<ExitCode> Answer(const std::vector<std::string>& damage, uint64_t bytes, const SourceCheck* check) {
    const bool intact = damage.empty();
    const bool same = check == nullptr || check->differences.empty();
    if (json_) {
      nlohmann::ordered_json json = {{"file", path_}, {"intact", intact}, {"bytes", bytes}, {"damage", damage}};
      if (check != nullptr) {
        json["source"] = {{"path", source_},
                          {"same", same},
                          {"tensors_checked", check->tensors_checked},
                          {"parameters_checked", check->parameters_checked},
                          {"lacks_calibration", check->lacks_calibration},
                          {"differences", check->differences}};
      }
      PrintAnswer(JsonText(json));
    } else {
      std::string text = intact ? absl::StrCat(path_, ": intact, ", GroupedDigits(static_cast<int64_t>(bytes)),
                                               " bytes, every checksum right\n")
                                : absl::StrCat(path_, ": DAMAGED\n");
      for (const std::string& line : damage) absl::StrAppend(&text, "  ", line, "\n");
      if (check != nullptr) {
        absl::StrAppend(
            &text, absl::StrFormat("%s %s: %s tensors (%s parameters) derived again, %s\n",
                                   same ? "same as" : "NOT the same as", source_, GroupedDigits(check->tensors_checked),
                                   HumanCount(check->parameters_checked),
                                   same ? "every byte equal, source files unchanged" : "differences:"));
        for (const std::string& line : check->differences) absl::StrAppend(&text, "  ", line, "\n");
      }
      PrintAnswer(text);
    }
    return intact && same ? kExitYes : kExitNo;
  }

  std::string path_, source_;
  CalibrationFlags calibration_;
  int64_t samples_ = 64;
  int threads_ = 0;
};

}  // namespace

std::unique_ptr<Verb> MakeVerifyVerb() { return std::make_unique<VerifyVerb>(); }

}  // namespace kompakt
