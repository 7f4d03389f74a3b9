// kompakt bench MODEL | --synthetic NAME | --ops
#include <set>

#include "absl/strings/numbers.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_split.h"
#include "format/status.h"
#include "kernels/kernel_set.h"
#include "kernels/probe.h"
#include "runtime/device_target.h"
#include "runtime/footprint.h"
#include "tools/bench_model.h"
#include "tools/bench_ops.h"
#include "tools/device_flags.h"
#include "tools/json_text.h"
#include "tools/model_input.h"
#include "tools/runtime_flags.h"
#include "tools/synthetic_model.h"
#include "tools/terminal.h"
#include "tools/verbs.h"
#include "validate/energy.h"

namespace kompakt {
namespace {

// No test is longer or deeper: beyond what any model of this family remembers.
constexpr int64_t kMostTokens = int64_t{1} << 24;

// "1,2,8": ascending and without repetition. kInvalidArgument naming `flag` and what is no number from 0 to `most`.
absl::StatusOr<std::vector<int64_t>> ParseNumbers(absl::string_view flag, const std::string& text, int64_t most) {
  std::set<int64_t> numbers;
  for (const absl::string_view word : absl::StrSplit(text, ',')) {
    int64_t number = 0;
    if (!absl::SimpleAtoi(word, &number) || number < 0 || number > most) {
      return UsageError(flag, ": expected numbers from 0 to ", most, " separated by commas, found \"", text, "\"");
    }
    numbers.insert(number);
  }
  return std::vector<int64_t>(numbers.begin(), numbers.end());
}

class BenchVerb : public Verb {
 public:
  void Declare(CLI::App& app) override {
    CLI::Option* const model =
        app.add_option("model,-m,--model", model_, "A .kpk file, or a checkpoint folder to measure as it is");
    CLI::Option* const synthetic =
        app.add_option("--synthetic", synthetic_, "Random weights in memory in the shape of v2-lite or v3-layer")
            ->excludes(model);
    app.add_option("--recipe", recipe_, "With --synthetic: the formats of its weights")
        ->needs(synthetic)
        ->capture_default_str();
    app.add_option("--layers", layers_, "With --synthetic: only so many layers, where memory is short; 0: all")
        ->needs(synthetic);
    app.add_option("-p,--n-prompt", prompts_, "Tokens of a prompt, several separated by commas; 0: none")
        ->capture_default_str();
    app.add_option("-n,--n-gen", generates_, "Tokens to generate, several separated by commas; 0: none")
        ->capture_default_str();
    app.add_option("-d,--n-depth", depths_,
                   "Tokens in the cache before, several separated by commas (default: 0,4096,16384 for -n, 0 for -p)");
    app.add_option("-r,--repetitions", repetitions_, "Measurements of each test (default: 3, of single ops 7)");
    app.add_option("-t,--threads", threads_, "Threads, several separated by commas (default: 1 and every processor)");
    CLI::Option* const ops =
        app.add_flag("--ops", ops_, "Measure single ops instead of a model")->excludes(model)->excludes(synthetic);
    app.add_option("--filter", filter_,
                   "With --ops: only cases whose name has all these words, for example 'linear q4_g32 tokens=1'")
        ->needs(ops);
    app.add_flag("--list", list_, "With --ops: print which set supports which format, and measure nothing")->needs(ops);
    DeclareActivationFlag(app, flags_, "auto");
    DeclareCacheFlag(app, flags_.kv, "bf16");
    DeclareRamLimitFlag(app, flags_)->excludes(synthetic)->excludes(ops);
    DeclareDeviceFlags(app, flags_.device, "cpu");
  }

  absl::StatusOr<ExitCode> Run() override {
    if (repetitions_.value_or(1) < 1) return UsageError("-r must be at least 1, found ", *repetitions_);
    if (ops_ && flags_.device.device != "cpu") {
      return UsageError("--ops measures the CPU's kernels; expected --device cpu, found ", flags_.device.device);
    }
    if (list_) {
      PrintAnswer(json_ ? JsonText(SupportJson()) : SupportTable());
      return kExitYes;
    }
    KOMPAKT_ASSIGN_OR_RETURN(const std::vector<int> threads, Threads());
    if (ops_) return RunOps(threads);
    if (model_.empty() && synthetic_.empty()) {
      return UsageError("bench needs a model, --synthetic v2-lite, or --ops");
    }
    return RunModel(threads);
  }

 private:
  absl::StatusOr<ExitCode> RunOps(const std::vector<int>& threads) {
    const OpBenchOptions options{.threads = threads, .repetitions = repetitions_.value_or(7)};
    KOMPAKT_ASSIGN_OR_RETURN(const KernelSet* const set, BestKernelSet());
    KOMPAKT_ASSIGN_OR_RETURN(const std::vector<OpCase> cases, FilterOps(*set, filter_));
    nlohmann::ordered_json timings = nlohmann::ordered_json::array();
    if (!json_) {
      PrintAnswer(absl::StrCat("kernels ", set->name, ": ", set->description, "; products by ", NameOf(set->product),
                               "\n\n", OpTableHead()));
    }
    Progress progress("bench", "cases");
    const uint64_t total = cases.size() * threads.size();
    KOMPAKT_RETURN_IF_ERROR(TimeOps(*set, options, cases, [&](const OpTiming& timing) {
      timings.push_back(ToJson(timing));
      if (json_) {
        progress.Update(timings.size(), total);
      } else {
        PrintAnswer(OpTableLine(timing));
      }
    }));
    if (json_) PrintAnswer(JsonText({{"kernels", set->name}, {"product", NameOf(set->product)}, {"ops", timings}}));
    return kExitYes;
  }

  absl::StatusOr<ExitCode> RunModel(std::vector<int> threads) {
    KOMPAKT_ASSIGN_OR_RETURN(const std::vector<ModelTest> tests, Tests());
    KOMPAKT_ASSIGN_OR_RETURN(ModelOptions options, ResolveRuntimeFlags(flags_));
    options.threads = threads.back();
    // Of the host's part, if there is one: nothing to compare.
    if (options.device != nullptr) threads = {threads.back()};
    KOMPAKT_ASSIGN_OR_RETURN(options.kernels, BestKernelSet());
    std::shared_ptr<const WeightStore> weights;
    std::string description = model_;
    uint64_t tensor_bytes = 0;
    ModelBenchOptions bench{.threads = threads, .repetitions = repetitions_.value_or(3), .paged = nullptr};
    if (synthetic_.empty()) {
      MemoryLimit limit{.ram_bytes = 0, .of_model_alone = true, .need = {}};  // the probes take memory of their own
      KOMPAKT_ASSIGN_OR_RETURN(limit.ram_bytes, RamLimitOf(flags_));
      limit.need = [&](const ModelAssets&, const ArchSpec& arch) -> absl::StatusOr<SessionNeed> {
        return SessionNeed{RoomFor(tests), static_cast<uint64_t>(arch.vocab_size()) * sizeof(float)};
      };
      KOMPAKT_ASSIGN_OR_RETURN(const LoadedModel loaded, LoadModel(model_, options, false, limit));
      if (loaded.weights->experts() != nullptr) bench.paged = loaded.file;
      weights = loaded.weights;
      tensor_bytes = loaded.tensor_bytes;
    } else {
      KOMPAKT_ASSIGN_OR_RETURN(const SyntheticModel plan, PlanSyntheticModel(synthetic_, recipe_, layers_));
      const Footprint footprint =
          FootprintOf(plan.schema.arch(), RoomFor(tests), options.threads, options.cache_format);
      KOMPAKT_ASSIGN_OR_RETURN(weights, MakeSyntheticModel(plan, footprint.total(), options.threads));
      description = plan.description;
      tensor_bytes = plan.weight_bytes;
    }
    const std::string energy = EnergyText(options);
    const std::string device = options.device == nullptr ? "cpu" : options.device->device->properties().name;
    const absl::string_view cache = CacheNameOf(options);
    const std::string head = absl::StrCat(description, ": ", HumanCount(weights->schema().main_parameter_count()),
                                          " parameters, ", HumanBytes(tensor_bytes), "\n", KernelsText(options),
                                          "; activations ", options.act.name(), "; cache ", cache, "\nenergy ", energy,
                                          "\nthe cache is filled with random rows up to the depth (@) of a test\n\n");
    if (!json_) PrintAnswer(head + ModelTableHead());
    nlohmann::ordered_json results = nlohmann::ordered_json::array();
    const uint64_t total = tests.size() * threads.size();
    {
      Progress progress("bench", "tests");
      progress.Update(0, total);
      KOMPAKT_RETURN_IF_ERROR(TimeModel(weights, options, bench, tests, [&](const ModelTiming& timing) {
        results.push_back(ToJson(timing));
        if (!json_) PrintAnswer(ModelTableLine(timing));
        progress.Update(results.size(), total);
      }));
    }
    if (!json_) return kExitYes;
    PrintAnswer(JsonText({{"model", description},
                          {"parameters", weights->schema().main_parameter_count()},
                          {"tensor_bytes", tensor_bytes},
                          {"device", device},
                          {"kernels", options.kernels->name},
                          {"product", NameOf(options.kernels->product)},
                          {"act", options.act.name()},
                          {"kv", cache},
                          {"energy", energy},
                          {"depth_rows", "random"},
                          {"results", results}}));
    return kExitYes;
  }

  absl::StatusOr<std::vector<int>> Threads() const {
    if (threads_.empty()) {
      KOMPAKT_ASSIGN_OR_RETURN(const int all, ResolveThreads(0));
      return all == 1 ? std::vector<int>{1} : std::vector<int>{1, all};
    }
    KOMPAKT_ASSIGN_OR_RETURN(const std::vector<int64_t> numbers, ParseNumbers("-t", threads_, 1024));
    std::vector<int> threads;
    for (const int64_t n : numbers) {
      KOMPAKT_ASSIGN_OR_RETURN(const int resolved, ResolveThreads(static_cast<int>(n)));
      threads.push_back(resolved);
    }
    return threads;
  }

  // Every length at every depth; the longest prompts first at depth 0, as tables have them.
  absl::StatusOr<std::vector<ModelTest>> Tests() const {
    KOMPAKT_ASSIGN_OR_RETURN(const std::vector<int64_t> prompts, ParseNumbers("-p", prompts_, kMostTokens));
    KOMPAKT_ASSIGN_OR_RETURN(const std::vector<int64_t> generates, ParseNumbers("-n", generates_, kMostTokens));
    const bool given = !depths_.empty();
    KOMPAKT_ASSIGN_OR_RETURN(const std::vector<int64_t> depths,
                             ParseNumbers("-d", given ? depths_ : "0,4096,16384", kMostTokens));
    std::vector<ModelTest> tests;
    for (const bool prompt : {true, false}) {
      for (const int64_t depth : depths) {
        if (prompt && !given && depth > 0) continue;
        for (const int64_t tokens : prompt ? prompts : generates) {
          if (tokens > 0) tests.push_back({.prompt = prompt, .tokens = tokens, .depth = depth});
        }
      }
    }
    if (tests.empty()) return UsageError("-p and -n: expected something to measure, found only 0");
    return tests;
  }

  // Products on a device are its own kernels'; those of the CPU are for what is left on the host.
  static std::string KernelsText(const ModelOptions& options) {
    const std::string cpu =
        absl::StrCat("kernels ", options.kernels->name, "; products by ", NameOf(options.kernels->product));
    if (options.device == nullptr) return cpu;
    const Device& device = *options.device->device;
    return absl::StrCat("device ", device.properties().name,
                        device.backend() == "cuda-sim" ? " (its speeds say nothing of a GPU)" : "", "; on the host ",
                        cpu);
  }
  // A device keeps BF16 where the CPU would keep F32.
  static absl::string_view CacheNameOf(const ModelOptions& options) {
    const bool bf16 = options.device != nullptr && options.cache_format == CacheFormat::kF32;
    return CacheFormatName(bf16 ? CacheFormat::kBf16 : options.cache_format);
  }
  static std::string EnergyText(const ModelOptions& options) {
    const EnergyWatch energy(OpenEnergyMeter(options.device.get()));
    return energy.why_not().empty() ? energy.what() : absl::StrCat("not measured (", energy.why_not(), ")");
  }

  std::string model_, synthetic_, filter_, threads_, depths_;
  std::string recipe_ = "q4", prompts_ = "512", generates_ = "128";
  int64_t layers_ = 0;
  std::optional<int> repetitions_;
  bool ops_ = false;
  bool list_ = false;
  RuntimeFlags flags_;
};

}  // namespace

std::unique_ptr<Verb> MakeBenchVerb() { return std::make_unique<BenchVerb>(); }

}  // namespace kompakt
