#include "converters/upstream_forms.h"

#include <algorithm>
#include <cstring>
#include <map>
#include <utility>

#include "absl/strings/numbers.h"
#include "absl/strings/str_split.h"
#include "absl/strings/strip.h"
#include "converters/element_reads.h"
#include "format/float_formats.h"
#include "format/status.h"

namespace kompakt {
namespace {

uint64_t AsBytes(int64_t n) { return static_cast<uint64_t>(n); }

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
    if ((form == "gptq" || form == "awq") && format_ == FormatId::kInt4G32) return Transposed(form == "awq", out);
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

  // GPTQ and AWQ (converters/form_gptq.cc, form_awq.cc), with the same zero point everywhere.
  absl::Status Transposed(bool awq, std::vector<OutputTensor>* out) const {
    const std::vector<int64_t> group = text_.Sizes("group"), zero = text_.Sizes("zero");
    KOMPAKT_ASSIGN_OR_RETURN(const Dtype scale_dtype, DtypeOf(text_["scale_dtype"]));
    const int64_t n = tensor_.rows, cols = tensor_.cols;
    if (group.size() != 1 || group[0] < 1 || zero.size() != 1 || zero[0] < 7 || zero[0] > 8) return Bad();
    const int64_t groups = CeilDiv(cols, group[0]), tiles = CeilDiv(cols, 32);
    if ((groups > 1 && group[0] % 32 != 0) || n % 8 != 0 || cols % 8 != 0) return Bad();
    // Both gather eight codes per word: of one row, or of eight rows in AWQ's order.
    const auto collect_gptq = [n, cols](int64_t row_begin, const StoredRows& rows, uint8_t* to) {
      for (int64_t r = 0; r < rows.rows; ++r) {
        for (int64_t w = 0; w < cols / 8; ++w) {
          uint32_t word = 0;
          for (int64_t j = 0; j < 8; ++j) {
            word |= static_cast<uint32_t>(rows.elements[static_cast<size_t>(r * cols + w * 8 + j)] & 0xf) << (4 * j);
          }
          std::memcpy(to + 4 * (w * n + row_begin + r), &word, sizeof(word));
        }
      }
    };
    const auto collect_awq = [n, cols](int64_t row_begin, const StoredRows& rows, uint8_t* to) {
      constexpr int kShifts[8] = {0, 16, 4, 20, 8, 24, 12, 28};
      for (int64_t v = 0; v < rows.rows / 8; ++v) {
        for (int64_t c = 0; c < cols; ++c) {
          uint32_t word = 0;
          for (int64_t j = 0; j < 8; ++j) {
            word |= static_cast<uint32_t>(rows.elements[static_cast<size_t>((v * 8 + j) * cols + c)] & 0xf)
                    << kShifts[j];
          }
          std::memcpy(to + 4 * (c * (n / 8) + row_begin / 8 + v), &word, sizeof(word));
        }
      }
    };
    if (awq) {
      out->push_back(Companion(".qweight", Dtype::kI32, {AsBytes(cols), AsBytes(n / 8)}, collect_awq));
    } else {
      out->push_back(Companion(".qweight", Dtype::kI32, {AsBytes(cols / 8), AsBytes(n)}, collect_gptq));
    }
    out->push_back(Companion(
        ".scales", scale_dtype, {AsBytes(groups), AsBytes(n)},
        [n, groups, tiles, size = group[0], scale_dtype](int64_t row_begin, const StoredRows& rows, uint8_t* to) {
          for (int64_t g = 0; g < groups; ++g) {
            for (int64_t r = 0; r < rows.rows; ++r) {
              const uint16_t bits = rows.group_scales[static_cast<size_t>(r * tiles + g * size / 32)];
              PutScale(Bf16ToF32(bits), scale_dtype, to + AsBytes(g * n + row_begin + r) * ElementBytes(scale_dtype));
            }
          }
        }));
    out->push_back(Words(".qzeros", {AsBytes(groups), AsBytes(n / 8)},
                         [zero = zero[0]](int64_t) { return static_cast<uint32_t>(zero) * 0x11111111u; }));
    if (text_["index"] == "1") {
      out->push_back(
          Words(".g_idx", {AsBytes(cols)}, [size = group[0]](int64_t c) { return static_cast<uint32_t>(c / size); }));
    }
    return absl::OkStatus();
  }

  // I32 values that follow from their place alone.
  OutputTensor Words(const std::string& suffix, std::vector<uint64_t> shape,
                     std::function<uint32_t(int64_t)> value) const {
    OutputTensor words = Companion(suffix, Dtype::kI32, std::move(shape), nullptr);
    words.read = [count = words.row_bytes / 4, value = std::move(value)](int64_t, int64_t, uint8_t* to) {
      for (uint64_t i = 0; i < count; ++i) {
        const uint32_t word = value(static_cast<int64_t>(i));
        std::memcpy(to + 4 * i, &word, sizeof(word));
      }
      return absl::OkStatus();
    };
    return words;
  }

  const TensorSource& source_;
  TensorInfo tensor_;
  FormText text_;
  FormatId format_;
  std::string name_;
  std::string module_;
};

}  // namespace

absl::Status AppendUpstream(const TensorSource& source, const TensorInfo& tensor, const StoredForm& form,
                            std::vector<OutputTensor>* outputs) {
  return UpstreamWriter(source, tensor, form).Append(outputs);
}

}  // namespace kompakt
