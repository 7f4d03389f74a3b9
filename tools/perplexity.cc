// kompakt perplexity MODEL -f TEXT [-c 512] [-t N]
#include "validate/perplexity.h"

#include <chrono>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_format.h"
#include "format/status.h"
#include "nlohmann/json.hpp"
#include "runtime/tokenizer.h"
#include "tools/device_flags.h"
#include "tools/json_text.h"
#include "tools/model_input.h"
#include "tools/runtime_flags.h"
#include "tools/terminal.h"
#include "tools/verbs.h"
#include "validate/energy.h"

namespace kompakt {
namespace {

class PerplexityVerb : public Verb {
 public:
  void Declare(CLI::App& app) override {
    app.add_option("model,-m,--model", model_, "A .kpk file, or a checkpoint folder to measure as it is")->required();
    app.add_option("-f,--file", text_, "Text file (its bytes are taken as they are); - reads stdin")->required();
    app.add_option("-c,--ctx-size", context_, "Tokens per chunk; the second half of each is scored")
        ->capture_default_str();
    DeclareRuntimeFlags(app, runtime_);
    DeclareActivationFlag(app, runtime_, "auto");
    DeclareCacheFlag(app, runtime_.kv, "f32");
    DeclareRamLimitFlag(app, runtime_);
    DeclareDeviceFlags(app, runtime_.device, "auto");
  }

  absl::StatusOr<ExitCode> Run() override {
    KOMPAKT_ASSIGN_OR_RETURN(const ModelOptions options, ResolveRuntimeFlags(runtime_));
    MemoryLimit limit;
    KOMPAKT_ASSIGN_OR_RETURN(limit.ram_bytes, RamLimitOf(runtime_));
    limit.need = [this](const ModelAssets&, const ArchSpec& arch) -> absl::StatusOr<SessionNeed> {
      // Before a session says so.
      if (context_ <= 0) return UsageError("-c: expected a positive number, found ", context_);
      return SessionNeed{context_, PerplexityLogitBytes(arch.vocab_size())};
    };
    KOMPAKT_ASSIGN_OR_RETURN(const std::string text, ReadTextFile(text_));
    KOMPAKT_ASSIGN_OR_RETURN(const LoadedModel loaded, LoadModel(model_, options, false, limit));
    KOMPAKT_ASSIGN_OR_RETURN(const std::unique_ptr<Tokenizer> tokenizer, Tokenizer::Create(loaded.assets));
    KOMPAKT_ASSIGN_OR_RETURN(const std::vector<int32_t> ids, tokenizer->Encode(text));
    std::optional<int32_t> bos;
    if (loaded.assets.has_bos_id()) bos = static_cast<int32_t>(loaded.assets.bos_id());

    EnergyWatch energy(OpenEnergyMeter(options.device.get()));
    const auto start = std::chrono::steady_clock::now();
    absl::StatusOr<PerplexityResult> result;
    {
      Progress progress("perplexity", "chunks");
      result = Perplexity(loaded.model, ids, bos, context_, [&](int64_t done, int64_t total) {
        progress.Update(static_cast<uint64_t>(done), static_cast<uint64_t>(total));
        return true;
      });
    }
    if (!result.ok()) return result.status();
    const double seconds = std::chrono::duration<double>(std::chrono::steady_clock::now() - start).count();
    const std::optional<double> joules = energy.Joules();
    nlohmann::ordered_json json = {{"model", model_},
                                   {"text", text_},
                                   {"perplexity", result->perplexity},
                                   {"stderr", result->stderr_perplexity},
                                   {"mean_nll", result->mean_nll},
                                   {"tokens", result->tokens},
                                   {"chunks", result->chunks},
                                   {"context", context_},
                                   {"tokens_scored", result->tokens_scored},
                                   {"seconds", seconds},
                                   {"joules_per_token", nullptr}};
    std::string text_answer = absl::StrFormat(
        "perplexity %.4f +/- %.4f  (%d of %d tokens scored in %d chunks of %d, %.1f s)\n", result->perplexity,
        result->stderr_perplexity, result->tokens_scored, result->tokens, result->chunks, context_, seconds);
    if (joules.has_value()) {
      const double per_token = *joules / static_cast<double>(result->chunks * context_);
      json["joules_per_token"] = per_token;
      absl::StrAppendFormat(&text_answer, "energy %.3f J per token (%s)\n", per_token, energy.what());
    } else if (Verbose()) {
      PrintNotice(absl::StrCat("energy not measured: ", energy.why_not()));
    }
    PrintAnswer(json_ ? JsonText(json) : text_answer);
    return kExitYes;
  }

 private:
  std::string model_;
  std::string text_;
  int64_t context_ = 512;
  RuntimeFlags runtime_;
};

}  // namespace

std::unique_ptr<Verb> MakePerplexityVerb() { return std::make_unique<PerplexityVerb>(); }

}  // namespace kompakt
