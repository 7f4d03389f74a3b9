// kompakt sensitivity MODEL -f TEXT [-o FILE] [--format q4_g32] [--bands 8] [--layers A-B] [--tokens N] [-c 512] [-t N]
//     [--calibration FILE]
#include <algorithm>
#include <cmath>
#include <map>

#include "absl/strings/numbers.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_format.h"
#include "absl/strings/str_split.h"
#include "format/file_system.h"
#include "format/near_names.h"
#include "format/status.h"
#include "quant/allocate.h"
#include "quant/trial_weights.h"
#include "runtime/tokenizer.h"
#include "tools/json_text.h"
#include "tools/model_input.h"
#include "tools/runtime_flags.h"
#include "tools/sensitivity_file.h"
#include "tools/terminal.h"
#include "tools/verbs.h"
#include "validate/trial.h"

namespace kompakt {
namespace {

// What is quantized at once.
struct Trial {
  const WeightClass* weight_class = nullptr;
  int64_t first_layer = -1;
  int64_t last_layer = -1;
  std::vector<TensorInfo> tensors;
};

class SensitivityVerb : public Verb {
 public:
  void Declare(CLI::App& app) override {
    app.add_option("model", model_, "A checkpoint folder, or a .kpk (a lossless one)")->required();
    app.add_option("-f,--file", text_, "Text file (its bytes are taken as they are); - reads stdin")->required();
    app.add_option("-o,--output", output_, "Write the result to this file, for --sensitivity of convert and plan");
    app.add_option("--format", format_, "What a part of the model is quantized to")->capture_default_str();
    app.add_option("--calibration", calibration_,
                   "Encode the parts as convert --calibration does (default: data-free), for conversions with it");
    app.add_option("--bands", bands_, "Bands that the layers are cut into")->capture_default_str();
    app.add_option("--layers", layers_, "Only these: A-B, or one number; and no embedding and head");
    app.add_option("--tokens", tokens_, "Tokens of the text, in whole chunks; each part takes two passes over them")
        ->capture_default_str();
    app.add_option("-c,--ctx-size", context_, "Tokens per chunk; the second half of each is scored")
        ->capture_default_str();
    DeclareRuntimeFlags(app, runtime_);
  }

  absl::StatusOr<ExitCode> Run() override {
    KOMPAKT_ASSIGN_OR_RETURN(options_, ResolveRuntimeFlags(runtime_));
    KOMPAKT_ASSIGN_OR_RETURN(const FormatId format, ReadFormat());
    if (bands_ < 1) return UsageError("--bands: expected 1 or more, found ", bands_);
    if (tokens_ < context_) {
      return UsageError("--tokens: expected at least one chunk of ", context_, " (-c), found ", tokens_);
    }
    KOMPAKT_ASSIGN_OR_RETURN(const std::string text, ReadTextFile(text_));
    KOMPAKT_ASSIGN_OR_RETURN(const LoadedModel model, LoadModel(model_, options_));
    KOMPAKT_ASSIGN_OR_RETURN(const std::vector<Trial> trials, MakeTrials(model.weights->schema()));
    KOMPAKT_ASSIGN_OR_RETURN(const std::unique_ptr<Tokenizer> tokenizer, Tokenizer::Create(model.assets));
    KOMPAKT_ASSIGN_OR_RETURN(const std::vector<int32_t> ids, tokenizer->Encode(text));
    std::optional<int32_t> bos;
    if (model.assets.has_bos_id()) bos = static_cast<int32_t>(model.assets.bos_id());
    KOMPAKT_ASSIGN_OR_RETURN(const ScoredChunks chunks, ScoredChunks::Create(ids, bos, context_));
    KOMPAKT_ASSIGN_OR_RETURN(const std::unique_ptr<TrialBench> bench,
                             TrialBench::Create(model.model, chunks, tokens_ / context_));
    SensitivityReport report;
    report.model = model_;
    report.text = text_;
    report.format = format_;
    report.format_error = FormatNoise(format);
    report.calibration = calibration_;
    if (!calibration_.empty()) {
      KOMPAKT_ASSIGN_OR_RETURN(auto file, CalibrationFile::Open(PosixFileSystem(), calibration_));
      KOMPAKT_ASSIGN_OR_RETURN(importance_, Importance::Create(std::move(file), model.weights->schema(), model.assets));
    }
    report.num_hidden_layers = model.weights->schema().arch().num_hidden_layers();
    report.context = context_;
    report.chunks = bench->chunks();
    report.tokens_scored = bench->tokens_scored();
    KOMPAKT_RETURN_IF_ERROR(Measure(model, trials, format, *bench, report));
    const std::string json = JsonText(SensitivityJson(report));
    if (!output_.empty()) KOMPAKT_RETURN_IF_ERROR(ReplaceFile(PosixFileSystem(), output_, json));
    PrintAnswer(json_ ? json : Text(report));
    return kExitYes;
  }

 private:
  absl::StatusOr<FormatId> ReadFormat() const {
    absl::StatusOr<FormatId> format = FormatFromName(format_);
    if (format.ok() && FindEncoder(*format) != nullptr && !FormatOf(*format).exact) return format;
    std::vector<absl::string_view> names;
    for (const Encoder& encoder : AllEncoders()) {
      if (!FormatOf(encoder.format).exact) names.push_back(FormatOf(encoder.format).name);
    }
    return UsageError("--format: expected a lossy format, found \"", format_, "\"", DidYouMean(format_, names));
  }

  absl::Status ReadLayers(int64_t layers, int64_t* first, int64_t* last) const {
    *first = 0;
    *last = layers - 1;
    if (layers_.empty()) return absl::OkStatus();
    const std::vector<std::string> ends = absl::StrSplit(layers_, '-');
    if (ends.size() > 2 || !absl::SimpleAtoi(ends.front(), first) || !absl::SimpleAtoi(ends.back(), last) ||
        *first < 0 || *first > *last || *last >= layers) {
      return UsageError("--layers: expected A-B with 0 <= A <= B < ", layers, ", found \"", layers_, "\"");
    }
    return absl::OkStatus();
  }

  // Head and embedding, then for each band every class that has tensors there. MTP layers are not run.
  absl::StatusOr<std::vector<Trial>> MakeTrials(const ModelSchema& schema) const {
    const ArchSpec& arch = schema.arch();
    int64_t first = 0;
    int64_t last = 0;
    KOMPAKT_RETURN_IF_ERROR(ReadLayers(arch.num_hidden_layers(), &first, &last));
    const int64_t layers = last - first + 1;
    const int64_t bands = std::min(bands_, layers);
    std::map<std::pair<int64_t, const WeightClass*>, Trial> by_band;
    for (const TensorInfo& tensor : schema.tensors()) {
      const WeightClass* const weight_class = WeightClassOf(arch, tensor.role, tensor.layer);
      const bool inside = tensor.layer >= first && tensor.layer <= last;
      const bool outside = tensor.layer < 0 && layers_.empty();
      if (weight_class == nullptr || !(inside || outside)) continue;
      const int64_t band = outside ? -1 : (tensor.layer - first) * bands / layers;
      Trial& trial = by_band[{band, weight_class}];
      if (trial.weight_class == nullptr) trial.first_layer = trial.last_layer = tensor.layer;
      trial.weight_class = weight_class;
      trial.first_layer = std::min<int64_t>(trial.first_layer, tensor.layer);
      trial.last_layer = std::max<int64_t>(trial.last_layer, tensor.layer);
      trial.tensors.push_back(tensor);
    }
    std::vector<Trial> trials;
    trials.reserve(by_band.size());
    for (auto& [key, trial] : by_band) trials.push_back(std::move(trial));
    return trials;
  }

  absl::Status Measure(const LoadedModel& model, const std::vector<Trial>& trials, FormatId format, TrialBench& bench,
                       SensitivityReport& report) const {
    Progress progress("sensitivity", "parts");
    const auto go_on = [] { return !Interrupted(); };
    const uint64_t parts = trials.size() + 1;
    KOMPAKT_ASSIGN_OR_RETURN(const KernelSet* const reference, KernelSetByName("reference"));
    KOMPAKT_ASSIGN_OR_RETURN(const std::shared_ptr<const Model> other_order,
                             Model::Load(model.weights, WithKernels(options_, reference)));
    KOMPAKT_ASSIGN_OR_RETURN(const TrialResult floor, bench.Run(other_order, go_on));
    report.floor_free = floor.kl_free.mean();
    report.floor_frozen = floor.kl_frozen.mean();
    progress.Update(1, parts);
    for (const Trial& trial : trials) {
      KOMPAKT_ASSIGN_OR_RETURN(TrialWeights weights, EncodeTrial(*model.weights, trial.tensors, format,
                                                                 options_.threads, Interrupted(), importance_.get()));
      SensitivityUnit unit;
      unit.weight_class = std::string(trial.weight_class->name);
      unit.first_layer = trial.first_layer;
      unit.last_layer = trial.last_layer;
      for (const TensorInfo& tensor : trial.tensors) {
        unit.parameters += tensor.elements();
        if (tensor.expert <= 0) ++unit.roles;
      }
      if (weights.error.sum_squared_weight() > 0) {
        unit.relative_error = weights.error.sum_squared_error() / weights.error.sum_squared_weight();
      }
      KOMPAKT_ASSIGN_OR_RETURN(const std::shared_ptr<const WeightStore> changed,
                               OverlayWeights(model.weights, std::move(weights.matrices)));
      KOMPAKT_ASSIGN_OR_RETURN(const std::shared_ptr<const Model> changed_model, Model::Load(changed, options_));
      KOMPAKT_ASSIGN_OR_RETURN(const TrialResult result, bench.Run(changed_model, go_on));
      unit.kl_free = result.kl_free.mean();
      unit.kl_free_stderr = result.kl_free.standard_error();
      unit.kl_frozen = result.kl_frozen.mean();
      unit.kl_frozen_stderr = result.kl_frozen.standard_error();
      report.units.push_back(std::move(unit));
      progress.Update(1 + report.units.size(), parts);
    }
    return absl::OkStatus();
  }

  static std::string Text(const SensitivityReport& report) {
    std::string text = absl::StrFormat(
        "%s, each part alone in %s, %d tokens of %s scored\nKL in nats, less the floor of another summation order "
        "(%.2g free, %.2g frozen)\n\n%-16s  %-7s  %11s  %8s  %24s  %24s  %s\n",
        report.model, report.format, report.tokens_scored, report.text, report.floor_free, report.floor_frozen, "class",
        "layers", "parameters", "error dB", "routing free", "routing frozen", "weight");
    for (const SensitivityUnit& unit : report.units) {
      const std::string layers = unit.first_layer < 0 ? "-" : absl::StrCat(unit.first_layer, "-", unit.last_layer);
      absl::StrAppend(&text, absl::StrFormat("%-16s  %-7s  %11s  %8.2f  %11.3g +/- %8.2g  %11.3g +/- %8.2g  %.3g\n",
                                             unit.weight_class, layers, HumanCount(unit.parameters),
                                             unit.relative_error > 0 ? 10 * std::log10(unit.relative_error) : 0.0,
                                             std::max(0.0, unit.kl_free - report.floor_free), unit.kl_free_stderr,
                                             std::max(0.0, unit.kl_frozen - report.floor_frozen), unit.kl_frozen_stderr,
                                             report.WeightOf(unit)));
    }
    return text;
  }

  std::string model_;
  std::string text_;
  std::string output_;
  std::string format_ = "q4_g32";
  std::string layers_;
  std::string calibration_;
  std::shared_ptr<const Importance> importance_;  // null: data-free
  int64_t bands_ = 8;
  int64_t tokens_ = 2048;
  int64_t context_ = 512;
  RuntimeFlags runtime_;
  ModelOptions options_;
};

}  // namespace

std::unique_ptr<Verb> MakeSensitivityVerb() { return std::make_unique<SensitivityVerb>(); }

}  // namespace kompakt
