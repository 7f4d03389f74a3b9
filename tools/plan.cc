// kompakt plan SRC [--recipe NAME|FILE] [--tensor PATTERN=FORMAT]... [-t N]
#include "format/status.h"
#include "quant/convert.h"
#include "tools/model_input.h"
#include "tools/plan_report.h"
#include "tools/terminal.h"
#include "tools/verbs.h"

namespace kompakt {
namespace {

class PlanVerb : public Verb {
 public:
  void Declare(CLI::App& app) override {
    app.add_option("source", source_, "Checkpoint folder (config.json and safetensors), or a .kpk")->required();
    app.add_option("--recipe", flags_.recipe, "lossless, q8, q4 (default), or a recipe file");
    app.add_option("--tensor", flags_.overrides, "PATTERN=FORMAT, as for convert; may repeat")->expected(1)->take_all();
    app.add_option("-t,--threads", threads_, "Threads that convert would use; memory depends on it");
  }

  absl::StatusOr<ExitCode> Run() override {
    KOMPAKT_ASSIGN_OR_RETURN(const int threads, ResolveThreads(threads_));
    KOMPAKT_ASSIGN_OR_RETURN(const QuantRecipe recipe, ReadRecipe(flags_));
    KOMPAKT_ASSIGN_OR_RETURN(const std::unique_ptr<TensorSource> source, OpenSource(source_));
    PrintSourceNotices(*source);
    KOMPAKT_ASSIGN_OR_RETURN(const ConversionPlan plan, PlanConversion(*source, recipe, threads));
    PrintAnswer(json_ ? PlanJson(*source, plan).dump(2) + "\n" : PlanText(*source, plan));
    return kExitYes;
  }

 private:
  std::string source_;
  RecipeFlags flags_;
  int threads_ = 0;
};

}  // namespace

std::unique_ptr<Verb> MakePlanVerb() { return std::make_unique<PlanVerb>(); }

}  // namespace kompakt
