#include "tools/compare_report.h"

#include <algorithm>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_format.h"
#include "format/checksum.h"
#include "quant/encoder.h"
#include "tools/terminal.h"

namespace kompakt {
namespace {

using Json = nlohmann::ordered_json;

struct NamedQuantile {
  const char* name;  // in JSON
  const char* text;
  double q;
};
constexpr NamedQuantile kQuantiles[] = {
    {"median_kl", "median", 0.5}, {"kl_90", "90 %", 0.9},       {"kl_95", "95 %", 0.95},
    {"kl_99", "99 %", 0.99},      {"kl_99_9", "99.9 %", 0.999}, {"max_kl", "max", 1.0},
};

std::vector<int64_t> UnseenExperts(const LayerComparison& layer) {
  std::vector<int64_t> unseen;
  for (size_t e = 0; e < layer.tokens_per_expert.size(); ++e) {
    if (layer.tokens_per_expert[e] == 0) unseen.push_back(static_cast<int64_t>(e));
  }
  return unseen;
}

std::string ListOf(const std::vector<int64_t>& numbers, size_t most) {
  std::string list;
  for (size_t i = 0; i < std::min(numbers.size(), most); ++i) absl::StrAppend(&list, i > 0 ? " " : "", numbers[i]);
  if (numbers.size() > most) absl::StrAppend(&list, " and ", numbers.size() - most, " more");
  return list;
}

std::string LayersText(const Comparison& comparison) {
  std::string text = absl::StrFormat("\n%5s  %12s  %10s  %8s  %10s  %s\n", "layer", "hidden error", "same set",
                                     "overlap", "router KL", "tokens per expert: least, median, most");
  for (size_t l = 0; l < comparison.layers.size(); ++l) {
    const LayerComparison& layer = comparison.layers[l];
    absl::StrAppend(&text, absl::StrFormat("%5d  %12.5f", l, layer.hidden_error));
    if (layer.moe) {
      std::vector<int64_t> sorted = layer.tokens_per_expert;
      std::sort(sorted.begin(), sorted.end());
      absl::StrAppend(&text, absl::StrFormat("  %8.3f %%  %6.3f %%  %10.3g  %d, %d, %d", 100 * layer.router_agreement,
                                             100 * layer.router_overlap, layer.router_kl, sorted.front(),
                                             sorted[sorted.size() / 2], sorted.back()));
    }
    text += '\n';
  }
  for (size_t l = 0; l < comparison.layers.size(); ++l) {
    const std::vector<int64_t> unseen = UnseenExperts(comparison.layers[l]);
    if (unseen.empty()) continue;
    absl::StrAppend(&text, "layer ", l,
                    ": experts that no token chose, about which nothing was shown: ", ListOf(unseen, 32), "\n");
  }
  return text;
}

constexpr absl::string_view kNotInBaseline =
    "\nHidden states, router agreement and expert coverage are not measured: a baseline does not hold them.\n"
    "Compare with the original itself for them.\n";

std::string BaselineText(const CompareReport& report) {
  if (!report.baseline.has_value()) return "";
  return absl::StrFormat(
      "baseline  of %s, the %d most likely tokens of each position; %.3g of the probability lies outside of them and\n"
      "          counts as one token: every KL below is a lower bound, the rest is exact\n\n",
      report.baseline->model, report.baseline->shape().top(), report.comparison.baseline_rest->mean());
}

Json DivergenceJson(const Comparison& comparison) {
  const DivergenceSummary& d = comparison.divergence;
  Json json = {{"mean_kl", d.kl.mean()}, {"mean_kl_stderr", d.kl.standard_error()}};
  for (const NamedQuantile& quantile : kQuantiles) json[quantile.name] = d.kl_quantiles.At(quantile.q);
  json["same_top1"] = d.same_top_share();
  json["rms_delta_p"] = d.rms_delta_p();
  json["ln_ppl_ratio"] = d.nll_difference.mean();
  json["ln_ppl_ratio_stderr"] = d.nll_difference.standard_error();
  json["ppl_original"] = d.perplexity_p();
  json["ppl_packed"] = d.perplexity_q();
  json["tokens_scored"] = d.tokens_scored;
  json["chunks"] = comparison.chunks;
  return json;
}

}  // namespace

std::vector<TensorLine> TensorLines(const LoadedModel& packed) {
  const ModelSchema& schema = packed.weights->schema();
  std::vector<TensorLine> lines;
  for (const TensorInfo& tensor : schema.tensors()) {
    if (tensor.expert > 0) continue;
    TensorLine line;
    line.name = tensor.layer < 0 ? std::string(InfoOf(tensor.role).name)
                                 : absl::StrCat(tensor.layer, ".", InfoOf(tensor.role).name);
    line.tensor_class = std::string(ClassName(ClassOf(schema.arch(), tensor.role, tensor.layer)));
    const auto count = static_cast<uint64_t>(tensor.expert < 0 ? 1 : schema.arch().moe().n_routed_experts());
    line.parameters = tensor.elements() * static_cast<int64_t>(count);
    if (packed.file != nullptr) {
      const PackedLayout::Place place = packed.file->layout().Find(tensor.role, tensor.layer);
      const PartEntry& part =
          packed.file->manifest().extents(static_cast<int>(place.extent)).parts(static_cast<int>(place.part));
      line.format = part.format();
      line.bytes = part.bytes() * count;
      line.exact = part.exact();
      ErrorStats sum;
      for (const ErrorStats& stats : part.stats()) {
        sum.set_sum_squared_error(sum.sum_squared_error() + stats.sum_squared_error());
        sum.set_sum_squared_weight(sum.sum_squared_weight() + stats.sum_squared_weight());
      }
      line.has_error = part.stats_size() > 0;
      line.error_db = NmseDb(sum);
    } else if (const auto view = packed.weights->Matrix(tensor); !tensor.is_vector() && view.ok()) {
      line.format = std::string(view->format->name);
      line.bytes = view->layout.total_bytes * count;
      line.exact = view->format->exact;
    } else {
      continue;
    }
    lines.push_back(std::move(line));
  }
  return lines;
}

std::string CompareText(const CompareReport& report) {
  const Comparison& comparison = report.comparison;
  const DivergenceSummary& d = comparison.divergence;
  std::string text =
      absl::StrFormat("original  %s  %s bytes of tensors\npacked    %s  %s bytes of tensors, kernels %s\n",
                      report.original, GroupedDigits(static_cast<int64_t>(report.tensor_bytes_original)), report.packed,
                      GroupedDigits(static_cast<int64_t>(report.tensor_bytes_packed)), report.path);
  absl::StrAppend(&text, absl::StrFormat("text      %s  %d tokens scored in %d chunks of %d, %.1f s\n\n", report.text,
                                         d.tokens_scored, comparison.chunks, comparison.context, report.seconds));
  absl::StrAppend(&text, BaselineText(report));
  absl::StrAppend(&text, absl::StrFormat("mean KL           %s%.6f +/- %.6f nats\n", report.baseline ? ">= " : "",
                                         d.kl.mean(), d.kl.standard_error()));
  for (const NamedQuantile& quantile : kQuantiles) {
    absl::StrAppend(&text, absl::StrFormat("KL %-13s  %.3g\n", quantile.text, d.kl_quantiles.At(quantile.q)));
  }
  absl::StrAppend(&text, absl::StrFormat("same top token    %.3f %%\nRMS delta p       %.4f %%\n",
                                         100 * d.same_top_share(), 100 * d.rms_delta_p()));
  absl::StrAppend(
      &text,
      absl::StrFormat("ln(PPL ratio)     %+.6f +/- %.6f\nperplexity        %.4f original, %.4f packed\n",
                      d.nll_difference.mean(), d.nll_difference.standard_error(), d.perplexity_p(), d.perplexity_q()));
  for (const auto& [name, floor] : report.floor) {
    const DivergenceSummary& f = floor.divergence;
    absl::StrAppend(&text,
                    absl::StrFormat("noise floor       %.3g +/- %.2g nats mean KL, median %.3g: %s, %d chunks\n",
                                    f.kl.mean(), f.kl.standard_error(), f.kl_quantiles.At(0.5), name, floor.chunks));
  }
  return text + (report.baseline.has_value() ? std::string(kNotInBaseline) : LayersText(comparison));
}

Json CompareJson(const CompareReport& report) {
  Json json = {{"original", report.original}, {"packed", report.packed}, {"text", report.text}, {"path", report.path}};
  json.update(DivergenceJson(report.comparison));
  json["kl_is"] = report.baseline.has_value() ? "lower bound" : "exact";
  if (report.baseline.has_value()) {
    json["baseline"] = {{"model", report.baseline->model},
                        {"model_xxh3", HexOf(report.baseline->model_xxh3)},
                        {"top", report.baseline->shape().top()},
                        {"mean_probability_outside", report.comparison.baseline_rest->mean()},
                        {"not_measured", {"hidden_error", "router_agreement", "tokens_per_expert"}}};
  }
  json["tensor_bytes"] = report.tensor_bytes_packed;
  json["tensor_bytes_original"] = report.tensor_bytes_original;
  Json floor = Json::object();
  for (const auto& [name, comparison] : report.floor) floor[name] = DivergenceJson(comparison);
  json["noise_floor"] = std::move(floor);
  Json positions = Json::array();
  for (const RunningMean& bin : report.comparison.kl_by_position) positions.push_back(bin.mean());
  json["mean_kl_by_position"] = std::move(positions);
  Json layers = Json::array();
  for (const LayerComparison& layer : report.comparison.layers) {
    Json entry = {{"hidden_error", layer.hidden_error}};
    if (layer.moe) {
      entry["router_agreement"] = layer.router_agreement;
      entry["router_overlap"] = layer.router_overlap;
      entry["router_kl"] = layer.router_kl;
      entry["tokens_per_expert"] = layer.tokens_per_expert;
      entry["expert_error"] = layer.expert_error;
      entry["unseen_experts"] = UnseenExperts(layer);
    }
    layers.push_back(std::move(entry));
  }
  json["layers"] = std::move(layers);
  json["seconds"] = report.seconds;
  return json;
}

}  // namespace kompakt
