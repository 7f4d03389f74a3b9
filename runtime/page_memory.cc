#include "runtime/page_memory.h"

#include <sys/mman.h>

#include <limits>
#include <utility>

#include "format/status.h"

namespace kompakt {
namespace {

constexpr uint64_t kHugePageBytes = uint64_t{2} << 20;

}  // namespace

PageMemory::~PageMemory() {
  if (mapped_ != nullptr) munmap(mapped_, mapped_bytes_);
}

PageMemory::PageMemory(PageMemory&& other) noexcept { *this = std::move(other); }

PageMemory& PageMemory::operator=(PageMemory&& other) noexcept {
  std::swap(data_, other.data_);
  std::swap(bytes_, other.bytes_);
  std::swap(mapped_, other.mapped_);
  std::swap(mapped_bytes_, other.mapped_bytes_);
  return *this;
}

absl::StatusOr<PageMemory> PageMemory::Create(uint64_t bytes, absl::string_view what) {
  PageMemory memory;
  if (bytes == 0) return memory;
  void* const mapped =
      bytes > std::numeric_limits<int64_t>::max()
          ? MAP_FAILED
          : mmap(nullptr, bytes + kHugePageBytes, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
  if (mapped == MAP_FAILED) {
    return absl::ResourceExhaustedError(absl::StrCat(what, ": cannot have ", bytes, " bytes of memory"));
  }
  memory.mapped_ = mapped;
  memory.mapped_bytes_ = bytes + kHugePageBytes;
  const uint64_t past = reinterpret_cast<uintptr_t>(mapped) % kHugePageBytes;
  memory.data_ = static_cast<uint8_t*>(mapped) + (past == 0 ? 0 : kHugePageBytes - past);
  memory.bytes_ = bytes;
  // Whole huge pages only, so that no more is taken than was asked for.
  (void)madvise(memory.data_, bytes / kHugePageBytes * kHugePageBytes, MADV_HUGEPAGE);
  return memory;
}

}  // namespace kompakt
