#include "tools/disk_probe.h"

#include <algorithm>
#include <chrono>
#include <deque>
#include <vector>

#include "format/status.h"
#include "runtime/page_memory.h"
#include "runtime/paged_weights.h"
#include "runtime/record_reader.h"

namespace kompakt {
namespace {

constexpr uint64_t kAtOnce = 4;  // records: about what a token of a layer misses
constexpr double kMostSeconds = 0.5;

double Now() { return std::chrono::duration<double>(std::chrono::steady_clock::now().time_since_epoch()).count(); }

}  // namespace

absl::StatusOr<DiskProbe> ProbeDisk(const PackedReader& file, uint64_t most_bytes) {
  struct Place {
    uint64_t offset, bytes;
  };
  std::vector<Place> places;
  uint64_t largest = 0;
  for (const Extent& extent : file.layout().extents()) {
    for (int64_t r = 0; extent.experts && r < extent.record_count; ++r) {
      places.push_back({extent.record_offset(r), extent.record_bytes});
      largest = std::max(largest, extent.record_bytes);
    }
  }
  if (places.empty()) return absl::FailedPreconditionError(absl::StrCat(file.path(), ": has no routed experts"));
  KOMPAKT_ASSIGN_OR_RETURN(const std::unique_ptr<File> data, OpenDirect(PosixFileSystem(), file));
  KOMPAKT_ASSIGN_OR_RETURN(const PageMemory memory, PageMemory::Create(kAtOnce * largest, "probe of the disk"));
  DiskProbe probe;
  RecordReader reader(*data);
  std::deque<RecordReader::Id> reads;
  uint64_t state = 1;
  const double start = Now();
  for (uint64_t i = 0; probe.read_bytes < most_bytes && Now() - start < kMostSeconds; ++i) {
    if (reads.size() == kAtOnce) {
      KOMPAKT_RETURN_IF_ERROR(reader.Wait(reads.front()));
      reads.pop_front();
    }
    state = state * 6364136223846793005u + 1442695040888963407u;
    const Place& place = places[(state >> 33) % places.size()];
    reads.push_back(reader.Start(
        {.offset = place.offset, .into = {memory.data() + i % kAtOnce * largest, place.bytes}, .xxh3 = {}}, true));
    probe.read_bytes += place.bytes;
  }
  for (; !reads.empty(); reads.pop_front()) KOMPAKT_RETURN_IF_ERROR(reader.Wait(reads.front()));
  probe.bytes_per_second = static_cast<double>(probe.read_bytes) / (Now() - start);
  return probe;
}

}  // namespace kompakt
