// Weights of a packed file for a machine with less memory than the file has bytes: what every token needs is read into
// memory at once, the routed experts by an ExpertCache as they are needed. Nothing is mapped that is touched.
#pragma once

#include <cstdint>
#include <memory>

#include "absl/status/statusor.h"
#include "format/file_system.h"
#include "format/packed_reader.h"
#include "runtime/weights.h"

namespace kompakt {

// Bytes of memory that the weights without the routed experts take.
uint64_t ResidentBytes(const PackedLayout& layout);

// The data of `file` once more, to be read past the page cache (FileSystem::OpenForDirectRead). kUnavailable when it
// changed since it was opened.
absl::StatusOr<std::unique_ptr<File>> OpenDirect(FileSystem& fs, const PackedReader& file);

// Reads through `fs`, past the page cache where the file system can, with `threads` threads; checks the XXH3 of every
// record. `expert_bytes`: what the ExpertCache may take. kDataLoss naming what is damaged, kUnavailable when the file
// changed since it was opened or the device fails, kResourceExhausted without memory, kInvalidArgument when
// `expert_bytes` is too little (ExpertCache::SlotsFor). Without a MoE layer there is no cache.
absl::StatusOr<std::shared_ptr<const WeightStore>> OpenPagedWeights(FileSystem& fs,
                                                                    std::shared_ptr<const PackedReader> file,
                                                                    uint64_t expert_bytes, int threads);

}  // namespace kompakt
