// The byte-level alphabet of GPT-2: every byte has a printable character. Bytes 33-126, 161-172 and 174-255 stand for
// the code points of the same number; the other 68 take U+0100, U+0101, ... in increasing order (space: U+0120).
#pragma once

#include <cstdint>
#include <optional>
#include <string>

#include "absl/strings/string_view.h"

namespace kompakt {

std::string ByteLevelCharacter(uint8_t byte);

// The bytes that `text` (well-formed UTF-8) stands for; nullopt when a character is none of the alphabet.
std::optional<std::string> BytesFromByteLevel(absl::string_view text);

// What the ByteLevel decoder makes of a token: its bytes, or its own UTF-8 where a character is none of the alphabet.
std::string DecodedToken(absl::string_view text);

}  // namespace kompakt
