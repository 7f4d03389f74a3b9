#include "tools/gpu_plan.h"

#include <utility>
#include <vector>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_format.h"
#include "format/status.h"
#include "nlohmann/json.hpp"
#include "runtime/device_footprint.h"
#include "runtime/gpu_card.h"
#include "runtime/placement.h"
#include "tools/byte_size.h"
#include "tools/json_text.h"
#include "tools/terminal.h"

namespace kompakt {
namespace {

// Two channels of DDR5-5600 have 90 GB/s on paper; half of that is a careful guess for reads by all cores.
constexpr double kHostBytesPerSecond = 45e9;

struct CardEstimate {
  std::string card;
  BytesPerSecond rates;
  DecodeEstimate decode;
};

struct GpuPlan {
  ModelBytes model;
  PlacementRequest request;
  Placement placement;
  std::vector<CardEstimate> cards;
};

absl::Status SetRate(const std::string& flag, const std::string& text, double* rate) {
  if (text.empty()) return absl::OkStatus();
  KOMPAKT_ASSIGN_OR_RETURN(const uint64_t bytes, ParseByteSize(flag, text));
  *rate = static_cast<double>(bytes);
  return absl::OkStatus();
}

// The cards that --gpu means: the one it names, or each that has so much memory; or made-up ones by the flags alone.
absl::StatusOr<std::vector<CardEstimate>> CardsOf(const GpuPlanFlags& flags, const GpuCard* named, uint64_t budget) {
  std::vector<CardEstimate> cards;
  const auto add = [&](std::string name, double device, double link) -> absl::Status {
    CardEstimate card{std::move(name), {.device = device, .host = kHostBytesPerSecond, .link = link}, {}};
    KOMPAKT_RETURN_IF_ERROR(SetRate("--gpu-bandwidth", flags.gpu_bandwidth, &card.rates.device));
    KOMPAKT_RETURN_IF_ERROR(SetRate("--host-bandwidth", flags.host_bandwidth, &card.rates.host));
    KOMPAKT_RETURN_IF_ERROR(SetRate("--link-bandwidth", flags.link_bandwidth, &card.rates.link));
    cards.push_back(std::move(card));
    return absl::OkStatus();
  };
  if (named == nullptr && !flags.gpu_bandwidth.empty()) {
    KOMPAKT_RETURN_IF_ERROR(add("a card of that memory", 0, AllGpuCards().front().link_bytes_per_second));
    return cards;
  }
  for (const GpuCard& card : AllGpuCards()) {
    if (named != nullptr ? &card != named : card.memory_bytes < budget) continue;
    KOMPAKT_RETURN_IF_ERROR(add(std::string(card.full_name), card.memory_bytes_per_second, card.link_bytes_per_second));
  }
  return cards;
}

absl::StatusOr<GpuPlan> MakeGpuPlan(const GpuPlanFlags& flags, const ModelSchema& schema,
                                    absl::Span<const FormatId> formats, int64_t context) {
  GpuPlan plan;
  const absl::StatusOr<const GpuCard*> card = GpuCardByName(flags.gpu);
  if (card.ok()) {
    plan.request.budget_bytes = UsableDeviceBytes((*card)->memory_bytes);
  } else {
    const absl::StatusOr<uint64_t> bytes = ParseByteSize("--gpu", flags.gpu);
    if (!bytes.ok()) return UsageError(bytes.status().message(), ", nor a card: ", card.status().message());
    plan.request.budget_bytes = *bytes;
  }
  if (flags.gpu_layers < -1) return UsageError("-ngl: expected -1 or more, found ", flags.gpu_layers);
  const DeviceFootprint footprint = DeviceFootprintOf(schema.arch(), CacheFormat::kBf16, context);
  plan.request.cache_token_bytes = footprint.cache_token_bytes;
  plan.request.index_token_bytes = footprint.index_token_bytes;
  plan.request.context = context;
  plan.request.working_bytes = footprint.working_bytes;
  plan.request.gpu_layers = flags.gpu_layers;
  KOMPAKT_ASSIGN_OR_RETURN(plan.model, BytesOfModel(schema, formats));
  KOMPAKT_ASSIGN_OR_RETURN(plan.placement, PlaceModel(plan.model, plan.request));
  KOMPAKT_ASSIGN_OR_RETURN(plan.cards, CardsOf(flags, card.ok() ? *card : nullptr, plan.request.budget_bytes));
  for (CardEstimate& estimate : plan.cards) {
    estimate.decode = EstimateDecode(plan.model, plan.placement, DeviceCacheReads(schema.arch(), footprint, context),
                                     schema.arch().hidden_size(), estimate.rates);
  }
  return plan;
}

uint64_t HostBytes(const GpuPlan& plan) {
  const uint64_t all = plan.model.total();
  return all > plan.placement.weight_bytes ? all - plan.placement.weight_bytes : 0;
}

std::string GpuPlanText(const GpuPlan& plan) {
  const Placement& placement = plan.placement;
  std::string text =
      absl::StrCat("device   ", PlacementText(placement), "\n         ", HumanBytes(placement.weight_bytes),
                   " weights + ", HumanBytes(placement.cache_bytes), " KV cache of ", plan.request.context,
                   " tokens + ", HumanBytes(placement.working_bytes), " working memory");
  if (placement.slots > 0) absl::StrAppend(&text, " + ", HumanBytes(placement.slots_bytes()), " slots");
  absl::StrAppend(&text, " = ", HumanBytes(placement.total_bytes()), " of ", HumanBytes(plan.request.budget_bytes),
                  "\nhost     ", HumanBytes(HostBytes(plan)), " weights, and the embedding\n");
  if (plan.cards.empty()) return text + "rate     no card of the table has so much memory; --gpu-bandwidth gives one\n";
  const DecodeEstimate& bytes = plan.cards.front().decode;
  absl::StrAppend(&text, "token    reads ", HumanBytes(static_cast<uint64_t>(bytes.device_bytes)),
                  " of device memory and ", HumanBytes(static_cast<uint64_t>(bytes.host_bytes)),
                  " of host memory at depth ", plan.request.context, ", and moves ",
                  HumanBytes(static_cast<uint64_t>(bytes.link_bytes)), " over the link\n",
                  "rate     what these bytes allow at most, by published bandwidths: an estimate, nothing was "
                  "measured\n");
  for (const CardEstimate& card : plan.cards) {
    absl::StrAppend(&text, absl::StrFormat("         %-22s %6.0f tokens/s  (memory %.0f GB/s, host %.0f, link %.1f)\n",
                                           card.card, card.decode.tokens_per_second, card.rates.device / 1e9,
                                           card.rates.host / 1e9, card.rates.link / 1e9));
  }
  return text;
}

nlohmann::ordered_json GpuPlanJson(const GpuPlan& plan) {
  const Placement& placement = plan.placement;
  nlohmann::ordered_json layers = nlohmann::ordered_json::array();
  for (const Placement::Layer& layer : placement.layers) {
    nlohmann::ordered_json one = {{"layer", layer.on_device ? "device" : "host"}};
    if (layer.experts != Placement::Experts::kNone) {
      one["experts"] = layer.experts == Placement::Experts::kDevice ? "device" : "host";
    }
    layers.push_back(std::move(one));
  }
  nlohmann::ordered_json cards = nlohmann::ordered_json::array();
  for (const CardEstimate& card : plan.cards) {
    cards.push_back({{"card", card.card},
                     {"device_bytes_per_second", card.rates.device},
                     {"host_bytes_per_second", card.rates.host},
                     {"link_bytes_per_second", card.rates.link},
                     {"device_bytes_per_token", card.decode.device_bytes},
                     {"host_bytes_per_token", card.decode.host_bytes},
                     {"link_bytes_per_token", card.decode.link_bytes},
                     {"tokens_per_second_at_most", card.decode.tokens_per_second}});
  }
  return {{"budget_bytes", plan.request.budget_bytes},
          {"context", plan.request.context},
          {"weight_bytes", placement.weight_bytes},
          {"cache_bytes", placement.cache_bytes},
          {"working_bytes", placement.working_bytes},
          {"slots", placement.slots},
          {"slot_bytes", placement.slot_bytes},
          {"total_bytes", placement.total_bytes()},
          {"host_weight_bytes", HostBytes(plan)},
          {"layers", std::move(layers)},
          {"estimates", std::move(cards)},
          {"estimates_are_measured", false}};
}

}  // namespace

void DeclareGpuPlanFlags(CLI::App& app, GpuPlanFlags& flags) {
  app.add_option("--gpu", flags.gpu,
                 "Say instead what goes to a GPU with this much memory (24GiB) or to a card (3060, 3090, 4090, 5090, "
                 "a100, h100), and which rate the bytes of a token allow; a .kpk without --recipe is taken as it is");
  app.add_option("--ngl,--gpu-layers", flags.gpu_layers,
                 "With --gpu: layers on the device, also as -ngl N; -1: what fits")
      ->capture_default_str();
  app.add_option("--gpu-bandwidth", flags.gpu_bandwidth, "With --gpu: bytes per second of its memory, as 1008GB");
  app.add_option("--host-bandwidth", flags.host_bandwidth, "The same of the host's memory; default: 45GB");
  app.add_option("--link-bandwidth", flags.link_bandwidth, "The same of PCIe; default: what the card has on paper");
}

absl::StatusOr<ExitCode> AnswerGpuPlan(const GpuPlanFlags& flags, const ModelSchema& schema,
                                       absl::Span<const FormatId> formats, int64_t context, bool json) {
  KOMPAKT_ASSIGN_OR_RETURN(const GpuPlan plan, MakeGpuPlan(flags, schema, formats, context));
  PrintAnswer(json ? JsonText(GpuPlanJson(plan)) : GpuPlanText(plan));
  return kExitYes;
}

}  // namespace kompakt
