#include "tools/calibration_run.h"

#include <algorithm>
#include <chrono>
#include <utility>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_format.h"
#include "absl/strings/str_join.h"
#include "format/checksum.h"
#include "format/status.h"
#include "runtime/tokenizer.h"
#include "tools/default_text.h"
#include "tools/model_input.h"
#include "tools/terminal.h"
#include "tools/verbs.h"

namespace kompakt {
namespace {

constexpr absl::string_view kDefaultText = "default";
// Experts that a line of the answer names.
constexpr size_t kMostNamed = 8;

absl::StatusOr<std::string> ReadText(const CalibrationRequest& request) {
  if (request.text.empty()) return std::string(DefaultCalibrationText());
  return ReadTextFile(request.text);
}

// The last part of a path: a file that is passed on need not tell where it was made.
std::string LastPart(std::string path) {
  while (path.size() > 1 && path.back() == '/') path.pop_back();
  return path.substr(path.rfind('/') + 1);
}

std::string TextName(const CalibrationRequest& request) {
  return request.text.empty() ? std::string("the text in kompakt") : LastPart(request.text);
}

// What is to be known of one layer's experts.
struct Coverage {
  int64_t layer = 0;
  int64_t least = 0;
  int64_t median = 0;
  std::vector<int64_t> unseen;
  int64_t rare = 0;  // seen, but less often than asked for
};

Coverage CoverageOf(const CalibrationReport::Layer& layer, int64_t min_tokens) {
  Coverage coverage{.layer = layer.layer, .unseen = {}};
  std::vector<int64_t> sorted = layer.tokens_per_expert;
  std::sort(sorted.begin(), sorted.end());
  coverage.least = sorted.front();
  coverage.median = sorted[sorted.size() / 2];
  for (size_t e = 0; e < layer.tokens_per_expert.size(); ++e) {
    const int64_t tokens = layer.tokens_per_expert[e];
    if (tokens == 0) coverage.unseen.push_back(static_cast<int64_t>(e));
    coverage.rare += tokens > 0 && tokens < min_tokens ? 1 : 0;
  }
  return coverage;
}

std::string ExpertsText(const std::vector<int64_t>& experts) {
  if (experts.size() <= kMostNamed) return absl::StrJoin(experts, ", ");
  return absl::StrCat(absl::StrJoin(experts.begin(), experts.begin() + kMostNamed, ", "), " and ",
                      experts.size() - kMostNamed, " more");
}

void Warn(const std::vector<Coverage>& layers, int64_t min_tokens) {
  int64_t unseen = 0, rare = 0;
  for (const Coverage& layer : layers) {
    unseen += static_cast<int64_t>(layer.unseen.size());
    rare += layer.rare;
  }
  if (unseen + rare == 0) return;
  PrintNotice(absl::StrCat(
      "warning: ", unseen, unseen == 1 ? " expert was" : " experts were", " never seen, ", rare, " fewer than ",
      min_tokens, " times; their layer's mean stands in for what is missing. A longer text sees more of them"));
}

CalibrationAnswer MakeAnswer(const std::string& output, const CalibrationHeader& header, uint64_t xxh3,
                             const std::vector<CalibrationRow>& rows, const CalibrationChunks& chunks,
                             const CalibrationMemory& memory, uint64_t file_bytes, bool hessian, int64_t min_tokens,
                             const std::vector<Coverage>& layers, double seconds) {
  CalibrationAnswer answer;
  answer.text = absl::StrFormat("%s: %s inputs over %s tokens of %s in %d chunks of %d%s, %s bytes, %.1f s\n", output,
                                GroupedDigits(std::ssize(rows)), GroupedDigits(chunks.tokens()), header.text_name,
                                chunks.count(), chunks.context(), hessian ? ", with second moments" : "",
                                GroupedDigits(static_cast<int64_t>(file_bytes)), seconds);
  nlohmann::ordered_json coverage = nlohmann::ordered_json::array();
  if (!layers.empty()) {
    absl::StrAppend(&answer.text, absl::StrFormat("\n%5s  %10s  %10s  %s\n", "layer", "fewest", "median",
                                                  "tokens per expert; experts that were never seen"));
  }
  for (const Coverage& layer : layers) {
    absl::StrAppend(&answer.text, absl::StrFormat("%5d  %10s  %10s  %s\n", layer.layer, GroupedDigits(layer.least),
                                                  GroupedDigits(layer.median),
                                                  layer.unseen.empty() ? std::string("-") : ExpertsText(layer.unseen)));
    coverage.push_back({{"layer", layer.layer},
                        {"min_tokens", layer.least},
                        {"median_tokens", layer.median},
                        {"never_seen", layer.unseen},
                        {"seen_rarely", layer.rare}});
  }
  answer.json = {{"calibration", output},
                 {"xxh3", HexOf(xxh3)},
                 {"model", header.model_name},
                 {"text", header.text_name},
                 {"tokens", chunks.tokens()},
                 {"chunks", chunks.count()},
                 {"context", chunks.context()},
                 {"inputs", rows.size()},
                 {"hessian", hessian},
                 {"file_bytes", file_bytes},
                 {"memory_bytes", memory.total()},
                 {"min_tokens", min_tokens},
                 {"coverage", std::move(coverage)},
                 {"seconds", seconds}};
  return answer;
}

}  // namespace

absl::StatusOr<CalibrationAnswer> RunCalibration(const std::string& model, bool keep_mtp,
                                                 const CalibrationRequest& request, const ModelOptions& options,
                                                 const std::string& output) {
  if (request.tokens < 0) return UsageError("--tokens: expected 0 or more, found ", request.tokens);
  if (request.min_tokens < 0) return UsageError("--min-tokens: expected 0 or more, found ", request.min_tokens);
  KOMPAKT_ASSIGN_OR_RETURN(const std::string text, ReadText(request));
  KOMPAKT_ASSIGN_OR_RETURN(const LoadedModel loaded, LoadModel(model, options, keep_mtp));
  KOMPAKT_ASSIGN_OR_RETURN(const std::unique_ptr<Tokenizer> tokenizer, Tokenizer::Create(loaded.assets));
  KOMPAKT_ASSIGN_OR_RETURN(const std::vector<int32_t> ids, tokenizer->Encode(text));
  std::optional<int32_t> bos;
  if (loaded.assets.has_bos_id()) bos = static_cast<int32_t>(loaded.assets.bos_id());
  KOMPAKT_ASSIGN_OR_RETURN(const CalibrationChunks chunks,
                           CalibrationChunks::Create(ids, bos, request.context, request.tokens));

  CalibrationHeader header;
  header.model_name = LastPart(model);
  header.text_name = TextName(request);
  header.model = CalibrationModel::Of(loaded.model->arch(), loaded.assets);
  header.weights_xxh3 = loaded.identity_xxh3;
  header.text_xxh3 = Xxh3(text);
  header.tokens = chunks.tokens();
  header.context = chunks.context();
  const std::vector<CalibrationRow> rows = CalibrationRows(loaded.weights->schema(), request.hessian);
  const CalibrationMemory memory = CalibrationMemoryOf(loaded.model->arch(), loaded.model->options().threads,
                                                       chunks.tokens(), chunks.context(), rows);
  const uint64_t file_bytes = CalibrationFileBytes(header, rows);
  PrintNotice(absl::StrCat("calibrate: ", GroupedDigits(chunks.tokens()), " tokens in ", chunks.count(),
                           " chunks; at most ", HumanBytes(memory.total()), " of memory besides the model (",
                           HumanBytes(memory.hidden_bytes), " hidden states, ", HumanBytes(memory.statistics_bytes),
                           " statistics of a layer, ", HumanBytes(memory.working_bytes), " to work in); ", output,
                           " will take ", HumanBytes(file_bytes)));

  const auto start = std::chrono::steady_clock::now();
  KOMPAKT_ASSIGN_OR_RETURN(const std::unique_ptr<CalibrationWriter> writer,
                           CalibrationWriter::Create(PosixFileSystem(), output, header, rows));
  absl::StatusOr<CalibrationReport> report;
  {
    const StopsByItself stops_by_itself;
    Progress progress("calibrate", "chunks of a layer");
    report = Calibrate(*loaded.model, chunks, *writer, [&](int64_t done, int64_t total) {
      progress.Update(static_cast<uint64_t>(done), static_cast<uint64_t>(total));
      return !Interrupted();
    });
  }
  if (!report.ok()) return report.status();
  const double seconds = std::chrono::duration<double>(std::chrono::steady_clock::now() - start).count();
  std::vector<Coverage> layers;
  for (const CalibrationReport::Layer& layer : report->layers) {
    layers.push_back(CoverageOf(layer, request.min_tokens));
  }
  Warn(layers, request.min_tokens);
  KOMPAKT_ASSIGN_OR_RETURN(const auto written, CalibrationFile::Open(PosixFileSystem(), output));
  return MakeAnswer(output, header, written->xxh3(), rows, chunks, memory, file_bytes, request.hessian,
                    request.min_tokens, layers, seconds);
}

void DeclareCalibrationFlag(CLI::App& app, CalibrationFlags& flags) {
  app.add_option(
      "--calibration", flags.file,
      "A file that `kompakt calibrate` made: errors count by what the matrices multiply (default: data-free)");
}

void DeclareCalibrateFlag(CLI::App& app, CalibrationFlags& flags) {
  app.add_option("--calibrate", flags.text,
                 "Calibrate on this text first, into DESTINATION.kcal; \"default\" takes the text in the program")
      ->excludes(app.get_option("--calibration"));
  app.add_flag("--hessian", flags.hessian, "With --calibrate: second moments too, and with them error feedback")
      ->needs(app.get_option("--calibrate"));
}

absl::StatusOr<std::shared_ptr<const Importance>> OpenCalibration(const CalibrationFlags& flags,
                                                                  const TensorSource& source) {
  if (flags.file.empty()) return std::shared_ptr<const Importance>();
  KOMPAKT_ASSIGN_OR_RETURN(auto file, CalibrationFile::Open(PosixFileSystem(), flags.file));
  return Importance::Create(std::move(file), source.schema(), source.assets());
}

absl::Status CalibrateFor(const std::string& model, bool keep_mtp, int threads, const std::string& destination,
                          CalibrationFlags* flags) {
  CalibrationRequest request;
  if (flags->text != kDefaultText) request.text = flags->text;
  request.hessian = flags->hessian;
  if (request.text == "-") return UsageError("--calibrate: expected a file that can be read again, found stdin");
  flags->file = destination + ".kcal";
  if (PosixFileSystem().Exists(flags->file)) {
    const auto there = CalibrationFile::Open(PosixFileSystem(), flags->file);
    KOMPAKT_ASSIGN_OR_RETURN(const std::string text, ReadText(request));
    KOMPAKT_ASSIGN_OR_RETURN(const uint64_t weights, IdentityOf(model, keep_mtp));
    if (there.ok() && (*there)->header().weights_xxh3 == weights && (*there)->header().text_xxh3 == Xxh3(text) &&
        (*there)->has_matrices() == request.hessian) {
      PrintNotice(absl::StrCat("note: ", flags->file, " is of these weights and this text; it is used again"));
      return absl::OkStatus();
    }
    return absl::AlreadyExistsError(absl::StrCat(
        flags->file,
        " is in the way: ", there.ok() ? "it was made from another model or text" : there.status().message(),
        "; delete it, or use it as it is with --calibration"));
  }
  KOMPAKT_ASSIGN_OR_RETURN(const CalibrationAnswer answer,
                           RunCalibration(model, keep_mtp, request, {.threads = threads}, flags->file));
  PrintNoticeLines(answer.text);
  return absl::OkStatus();
}

std::string CalibrationText(const Importance& importance) {
  const CalibrationFile& file = importance.file();
  return absl::StrCat("calibrated  with ", file.path(), ": ", GroupedDigits(file.header().tokens), " tokens of ",
                      file.header().text_name);
}

nlohmann::ordered_json CalibrationJson(const Importance* importance) {
  if (importance == nullptr) return nullptr;
  const CalibrationFile& file = importance->file();
  return {{"file", file.path()},
          {"xxh3", HexOf(file.xxh3())},
          {"text", file.header().text_name},
          {"tokens", file.header().tokens},
          {"memory_bytes", importance->MemoryBytes()}};
}

}  // namespace kompakt
