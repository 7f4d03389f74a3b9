#include "kernels/workspace.h"

#include <sys/mman.h>
#include <unistd.h>

#include <algorithm>
#include <cstdlib>
#include <limits>
#include <new>
#include <utility>

#include "format/status.h"
#include "kernels/sanitizers.h"

namespace kompakt {
namespace {

// Under the address sanitizer every piece is a block of its own, so that it sees who writes past one.
constexpr uint64_t kSmallestBlock = kAddressSanitized ? 0 : uint64_t{1} << 20;

uint64_t PhysicalMemoryBytes() {
  const long pages = sysconf(_SC_PHYS_PAGES);
  const long page_bytes = sysconf(_SC_PAGESIZE);
  if (pages <= 0 || page_bytes <= 0) return std::numeric_limits<uint64_t>::max();
  return static_cast<uint64_t>(pages) * static_cast<uint64_t>(page_bytes);
}

}  // namespace

void AlignedBuffer::Free::operator()(uint8_t* p) const {
  std::free(p - *reinterpret_cast<const size_t*>(p - sizeof(size_t)));
}

absl::StatusOr<AlignedBuffer> AlignedBuffer::Create(uint64_t bytes, absl::string_view what) {
  // The kernel promises more than it has and kills the process later, so the promise is not even asked for.
  const uint64_t physical = PhysicalMemoryBytes();
  AlignedBuffer buffer;
  if (bytes <= physical) {
    // calloc, because it takes large blocks from the kernel already zeroed and so does not touch them.
    auto* base = static_cast<uint8_t*>(std::calloc(bytes + 2 * kMemoryAlign, 1));
    if (base != nullptr) {
      const size_t shift = 2 * kMemoryAlign - reinterpret_cast<uintptr_t>(base) % kMemoryAlign;
      *reinterpret_cast<size_t*>(base + shift - sizeof(size_t)) = shift;
      buffer.data_.reset(base + shift);
      buffer.bytes_ = bytes;
      return buffer;
    }
  }
  return absl::ResourceExhaustedError(
      absl::StrCat(what, ": cannot have ", bytes, " bytes of memory (the machine has ", physical, ")"));
}

void AlignedBuffer::PreferLargePages() const {
#if defined(MADV_HUGEPAGE)
  constexpr uintptr_t kPage = uintptr_t{2} << 20;
  const auto begin = (reinterpret_cast<uintptr_t>(data()) + kPage - 1) / kPage * kPage;
  const auto end = (reinterpret_cast<uintptr_t>(data()) + bytes_) / kPage * kPage;
  // A system that has none goes on with small ones.
  if (begin < end) (void)madvise(reinterpret_cast<void*>(begin), end - begin, MADV_HUGEPAGE);
#endif
}

Workspace::Scope::Scope(Workspace& workspace)
    : workspace_(workspace), block_(workspace.block_), used_(workspace.used_) {
  ++workspace_.depth_;
}

Workspace::Scope::~Scope() {
  workspace_.block_ = block_;
  workspace_.used_ = used_;
  // Pieces taken outside of any scope still lie in the blocks.
  if (--workspace_.depth_ == 0 && block_ == 0 && used_ == 0) workspace_.Merge();
}

absl::StatusOr<uint8_t*> Workspace::Bytes(int64_t elements, uint64_t element_bytes) {
  const auto count = static_cast<uint64_t>(std::max<int64_t>(elements, 0));
  if (count > (uint64_t{1} << 60) / element_bytes) {
    return absl::ResourceExhaustedError(absl::StrCat("scratch memory: ", elements, " elements"));
  }
  const uint64_t bytes = (count * element_bytes + kMemoryAlign - 1) / kMemoryAlign * kMemoryAlign;
  if (kAddressSanitized) {
    // Blocks past the current one hold nothing that is alive.
    if (used_ > 0) ++block_;
    blocks_.resize(std::min(blocks_.size(), block_));
    used_ = 0;
  }
  while (block_ < blocks_.size() && blocks_[block_].bytes() - used_ < bytes) {
    ++block_;
    used_ = 0;
  }
  if (block_ == blocks_.size()) {
    KOMPAKT_ASSIGN_OR_RETURN(AlignedBuffer block,
                             AlignedBuffer::Create(std::max(bytes, kSmallestBlock), "scratch memory"));
    blocks_.push_back(std::move(block));
  }
  uint8_t* const piece = blocks_[block_].data() + used_;
  used_ += bytes;
  return piece;
}

absl::StatusOr<float*> Workspace::Floats(int64_t n) {
  KOMPAKT_ASSIGN_OR_RETURN(uint8_t* const piece, Bytes(n, sizeof(float)));
  return reinterpret_cast<float*>(piece);
}

absl::StatusOr<double*> Workspace::Doubles(int64_t n) {
  KOMPAKT_ASSIGN_OR_RETURN(uint8_t* const piece, Bytes(n, sizeof(double)));
  return reinterpret_cast<double*>(piece);
}

absl::StatusOr<int32_t*> Workspace::Ints(int64_t n) {
  KOMPAKT_ASSIGN_OR_RETURN(uint8_t* const piece, Bytes(n, sizeof(int32_t)));
  return reinterpret_cast<int32_t*>(piece);
}

absl::StatusOr<const float**> Workspace::Pointers(int64_t n) {
  KOMPAKT_ASSIGN_OR_RETURN(uint8_t* const piece, Bytes(n, sizeof(const float*)));
  return reinterpret_cast<const float**>(piece);
}

absl::StatusOr<uint8_t*> Workspace::RawBytes(int64_t n) { return Bytes(n, 1); }

uint64_t Workspace::bytes() const {
  uint64_t sum = 0;
  for (const AlignedBuffer& block : blocks_) sum += block.bytes();
  return sum;
}

// One block that holds what the last call took: the next call finds it in one piece.
void Workspace::Merge() {
  if (blocks_.size() <= 1) return;
  const uint64_t sum = bytes();
  blocks_.clear();
  if (auto block = AlignedBuffer::Create(sum, "scratch memory"); block.ok()) blocks_.push_back(*std::move(block));
}

}  // namespace kompakt
