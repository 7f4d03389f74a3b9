// kompakt export SRC OUT --to safetensors [--dtype bf16|f32|source] [--loose] [--config FILE] [--ram SIZE] [-t N]
// [--strict] [--force]
#include <chrono>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_format.h"
#include "converters/checkpoint.h"
#include "converters/export_files.h"
#include "converters/input_file.h"
#include "converters/model_folder.h"
#include "converters/upstream_tensors.h"
#include "format/packed_source.h"
#include "format/status.h"
#include "tools/byte_size.h"
#include "tools/json_text.h"
#include "tools/model_input.h"
#include "tools/source_flags.h"
#include "tools/terminal.h"
#include "tools/verbs.h"

namespace kompakt {
namespace {

class ExportVerb : public Verb {
 public:
  void Declare(CLI::App& app) override {
    app.add_option("source", source_, "A .kpk file or an upstream folder; with --loose any folder or .safetensors file")
        ->required();
    app.add_option("destination", destination_, "The folder to write")->required();
    app.add_option("--to", to_, "The form of the folder: safetensors");
    app.add_option(
        "--dtype", dtype_,
        "bf16 (default): matrices in BF16; f32: everything in F32; source: from a .kpk that keeps its tensors "
        "exactly, the upstream tensors bit for bit");
    app.add_flag("--loose", loose_, "Take whatever tensors there are, without asking for a whole model");
    app.add_option("--config", config_, "With --loose: the config.json that says how the tensors are quantized");
    app.add_option("--ram", ram_, "Memory for tensors in work, such as 512MiB (default 256MiB)");
    app.add_option("-t,--threads", threads_, "Threads; 0 (default) takes every processor");
    DeclareStrictFlag(app, source_flags_);
    app.add_flag("--force", force_, "Replace the destination, if it is a folder of plain files");
  }

  absl::StatusOr<ExitCode> Run() override {
    if (to_ != "safetensors") return UsageError("--to: expected safetensors, found \"", to_, "\"");
    KOMPAKT_ASSIGN_OR_RETURN(const ExportDtype dtype, ParseExportDtype(dtype_));
    KOMPAKT_ASSIGN_OR_RETURN(options_.threads, ResolveThreads(threads_));
    if (!ram_.empty()) {
      KOMPAKT_ASSIGN_OR_RETURN(options_.ram_bytes, ParseByteSize("--ram", ram_));
    }
    if (!config_.empty() && !loose_) return UsageError("--config goes with --loose");
    options_.force = force_;
    options_.interrupted = &Interrupted();
    if (!loose_ && !IsFolder(source_)) return ExportPacked(dtype);
    return ExportUpstream(dtype);
  }

 private:
  absl::StatusOr<ExitCode> ExportPacked(ExportDtype dtype) {
    KOMPAKT_ASSIGN_OR_RETURN(auto file, PackedReader::Open(source_));
    const std::unique_ptr<TensorSource> source = OpenPackedValues(std::move(file));
    KOMPAKT_RETURN_IF_ERROR(ReportNotices(source->notices(), source_flags_));
    KOMPAKT_ASSIGN_OR_RETURN(std::vector<OutputTensor> tensors, OutputsOfSource(*source, dtype));
    std::vector<FolderFile> files;
    for (const AssetFile& asset : source->assets().files()) {
      FolderFile out{asset.name(), asset.content()};
      if (asset.name() == "config.json") {
        KOMPAKT_ASSIGN_OR_RETURN(out.content,
                                 ConfigForDtype(asset.content(), absl::StrCat(source_, ": config.json"), dtype));
      }
      files.push_back(std::move(out));
    }
    return Write(std::move(tensors), files);
  }

  absl::StatusOr<ExitCode> ExportUpstream(ExportDtype dtype) {
    if (!loose_) {  // every tensor that the model calls for is there and fits
      KOMPAKT_ASSIGN_OR_RETURN(const std::unique_ptr<TensorSource> source, OpenCheckpoint(source_));
      KOMPAKT_RETURN_IF_ERROR(ReportNotices(source->notices(), source_flags_));
    }
    KOMPAKT_ASSIGN_OR_RETURN(const ExportFiles upstream, OpenExportFiles(source_, config_));
    KOMPAKT_ASSIGN_OR_RETURN(std::vector<OutputTensor> tensors,
                             OutputsOfFiles(upstream.shards, upstream.quantization, dtype));
    std::vector<FolderFile> files = upstream.beside;
    if (!upstream.config.empty()) {
      KOMPAKT_ASSIGN_OR_RETURN(std::string config,
                               ConfigForDtype(upstream.config, config_.empty() ? source_ : config_, dtype));
      files.push_back({"config.json", std::move(config)});
    }
    return Write(std::move(tensors), files);
  }

  absl::StatusOr<ExitCode> Write(std::vector<OutputTensor> tensors, const std::vector<FolderFile>& files) {
    const auto start = std::chrono::steady_clock::now();
    absl::StatusOr<FolderReport> report;
    {
      const StopsByItself stops_by_itself;
      Progress progress("export", "bytes");
      options_.progress = [&](uint64_t done, uint64_t total) { progress.Update(done, total); };
      report = WriteModelFolder(std::move(tensors), files, destination_, options_);
    }
    if (!report.ok()) return report.status();
    const double seconds = std::chrono::duration<double>(std::chrono::steady_clock::now() - start).count();
    if (json_) {
      const nlohmann::ordered_json answer = {{"folder", destination_},     {"dtype", dtype_},
                                             {"tensors", report->tensors}, {"tensor_bytes", report->tensor_bytes},
                                             {"files", report->files},     {"seconds", seconds}};
      PrintAnswer(JsonText(answer));
    } else {
      PrintAnswer(absl::StrFormat("%s  %d files, %d tensors, %s bytes as %s in %.2f s\n", destination_,
                                  report->files.size(), report->tensors,
                                  GroupedDigits(static_cast<int64_t>(report->tensor_bytes)), dtype_, seconds));
    }
    // Known only now: the folder is right, its source is suspicious.
    KOMPAKT_RETURN_IF_ERROR(ReportNotices(report->observations, source_flags_));
    return kExitYes;
  }

  SourceFlags source_flags_;
  std::string source_;
  std::string destination_;
  std::string to_ = "safetensors";
  std::string dtype_ = "bf16";
  std::string config_;
  std::string ram_;
  bool loose_ = false;
  bool force_ = false;
  int threads_ = 0;
  FolderOptions options_;
};

}  // namespace

std::unique_ptr<Verb> MakeExportVerb() { return std::make_unique<ExportVerb>(); }

}  // namespace kompakt
