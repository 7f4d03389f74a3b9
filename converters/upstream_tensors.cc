#include "converters/upstream_tensors.h"

#include <algorithm>
#include <cmath>
#include <cstring>
#include <map>
#include <memory>
#include <set>
#include <utility>

#include "absl/strings/match.h"
#include "absl/strings/numbers.h"
#include "absl/strings/str_split.h"
#include "absl/strings/strip.h"
#include "converters/element_reads.h"
#include "converters/source_forms.h"
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

// ---- upstream forms of a packed source

class FormText {
 public:
  explicit FormText(absl::string_view text) {
    for (const absl::string_view word : absl::StrSplit(text, ' ', absl::SkipEmpty())) {
      const std::pair<absl::string_view, absl::string_view> pair = absl::StrSplit(word, absl::MaxSplits('=', 1));
      values_.emplace(std::string(pair.first), std::string(pair.second));
    }
  }
  std::string operator[](const std::string& key) const {
    const auto found = values_.find(key);
    return found == values_.end() ? "" : found->second;
  }
  // Sizes of "2x3"; nothing of "".
  std::vector<int64_t> Sizes(const std::string& key) const {
    std::vector<int64_t> sizes;
    for (const absl::string_view part : absl::StrSplit((*this)[key], 'x', absl::SkipEmpty())) {
      int64_t size = -1;
      sizes.push_back(absl::SimpleAtoi(part, &size) ? size : -1);
    }
    return sizes;
  }
  std::vector<uint64_t> Shape(const std::string& key) const {
    const std::vector<int64_t> sizes = Sizes(key);
    return {sizes.begin(), sizes.end()};
  }

 private:
  std::map<std::string, std::string> values_;
};

absl::StatusOr<Dtype> DtypeOf(const std::string& name) {
  for (const DtypeInfo& info : AllDtypes()) {
    if (info.name == name) return info.dtype;
  }
  return CorruptError("unknown dtype \"", name, "\"");
}

// Two 4-bit codes per byte, low nibble first.
void PackNibblePairs(const std::vector<uint8_t>& codes, uint8_t* out) {
  for (size_t i = 0; i < codes.size() / 2; ++i) {
    out[i] = static_cast<uint8_t>((codes[2 * i] & 0xf) | (codes[2 * i + 1] << 4));
  }
}

class UpstreamWriter {
 public:
  UpstreamWriter(const TensorSource& source, const TensorInfo& tensor, const StoredForm& form)
      : source_(source),
        tensor_(tensor),
        text_(form.upstream_form),
        format_(form.exact_format),
        name_(tensor.Name()),
        module_(absl::StripSuffix(name_, ".weight")) {}

  absl::Status Append(std::vector<OutputTensor>* out) {
    const std::string form = text_["form"];
    const BlockFormat& format = FormatOf(format_);
    const bool plain = format.group_cols == 0 && format.side == SideKind::kNone;
    if (form == "plain" && plain) return Plain(out);
    if (form == "fused" && plain) return Fused(out);
    if (form == "fp8" && format_ == FormatId::kFp8B128) return Fp8(out);
    if (form == "mxfp4" && format_ == FormatId::kMxfp4) return Mxfp4(out);
    if (form == "nvfp4" && format_ == FormatId::kNvfp4) return Nvfp4(out);
    if (form == "pack-quantized" && format_ == FormatId::kInt4G32) return PackQuantized(out);
    return Bad();
  }

 private:
  absl::Status Bad() const {
    return CorruptError(name_, ": its upstream form does not fit ", FormatOf(format_).name, ": \"", text_["form"],
                        "\"");
  }

  // Elements: `pack` turns stored elements into bytes of the file.
  OutputTensor Elements(const std::string& name, Dtype dtype, std::vector<uint64_t> shape, uint64_t row_bytes,
                        std::function<void(const StoredRows&, uint8_t*)> pack) const {
    OutputTensor out;
    out.name = name;
    out.dtype = dtype;
    out.shape = std::move(shape);
    out.rows = tensor_.rows;
    out.row_bytes = row_bytes;
    out.row_step = kFp8Block;
    out.scratch_row_bytes = AsBytes(tensor_.cols) * 4;
    out.read = [&source = source_, tensor = tensor_, pack = std::move(pack)](int64_t begin, int64_t end, uint8_t* to) {
      KOMPAKT_ASSIGN_OR_RETURN(const StoredRows rows, source.ReadStored(tensor, begin, end));
      pack(rows, to);
      return absl::OkStatus();
    };
    return out;
  }

  // A companion, made in one piece from all rows in bands of 128.
  OutputTensor Companion(const std::string& suffix, Dtype dtype, std::vector<uint64_t> shape,
                         std::function<void(int64_t row_begin, const StoredRows&, uint8_t*)> collect) const {
    OutputTensor out;
    out.name = module_ + suffix;
    out.dtype = dtype;
    uint64_t elements = 1;
    for (const uint64_t n : shape) elements *= n;
    out.shape = std::move(shape);
    out.rows = 1;
    out.row_bytes = elements * ElementBytes(dtype);
    out.scratch_row_bytes = AsBytes(kFp8Block * tensor_.cols) * 2;
    out.read = [&source = source_, tensor = tensor_, collect = std::move(collect)](int64_t, int64_t, uint8_t* to) {
      for (int64_t begin = 0; begin < tensor.rows; begin += kFp8Block) {
        const int64_t end = std::min(tensor.rows, begin + kFp8Block);
        KOMPAKT_ASSIGN_OR_RETURN(const StoredRows rows, source.ReadStored(tensor, begin, end));
        collect(begin, rows, to);
      }
      return absl::OkStatus();
    };
    return out;
  }

  std::vector<uint64_t> MatrixDims(int64_t cols) const { return {AsBytes(tensor_.rows), AsBytes(cols)}; }

  Dtype PlainDtype() const {
    return format_ == FormatId::kBf16 ? Dtype::kBf16 : format_ == FormatId::kF16 ? Dtype::kF16 : Dtype::kF32;
  }

  // One tensor of all experts of the layer, which the first expert's gate or down projection stands for.
  absl::Status Fused(std::vector<OutputTensor>* out) const {
    if (tensor_.expert < 0) return Bad();
    const bool down = tensor_.role == TensorRole::kExpertDown;
    std::vector<TensorInfo> parts;
    const auto add = [&](TensorRole role, int64_t expert) -> absl::Status {
      const ModelSchema& schema = source_.schema();
      parts.push_back(schema.tensors()[static_cast<size_t>(schema.Find(role, tensor_.layer, expert))]);
      KOMPAKT_ASSIGN_OR_RETURN(const StoredForm form, source_.Form(parts.back()));
      return form.upstream_form == "form=fused" && form.exact_format == format_ ? absl::OkStatus() : Bad();
    };
    if (tensor_.expert != 0 || tensor_.role == TensorRole::kExpertUp) {
      return add(down ? TensorRole::kExpertDown : TensorRole::kExpertGate, 0);  // is there one that stands for it?
    }
    const int64_t experts = source_.schema().arch().moe().n_routed_experts();
    for (int64_t expert = 0; expert < experts; ++expert) {
      KOMPAKT_RETURN_IF_ERROR(add(tensor_.role, expert));
      if (!down) KOMPAKT_RETURN_IF_ERROR(add(TensorRole::kExpertUp, expert));
    }
    const int64_t part_rows = tensor_.rows;
    OutputTensor fused;
    fused.name =
        absl::StrCat(name_.substr(0, name_.find("experts.0.")), "experts.", down ? "down_proj" : "gate_up_proj");
    fused.dtype = PlainDtype();
    fused.rows = static_cast<int64_t>(parts.size()) * part_rows;
    fused.shape = {AsBytes(experts), AsBytes(fused.rows / experts), AsBytes(tensor_.cols)};
    fused.row_bytes = AsBytes(tensor_.cols) * ElementBytes(fused.dtype);
    fused.row_step = part_rows;
    fused.scratch_row_bytes = AsBytes(tensor_.cols) * 4;
    fused.read = [&source = source_, parts = std::move(parts), part_rows, row_bytes = fused.row_bytes](
                     int64_t begin, int64_t end, uint8_t* to) {
      for (int64_t row = begin; row < end; row += part_rows) {
        const TensorInfo& part = parts[static_cast<size_t>(row / part_rows)];
        KOMPAKT_ASSIGN_OR_RETURN(const StoredRows rows, source.ReadStored(part, 0, part_rows));
        CopyElements(rows, to + AsBytes(row - begin) * row_bytes);
        for (const SourceRange& range : source.Ranges(part, 0, part_rows)) source.Drop(range);
      }
      return absl::OkStatus();
    };
    out->push_back(std::move(fused));
    return absl::OkStatus();
  }

  absl::Status Plain(std::vector<OutputTensor>* out) const {
    const Dtype dtype = PlainDtype();
    std::vector<uint64_t> shape = MatrixDims(tensor_.cols);
    if (tensor_.is_vector()) shape = {AsBytes(tensor_.cols)};
    out->push_back(Elements(name_, dtype, shape, AsBytes(tensor_.cols) * ElementBytes(dtype), CopyElements));
    return absl::OkStatus();
  }

  static void CopyElements(const StoredRows& rows, uint8_t* to) {
    std::memcpy(to, rows.elements.data(), rows.elements.size());
  }
  static void PackElements(const StoredRows& rows, uint8_t* to) { PackNibblePairs(rows.elements, to); }

  absl::Status Fp8(std::vector<OutputTensor>* out) const {
    const std::vector<int64_t> block = text_.Sizes("block");
    KOMPAKT_ASSIGN_OR_RETURN(const Dtype dtype, DtypeOf(text_["scale_dtype"]));
    if (block.size() != 2 || block[0] < 1 || block[1] < 1) return Bad();
    const int64_t scale_rows = CeilDiv(tensor_.rows, block[0]);
    const int64_t scale_cols = CeilDiv(tensor_.cols, block[1]);
    const std::vector<uint64_t> shape = text_.Shape("scale_shape");
    uint64_t scales = 1;
    for (const uint64_t n : shape) scales *= n;
    const bool whole_blocks =
        (scale_rows == 1 || block[0] % kFp8Block == 0) && (scale_cols == 1 || block[1] % kFp8Block == 0);
    if (scales != AsBytes(scale_rows * scale_cols) || !whole_blocks) return Bad();
    out->push_back(Elements(name_, Dtype::kF8E4M3, MatrixDims(tensor_.cols), AsBytes(tensor_.cols), CopyElements));
    const uint64_t element = ElementBytes(dtype);
    out->push_back(
        Companion(text_["scale"], dtype, shape,
                  [block, scale_cols, dtype, element](int64_t row_begin, const StoredRows& rows, uint8_t* to) {
                    if (row_begin % block[0] != 0) return;  // inside a block that has been seen
                    for (int64_t c = 0; c < scale_cols; ++c) {
                      const float scale = rows.block_scales[static_cast<size_t>(c * block[1] / kFp8Block)];
                      PutScale(scale, dtype, to + AsBytes(row_begin / block[0] * scale_cols + c) * element);
                    }
                  }));
    return absl::OkStatus();
  }

  // `scale` came from a value of `dtype`, so that nothing rounds.
  static void PutScale(float scale, Dtype dtype, uint8_t* to) {
    switch (dtype) {
      case Dtype::kBf16:
      case Dtype::kF16: {
        const uint16_t bits = dtype == Dtype::kBf16 ? F32ToBf16(scale) : F32ToF16(scale);
        std::memcpy(to, &bits, sizeof(bits));
        return;
      }
      case Dtype::kF8E8M0:
        *to = static_cast<uint8_t>(std::ilogb(scale) + 127);
        return;
      default:
        std::memcpy(to, &scale, sizeof(scale));
    }
  }

  absl::Status Mxfp4(std::vector<OutputTensor>* out) const {
    KOMPAKT_ASSIGN_OR_RETURN(const Dtype dtype, DtypeOf(text_["dtype"]));
    KOMPAKT_ASSIGN_OR_RETURN(const Dtype scale_dtype, DtypeOf(text_["scale_dtype"]));
    if (tensor_.cols % 32 != 0 || ElementBytes(dtype) != 1 || ElementBytes(scale_dtype) != 1) return Bad();
    const int64_t groups = tensor_.cols / 32;
    out->push_back(Elements(module_ + text_["elements"], dtype, MatrixDims(tensor_.cols / 2), AsBytes(tensor_.cols / 2),
                            PackElements));
    out->push_back(Companion(text_["scale"], scale_dtype, MatrixDims(groups),
                             [groups](int64_t row_begin, const StoredRows& rows, uint8_t* to) {
                               uint8_t* at = to + row_begin * groups;
                               for (const uint16_t exponent : rows.group_scales) *at++ = static_cast<uint8_t>(exponent);
                             }));
    return absl::OkStatus();
  }

  absl::Status Nvfp4(std::vector<OutputTensor>* out) const {
    const std::vector<uint64_t> shape = text_.Shape("tensor_scale_shape");
    if (tensor_.cols % 16 != 0 || std::any_of(shape.begin(), shape.end(), [](uint64_t n) { return n != 1; })) {
      return Bad();
    }
    const int64_t groups = tensor_.cols / 16;
    const int64_t tiles = CeilDiv(tensor_.cols, 32);
    out->push_back(Elements(module_ + text_["elements"], Dtype::kU8, MatrixDims(tensor_.cols / 2),
                            AsBytes(tensor_.cols / 2), PackElements));
    out->push_back(Companion(".weight_scale", Dtype::kF8E4M3, MatrixDims(groups),
                             [groups, tiles](int64_t row_begin, const StoredRows& rows, uint8_t* to) {
                               for (int64_t r = 0; r < rows.rows; ++r) {
                                 uint8_t* at = to + (row_begin + r) * groups;
                                 const uint16_t* pairs = rows.group_scales.data() + r * tiles;
                                 for (int64_t g = 0; g < groups; ++g) {
                                   at[g] = static_cast<uint8_t>(g % 2 == 0 ? pairs[g / 2] & 0xff : pairs[g / 2] >> 8);
                                 }
                               }
                             }));
    const bool divides = text_["tensor_scale"] == ".weight_global_scale";
    out->push_back(
        Companion(text_["tensor_scale"], Dtype::kF32, shape, [divides](int64_t, const StoredRows& rows, uint8_t* to) {
          std::memcpy(to, &rows.block_scales[divides ? 1 : 0], sizeof(float));
        }));
    return absl::OkStatus();
  }

  absl::Status PackQuantized(std::vector<OutputTensor>* out) const {
    const std::vector<int64_t> group = text_.Sizes("group");
    KOMPAKT_ASSIGN_OR_RETURN(const Dtype scale_dtype, DtypeOf(text_["scale_dtype"]));
    KOMPAKT_ASSIGN_OR_RETURN(const Dtype shape_dtype, DtypeOf(text_["shape_dtype"]));
    if (group.size() != 1 || group[0] < 1 || tensor_.cols % 8 != 0) return Bad();
    const int64_t groups = CeilDiv(tensor_.cols, group[0]);
    if (groups > 1 && group[0] % 32 != 0) return Bad();
    out->push_back(Elements(module_ + ".weight_packed", Dtype::kI32, MatrixDims(tensor_.cols / 8),
                            AsBytes(tensor_.cols / 2), PackElements));
    const int64_t tiles = CeilDiv(tensor_.cols, 32);
    const uint64_t element = ElementBytes(scale_dtype);
    out->push_back(Companion(
        ".weight_scale", scale_dtype, MatrixDims(groups),
        [groups, tiles, size = group[0], scale_dtype, element](int64_t row_begin, const StoredRows& rows, uint8_t* to) {
          for (int64_t r = 0; r < rows.rows; ++r) {
            for (int64_t g = 0; g < groups; ++g) {
              const uint16_t bits = rows.group_scales[static_cast<size_t>(r * tiles + g * size / 32)];
              PutScale(Bf16ToF32(bits), scale_dtype, to + AsBytes((row_begin + r) * groups + g) * element);
            }
          }
        }));
    OutputTensor shape = Companion(".weight_shape", shape_dtype, {2}, nullptr);
    shape.read = [dims = std::vector<int64_t>{tensor_.rows, tensor_.cols}, shape_dtype](int64_t, int64_t, uint8_t* to) {
      for (size_t i = 0; i < 2; ++i) {
        const auto narrow = static_cast<int32_t>(dims[i]);
        if (shape_dtype == Dtype::kI32) {
          std::memcpy(to + 4 * i, &narrow, sizeof(narrow));
        } else {
          std::memcpy(to + 8 * i, &dims[i], sizeof(dims[i]));
        }
      }
      return absl::OkStatus();
    };
    out->push_back(std::move(shape));
    return absl::OkStatus();
  }

  const TensorSource& source_;
  TensorInfo tensor_;
  FormText text_;
  FormatId format_;
  std::string name_;
  std::string module_;
};

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
    return UpstreamWriter(source, tensor, plain).Append(outputs);
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
