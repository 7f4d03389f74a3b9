#include "tools/bench_model.h"

#include <algorithm>
#include <chrono>
#include <cmath>
#include <map>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_format.h"
#include "format/status.h"
#include "kernels/device_probe.h"
#include "kernels/probe.h"
#include "runtime/device_footprint.h"
#include "runtime/device_model.h"
#include "runtime/device_target.h"
#include "runtime/footprint.h"
#include "runtime/pass_cost.h"
#include "runtime/session.h"
#include "tools/device_flags.h"
#include "tools/disk_probe.h"
#include "tools/expert_report.h"
#include "tools/median.h"
#include "tools/terminal.h"
#include "tools/verb.h"
#include "validate/energy.h"

namespace kompakt {
namespace {

using Clock = std::chrono::steady_clock;
double SecondsSince(Clock::time_point start) { return std::chrono::duration<double>(Clock::now() - start).count(); }

constexpr uint64_t kProbeBytes = uint64_t{2} << 30;
constexpr double kProbeSeconds = 0.05;
constexpr uint64_t kDiskProbeBytes = uint64_t{1} << 30;
// Enough for scratch memory and page tables to be there.
constexpr int64_t kWarmUpTokens = 16;

// What a machine can do. 0: not measured.
class Probes {
 public:
  virtual ~Probes() = default;
  struct Speeds {
    double read = 0;
    double products = 0;
  };
  virtual absl::StatusOr<Speeds> Measure() = 0;
  // Between repetitions too? Else the counter of joules is left alone from the first to the last of them.
  virtual bool in_between() const = 0;
};

// On as many threads as the model has.
class CpuProbes : public Probes {
 public:
  static absl::StatusOr<std::unique_ptr<Probes>> Create(int threads, ProductKind kind) {
    auto probes = std::unique_ptr<CpuProbes>(new CpuProbes(threads, kind));
    KernelContext context = probes->Context();
    KOMPAKT_ASSIGN_OR_RETURN(ReadProbe read, ReadProbe::Create(context));
    probes->read_ = std::make_unique<ReadProbe>(std::move(read));
    return probes;
  }

  absl::StatusOr<Speeds> Measure() override {
    KernelContext context = Context();
    return Speeds{read_->Run(context, kProbeBytes), ProductsPerSecond(kind_, context, kProbeSeconds)};
  }
  bool in_between() const override { return true; }

 private:
  CpuProbes(int threads, ProductKind kind)
      : team_(std::make_unique<ThreadTeam>(threads)), workspace_(std::make_unique<Workspace>()), kind_(kind) {}
  KernelContext Context() const { return {.team = team_.get(), .workspace = workspace_.get()}; }

  std::unique_ptr<ThreadTeam> team_;
  std::unique_ptr<Workspace> workspace_;
  std::unique_ptr<ReadProbe> read_;
  ProductKind kind_;
};

// Of a device that has all of the model. What a simulator reads per second says nothing.
class DeviceProbes : public Probes {
 public:
  static absl::StatusOr<std::unique_ptr<Probes>> Create(Device& device, bool whole_model) {
    auto probes = std::make_unique<DeviceProbes>();
    if (device.backend() == "cuda" && whole_model) {
      KOMPAKT_ASSIGN_OR_RETURN(DeviceReadProbe read, DeviceReadProbe::Create(device));
      probes->read_ = std::make_unique<DeviceReadProbe>(std::move(read));
    }
    return probes;
  }

  absl::StatusOr<Speeds> Measure() override {
    Speeds speeds;
    if (read_ != nullptr) {
      KOMPAKT_ASSIGN_OR_RETURN(speeds.read, read_->Run());
    }
    return speeds;
  }
  bool in_between() const override { return false; }

 private:
  std::unique_ptr<DeviceReadProbe> read_;
};

// Where a session of the model lies; null: on the CPU, also where a device turned out to be too small.
std::shared_ptr<DeviceModel> OnDevice(const Model& model) {
  const std::shared_ptr<DeviceTarget>& target = model.options().device;
  if (target == nullptr) return nullptr;
  const std::lock_guard<std::mutex> lock(target->mutex);
  const auto found = target->models.find(&model);
  return found == target->models.end() ? nullptr : found->second.lock();
}

// Any valid ids, the same in every run. Repetitions have other ones, so that they use other experts.
std::vector<int32_t> Ids(const ArchSpec& arch, int64_t first, int64_t n) {
  std::vector<int32_t> ids;
  for (int64_t i = first; i < first + n; ++i) ids.push_back(static_cast<int32_t>((i * 7919 + 11) % arch.vocab_size()));
  return ids;
}

absl::Status RunTest(const ModelTest& test, int64_t repetition, Session& session) {
  const std::vector<int32_t> ids = Ids(session.model().arch(), repetition * test.tokens, test.tokens);
  const absl::Span<const int32_t> all(ids);
  const int64_t step = test.prompt ? test.tokens : 1;
  for (int64_t at = 0; at < test.tokens; at += step) {
    if (Interrupted()) return absl::CancelledError("interrupted");
    const auto piece = all.subspan(static_cast<size_t>(at), static_cast<size_t>(step));
    // As `run` without sampling.
    if (session.prefers_greedy()) {
      KOMPAKT_RETURN_IF_ERROR(session.ForwardGreedy(piece, session.model().arch().vocab_size()).status());
    } else {
      KOMPAKT_RETURN_IF_ERROR(session.Forward(piece, Session::Logits::kLast).status());
    }
  }
  return absl::OkStatus();
}

// Fills the cost of the timing, per token.
void CountCost(const ModelBinding& model, double cache_row_bytes, int64_t chunk_tokens, ModelTiming* timing) {
  const ModelTest& test = timing->test;
  const auto tokens = static_cast<double>(test.tokens);
  double rows = 0;
  const int64_t step = test.prompt ? std::min(test.tokens, chunk_tokens) : 1;
  for (int64_t at = 0; at < test.tokens; at += step) {
    const int64_t n = std::min(step, test.tokens - at);
    const PassCost pass = CostOfPass(model, test.depth + at, n);
    timing->weight_bytes += pass.weight_bytes / tokens;
    timing->products += pass.products / tokens;
    rows += static_cast<double>(test.depth + at + n) / tokens;
  }
  timing->cache_bytes = rows * cache_row_bytes;
}

// Fills probes, fraction and bound. `measured`: before the first repetition, and after each or after the last.
void CompareWithProbes(const std::vector<Probes::Speeds>& measured, ModelTiming* timing) {
  std::vector<double> reads, ceilings, fractions;
  std::map<absl::string_view, std::vector<double>> shares;
  for (size_t i = 0; i < timing->tokens_per_second.size(); ++i) {
    const Probes::Speeds& before = measured[std::min(i, measured.size() - 2)];
    const Probes::Speeds& after = measured[std::min(i, measured.size() - 2) + 1];
    const double speed = timing->tokens_per_second[i];
    reads.push_back((before.read + after.read) / 2);
    ceilings.push_back((before.products + after.products) / 2);
    double fraction = 0;
    const auto compare = [&](absl::string_view bound, double work, double probe) {
      if (probe == 0) return;
      shares[bound].push_back(speed * work / probe);
      fraction = std::max(fraction, shares[bound].back());
    };
    compare("memory", timing->weight_bytes + timing->cache_bytes, reads.back());
    compare("products", timing->products, ceilings.back());
    compare("disk", timing->missed_bytes, timing->disk_probe);
    fractions.push_back(fraction);
  }
  timing->read_probe = Median(reads);
  timing->product_probe = Median(ceilings);
  // Bytes alone say nothing of a prompt.
  if (timing->product_probe == 0 && timing->test.prompt) return;
  timing->fraction = Median(fractions);
  double most = -1;
  for (const auto& [bound, of_bound] : shares) {
    if (Median(of_bound) <= most) continue;
    most = Median(of_bound);
    timing->bound = bound;
  }
}

absl::StatusOr<double> DiskSpeed(const PackedReader& file) {
  KOMPAKT_ASSIGN_OR_RETURN(const DiskProbe probe, ProbeDisk(file, kDiskProbeBytes));
  return probe.bytes_per_second;
}

// What the cache did since `before`, and what the disk allowed.
void CountExperts(const ExpertCacheStats& experts, double before, double after, ModelTiming* timing) {
  timing->experts = experts;
  timing->disk_probe = (before + after) / 2;
  const uint64_t reads = experts.misses() + experts.guesses;
  if (reads == 0) return;
  timing->missed_bytes = static_cast<double>(experts.read_bytes) / static_cast<double>(timing->measured_tokens()) *
                         static_cast<double>(experts.misses() + experts.guessed) / static_cast<double>(reads);
}

absl::StatusOr<ModelTiming> TimeTest(const ModelTest& test, const ModelBenchOptions& options, Session& session,
                                     Probes& probes, EnergyWatch& energy) {
  const int repetitions = options.repetitions;
  ModelTiming timing;
  timing.test = test;
  timing.threads = session.model().options().threads;
  const std::shared_ptr<DeviceModel> on_device = OnDevice(session.model());
  if (on_device != nullptr) timing.placement = PlacementText(on_device->placement());
  CountCost(session.model().binding(),
            static_cast<double>(session.cache_bytes()) / static_cast<double>(session.max_tokens()),
            on_device != nullptr ? kDeviceChunkTokens : kChunkTokens, &timing);
  KOMPAKT_RETURN_IF_ERROR(session.Rewind(0));
  KOMPAKT_RETURN_IF_ERROR(session.AppendRandomRows(test.depth));
  ModelTest warm_up = test;
  warm_up.tokens = std::min(test.tokens, kWarmUpTokens);
  KOMPAKT_RETURN_IF_ERROR(RunTest(warm_up, repetitions, session));

  const ExpertCache* const experts = session.model().weights().experts();
  double disk_before = 0;
  if (experts != nullptr) {
    KOMPAKT_ASSIGN_OR_RETURN(disk_before, DiskSpeed(*options.paged));
  }
  const ExpertCacheStats stats_before = experts != nullptr ? experts->stats() : ExpertCacheStats{};
  EnergyStretch work;
  KOMPAKT_ASSIGN_OR_RETURN(const Probes::Speeds first, probes.Measure());
  std::vector<Probes::Speeds> measured = {first};
  energy.Restart();
  for (int i = 0; i < repetitions; ++i) {
    KOMPAKT_RETURN_IF_ERROR(session.Rewind(test.depth));
    const auto start = Clock::now();
    KOMPAKT_RETURN_IF_ERROR(RunTest(test, i, session));
    timing.tokens_per_second.push_back(static_cast<double>(test.tokens) / SecondsSince(start));
    work += energy.Cut();
    if (!probes.in_between() && i + 1 < repetitions) continue;
    KOMPAKT_ASSIGN_OR_RETURN(const Probes::Speeds after, probes.Measure());
    measured.push_back(after);
    energy.Restart();
  }
  if (experts != nullptr) {
    const ExpertCacheStats stats = experts->stats().Since(stats_before);
    KOMPAKT_ASSIGN_OR_RETURN(const double disk_after, DiskSpeed(*options.paged));
    CountExperts(stats, disk_before, disk_after, &timing);
  }
  CompareWithProbes(measured, &timing);
  if (const std::optional<double> joules = energy.JoulesOf(work); joules.has_value()) {
    timing.joules_per_token = *joules / static_cast<double>(repetitions * test.tokens);
  }
  for (const double speed : timing.tokens_per_second) timing.mean += speed / repetitions;
  double squares = 0;
  for (const double speed : timing.tokens_per_second) squares += (speed - timing.mean) * (speed - timing.mean);
  timing.deviation = repetitions > 1 ? std::sqrt(squares / (repetitions - 1)) : 0;
  return timing;
}

}  // namespace

std::string ModelTest::Name() const {
  return absl::StrCat(prompt ? "pp" : "tg", tokens, depth > 0 ? absl::StrCat(" @ ", depth) : "");
}

int64_t RoomFor(const std::vector<ModelTest>& tests) {
  int64_t room = 0;
  for (const ModelTest& test : tests) room = std::max(room, test.depth + test.tokens);
  return room;
}

absl::Status TimeModel(const std::shared_ptr<const WeightStore>& weights, const ModelOptions& model_options,
                       const ModelBenchOptions& options, const std::vector<ModelTest>& tests,
                       const std::function<void(const ModelTiming&)>& report) {
  EnergyWatch energy(OpenEnergyMeter(model_options.device.get()));
  for (const int threads : options.threads) {
    ModelOptions with_threads = model_options;
    with_threads.threads = threads;
    KOMPAKT_ASSIGN_OR_RETURN(const auto model, Model::Load(weights, with_threads));
    KOMPAKT_ASSIGN_OR_RETURN(const std::unique_ptr<Session> session, Session::Create(model, RoomFor(tests)));
    const std::shared_ptr<DeviceModel> on_device = OnDevice(*model);
    std::unique_ptr<Probes> probes;
    if (on_device != nullptr) {
      const Placement& placement = on_device->placement();
      const bool whole = placement.first_device_layer == 0 && placement.host_expert_layers() == 0;
      KOMPAKT_ASSIGN_OR_RETURN(probes, DeviceProbes::Create(on_device->device(), whole));
    } else {
      KOMPAKT_ASSIGN_OR_RETURN(probes, CpuProbes::Create(threads, model->kernels().product));
    }
    for (const ModelTest& test : tests) {
      KOMPAKT_ASSIGN_OR_RETURN(const ModelTiming timing, TimeTest(test, options, *session, *probes, energy));
      report(timing);
    }
  }
  return absl::OkStatus();
}

nlohmann::ordered_json ToJson(const ModelTiming& t) {
  const auto measured = [](double value) {
    return value > 0 ? nlohmann::ordered_json(value) : nlohmann::ordered_json(nullptr);
  };
  nlohmann::ordered_json json = {{"test", t.test.Name()},
                                 {"n_prompt", t.test.prompt ? t.test.tokens : 0},
                                 {"n_gen", t.test.prompt ? 0 : t.test.tokens},
                                 {"n_depth", t.test.depth},
                                 {"threads", t.threads},
                                 {"tokens_per_second", t.mean},
                                 {"tokens_per_second_stddev", t.deviation},
                                 {"tokens_per_second_samples", t.tokens_per_second},
                                 {"weight_bytes_per_token", t.weight_bytes},
                                 {"cache_bytes_per_token", t.cache_bytes},
                                 {"products_per_token", t.products},
                                 {"read_probe_bytes_per_second", measured(t.read_probe)},
                                 {"product_probe_per_second", measured(t.product_probe)},
                                 {"bound", nullptr},
                                 {"fraction_of_bound", measured(t.fraction)},
                                 {"joules_per_token", nullptr},
                                 {"placement", nullptr}};
  if (t.fraction > 0) json["bound"] = t.bound;
  if (t.experts.has_value()) {
    json["experts"] = ExpertJson(*t.experts, t.measured_tokens());
    json["missed_bytes_per_token"] = t.missed_bytes;
    json["disk_probe_bytes_per_second"] = t.disk_probe;
  }
  if (!t.placement.empty()) json["placement"] = t.placement;
  if (t.joules_per_token.has_value()) json["joules_per_token"] = *t.joules_per_token;
  return json;
}

std::string ModelTableHead() {
  return absl::StrFormat("%-14s %3s %18s %10s %10s %8s %8s %8s %8s  %-16s %s\n", "test", "-t", "tokens/s", "weights",
                         "cache", "GB/s", "of", "GOPS", "of", "share", "J/token");
}

std::string ModelTableLine(const ModelTiming& t) {
  const double bytes = t.weight_bytes + t.cache_bytes;
  const auto probe = [](double per_second) {
    return per_second > 0 ? absl::StrFormat("%.1f", per_second * 1e-9) : std::string("-");
  };
  std::string line = absl::StrFormat(
      "%-14s %3d %9.2f +/- %4.2f %10s %10s %8.2f %8s %8.1f %8s  %-16s %s\n", t.test.Name(), t.threads, t.mean,
      t.deviation, HumanBytes(static_cast<uint64_t>(t.weight_bytes)), HumanBytes(static_cast<uint64_t>(t.cache_bytes)),
      t.mean * bytes * 1e-9, probe(t.read_probe), t.mean * t.products * 1e-9, probe(t.product_probe),
      t.fraction > 0 ? absl::StrFormat("%.2f %s", t.fraction, t.bound) : std::string("not measured"),
      t.joules_per_token.has_value() ? absl::StrFormat("%.2f", *t.joules_per_token) : std::string("not measured"));
  if (t.experts.has_value()) {
    absl::StrAppend(&line, ExpertLine("  experts", *t.experts, t.measured_tokens()), "; the disk gives ",
                    HumanBytes(static_cast<uint64_t>(t.disk_probe)), "/s\n");
  }
  return line;
}

}  // namespace kompakt
