// The conversion job: TensorSource + QuantRecipe -> packed file.
#pragma once

#include <atomic>
#include <cstdint>
#include <functional>
#include <memory>
#include <string>
#include <vector>

#include "absl/status/statusor.h"
#include "format/file_system.h"
#include "format/packed_layout.h"
#include "format/packed_writer.h"
#include "format/tensor_source.h"
#include "quant/feedback_plan.h"
#include "quant/importance.h"
#include "quant/memory_plan.h"
#include "quant/recipe.h"

namespace kompakt {

// What a conversion will do; reads no tensor data.
struct ConversionPlan {
  std::vector<QuantRecipe::Choice> choices;  // per schema tensor
  SearchEffort scale_search = SearchEffort::kDefault;
  const Importance* importance = nullptr;  // the caller's; null: data-free
  // Null: no error feedback. Refers to the schema of the source.
  std::shared_ptr<const FeedbackPlan> feedback;
  PackedLayout layout;
  // Tensors grouped by what a reader cares about: class, role, source form, format.
  struct Line {
    std::string tensor_class;
    std::string role;
    std::string source_dtype;
    std::string format;
    std::string reason;
    bool exact = false;
    int64_t tensors = 0;
    int64_t parameters = 0;
    uint64_t source_bytes = 0;
    uint64_t packed_bytes = 0;
  };
  std::vector<Line> lines;
  int64_t parameters = 0;
  uint64_t source_bytes = 0;
  uint64_t tensor_bytes = 0;  // of the packed tensors
  uint64_t file_bytes = 0;    // of the whole file, or of all volumes, exactly
  MemoryPlan memory;
};
// `ram_bytes`: what the process may take (quant/memory_plan.h); 0: whatever `threads` workers take. kInvalidArgument
// when one worker needs more. `importance`: of this model; null: data-free. A recipe with error feedback needs one with
// second moments (kInvalidArgument), and `interrupted` (may be null) stops that.
absl::StatusOr<ConversionPlan> PlanConversion(const TensorSource& source, const QuantRecipe& recipe, int threads,
                                              uint64_t ram_bytes = 0, const Importance* importance = nullptr,
                                              const std::atomic<bool>* interrupted = nullptr);

// Cuts a plan into volumes of at most `volume_bytes` (CutIntoVolumes of format/volume_plan.h).
struct PlannedFile {
  std::string path;
  uint64_t bytes = 0;
  std::string content;  // for people: its first and its last record
};
absl::StatusOr<std::vector<PlannedFile>> PlanVolumes(const TensorSource& source, const QuantRecipe& recipe,
                                                     const std::string& destination, const ConversionPlan& plan,
                                                     uint64_t volume_bytes);

struct ConvertOptions {
  uint64_t volume_bytes = 0;  // largest size of a file; 0: one file, whatever its size
  int threads = 1;            // at most; fewer where the memory is not enough for all
  uint64_t ram_bytes = 0;     // as for PlanConversion
  // Several processes make one file together: this one its share, and the last to finish completes the file.
  WriteShare share = {};
  const Importance* importance = nullptr;          // as for PlanConversion
  bool force = false;                              // replace an existing destination made from something else
  bool restart = false;                            // throw away what an interrupted conversion left
  const std::atomic<bool>* interrupted = nullptr;  // set by SIGINT: stops within a record, kCancelled
  std::function<void(uint64_t done, uint64_t total)> progress =
      nullptr;  // tensor bytes written; from one thread at a time
};

struct ConvertReport {
  uint64_t file_bytes = 0;         // of all files together
  std::vector<std::string> paths;  // the destination, or its volumes
  int64_t resumed_records = 0;
  bool already_complete = false;  // the destination was this very result before we began; it was verified
  // Of a share: the file is not complete yet, because these shares (from 0) are not finished.
  std::vector<int64_t> unfinished_shares;
  bool committed_by_another = false;  // of a share: another one completes the file
  // Error against the source per (class, format), lossy tensors only.
  struct ClassError {
    std::string tensor_class;
    std::string format;
    double nmse_db = 0;
    double max_abs_error = 0;
    int64_t parameters = 0;
  };
  std::vector<ClassError> errors;
};
absl::StatusOr<ConvertReport> Convert(const TensorSource& source, const QuantRecipe& recipe,
                                      const std::string& destination, const ConvertOptions& options, FileSystem& fs);

}  // namespace kompakt
