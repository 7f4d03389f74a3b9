#include "format/packed_layout.h"

#include <iterator>
#include <limits>
#include <utility>

#include "absl/strings/str_cat.h"
#include "format/arch_spec.h"
#include "format/status.h"

namespace kompakt {
namespace {

constexpr uint64_t kMaxFileBytes = std::numeric_limits<int64_t>::max();

uint64_t RoundUp(uint64_t value, uint64_t alignment) { return (value + alignment - 1) / alignment * alignment; }

absl::StatusOr<ExtentPart> MakePart(const TensorInfo& tensor, FormatId format, uint64_t offset_in_record) {
  ExtentPart part{tensor.role, format, {tensor.rows, tensor.cols}, offset_in_record, {}};
  const BlockFormat& f = FormatOf(format);
  absl::StatusOr<BlobLayout> blob = tensor.is_vector() ? LayoutOfVector(f, tensor.cols) : LayoutOfMatrix(f, part.shape);
  if (!blob.ok()) return WithContext(blob.status(), tensor.Name());
  part.blob = *blob;
  return part;
}

// Expert records are pages of their own; a large tensor starts on a page; the rest packs to 64 bytes.
uint64_t AlignmentOf(const Extent& extent) {
  return extent.experts || extent.record_bytes >= kPageAlignFrom ? kPageBytes : kSmallAlign;
}

}  // namespace

absl::StatusOr<PackedLayout> PackedLayout::Create(const ModelSchema& schema, absl::Span<const FormatId> formats) {
  const absl::Span<const TensorInfo> tensors = schema.tensors();
  if (formats.size() != tensors.size()) {
    return absl::InternalError(absl::StrCat("layout: ", tensors.size(), " tensors but ", formats.size(), " formats"));
  }
  PackedLayout layout;
  layout.places_.assign(static_cast<size_t>(LayerCount(schema.arch()) + 1), std::vector<Place>(AllRoles().size()));
  uint64_t end = kHeaderBytes;
  const auto append = [&](Extent extent) -> absl::Status {
    extent.offset = RoundUp(end, AlignmentOf(extent));
    uint64_t bytes = 0;
    if (__builtin_mul_overflow(extent.record_bytes, static_cast<uint64_t>(extent.record_count), &bytes) ||
        __builtin_add_overflow(extent.offset, bytes, &end) || end > kMaxFileBytes - kPageBytes) {
      return absl::OutOfRangeError("layout: the file would exceed 2^63 bytes");
    }
    for (size_t p = 0; p < extent.parts.size(); ++p) {
      layout.places_[static_cast<size_t>(extent.layer + 1)][static_cast<size_t>(extent.parts[p].role)] = {
          static_cast<int64_t>(layout.extents_.size()), static_cast<int64_t>(p)};
    }
    layout.tensor_bytes_ += bytes;
    layout.extents_.push_back(std::move(extent));
    return absl::OkStatus();
  };

  const int64_t experts = schema.arch().moe().n_routed_experts();
  constexpr TensorRole kExpertRoles[] = {TensorRole::kExpertGate, TensorRole::kExpertUp, TensorRole::kExpertDown};
  constexpr size_t kPartsPerExpert = std::size(kExpertRoles);
  for (size_t i = 0; i < tensors.size();) {
    const TensorInfo& tensor = tensors[i];
    Extent extent;
    extent.layer = tensor.layer;
    if (tensor.expert < 0) {
      KOMPAKT_ASSIGN_OR_RETURN(ExtentPart part, MakePart(tensor, formats[i], 0));
      extent.record_bytes = part.blob.total_bytes;
      extent.parts.push_back(std::move(part));
      i += 1;
    } else {
      extent.experts = true;
      extent.record_count = experts;
      for (size_t p = 0; p < kPartsPerExpert; ++p) {
        KOMPAKT_ASSIGN_OR_RETURN(ExtentPart part, MakePart(tensors[i + p], formats[i + p], extent.record_bytes));
        extent.record_bytes += part.blob.total_bytes;
        extent.parts.push_back(std::move(part));
      }
      extent.record_bytes = RoundUp(extent.record_bytes, kPageBytes);
      for (size_t e = 1; e < static_cast<size_t>(experts); ++e) {
        for (size_t p = 0; p < kPartsPerExpert; ++p) {
          if (formats[i + e * kPartsPerExpert + p] == formats[i + p]) continue;
          return UsageError("layout: the experts of a layer share one format per role, but ",
                            tensors[i + e * kPartsPerExpert + p].Name(), " has another than expert 0");
        }
      }
      i += static_cast<size_t>(experts) * kPartsPerExpert;
    }
    KOMPAKT_RETURN_IF_ERROR(append(std::move(extent)));
  }
  layout.data_end_ = RoundUp(end, kSmallAlign);
  return layout;
}

PackedLayout::Place PackedLayout::Find(TensorRole role, int64_t layer) const {
  if (layer < -1 || layer + 1 >= static_cast<int64_t>(places_.size())) return {};
  return places_[static_cast<size_t>(layer + 1)][static_cast<size_t>(role)];
}

}  // namespace kompakt
