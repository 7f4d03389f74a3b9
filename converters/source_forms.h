// The forms in which upstream files store a linear weight: one table, one row and one file per form. A module X has its
// elements in X.weight, X.weight_packed or X.qweight and its scales beside them; w is [rows = outputs, cols = inputs].
//
//     plain           X.weight BF16, F16 or F32
//     fp8             X.weight F8_E4M3; one scale per tensor, per row, or per block of any size, which multiplies, in
//                     X.weight_scale_inv, X.weight_scale, X.scale or X.qscale_weight (F32, BF16, F16 or F8_E8M0)
//     mxfp4           E2M1 codes, two per byte, low nibble first; an E8M0 exponent per 32 columns.
//                     X.weight I8 + X.scale F8_E8M0, or X.weight_packed U8 + X.weight_scale U8
//     nvfp4           E2M1 codes; an E4M3 scale per 16 columns in X.weight_scale; an F32 scale per tensor, which
//                     multiplies (X.weight U8 + X.weight_scale_2) or divides (X.weight_packed U8 +
//                     X.weight_global_scale)
//     pack-quantized  X.weight_packed I32, rows of unsigned 4- or 8-bit codes; scale and perhaps zero point per group
//     gptq            X.qweight I32 [cols * bits / 32, rows]: the transpose; X.qzeros, X.scales, perhaps X.g_idx
//     awq             X.qweight I32 [cols, rows / 8]: the transpose in an order of its own; X.qzeros, X.scales
//
// Formulas and shapes are at the head of each form_*.cc. Dtypes and companions decide which form a module has; the
// configuration decides only what they leave open (gptq against awq, the value of stored zero points).
#pragma once

#include <memory>
#include <optional>
#include <string>
#include <vector>

#include "absl/status/statusor.h"
#include "absl/strings/string_view.h"
#include "absl/types/span.h"
#include "converters/quantization_config.h"
#include "converters/shard_set.h"
#include "converters/stored_tensor.h"
#include "format/block_format.h"

namespace kompakt {

// The module that is asked for.
struct ModuleRequest {
  const ShardSet* shards = nullptr;
  const SourceQuantization* quantization = nullptr;
  std::string module;                // "model.layers.0.mlp.down_proj"
  std::optional<MatrixShape> shape;  // what the model calls for; nullopt: whatever the files say

  FoundTensor Find(absl::string_view suffix) const;
};

// Which matrix of a stored tensor [matrices, rows, cols] that holds one per expert, and which rows of it.
struct FusedSlice {
  int64_t matrices = 0;
  int64_t index = 0;
  int64_t matrix_rows = 0;
  int64_t first_row = 0;
};

struct BoundModule {
  std::unique_ptr<const StoredTensor> tensor;
  std::vector<FoundTensor> used;  // elements, companions, and companions that do not enter the weight
};

// One row of the table.
struct SourceForm {
  absl::string_view name;
  absl::string_view elements;  // the suffix of the tensor that holds them, ".weight"
  // Does the module, whose elements tensor is given, have this form?
  bool (*recognises)(const ModuleRequest& request, const FoundTensor& elements);
  // Suffixes of companions that belong to the module but not to its weight: scales of activations.
  absl::Span<const absl::string_view> ignored;
  // kFailedPrecondition: shapes, dtypes or companions that contradict each other or the model. kUnimplemented: a
  // variant that is not read.
  absl::StatusOr<BoundModule> (*bind)(const ModuleRequest& request, const FoundTensor& elements);
};

absl::Span<const SourceForm> AllSourceForms();

// The form of a module by its files; null when none of the tensors that could hold its elements is there.
// kUnimplemented: there is one, but of no known form.
absl::StatusOr<const SourceForm*> FindSourceForm(const ModuleRequest& request);

// The module in its form, ignored companions among `used`. kNotFound: no elements.
absl::StatusOr<BoundModule> BindModule(const ModuleRequest& request);

// A vector of n elements, plain. kFailedPrecondition: another shape; kUnimplemented: another dtype.
absl::StatusOr<BoundModule> BindVector(const FoundTensor& elements, int64_t n);

// Rows of one matrix of a fused tensor named request.module: plain or fp8.
absl::StatusOr<BoundModule> BindFused(const ModuleRequest& request, const FusedSlice& slice);

// Every tensor of `shards` as modules, for files that no ArchSpec describes: the name of each module that has a
// quantized form, ascending. Tensors that belong to none are plain.
std::vector<std::string> QuantizedModules(const ShardSet& shards, const SourceQuantization& quantization);

}  // namespace kompakt
