#include "format/tensor_source.h"

#include <algorithm>

#include "format/status.h"

namespace kompakt {

void SourceXxh3::Add(uint64_t piece_xxh3) {
  uint8_t bytes[sizeof(piece_xxh3)];
  for (size_t i = 0; i < sizeof(bytes); ++i) bytes[i] = static_cast<uint8_t>(piece_xxh3 >> (8 * i));
  pieces_.Update(bytes);
}

absl::StatusOr<uint64_t> ReadSourceXxh3(const TensorSource& source, const TensorInfo& tensor,
                                        const std::atomic<bool>* interrupted) {
  std::vector<float> values(static_cast<size_t>(std::min(tensor.rows, kSourcePieceRows) * tensor.cols));
  SourceXxh3 pieces;
  for (int64_t row = 0; row < tensor.rows; row += kSourcePieceRows) {
    const int64_t end = std::min(tensor.rows, row + kSourcePieceRows);
    if (interrupted != nullptr && interrupted->load()) return absl::CancelledError("interrupted");
    const size_t count = static_cast<size_t>((end - row) * tensor.cols);
    Xxh3Stream bytes;
    KOMPAKT_RETURN_IF_ERROR(source.ReadF32(tensor, row, end, absl::MakeSpan(values).first(count), &bytes));
    pieces.Add(bytes.Digest());
  }
  return pieces.Digest();
}

}  // namespace kompakt
