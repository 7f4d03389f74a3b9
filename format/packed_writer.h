// PackedWriter: writes a packed file so that the destination is at every moment either absent (or its old self) or
// complete. Bytes go to DST.partial; DST.partial.journal lists the finished records; Commit verifies, syncs and
// renames. A writer that is destroyed without Commit leaves both, and a later Open with the same plan goes on from
// there.
#pragma once

#include <atomic>
#include <cstdint>
#include <functional>
#include <memory>
#include <string>
#include <vector>

#include "absl/status/statusor.h"
#include "absl/types/span.h"
#include "format/file_system.h"
#include "format/manifest.pb.h"
#include "format/packed_layout.h"
#include "format/tensor_source.h"
#include "format/write_share.h"

namespace kompakt {

// Everything that decides the bytes of the file before any weight is read.
struct WritePlan {
  PackedLayout layout;
  // arch, assets, recipe, provenance and the parts' exact and source_dtype fields (extents in layout order);
  // record_xxh3, stats and source_xxh3 are filled in by the writer.
  Manifest manifest;
  // What the source's files are like now (TensorSource::States). Not part of the plan: the same weights may be copied
  // elsewhere between two runs.
  std::vector<SourceState> source_states;
};

// The extents of a manifest for `layout`: offsets, roles, formats, shapes; `exact` and `source_dtype` left to the
// caller.
Manifest ManifestFor(const ModelSchema& schema, const PackedLayout& layout);

// Size of the finished file, exactly. The XXH3 of the source files need not be known. kUnimplemented when the manifest
// would exceed the format's limit, kInvalidArgument for a text that is not UTF-8.
absl::StatusOr<uint64_t> PackedFileBytes(const WritePlan& plan);

struct WriterOptions {
  bool start_over = false;  // what an interrupted run has left is thrown away; not for a share
  WriteShare share = {};    // the records that this process writes
  // How Open re-reads the records of an interrupted run, and Commit the whole file.
  int threads = 1;
  const std::atomic<bool>* interrupted = nullptr;    // set: stops with kCancelled; what is on disk can be resumed
  std::function<void(uint64_t)> progress = nullptr;  // bytes read so far; may be empty; one thread at a time
};

class PackedWriter {
 public:
  // Allocates the whole file at once (a full disk fails here, kResourceExhausted) or resumes: the records of the
  // journal are re-read and their XXH3 checked, damaged ones are written again. kFailedPrecondition when a journal of
  // another plan lies there (it says what differs); kAborted when another process holds it.
  // A share re-reads its own records; those that other shares say are done count as done until Commit has read them. A
  // writer of the whole file goes on from the journals of shares as well.
  static absl::StatusOr<std::unique_ptr<PackedWriter>> Open(FileSystem& fs, const std::string& destination,
                                                            WritePlan plan, const WriterOptions& options);
  virtual ~PackedWriter() = default;

  // Does this process write the record?
  virtual bool IsMine(int64_t extent, int64_t record) const = 0;
  // Records already complete from an earlier run, or by another share.
  virtual bool IsDone(int64_t extent, int64_t record) const = 0;
  virtual int64_t resumed_records() const = 0;

  // Source files that are not in the state in which the interrupted run left them. The caller compares the source
  // checksums of finished records that come from them, and when they are equal calls AcceptSources, before it writes.
  virtual const std::vector<std::string>& changed_sources() const = 0;
  virtual uint64_t SourceXxh3(int64_t extent, int64_t record, int64_t part) const = 0;
  virtual absl::Status AcceptSources() = 0;

  // One record, in order: Append its bytes (all record_bytes of them, padding included), then Finish with one
  // ErrorStats per part (count = rows * cols; default-constructed for parts that the manifest calls exact) and one XXH3
  // of source bytes per part. Different records may be written by different threads at once; one RecordWriter belongs
  // to one thread.
  class RecordWriter {
   public:
    virtual ~RecordWriter() = default;
    virtual absl::Status Append(absl::Span<const uint8_t> bytes) = 0;
    // Append in two steps: several threads may Place different bytes of the record at once, in any order; AppendPlaced
    // then takes the next bytes in order, the same that were placed there.
    virtual absl::Status Place(uint64_t offset_in_record, absl::Span<const uint8_t> bytes) = 0;
    virtual absl::Status AppendPlaced(absl::Span<const uint8_t> bytes) = 0;
    virtual uint64_t appended_bytes() const = 0;
    virtual absl::Status Finish(absl::Span<const ErrorStats> stats_per_part,
                                absl::Span<const uint64_t> source_xxh3_per_part) = 0;
  };
  virtual std::unique_ptr<RecordWriter> BeginRecord(int64_t extent, int64_t record) = 0;

  // Of a share that has finished its records: makes them outlive a loss of power, reads the journals of the others, and
  // tells which (from 0) are not finished; empty: Commit may be called.
  virtual absl::StatusOr<std::vector<int64_t>> UnfinishedShares() = 0;

  // All records are done: writes manifest and footer, syncs, re-reads every byte, writes the header, renames the file
  // (or the volumes) to the destination and removes the journals. kInternal when a record is missing. Of a share:
  // kAborted when another one commits just now, or has.
  virtual absl::Status Commit() = 0;
};

// Removes the journals that a crash after the rename has left beside a complete file, and that no process holds.
// `paths`: the files that the destination is made of.
void RemoveStaleJournals(FileSystem& fs, const std::string& destination, const std::vector<std::string>& paths);

}  // namespace kompakt
