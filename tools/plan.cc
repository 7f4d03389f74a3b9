// kompakt plan SRC [DST] [--recipe NAME|FILE | --fit SIZE [-c N]] [--tensor PATTERN=FORMAT]... [--ram SIZE]
// [--keep-mtp] [--strict] [--calibration FILE] [-t N]; kompakt plan SRC --gpu 24GiB
#include "format/status.h"
#include "quant/convert.h"
#include "tools/calibration_run.h"
#include "tools/gpu_plan.h"
#include "tools/model_input.h"
#include "tools/plan_report.h"
#include "tools/source_flags.h"
#include "tools/terminal.h"
#include "tools/verbs.h"

namespace kompakt {
namespace {

class PlanVerb : public Verb {
 public:
  void Declare(CLI::App& app) override {
    app.add_option("source", source_, "Checkpoint folder (config.json and safetensors), or a .kpk")->required();
    app.add_option("destination", destination_, "Where the file will go: checks its disk, and is not written to");
    DeclareRecipeFlags(app, flags_);
    DeclareSourceFlags(app, source_flags_);
    DeclareCalibrationFlag(app, calibration_);
    DeclareRamFlag(app, ram_);
    app.add_option("-t,--threads", threads_, "Threads that convert would use; memory depends on it");
    DeclareGpuPlanFlags(app, gpu_);
    app_ = &app;
  }

  absl::StatusOr<ExitCode> Run() override {
    KOMPAKT_ASSIGN_OR_RETURN(const int threads, ResolveThreads(threads_));
    if (gpu_.asked()) return PlanGpu(threads);
    KOMPAKT_ASSIGN_OR_RETURN(const RamLimit ram, ChooseRam(ram_));
    KOMPAKT_ASSIGN_OR_RETURN(const std::unique_ptr<TensorSource> source, OpenFlaggedSource(source_, source_flags_));
    KOMPAKT_ASSIGN_OR_RETURN(const auto importance, OpenCalibration(calibration_, *source));
    return AnswerPlan(*source, flags_, destination_, threads, ram, importance.get(), json_);
  }

 private:
  // A packed file as it is, where no flag says that it is to be converted first.
  absl::StatusOr<ExitCode> PlanGpu(int threads) {
    KOMPAKT_ASSIGN_OR_RETURN(const std::shared_ptr<const PackedReader> packed, OpenIfPacked(source_));
    bool as_it_is = packed != nullptr;
    for (const char* flag : {"--recipe", "--tensor", "--fit", "--size", "--bpw"}) as_it_is &= app_->count(flag) == 0;
    if (as_it_is) {
      std::vector<FormatId> formats;
      for (const TensorInfo& tensor : packed->schema().tensors()) {
        const PackedLayout::Place place = packed->layout().Find(tensor.role, tensor.layer);
        const Extent& extent = packed->layout().extents()[static_cast<size_t>(place.extent)];
        formats.push_back(extent.parts[static_cast<size_t>(place.part)].format);
      }
      return AnswerGpuPlan(gpu_, packed->schema(), formats, flags_.context, json_);
    }
    KOMPAKT_ASSIGN_OR_RETURN(const std::unique_ptr<TensorSource> source, OpenFlaggedSource(source_, source_flags_));
    KOMPAKT_ASSIGN_OR_RETURN(const ChosenRecipe chosen, ChooseRecipe(flags_, *source, threads));
    KOMPAKT_ASSIGN_OR_RETURN(const std::vector<QuantRecipe::Choice> choices, chosen.recipe.Resolve(*source));
    std::vector<FormatId> formats;
    for (const QuantRecipe::Choice& choice : choices) formats.push_back(choice.format);
    return AnswerGpuPlan(gpu_, source->schema(), formats, flags_.context, json_);
  }

  std::string source_;
  std::string destination_;
  RecipeFlags flags_;
  SourceFlags source_flags_;
  CalibrationFlags calibration_;
  std::string ram_;
  int threads_ = 0;
  GpuPlanFlags gpu_;
  const CLI::App* app_ = nullptr;
};

}  // namespace

std::unique_ptr<Verb> MakePlanVerb() { return std::make_unique<PlanVerb>(); }

}  // namespace kompakt
