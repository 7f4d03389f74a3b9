// PageMemory: zeroed memory in whole pages, huge ones where the system gives them; what direct reads fill.
#pragma once

#include <cstdint>

#include "absl/status/statusor.h"
#include "absl/strings/string_view.h"

namespace kompakt {

class PageMemory {
 public:
  PageMemory() = default;
  ~PageMemory();
  PageMemory(PageMemory&& other) noexcept;
  PageMemory& operator=(PageMemory&& other) noexcept;

  // Untouched pages take no memory. kResourceExhausted naming `what` when the system refuses.
  static absl::StatusOr<PageMemory> Create(uint64_t bytes, absl::string_view what);

  uint8_t* data() const { return data_; }  // at a huge page's boundary
  uint64_t bytes() const { return bytes_; }

 private:
  uint8_t* data_ = nullptr;
  uint64_t bytes_ = 0;
  void* mapped_ = nullptr;
  uint64_t mapped_bytes_ = 0;
};

}  // namespace kompakt
