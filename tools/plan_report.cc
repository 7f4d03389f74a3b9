#include "tools/plan_report.h"

#include <algorithm>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_format.h"
#include "format/status.h"
#include "nlohmann/json.hpp"
#include "quant/calibrate.h"
#include "quant/convert.h"
#include "tools/calibration_run.h"
#include "tools/json_text.h"
#include "tools/model_input.h"
#include "tools/preflight.h"
#include "tools/terminal.h"

namespace kompakt {
namespace {

struct PlanReport {
  int64_t context = 0;  // tokens of the KV cache that is shown
  ConversionPlan plan;
  std::vector<PlannedFile> files;  // one, or one per volume
  ChosenRecipe recipe;
  Preflight preflight;
  RamLimit ram;
  // What `calibrate` would take besides the model, with mean squares alone and with second moments.
  CalibrationMemory calibrate, calibrate_hessian;
};

// Of the longest text that calibrate's memory is stated for: about what the text in the program has.
constexpr int64_t kCalibrationTokens = 131072;
constexpr int64_t kCalibrationContext = 512;

CalibrationMemory CalibrateMemory(const ModelSchema& schema, int threads, bool hessian) {
  return CalibrationMemoryOf(schema.arch(), threads, kCalibrationTokens, kCalibrationContext,
                             CalibrationRows(schema, hessian));
}

std::string ModelLine(const ArchSpec& arch) {
  return absl::StrFormat("%s (%s), %d layers, hidden %d, %d heads, %d experts top-%d, vocabulary %d",
                         arch.architecture(), arch.model_type(), arch.num_hidden_layers(), arch.hidden_size(),
                         arch.mla().num_attention_heads(), arch.moe().n_routed_experts(),
                         arch.moe().num_experts_per_tok(), arch.vocab_size());
}

// The main model's count, what is kept of its MTP layers, and what the files hold of them.
std::string ParametersText(const TensorSource& source) {
  const ModelSchema& schema = source.schema();
  const int64_t main = schema.main_parameter_count();
  std::string text = GroupedDigits(main);
  if (schema.parameter_count() > main) {
    absl::StrAppend(&text, ", with the MTP layers that are kept ", GroupedDigits(schema.parameter_count()));
  }
  if (const int64_t mtp = source.Inventory().mtp_parameters; mtp > 0) {
    absl::StrAppend(&text, "; with MTP layers as the source stores them ", GroupedDigits(main + mtp));
  }
  return text;
}

std::string InventoryText(const TensorSource& source) {
  const SourceInventory inventory = source.Inventory();
  if (inventory.tensors == 0) return "";
  return absl::StrCat(" are read, of ", GroupedDigits(static_cast<int64_t>(inventory.tensor_bytes)), " in ",
                      GroupedDigits(inventory.tensors), " tensors");
}

std::string CacheText(const ArchSpec& arch, int64_t context, CacheFormat format) {
  const uint64_t token_bytes = CacheBytesPerToken(arch, format);
  return absl::StrCat("KV cache    ", HumanBytes(token_bytes * static_cast<uint64_t>(context)), " for ",
                      GroupedDigits(context), " tokens as ", CacheFormatName(format), ", ",
                      GroupedDigits(static_cast<int64_t>(token_bytes)), " bytes per token\n");
}

std::string FitText(const ChosenRecipe& recipe) {
  const FitResult& fit = *recipe.fit;
  return absl::StrCat("fit         ", fit.chosen, "\n            ", HumanBytes(fit.file_bytes), " file + ",
                      HumanBytes(fit.footprint.cache_bytes), " KV cache + ", HumanBytes(fit.footprint.working_bytes),
                      " working memory, of ", HumanBytes(recipe.fit_budget_bytes), "\n");
}

std::string AllocationText(const ChosenRecipe& recipe) {
  const Allocation& allocation = *recipe.allocation;
  return absl::StrFormat("budget      %s bytes of tensors, %s of them used; estimated damage %.4g\n",
                         GroupedDigits(static_cast<int64_t>(recipe.size_budget_bytes)),
                         GroupedDigits(static_cast<int64_t>(allocation.tensor_bytes)), allocation.damage);
}

std::string VolumesText(const std::vector<PlannedFile>& files) {
  std::string text = absl::StrCat("volumes     ", files.size(), "\n");
  for (const PlannedFile& file : files) {
    absl::StrAppend(&text, "  ", file.path, "  ", GroupedDigits(static_cast<int64_t>(file.bytes)), " bytes  ",
                    file.content, "\n");
  }
  return text;
}

double BitsPerWeight(uint64_t bytes, int64_t parameters) {
  return parameters > 0 ? 8.0 * static_cast<double>(bytes) / static_cast<double>(parameters) : 0;
}

absl::StatusOr<PlanReport> MakePlanReport(const TensorSource& source, const RecipeFlags& flags,
                                          const std::string& destination, int threads, const RamLimit& ram,
                                          const Importance* importance) {
  PlanReport report;
  report.context = flags.context;
  report.ram = ram;
  KOMPAKT_ASSIGN_OR_RETURN(report.recipe, ChooseRecipe(flags, source, threads, importance));
  KOMPAKT_ASSIGN_OR_RETURN(report.plan, PlanConversion(source, report.recipe.recipe, threads, ram.bytes, importance));
  KOMPAKT_ASSIGN_OR_RETURN(const uint64_t volume_bytes, VolumeBytes(flags));
  KOMPAKT_ASSIGN_OR_RETURN(report.files,
                           PlanVolumes(source, report.recipe.recipe, destination.empty() ? "NAME.kpk" : destination,
                                       report.plan, volume_bytes));
  report.plan.file_bytes = 0;
  for (const PlannedFile& file : report.files) report.plan.file_bytes += file.bytes;
  report.calibrate = CalibrateMemory(source.schema(), threads, false);
  report.calibrate_hessian = CalibrateMemory(source.schema(), threads, true);
  report.preflight =
      CheckBeforeWork(source, report.recipe.recipe, report.plan, report.files, destination, report.plan.memory.workers);
  return report;
}

std::string PlanText(const TensorSource& source, const PlanReport& report) {
  const ConversionPlan& plan = report.plan;
  std::string text = absl::StrCat("model    ", ModelLine(source.schema().arch()), "\n");
  size_t role_width = 4, source_width = 6;
  for (const auto& line : plan.lines) {
    role_width = std::max(role_width, line.role.size());
    source_width = std::max(source_width, line.source_dtype.size());
  }
  absl::StrAppend(&text,
                  absl::StrFormat("\n%-*s  %7s  %11s  %-*s  %-9s  %13s  %6s  %s\n", role_width, "role", "tensors",
                                  "parameters", source_width, "source", "packed as", "bytes", "bits", "why"));
  for (const auto& line : plan.lines) {
    absl::StrAppend(&text, absl::StrFormat("%-*s  %7d  %11s  %-*s  %-9s  %13s  %6.3f  %s%s\n", role_width, line.role,
                                           line.tensors, HumanCount(line.parameters), source_width, line.source_dtype,
                                           line.format, GroupedDigits(static_cast<int64_t>(line.packed_bytes)),
                                           BitsPerWeight(line.packed_bytes, line.parameters),
                                           line.exact ? "exact; " : "", line.reason));
  }
  absl::StrAppend(&text, "\nparameters  ", ParametersText(source), "\nsource      ",
                  GroupedDigits(static_cast<int64_t>(plan.source_bytes)), " bytes of tensors", InventoryText(source),
                  "\npacked      ", GroupedDigits(static_cast<int64_t>(plan.tensor_bytes)), " bytes of tensors",
                  absl::StrFormat(" (%.3f bits per weight)", BitsPerWeight(plan.tensor_bytes, plan.parameters)),
                  "\nfile        ", GroupedDigits(static_cast<int64_t>(plan.file_bytes)), " bytes\nmemory      ",
                  HumanBytes(plan.memory.peak_bytes), " at most while converting, with ", plan.memory.workers,
                  plan.memory.workers == 1 ? " worker" : " workers", " (limit ", HumanBytes(report.ram.bytes), ": ",
                  report.ram.why, ")\ndisk        ", HumanBytes(plan.file_bytes),
                  " at the destination while converting and after\n");
  absl::StrAppend(&text, CacheText(source.schema().arch(), report.context, report.recipe.cache_format));
  absl::StrAppend(&text, "calibrate   ", HumanBytes(report.calibrate.total()), " besides the model for ",
                  GroupedDigits(kCalibrationTokens), " tokens, ", HumanBytes(report.calibrate_hessian.total()),
                  " with --hessian\n");
  if (plan.scale_search != SearchEffort::kDefault) {
    absl::StrAppend(&text, "search      ", EffortName(plan.scale_search), " search for scales\n");
  }
  if (plan.importance != nullptr) absl::StrAppend(&text, CalibrationText(*plan.importance), "\n");
  if (plan.feedback != nullptr) {
    absl::StrAppend(&text, "feedback    of errors, second moments damped by ", *report.recipe.recipe.error_feedback(),
                    " of their mean; each worker holds the factors of one input at a time\n");
  }
  if (report.files.size() > 1) absl::StrAppend(&text, VolumesText(report.files));
  if (report.recipe.fit.has_value()) absl::StrAppend(&text, FitText(report.recipe));
  if (report.recipe.allocation.has_value()) absl::StrAppend(&text, AllocationText(report.recipe));
  return text + report.preflight.Text();
}

nlohmann::ordered_json PlanJson(const TensorSource& source, const PlanReport& report) {
  const ConversionPlan& plan = report.plan;
  nlohmann::ordered_json lines = nlohmann::ordered_json::array();
  for (const auto& line : plan.lines) {
    lines.push_back({{"class", line.tensor_class},
                     {"role", line.role},
                     {"tensors", line.tensors},
                     {"parameters", line.parameters},
                     {"source_dtype", line.source_dtype},
                     {"source_bytes", line.source_bytes},
                     {"format", line.format},
                     {"packed_bytes", line.packed_bytes},
                     {"exact", line.exact},
                     {"reason", line.reason}});
  }
  const ArchSpec& arch = source.schema().arch();
  nlohmann::ordered_json json = {
      {"architecture", arch.architecture()},
      {"model_type", arch.model_type()},
      {"parameters", source.schema().main_parameter_count()},
      {"parameters_packed", plan.parameters},
      {"parameters_with_mtp", source.schema().main_parameter_count() + source.Inventory().mtp_parameters},
      {"source_tensors", source.Inventory().tensors},
      {"source_tensor_bytes", source.Inventory().tensor_bytes},
      {"source_bytes", plan.source_bytes},
      {"tensor_bytes", plan.tensor_bytes},
      {"file_bytes", plan.file_bytes},
      {"bits_per_weight", BitsPerWeight(plan.tensor_bytes, plan.parameters)},
      {"peak_ram_bytes", plan.memory.peak_bytes},
      {"least_ram_bytes", plan.memory.least_bytes},
      {"ram_bytes", report.ram.bytes},
      {"workers", plan.memory.workers},
      {"disk_bytes", plan.file_bytes},
      {"scale_search", std::string(EffortName(plan.scale_search))},
      {"error_feedback", report.recipe.recipe.error_feedback().value_or(0)},
      {"calibrated", plan.importance != nullptr},
      {"calibration", CalibrationJson(plan.importance)},
      {"calibrate_ram_bytes", report.calibrate.total()},
      {"calibrate_hessian_ram_bytes", report.calibrate_hessian.total()},
      {"kv_format", std::string(CacheFormatName(report.recipe.cache_format))},
      {"kv_bytes_per_token", CacheBytesPerToken(arch, report.recipe.cache_format)},
      {"lines", std::move(lines)},
      {"notices", source.notices()}};
  if (report.files.size() > 1) {
    nlohmann::ordered_json volumes = nlohmann::ordered_json::array();
    for (const PlannedFile& file : report.files) {
      volumes.push_back({{"file", file.path}, {"bytes", file.bytes}, {"content", file.content}});
    }
    json["volumes"] = std::move(volumes);
  }
  json.update(report.preflight.Json());
  if (const auto& allocation = report.recipe.allocation; allocation.has_value()) {
    json["allocation"] = {{"budget_bytes", report.recipe.size_budget_bytes},
                          {"tensor_bytes", allocation->tensor_bytes},
                          {"damage", allocation->damage},
                          {"recipe", report.recipe.recipe.ToText()}};
  }
  if (const auto& fit = report.recipe.fit; fit.has_value()) {
    json["fit"] = {{"chosen", fit->chosen},
                   {"budget_bytes", report.recipe.fit_budget_bytes},
                   {"file_bytes", fit->file_bytes},
                   {"cache_bytes", fit->footprint.cache_bytes},
                   {"working_bytes", fit->footprint.working_bytes},
                   {"recipe", report.recipe.recipe.ToText()}};
  }
  return json;
}

}  // namespace

absl::StatusOr<ExitCode> AnswerPlan(const TensorSource& source, const RecipeFlags& flags,
                                    const std::string& destination, int threads, const RamLimit& ram,
                                    const Importance* importance, bool json) {
  KOMPAKT_ASSIGN_OR_RETURN(const PlanReport report,
                           MakePlanReport(source, flags, destination, threads, ram, importance));
  PrintAnswer(json ? JsonText(PlanJson(source, report)) : PlanText(source, report));
  KOMPAKT_RETURN_IF_ERROR(report.preflight.Outcome());
  return kExitYes;
}

}  // namespace kompakt
