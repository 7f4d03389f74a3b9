// What a packed file would do within a promise of memory, for kompakt inspect --ram.
#pragma once

#include <string>

#include "absl/status/statusor.h"
#include "format/packed_reader.h"
#include "nlohmann/json.hpp"
#include "runtime/paging_plan.h"
#include "tools/disk_probe.h"

namespace kompakt {

struct PagingReport {
  PagingPlan plan;
  DiskProbe disk;
  int64_t context = 0;
  int threads = 0;

  // Tokens per second that the disk allows when every expert is as likely as any other; 0: it is not asked.
  double disk_tokens_per_second() const;
};

// Fails as PlanPaging and ProbeDisk.
absl::StatusOr<PagingReport> MakePagingReport(const PackedReader& file, uint64_t ram_bytes, int64_t context,
                                              int threads, CacheFormat cache_format);
std::string PagingText(const PagingReport& report, const std::string& path);
nlohmann::ordered_json PagingJson(const PagingReport& report, const std::string& path);

}  // namespace kompakt
