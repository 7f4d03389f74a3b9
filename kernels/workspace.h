// Memory of the forward pass: aligned, never throwing, and kept from call to call.
#pragma once

#include <cstddef>
#include <cstdint>
#include <memory>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/strings/string_view.h"

namespace kompakt {

inline constexpr size_t kMemoryAlign = 64;

// Owns `bytes` zeroed bytes at a 64-byte boundary. Untouched pages of a large buffer take no memory.
class AlignedBuffer {
 public:
  AlignedBuffer() = default;
  // kResourceExhausted naming `what` when the machine has less memory than that or will not give it.
  static absl::StatusOr<AlignedBuffer> Create(uint64_t bytes, absl::string_view what);

  // Asks the system for large pages, which cost fewer misses where the buffer is read through. Memory then is taken 2
  // MiB at a time.
  void PreferLargePages() const;

  uint8_t* data() const { return data_.get(); }
  uint64_t bytes() const { return bytes_; }

 private:
  struct Free {
    void operator()(uint8_t* p) const;
  };
  std::unique_ptr<uint8_t, Free> data_;
  uint64_t bytes_ = 0;
};

// Scratch memory of ops, taken piece by piece. A piece lives until the innermost Scope that was open when it was taken
// ends; the memory is kept for the next call.
class Workspace {
 public:
  class Scope {
   public:
    explicit Scope(Workspace& workspace);
    ~Scope();
    Scope(const Scope&) = delete;
    Scope& operator=(const Scope&) = delete;

   private:
    Workspace& workspace_;
    size_t block_;
    uint64_t used_;
  };

  // Uninitialised, 64-byte aligned.
  absl::StatusOr<float*> Floats(int64_t n);
  absl::StatusOr<double*> Doubles(int64_t n);
  absl::StatusOr<int32_t*> Ints(int64_t n);
  absl::StatusOr<const float**> Pointers(int64_t n);
  absl::StatusOr<uint8_t*> RawBytes(int64_t n);
  uint64_t bytes() const;

 private:
  absl::StatusOr<uint8_t*> Bytes(int64_t elements, uint64_t element_bytes);
  void Merge();

  std::vector<AlignedBuffer> blocks_;
  size_t block_ = 0;   // the block that pieces are taken from
  uint64_t used_ = 0;  // of that block
  int depth_ = 0;      // open scopes
};

}  // namespace kompakt
