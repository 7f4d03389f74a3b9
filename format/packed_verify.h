// Checks the weight bytes of a packed file against the checksums of its manifest. Reads through File, not through a
// mapping: a device that fails to read becomes a message instead of a signal.
#pragma once

#include <atomic>
#include <cstdint>
#include <functional>
#include <string>
#include <vector>

#include "absl/status/status.h"
#include "format/file_system.h"
#include "format/packed_index.h"

namespace kompakt {

// "model.norm.weight" or "layer 3 expert 17".
std::string RecordName(const Extent& extent, int64_t record);

// XXH3 of `bytes` bytes of the file from `offset`, read in pieces. `interrupted` (may be null) set: stops, kCancelled.
absl::StatusOr<uint64_t> HashRange(const File& file, uint64_t offset, uint64_t bytes,
                                   const std::atomic<bool>* interrupted);

// kDataLoss naming the record, its offset, expected and found XXH3.
absl::Status VerifyRecordBytes(const File& file, const std::string& path, const PackedIndex& index, int64_t extent,
                               int64_t record, const std::atomic<bool>* interrupted);

struct VerifyOptions {
  int threads = 1;
  std::function<void(uint64_t)> progress = nullptr;  // bytes checked so far; may be empty; one thread at a time
  const std::atomic<bool>* interrupted = nullptr;    // set: stops early, the last status is kCancelled
};

// Every record and every padding byte, in file order: one status per damaged record or padding run.
std::vector<absl::Status> VerifyBytes(const File& file, const std::string& path, const PackedIndex& index,
                                      const VerifyOptions& options);

}  // namespace kompakt
