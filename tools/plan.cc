// kompakt plan SRC [DST] [--recipe NAME|FILE | --fit SIZE [-c N]] [--tensor PATTERN=FORMAT]... [--ram SIZE]
// [--keep-mtp] [--strict] [--calibration FILE] [-t N]
#include "format/status.h"
#include "quant/convert.h"
#include "tools/calibration_run.h"
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
  }

  absl::StatusOr<ExitCode> Run() override {
    KOMPAKT_ASSIGN_OR_RETURN(const int threads, ResolveThreads(threads_));
    KOMPAKT_ASSIGN_OR_RETURN(const RamLimit ram, ChooseRam(ram_));
    KOMPAKT_ASSIGN_OR_RETURN(const std::unique_ptr<TensorSource> source, OpenFlaggedSource(source_, source_flags_));
    KOMPAKT_ASSIGN_OR_RETURN(const auto importance, OpenCalibration(calibration_, *source));
    return AnswerPlan(*source, flags_, destination_, threads, ram, importance.get(), json_);
  }

 private:
  std::string source_;
  std::string destination_;
  RecipeFlags flags_;
  SourceFlags source_flags_;
  CalibrationFlags calibration_;
  std::string ram_;
  int threads_ = 0;
};

}  // namespace

std::unique_ptr<Verb> MakePlanVerb() { return std::make_unique<PlanVerb>(); }

}  // namespace kompakt
