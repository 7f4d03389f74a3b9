// kompakt compare ORIGINAL PACKED -f TEXT [-c 512] [--path reference|fast] [--gate kl=X] [--floor-chunks N] [-t N]
#include "validate/compare.h"

#include <chrono>

#include "absl/strings/match.h"
#include "absl/strings/numbers.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/strip.h"
#include "format/near_names.h"
#include "format/status.h"
#include "runtime/tokenizer.h"
#include "tools/compare_report.h"
#include "tools/model_input.h"
#include "tools/terminal.h"
#include "tools/verbs.h"

namespace kompakt {
namespace {

class CompareVerb : public Verb {
 public:
  void Declare(CLI::App& app) override {
    app.add_option("original", original_, "A checkpoint folder, or a .kpk (a lossless one)")->required();
    app.add_option("packed", packed_, "The .kpk to judge, or another folder")->required();
    app.add_option("-f,--file", text_, "Text file (its bytes are taken as they are); - reads stdin")->required();
    app.add_option("-c,--ctx-size", context_, "Tokens per chunk; the second half of each is scored")
        ->capture_default_str();
    app.add_option("--path", path_,
                   "Kernels that run the packed model: fast (default), or reference, to see the damage of the weights "
                   "alone");
    app.add_option("--gate", gate_, "kl=X: exit code 1 when the mean KL is above X");
    app.add_option("--floor-chunks", floor_chunks_, "Chunks on which the noise floor is measured; 0 leaves it out")
        ->capture_default_str();
    app.add_option("-t,--threads", threads_, "Threads; 0 (default) takes every processor");
  }

  absl::StatusOr<ExitCode> Run() override {
    KOMPAKT_ASSIGN_OR_RETURN(const int threads, ResolveThreads(threads_));
    KOMPAKT_ASSIGN_OR_RETURN(const double gate, ReadGate());
    KOMPAKT_ASSIGN_OR_RETURN(const KernelSet* const reference, KernelSetByName("reference"));
    if (path_ != "fast" && path_ != "reference") {
      return UsageError("--path: expected fast or reference, found \"", path_, "\"",
                        DidYouMean(path_, {"fast", "reference"}));
    }
    if (floor_chunks_ < 0) return UsageError("--floor-chunks: expected 0 or more, found ", floor_chunks_);
    KOMPAKT_ASSIGN_OR_RETURN(const std::string text, ReadTextFile(text_));
    KOMPAKT_ASSIGN_OR_RETURN(const LoadedModel original, LoadModel(original_, threads));
    KOMPAKT_ASSIGN_OR_RETURN(const LoadedModel packed,
                             LoadModel(packed_, threads, false, path_ == "reference" ? reference : nullptr));
    KOMPAKT_ASSIGN_OR_RETURN(const std::vector<int32_t> ids, SameIds(original.assets, packed.assets, text));
    std::optional<int32_t> bos;
    if (original.assets.has_bos_id()) bos = static_cast<int32_t>(original.assets.bos_id());

    const auto start = std::chrono::steady_clock::now();
    CompareReport report;
    report.original = original_;
    report.packed = packed_;
    report.text = text_;
    report.path = std::string(packed.model->kernels().name);
    report.tensor_bytes_original = original.tensor_bytes;
    report.tensor_bytes_packed = packed.tensor_bytes;
    KOMPAKT_ASSIGN_OR_RETURN(report.comparison,
                             CompareWithProgress("compare", original.model, packed.model, ids, bos, 0));
    if (floor_chunks_ > 0) {
      KOMPAKT_ASSIGN_OR_RETURN(const std::shared_ptr<const Model> other_order,
                               Model::Load(original.weights, {.threads = threads, .kernels = reference}));
      KOMPAKT_ASSIGN_OR_RETURN(
          Comparison floor, CompareWithProgress("noise floor", original.model, other_order, ids, bos, floor_chunks_));
      report.floor.emplace_back("summation order", std::move(floor));
    }
    report.seconds = std::chrono::duration<double>(std::chrono::steady_clock::now() - start).count();
    PrintAnswer(json_ ? CompareJson(report).dump(2) + "\n" : CompareText(report));
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

  // The text's tokens, which must be the same for both.
  absl::StatusOr<std::vector<int32_t>> SameIds(const ModelAssets& original, const ModelAssets& packed,
                                               const std::string& text) const {
    KOMPAKT_ASSIGN_OR_RETURN(const std::unique_ptr<Tokenizer> tokenizer, Tokenizer::Create(original));
    KOMPAKT_ASSIGN_OR_RETURN(std::vector<int32_t> ids, tokenizer->Encode(text));
    KOMPAKT_ASSIGN_OR_RETURN(const std::unique_ptr<Tokenizer> other, Tokenizer::Create(packed));
    KOMPAKT_ASSIGN_OR_RETURN(const std::vector<int32_t> other_ids, other->Encode(text));
    if (ids == other_ids) return ids;
    return absl::FailedPreconditionError(
        absl::StrCat(original_, " and ", packed_, " cut the text into different tokens: they are not the same model"));
  }

  absl::StatusOr<Comparison> CompareWithProgress(const char* what, const std::shared_ptr<const Model>& p,
                                                 const std::shared_ptr<const Model>& q, const std::vector<int32_t>& ids,
                                                 std::optional<int32_t> bos, int64_t most_chunks) const {
    Progress progress(what, "chunks");
    CompareOptions options;
    options.context = context_;
    options.most_chunks = most_chunks;
    options.progress = [&](int64_t done, int64_t total) {
      progress.Update(static_cast<uint64_t>(done), static_cast<uint64_t>(total));
      return !Interrupted();
    };
    return Compare(p, q, ids, bos, options);
  }

  std::string original_;
  std::string packed_;
  std::string text_;
  std::string path_ = "fast";
  std::string gate_;
  int64_t context_ = 512;
  int64_t floor_chunks_ = 2;
  int threads_ = 0;
};

}  // namespace

std::unique_ptr<Verb> MakeCompareVerb() { return std::make_unique<CompareVerb>(); }

}  // namespace kompakt
