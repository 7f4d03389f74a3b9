// XXH3-64 with seed 0: the checksum of everything in a packed file.
#pragma once

#include <cstdint>
#include <memory>
#include <string>

#include "absl/types/span.h"

namespace kompakt {

uint64_t Xxh3(absl::Span<const uint8_t> bytes);
uint64_t Xxh3(const std::string& bytes);

// The same over bytes that come in pieces.
class Xxh3Stream {
 public:
  Xxh3Stream();
  ~Xxh3Stream();
  Xxh3Stream(Xxh3Stream&&) noexcept;
  Xxh3Stream& operator=(Xxh3Stream&&) noexcept;

  void Update(absl::Span<const uint8_t> bytes);
  // Of all bytes so far.
  uint64_t Digest() const;

 private:
  struct State;
  std::unique_ptr<State> state_;
};

// 16 lower-case hexadecimal digits, for messages.
std::string HexOf(uint64_t value);

}  // namespace kompakt
