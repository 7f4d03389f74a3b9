// kompakt calibrate MODEL -o FILE [-f TEXT] [--hessian] [-c 512] [--tokens N] [--min-tokens N] [--keep-mtp] [-t N]
#include "format/status.h"
#include "tools/calibration_run.h"
#include "tools/json_text.h"
#include "tools/model_input.h"
#include "tools/runtime_flags.h"
#include "tools/terminal.h"
#include "tools/verbs.h"

namespace kompakt {
namespace {

class CalibrateVerb : public Verb {
 public:
  void Declare(CLI::App& app) override {
    app.add_option("model,-m,--model", model_, "A .kpk file, or a checkpoint folder to run as it is")->required();
    app.add_option("-o,--output", output_, "The calibration file to write (.kcal)")->required();
    app.add_option("-f,--file", request_.text,
                   "Text file (its bytes are taken as they are); - reads stdin; without it the text in the program");
    app.add_flag("--hessian", request_.hessian, "Second moments too, for error feedback");
    app.add_option("-c,--ctx-size", request_.context, "Tokens per chunk")->capture_default_str();
    app.add_option("--tokens", request_.tokens, "Use at most this many tokens of the text; 0 takes all")
        ->capture_default_str();
    app.add_option("--min-tokens", request_.min_tokens, "Warn about experts that saw fewer tokens than this")
        ->capture_default_str();
    app.add_flag("--keep-mtp", keep_mtp_, "Calibrate the MTP layer too, for convert --keep-mtp");
    DeclareRuntimeFlags(app, runtime_);
  }

  absl::StatusOr<ExitCode> Run() override {
    KOMPAKT_ASSIGN_OR_RETURN(const ModelOptions options, ResolveRuntimeFlags(runtime_));
    KOMPAKT_ASSIGN_OR_RETURN(const CalibrationAnswer answer,
                             RunCalibration(model_, keep_mtp_, request_, options, output_));
    PrintAnswer(json_ ? JsonText(answer.json) : answer.text);
    return kExitYes;
  }

 private:
  std::string model_;
  std::string output_;
  CalibrationRequest request_;
  bool keep_mtp_ = false;
  RuntimeFlags runtime_;
};

}  // namespace

std::unique_ptr<Verb> MakeCalibrateVerb() { return std::make_unique<CalibrateVerb>(); }

}  // namespace kompakt
