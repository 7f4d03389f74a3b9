#include "tools/paging_report.h"

#include "absl/strings/str_cat.h"
#include "absl/strings/str_format.h"
#include "format/status.h"
#include "tools/machine_memory.h"
#include "tools/terminal.h"

namespace kompakt {
namespace {

constexpr uint64_t kProbeBytes = uint64_t{1} << 30;

}  // namespace

double PagingReport::disk_tokens_per_second() const {
  if (plan.even_read_bytes == 0) return 0;
  return disk.bytes_per_second / static_cast<double>(plan.even_read_bytes);
}

absl::StatusOr<PagingReport> MakePagingReport(const PackedReader& file, uint64_t ram_bytes, int64_t context,
                                              int threads, CacheFormat cache_format) {
  PagingReport report{.plan = {}, .disk = {}, .context = context, .threads = threads};
  KOMPAKT_ASSIGN_OR_RETURN(report.plan, PlanPaging(file.schema(), file.layout(), ram_bytes, ProcessMemoryBytes(),
                                                   context, threads, cache_format));
  if (report.plan.layers > 0) {
    KOMPAKT_ASSIGN_OR_RETURN(report.disk, ProbeDisk(file, kProbeBytes));
  }
  return report;
}

std::string PagingText(const PagingReport& report, const std::string& path) {
  const PagingPlan& plan = report.plan;
  std::string text = absl::StrFormat("%s within --ram of %s, %d tokens, %d threads\n", path, HumanBytes(plan.ram_bytes),
                                     report.context, report.threads);
  const auto line = [&](absl::string_view what, const std::string& value) {
    absl::StrAppend(&text, absl::StrFormat("  %-10s %s\n", what, value));
  };
  line("weights", absl::StrCat(HumanBytes(plan.resident_bytes), " that every token uses"));
  line("KV cache", HumanBytes(plan.cache_bytes));
  line("work", HumanBytes(plan.working_bytes));
  line("program", HumanBytes(plan.program_bytes));
  if (plan.layers == 0) return text;
  line("experts", absl::StrCat(HumanBytes(plan.expert_bytes), " of ", HumanBytes(plan.all_expert_bytes), ": ",
                               plan.least_slots, " of ", plan.experts, " in each of ", plan.layers, " layers"));
  line("disk", absl::StrCat(HumanBytes(static_cast<uint64_t>(report.disk.bytes_per_second)),
                            "/s for reads of experts, measured now"));
  line("a token", plan.even_read_bytes == 0
                      ? std::string("reads nothing once every expert was used")
                      : absl::StrFormat("reads %s if every expert is as likely as any other, less where some are used "
                                        "often: the disk allows %.1f tokens/s",
                                        HumanBytes(plan.even_read_bytes), report.disk_tokens_per_second()));
  return text;
}

nlohmann::ordered_json PagingJson(const PagingReport& report, const std::string& path) {
  const PagingPlan& plan = report.plan;
  return {{"file", path},
          {"ram_bytes", plan.ram_bytes},
          {"context", report.context},
          {"threads", report.threads},
          {"resident_bytes", plan.resident_bytes},
          {"cache_bytes", plan.cache_bytes},
          {"working_bytes", plan.working_bytes},
          {"program_bytes", plan.program_bytes},
          {"expert_bytes", plan.expert_bytes},
          {"all_expert_bytes", plan.all_expert_bytes},
          {"expert_layers", plan.layers},
          {"experts_per_layer", plan.experts},
          {"experts_in_memory_per_layer", plan.least_slots},
          {"disk_bytes_per_second", report.disk.bytes_per_second},
          {"read_bytes_per_token", plan.even_read_bytes},
          {"disk_tokens_per_second", report.disk_tokens_per_second()}};
}

}  // namespace kompakt
