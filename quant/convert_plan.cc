#include "quant/convert_plan.h"

#include <algorithm>
#include <map>
#include <tuple>
#include <utility>

#include "format/packed_target.h"
#include "format/status.h"
#include "format/volume_plan.h"
#include "quant/convert.h"

namespace kompakt {
namespace {

std::vector<ConversionPlan::Line> MakeLines(const TensorSource& source, const ConversionPlan& plan) {
  using Key = std::tuple<TensorClass, std::string, std::string, FormatId, bool, std::string>;
  std::map<Key, size_t> index;
  std::vector<ConversionPlan::Line> lines;
  for (size_t t = 0; t < plan.choices.size(); ++t) {
    const TensorInfo& tensor = source.schema().tensors()[t];
    const QuantRecipe::Choice& choice = plan.choices[t];
    const TensorClass tensor_class = ClassOf(source.schema().arch(), tensor.role, tensor.layer);
    std::string role = RoleLabel(source.schema().arch(), tensor.role, tensor.layer);
    const auto [at, is_new] = index.try_emplace(
        {tensor_class, role, choice.form.dtype, choice.format, choice.exact, choice.reason}, lines.size());
    if (is_new) {
      ConversionPlan::Line line;
      line.tensor_class = std::string(ClassName(tensor_class));
      line.role = std::move(role);
      line.source_dtype = choice.form.dtype;
      line.format = std::string(FormatOf(choice.format).name);
      line.reason = choice.reason;
      line.exact = choice.exact;
      lines.push_back(std::move(line));
    }
    ConversionPlan::Line& line = lines[at->second];
    const PackedLayout::Place place = plan.layout.Find(tensor.role, tensor.layer);
    line.tensors += 1;
    line.parameters += tensor.elements();
    line.source_bytes += choice.form.stored_bytes;
    line.packed_bytes += plan.layout.extents()[static_cast<size_t>(place.extent)]
                             .parts[static_cast<size_t>(place.part)]
                             .blob.total_bytes;
  }
  return lines;
}

}  // namespace

absl::StatusOr<WritePlan> MakeWritePlan(const TensorSource& source, const QuantRecipe& recipe,
                                        const std::vector<QuantRecipe::Choice>& choices, PackedLayout layout,
                                        const Importance* importance) {
  WritePlan plan;
  KOMPAKT_ASSIGN_OR_RETURN(const std::vector<SourceFile> files, source.Files());
  KOMPAKT_ASSIGN_OR_RETURN(plan.source_states, source.States());
  plan.manifest = ManifestFor(source.schema(), layout);
  plan.layout = std::move(layout);
  std::vector<std::vector<bool>> seen;
  for (const Extent& extent : plan.layout.extents()) seen.emplace_back(extent.parts.size(), false);
  for (size_t t = 0; t < choices.size(); ++t) {
    const TensorInfo& tensor = source.schema().tensors()[t];
    const PackedLayout::Place place = plan.layout.Find(tensor.role, tensor.layer);
    PartEntry& part =
        *plan.manifest.mutable_extents(static_cast<int>(place.extent))->mutable_parts(static_cast<int>(place.part));
    // The experts of a layer share one entry: what holds for it must hold for each.
    std::vector<bool>::reference part_seen = seen[static_cast<size_t>(place.extent)][static_cast<size_t>(place.part)];
    if (!part_seen) {
      part.set_exact(choices[t].exact);
      part.set_source_dtype(choices[t].form.dtype);
      if (choices[t].exact) part.set_upstream_form(choices[t].form.upstream_form);
      part_seen = true;
      continue;
    }
    part.set_exact(part.exact() && choices[t].exact);
    if (part.source_dtype() != choices[t].form.dtype) part.set_source_dtype("mixed");
    if (!part.exact() || part.upstream_form() != choices[t].form.upstream_form) part.clear_upstream_form();
  }
  *plan.manifest.mutable_assets() = source.assets();
  plan.manifest.set_recipe(recipe.ToText());
  Provenance& provenance = *plan.manifest.mutable_provenance();
  provenance.set_tool_version("kompakt " KOMPAKT_VERSION);
  for (const SourceFile& file : files) *provenance.add_source_files() = file;
  if (importance != nullptr) provenance.set_calibration_xxh3(importance->file().xxh3());
  for (const std::string& notice : source.notices()) provenance.add_notices(notice);
  return plan;
}

absl::StatusOr<ConversionPlan> PlanConversion(const TensorSource& source, const QuantRecipe& recipe, int threads,
                                              uint64_t ram_bytes, const Importance* importance,
                                              const std::atomic<bool>* interrupted) {
  ConversionPlan plan;
  plan.importance = importance;
  KOMPAKT_ASSIGN_OR_RETURN(plan.choices, recipe.Resolve(source));
  plan.scale_search = recipe.scale_search();
  std::vector<FormatId> formats;
  formats.reserve(plan.choices.size());
  for (const QuantRecipe::Choice& choice : plan.choices) formats.push_back(choice.format);
  if (recipe.error_feedback().has_value()) {
    if (importance == nullptr) {
      return UsageError("the recipe asks for error feedback, which needs a calibration with second moments ",
                        "(--calibration FILE, made with kompakt calibrate --hessian)");
    }
    std::vector<TensorForm> forms;
    forms.reserve(plan.choices.size());
    for (const QuantRecipe::Choice& choice : plan.choices) forms.push_back({choice.format, choice.exact});
    KOMPAKT_ASSIGN_OR_RETURN(plan.feedback, FeedbackPlan::Create(*importance, source.schema(), std::move(forms),
                                                                 *recipe.error_feedback(), interrupted));
  }
  KOMPAKT_ASSIGN_OR_RETURN(plan.layout, PackedLayout::Create(source.schema(), formats));
  plan.lines = MakeLines(source, plan);
  plan.parameters = source.schema().parameter_count();
  for (const QuantRecipe::Choice& choice : plan.choices) plan.source_bytes += choice.form.stored_bytes;
  plan.tensor_bytes = plan.layout.tensor_bytes();
  KOMPAKT_ASSIGN_OR_RETURN(const WritePlan write,
                           MakeWritePlan(source, recipe, plan.choices, plan.layout, plan.importance));
  KOMPAKT_ASSIGN_OR_RETURN(plan.file_bytes, PackedFileBytes(write));
  KOMPAKT_ASSIGN_OR_RETURN(
      plan.memory, PlanMemory(source, plan.choices, write, threads, ram_bytes, importance, plan.feedback.get()));
  return plan;
}

absl::StatusOr<std::vector<PlannedFile>> PlanVolumes(const TensorSource& source, const QuantRecipe& recipe,
                                                     const std::string& destination, const ConversionPlan& plan,
                                                     uint64_t volume_bytes) {
  KOMPAKT_ASSIGN_OR_RETURN(WritePlan write, MakeWritePlan(source, recipe, plan.choices, plan.layout, plan.importance));
  if (volume_bytes != 0) KOMPAKT_RETURN_IF_ERROR(CutIntoVolumes(write, volume_bytes));
  KOMPAKT_ASSIGN_OR_RETURN(const std::vector<uint64_t> bytes, VolumeFileBytes(write));
  const std::vector<std::string> paths = TargetPaths(destination, write.manifest);
  std::vector<PlannedFile> files;
  for (size_t v = 0; v < paths.size(); ++v) {
    const VolumeSpan span = paths.size() == 1 ? VolumeSpan{0, write.layout.data_end()}
                                              : SpanOfVolume(write.manifest.volumes(), static_cast<int>(v) + 1);
    files.push_back({paths[v], bytes[v], ContentOfVolume(write.layout, span)});
  }
  return files;
}

}  // namespace kompakt
