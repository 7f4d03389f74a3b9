#include "format/checksum.h"

#include <new>

// Inlined from the header: one state on the heap, no calls into another library's ABI.
#define XXH_INLINE_ALL
#include <xxhash.h>

#include "absl/strings/str_format.h"

namespace kompakt {

struct Xxh3Stream::State {
  XXH3_state_t xxh3;
};

uint64_t Xxh3(absl::Span<const uint8_t> bytes) { return XXH3_64bits(bytes.data(), bytes.size()); }
uint64_t Xxh3(const std::string& bytes) { return XXH3_64bits(bytes.data(), bytes.size()); }

Xxh3Stream::Xxh3Stream() : state_(new State) { XXH3_64bits_reset(&state_->xxh3); }
Xxh3Stream::~Xxh3Stream() = default;
Xxh3Stream::Xxh3Stream(Xxh3Stream&&) noexcept = default;
Xxh3Stream& Xxh3Stream::operator=(Xxh3Stream&&) noexcept = default;

void Xxh3Stream::Update(absl::Span<const uint8_t> bytes) {
  XXH3_64bits_update(&state_->xxh3, bytes.data(), bytes.size());
}

uint64_t Xxh3Stream::Digest() const { return XXH3_64bits_digest(&state_->xxh3); }

std::string HexOf(uint64_t value) { return absl::StrFormat("%016x", value); }

}  // namespace kompakt
