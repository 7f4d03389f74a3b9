#include "converters/upstream_tensors.h"

#include <algorithm>
#include <cstring>
#include <memory>
#include <set>
#include <utility>

#include "converters/element_reads.h"
#include "converters/source_forms.h"
#include "converters/upstream_forms.h"
#include "format/float_formats.h"
#include "format/status.h"

namespace kompakt {
namespace {

uint64_t AsBytes(int64_t n) { return static_cast<uint64_t>(n); }

// BF16 of finite values. kDataLoss for one that is finite in F32 and not in BF16.
absl::Status RoundToBf16(absl::Span<const float> values, const std::string& name, uint8_t* out) {
  bool overflows = false;
  for (size_t i = 0; i < values.size(); ++i) {
    const uint16_t bits = F32ToBf16(values[i]);
    overflows = overflows || (bits & 0x7f80) == 0x7f80;
    std::memcpy(out + 2 * i, &bits, sizeof(bits));
  }
  if (!overflows) return absl::OkStatus();
  return CorruptError(name, ": a weight is finite, but too large for BF16; use --dtype f32");
}

// A tensor whose rows come as F32. `shape` is that of the output, whose elements are rows x cols.
using ReadRows = std::function<absl::Status(int64_t row_begin, int64_t row_end, absl::Span<float> out)>;

OutputTensor CastOutput(std::string name, std::vector<uint64_t> shape, int64_t rows, int64_t cols, Dtype dtype,
                        ReadRows read) {
  OutputTensor out;
  out.name = name;
  out.dtype = dtype;
  out.shape = std::move(shape);
  out.rows = rows;
  out.row_bytes = AsBytes(cols) * ElementBytes(dtype);
  out.scratch_row_bytes = AsBytes(cols) * 8;  // the values, and as much again for what they are made from
  out.read = [name, cols, dtype, read = std::move(read)](int64_t row_begin, int64_t row_end, uint8_t* to) {
    std::vector<float> values(static_cast<size_t>((row_end - row_begin) * cols));
    KOMPAKT_RETURN_IF_ERROR(read(row_begin, row_end, absl::MakeSpan(values)));
    if (dtype == Dtype::kBf16) return RoundToBf16(values, name, to);
    std::memcpy(to, values.data(), values.size() * sizeof(float));
    return absl::OkStatus();
  };
  return out;
}

OutputTensor CopyOutput(const FoundTensor& found) {
  OutputTensor out;
  out.name = found.entry->name;
  out.dtype = found.entry->dtype;
  out.shape = found.entry->shape;
  out.rows = static_cast<int64_t>(found.entry->bytes());
  out.row_bytes = 1;
  out.read = [found](int64_t begin, int64_t end, uint8_t* to) {
    return found.file->Read(*found.entry, AsBytes(begin), absl::MakeSpan(to, AsBytes(end - begin)));
  };
  return out;
}

OutputTensor ModuleOutput(const std::string& module, std::shared_ptr<const StoredTensor> tensor, Dtype dtype) {
  const int64_t rows = tensor->rows();
  const int64_t cols = tensor->cols();
  OutputTensor out = CastOutput(module + ".weight", {AsBytes(rows), AsBytes(cols)}, rows, cols, dtype,
                                [tensor](int64_t begin, int64_t end, absl::Span<float> out) {
                                  return tensor->ReadF32(begin, end, out, nullptr);
                                });
  out.observations = [tensor] { return tensor->Observations(); };
  return out;
}

// A plain tensor of any rank as F32.
absl::StatusOr<OutputTensor> WidenedOutput(const FoundTensor& found) {
  uint64_t elements = found.entry->bytes() / ElementBytes(found.entry->dtype);
  const uint64_t cols = found.entry->shape.empty() || elements == 0 ? 1 : found.entry->shape.back();
  return CastOutput(
      found.entry->name, found.entry->shape, static_cast<int64_t>(elements / cols), static_cast<int64_t>(cols),
      Dtype::kF32, [found, cols](int64_t begin, int64_t end, absl::Span<float> out) {
        KOMPAKT_ASSIGN_OR_RETURN(const std::vector<uint8_t> bytes,
                                 ReadElements(found, AsBytes(begin) * cols, AsBytes(end - begin) * cols, nullptr));
        for (size_t i = 0; i < out.size(); ++i) {
          out[i] = ElementAsF32(found.entry->dtype, bytes.data(), i);
        }
        return absl::OkStatus();
      });
}

// FP8 experts in one tensor [experts, rows, cols].
absl::StatusOr<OutputTensor> FusedOutput(const ShardSet& shards, const SourceQuantization& quantization,
                                         const FoundTensor& found, Dtype dtype, std::vector<FoundTensor>* used) {
  const auto experts = static_cast<int64_t>(found.entry->shape[0]);
  const auto rows = static_cast<int64_t>(found.entry->shape[1]);
  const auto cols = static_cast<int64_t>(found.entry->shape[2]);
  auto tensors = std::make_shared<std::vector<std::unique_ptr<const StoredTensor>>>();
  for (int64_t e = 0; e < experts; ++e) {
    const ModuleRequest request{&shards, &quantization, found.entry->name, MatrixShape{rows, cols}};
    KOMPAKT_ASSIGN_OR_RETURN(
        BoundModule bound, BindFused(request, {.matrices = experts, .index = e, .matrix_rows = rows, .first_row = 0}));
    tensors->push_back(std::move(bound.tensor));
    *used = std::move(bound.used);
  }
  return CastOutput(found.entry->name, found.entry->shape, experts * rows, cols, dtype,
                    [tensors, rows, cols](int64_t begin, int64_t end, absl::Span<float> out) {
                      while (begin < end) {
                        const int64_t e = begin / rows;
                        const int64_t stop = std::min(end, (e + 1) * rows);
                        const size_t n = static_cast<size_t>((stop - begin) * cols);
                        KOMPAKT_RETURN_IF_ERROR((*tensors)[static_cast<size_t>(e)]->ReadF32(
                            begin - e * rows, stop - e * rows, out.subspan(0, n), nullptr));
                        out.remove_prefix(n);
                        begin = stop;
                      }
                      return absl::OkStatus();
                    });
}

}  // namespace

absl::StatusOr<ExportDtype> ParseExportDtype(absl::string_view name) {
  if (name == "bf16") return ExportDtype::kBf16;
  if (name == "f32") return ExportDtype::kF32;
  if (name == "source") return ExportDtype::kSource;
  return UsageError("--dtype: expected bf16, f32 or source, found \"", name, "\"");
}

absl::StatusOr<std::vector<OutputTensor>> OutputsOfFiles(const ShardSet& shards, const SourceQuantization& quantization,
                                                         ExportDtype dtype) {
  if (dtype == ExportDtype::kSource) {
    return UsageError("--dtype source writes what a .kpk file keeps; upstream files are in that form already");
  }
  const Dtype target = dtype == ExportDtype::kF32 ? Dtype::kF32 : Dtype::kBf16;
  std::vector<OutputTensor> outputs;
  std::set<const SafetensorsEntry*> used;
  for (const std::string& module : QuantizedModules(shards, quantization)) {
    KOMPAKT_ASSIGN_OR_RETURN(BoundModule bound, BindModule({&shards, &quantization, module, std::nullopt}));
    for (const FoundTensor& tensor : bound.used) used.insert(tensor.entry);
    outputs.push_back(ModuleOutput(module, std::move(bound.tensor), target));
  }
  for (const auto& shard : shards.shards()) {
    for (const SafetensorsEntry& entry : shard->entries()) {
      const FoundTensor found{shard.get(), &entry};
      if (used.count(&entry) != 0 || entry.dtype != Dtype::kF8E4M3 || entry.shape.size() != 3) continue;
      std::vector<FoundTensor> parts;
      KOMPAKT_ASSIGN_OR_RETURN(OutputTensor fused, FusedOutput(shards, quantization, found, target, &parts));
      for (const FoundTensor& part : parts) used.insert(part.entry);
      outputs.push_back(std::move(fused));
    }
  }
  for (const auto& shard : shards.shards()) {
    for (const SafetensorsEntry& entry : shard->entries()) {
      if (used.count(&entry) != 0) continue;
      const FoundTensor found{shard.get(), &entry};
      const bool widen = dtype == ExportDtype::kF32 && (entry.dtype == Dtype::kBf16 || entry.dtype == Dtype::kF16);
      if (!widen) {
        outputs.push_back(CopyOutput(found));
        continue;
      }
      KOMPAKT_ASSIGN_OR_RETURN(OutputTensor wide, WidenedOutput(found));
      outputs.push_back(std::move(wide));
    }
  }
  return outputs;
}

namespace {

// Lets go of what was read once it is written: the pages of a mapped file count as memory. Rows of an output that are
// not the tensor's own (scales, packed codes of another shape) are few.
void DropBehind(const TensorSource& source, const TensorInfo& tensor, OutputTensor* output) {
  output->read = [&source, tensor, rows = output->rows, read = std::move(output->read)](int64_t begin, int64_t end,
                                                                                        uint8_t* out) {
    const absl::Status status = read(begin, end, out);
    const bool own_rows = rows == tensor.rows;
    if (!own_rows && end < rows) return status;
    for (const SourceRange& range : source.Ranges(tensor, own_rows ? begin : 0, own_rows ? end : tensor.rows)) {
      source.Drop(range);
    }
    return status;
  };
}

// The tensors that the export of one tensor consists of.
absl::Status AppendOutputs(const TensorSource& source, const TensorInfo& tensor, ExportDtype dtype,
                           std::vector<OutputTensor>* outputs) {
  KOMPAKT_ASSIGN_OR_RETURN(const StoredForm form, source.Form(tensor));
  const bool keep = tensor.is_vector() && dtype == ExportDtype::kBf16;
  if (dtype == ExportDtype::kSource && form.upstream_form.empty()) {
    return absl::FailedPreconditionError(absl::StrCat(
        tensor.Name(), " is kept as ", FormatOf(form.exact_format).name, ", made from ", form.dtype,
        ": --dtype source can only write what is kept exactly as upstream stored it; use --dtype bf16 or f32"));
  }
  if (dtype == ExportDtype::kSource || keep) {
    StoredForm plain = form;
    if (keep) plain.upstream_form = "form=plain";
    return AppendUpstream(source, tensor, plain, outputs);
  }
  std::vector<uint64_t> shape = {AsBytes(tensor.rows), AsBytes(tensor.cols)};
  if (tensor.is_vector()) shape = {AsBytes(tensor.cols)};
  outputs->push_back(CastOutput(tensor.Name(), shape, tensor.rows, tensor.cols,
                                dtype == ExportDtype::kF32 ? Dtype::kF32 : Dtype::kBf16,
                                [&source, tensor](int64_t begin, int64_t end, absl::Span<float> out) {
                                  return source.ReadF32(tensor, begin, end, out);
                                }));
  return absl::OkStatus();
}

}  // namespace

absl::StatusOr<std::vector<OutputTensor>> OutputsOfSource(const TensorSource& source, ExportDtype dtype) {
  std::vector<OutputTensor> outputs;
  for (const TensorInfo& tensor : source.schema().tensors()) {
    const size_t first = outputs.size();
    KOMPAKT_RETURN_IF_ERROR(AppendOutputs(source, tensor, dtype, &outputs));
    for (size_t i = first; i < outputs.size(); ++i) DropBehind(source, tensor, &outputs[i]);
  }
  return outputs;
}

}  // namespace kompakt
