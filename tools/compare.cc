// kompakt compare ORIGINAL [PACKED] -f TEXT [-c 512] [--save-baseline FILE] [--html FILE [--sensitivity FILE]]
// [--path reference|fast] [--gate kl=X] [--floor-chunks N] [-t N]
#include "validate/compare.h"

#include <chrono>

#include "absl/strings/match.h"
#include "absl/strings/numbers.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/strip.h"
#include "format/checksum.h"
#include "format/file_system.h"
#include "format/near_names.h"
#include "format/status.h"
#include "kernels/int8_activations.h"
#include "runtime/tokenizer.h"
#include "tools/compare_html.h"
#include "tools/compare_report.h"
#include "tools/json_text.h"
#include "tools/model_input.h"
#include "tools/runtime_flags.h"
#include "tools/terminal.h"
#include "tools/verbs.h"
#include "validate/baseline.h"

namespace kompakt {
namespace {

// The file that decides how a text is cut.
uint64_t TokenizerXxh3(const ModelAssets& assets) {
  for (const AssetFile& file : assets.files()) {
    if (file.name() == "tokenizer.json") return Xxh3(file.content());
  }
  std::string all;
  for (const AssetFile& file : assets.files()) absl::StrAppend(&all, file.name(), "\n", file.content(), "\n");
  return Xxh3(all);
}

std::optional<int32_t> BosOf(const ModelAssets& assets) {
  if (!assets.has_bos_id()) return std::nullopt;
  return static_cast<int32_t>(assets.bos_id());
}

absl::StatusOr<std::vector<int32_t>> Encode(const ModelAssets& assets, const std::string& text) {
  KOMPAKT_ASSIGN_OR_RETURN(const std::unique_ptr<Tokenizer> tokenizer, Tokenizer::Create(assets));
  return tokenizer->Encode(text);
}

// The last part of a path: files that are passed on need not tell where they were made.
std::string LastPart(std::string path) {
  while (path.size() > 1 && path.back() == '/') path.pop_back();
  return path.substr(path.rfind('/') + 1);
}

// "avx512", or "avx512, activations auto" where a set may round them.
std::string PathOf(const Model& model) {
  const ModelOptions& options = model.options();
  if (options.act.kind() == ActivationPolicy::Kind::kF32) return std::string(model.kernels().name);
  return absl::StrCat(model.kernels().name, ", activations ", options.act.name());
}

class CompareVerb : public Verb {
 public:
  void Declare(CLI::App& app) override {
    app.add_option("original", original_, "A checkpoint folder, a .kpk (a lossless one), or a baseline file")
        ->required();
    app.add_option("packed", packed_, "The .kpk to judge, or another folder; may be left out with --save-baseline");
    app.add_option("-f,--file", text_, "Text file (its bytes are taken as they are); - reads stdin")->required();
    context_option_ = app.add_option("-c,--ctx-size", context_,
                                     "Tokens per chunk; the second half of each is scored (a baseline knows its own)")
                          ->capture_default_str();
    app.add_option("--save-baseline", save_baseline_,
                   "Write what ORIGINAL predicts to this file, which then stands for it: at most 300 bytes per scored "
                   "token");
    app.add_option("--html", html_, "Write the report as one page, for a browser, to this file");
    app.add_option("--sensitivity", sensitivity_,
                   "What `kompakt sensitivity` measured, to be shown on the page of --html");
    app.add_option("--path", path_,
                   "Kernels that run the packed model: fast (default), or reference, to see the damage of the weights "
                   "alone");
    app.add_option("--gate", gate_, "kl=X: exit code 1 when the mean KL is above X");
    app.add_option("--floor-chunks", floor_chunks_, "Chunks on which the noise floor is measured; 0 leaves it out")
        ->capture_default_str();
    DeclareRuntimeFlags(app, runtime_);
    DeclareActivationFlag(app, runtime_, "auto");
    DeclareCacheFlag(app, runtime_.kv, "f32");
    DeclareRamLimitFlag(app, runtime_);
    DeclareDeviceFlags(app, runtime_.device, "cpu");
  }

  absl::StatusOr<ExitCode> Run() override {
    KOMPAKT_ASSIGN_OR_RETURN(packed_options_, ResolveRuntimeFlags(runtime_));
    options_ = WithoutRounding(packed_options_);
    options_.device = nullptr;  // of the packed model alone
    KOMPAKT_ASSIGN_OR_RETURN(const double gate, ReadGate());
    KOMPAKT_ASSIGN_OR_RETURN(reference_, KernelSetByName("reference"));
    if (path_ != "fast" && path_ != "reference") {
      return UsageError("--path: expected fast or reference, found \"", path_, "\"",
                        DidYouMean(path_, {"fast", "reference"}));
    }
    if (floor_chunks_ < 0) return UsageError("--floor-chunks: expected 0 or more, found ", floor_chunks_);
    if (packed_.empty() && save_baseline_.empty()) {
      return UsageError("compare needs a packed model: kompakt compare ORIGINAL PACKED -f TEXT");
    }
    if (html_.empty() && !sensitivity_.empty()) return UsageError("--sensitivity: expected --html with it");
    CompareReport report;
    if (!sensitivity_.empty()) {
      KOMPAKT_ASSIGN_OR_RETURN(report.sensitivity, ReadSensitivity(sensitivity_));
    }
    KOMPAKT_ASSIGN_OR_RETURN(text_bytes_, ReadTextFile(text_));
    const bool from_baseline = BaselineReader::IsBaseline(PosixFileSystem(), original_);
    if (from_baseline && !save_baseline_.empty()) {
      return UsageError("--save-baseline: expected a model to make it from, found the baseline ", original_);
    }
    if (packed_.empty()) {
      if (!html_.empty()) return UsageError("--html: expected a packed model to report on, found none");
      return SaveBaselineOnly();
    }

    const auto start = std::chrono::steady_clock::now();
    report.original = original_;
    report.packed = packed_;
    report.text = text_;
    if (from_baseline) {
      KOMPAKT_RETURN_IF_ERROR(FromBaseline(report));
    } else {
      KOMPAKT_RETURN_IF_ERROR(FromModel(report));
    }
    report.seconds = std::chrono::duration<double>(std::chrono::steady_clock::now() - start).count();
    if (!html_.empty()) KOMPAKT_RETURN_IF_ERROR(ReplaceFile(PosixFileSystem(), html_, CompareHtml(report)));
    PrintAnswer(json_ ? JsonText(CompareJson(report)) : CompareText(report));
    const double kl = report.comparison.divergence.kl.mean();
    if (gate_.empty() || kl <= gate) return kExitYes;
    PrintNotice(absl::StrCat("the mean KL of ", kl, " is above the gate of ", gate));
    return kExitNo;
  }

 private:
  absl::StatusOr<double> ReadGate() const {
    absl::string_view value = gate_;
    double gate = 0;
    if (gate_.empty()) return gate;
    if (!absl::ConsumePrefix(&value, "kl=") || !absl::SimpleAtod(value, &gate) || !(gate >= 0)) {
      return UsageError("--gate: expected kl=X with X of 0 or more, found \"", gate_, "\"");
    }
    return gate;
  }

  // --ram is for the packed model: the original is in memory, or not there at all.
  absl::StatusOr<LoadedModel> LoadPacked(int64_t context) const {
    MemoryLimit limit{.ram_bytes = 0, .of_model_alone = true, .need = {}};
    KOMPAKT_ASSIGN_OR_RETURN(limit.ram_bytes, RamLimitOf(runtime_));
    limit.need = [context](const ModelAssets&, const ArchSpec&) -> absl::StatusOr<SessionNeed> {
      if (context <= 0) return UsageError("-c: expected a positive number, found ", context);
      return SessionNeed{context, 0};
    };
    return LoadModel(packed_, path_ == "reference" ? WithKernels(options_, reference_) : packed_options_, false, limit);
  }

  absl::Status FromModel(CompareReport& report) {
    KOMPAKT_ASSIGN_OR_RETURN(const LoadedModel original, LoadModel(original_, options_));
    KOMPAKT_ASSIGN_OR_RETURN(const LoadedModel packed, LoadPacked(context_));
    KOMPAKT_ASSIGN_OR_RETURN(const std::vector<int32_t> ids, Encode(original.assets, text_bytes_));
    KOMPAKT_ASSIGN_OR_RETURN(const std::vector<int32_t> other_ids, Encode(packed.assets, text_bytes_));
    if (ids != other_ids) {
      return absl::FailedPreconditionError(absl::StrCat(
          original_, " and ", packed_, " cut the text into different tokens: they are not the same model"));
    }
    const std::optional<int32_t> bos = BosOf(original.assets);
    report.path = PathOf(*packed.model);
    report.tensor_bytes_original = original.tensor_bytes;
    report.tensor_bytes_packed = packed.tensor_bytes;
    report.tensors = TensorLines(packed);
    CompareOptions options;
    options.context = context_;
    std::unique_ptr<BaselineWriter> writer;
    if (!save_baseline_.empty()) {
      KOMPAKT_ASSIGN_OR_RETURN(const ScoredChunks chunks, ScoredChunks::Create(ids, bos, context_));
      KOMPAKT_ASSIGN_OR_RETURN(writer, OpenWriter(original, chunks));
      options.original_logits = [&](absl::Span<const float> logits, int32_t next) { return writer->Add(logits, next); };
    }
    KOMPAKT_ASSIGN_OR_RETURN(report.comparison,
                             CompareWithProgress("compare", original.model, packed.model, ids, bos, options));
    if (writer != nullptr) KOMPAKT_RETURN_IF_ERROR(writer->Finish());
    return MeasureFloor(original, ids, bos, context_, "", report);
  }

  absl::Status FromBaseline(CompareReport& report) {
    KOMPAKT_ASSIGN_OR_RETURN(const std::unique_ptr<BaselineReader> baseline,
                             BaselineReader::Open(PosixFileSystem(), original_));
    const BaselineHeader& header = baseline->header();
    if (context_option_->count() > 0 && context_ != header.context) {
      return UsageError("-c: ", original_, " was made with chunks of ", header.context, " tokens, found ", context_);
    }
    KOMPAKT_ASSIGN_OR_RETURN(const LoadedModel packed, LoadPacked(header.context));
    KOMPAKT_ASSIGN_OR_RETURN(const std::vector<int32_t> ids, Encode(packed.assets, text_bytes_));
    const std::optional<int32_t> bos = BosOf(packed.assets);
    KOMPAKT_ASSIGN_OR_RETURN(const ScoredChunks chunks, ScoredChunks::Create(ids, bos, header.context));
    KOMPAKT_RETURN_IF_ERROR(baseline->CheckSameText(packed.model->arch().vocab_size(), TokenizerXxh3(packed.assets),
                                                    Xxh3(text_bytes_), chunks));
    report.baseline = header;
    report.path = PathOf(*packed.model);
    report.tensor_bytes_original = header.tensor_bytes;
    report.tensor_bytes_packed = packed.tensor_bytes;
    report.tensors = TensorLines(packed);
    {
      Progress progress("compare", "chunks");
      KOMPAKT_ASSIGN_OR_RETURN(report.comparison,
                               CompareWithBaseline(*baseline, packed.model, chunks, [&](int64_t done, int64_t total) {
                                 return Report(progress, done, total);
                               }));
    }
    // The original is not there: what rounding alone does is shown on the packed model.
    return MeasureFloor(packed, ids, bos, header.context, " (of the packed model)", report);
  }

  // What Compare finds between a model and itself, computed in two other ways.
  absl::Status MeasureFloor(const LoadedModel& loaded, const std::vector<int32_t>& ids, std::optional<int32_t> bos,
                            int64_t context, const char* whose, CompareReport& report) const {
    if (floor_chunks_ == 0) return absl::OkStatus();
    const std::pair<const char*, const KernelSet*> ways[] = {{"summation order", reference_},
                                                             {"int8 activations", &Int8ActivationSet()}};
    for (const auto& [name, kernels] : ways) {
      KOMPAKT_ASSIGN_OR_RETURN(const std::shared_ptr<const Model> other,
                               Model::Load(loaded.weights, WithKernels(options_, kernels)));
      KOMPAKT_ASSIGN_OR_RETURN(const std::shared_ptr<const Model> usual, Model::Load(loaded.weights, options_));
      CompareOptions options;
      options.context = context;
      options.most_chunks = floor_chunks_;
      KOMPAKT_ASSIGN_OR_RETURN(Comparison floor, CompareWithProgress("noise floor", usual, other, ids, bos, options));
      report.floor.emplace_back(absl::StrCat(name, whose), std::move(floor));
    }
    return absl::OkStatus();
  }

  absl::StatusOr<std::unique_ptr<BaselineWriter>> OpenWriter(const LoadedModel& original,
                                                             const ScoredChunks& chunks) const {
    BaselineHeader header;
    header.model = LastPart(original_);
    header.text = LastPart(text_);
    header.model_xxh3 = original.identity_xxh3;
    header.tokenizer_xxh3 = TokenizerXxh3(original.assets);
    header.text_xxh3 = Xxh3(text_bytes_);
    header.ids_xxh3 = IdsXxh3(chunks);
    header.tensor_bytes = original.tensor_bytes;
    header.parameters = original.weights->schema().main_parameter_count();
    header.vocab = original.model->arch().vocab_size();
    header.context = chunks.context();
    header.chunks = chunks.count();
    return BaselineWriter::Create(PosixFileSystem(), save_baseline_, header);
  }

  absl::StatusOr<ExitCode> SaveBaselineOnly() {
    KOMPAKT_ASSIGN_OR_RETURN(const LoadedModel original, LoadModel(original_, options_));
    KOMPAKT_ASSIGN_OR_RETURN(const std::vector<int32_t> ids, Encode(original.assets, text_bytes_));
    KOMPAKT_ASSIGN_OR_RETURN(const ScoredChunks chunks, ScoredChunks::Create(ids, BosOf(original.assets), context_));
    KOMPAKT_ASSIGN_OR_RETURN(const std::unique_ptr<BaselineWriter> writer, OpenWriter(original, chunks));
    {
      Progress progress("baseline", "chunks");
      KOMPAKT_RETURN_IF_ERROR(SaveBaseline(original.model, chunks, *writer,
                                           [&](int64_t done, int64_t total) { return Report(progress, done, total); }));
    }
    const int64_t tokens = chunks.count() * (chunks.context() - chunks.first_scored() - 1);
    if (json_) {
      PrintAnswer(JsonText({{"baseline", save_baseline_},
                            {"original", original_},
                            {"text", text_},
                            {"tokens_scored", tokens},
                            {"chunks", chunks.count()},
                            {"file_bytes", writer->bytes()}}));
    } else {
      PrintAnswer(absl::StrCat(save_baseline_, ": ", tokens, " scored tokens in ", chunks.count(), " chunks of ",
                               chunks.context(), ", ", writer->bytes(), " bytes\n"));
    }
    return kExitYes;
  }

  static bool Report(Progress& progress, int64_t done, int64_t total) {
    progress.Update(static_cast<uint64_t>(done), static_cast<uint64_t>(total));
    return !Interrupted();
  }

  static absl::StatusOr<Comparison> CompareWithProgress(const char* what, const std::shared_ptr<const Model>& p,
                                                        const std::shared_ptr<const Model>& q,
                                                        const std::vector<int32_t>& ids, std::optional<int32_t> bos,
                                                        CompareOptions options) {
    Progress progress(what, "chunks");
    options.progress = [&](int64_t done, int64_t total) { return Report(progress, done, total); };
    return Compare(p, q, ids, bos, options);
  }

  std::string original_;
  std::string packed_;
  std::string text_;
  std::string text_bytes_;
  std::string save_baseline_;
  std::string html_;
  std::string sensitivity_;
  std::string path_ = "fast";
  std::string gate_;
  const KernelSet* reference_ = nullptr;
  CLI::Option* context_option_ = nullptr;
  int64_t context_ = 512;
  int64_t floor_chunks_ = 2;
  RuntimeFlags runtime_;
  ModelOptions options_;         // of the original
  ModelOptions packed_options_;  // of the packed model on the fast path
};

}  // namespace

std::unique_ptr<Verb> MakeCompareVerb() { return std::make_unique<CompareVerb>(); }

}  // namespace kompakt
