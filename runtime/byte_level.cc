#include "runtime/byte_level.h"

#include <array>

#include "runtime/utf8.h"

namespace kompakt {
namespace {

constexpr char32_t kFirstMoved = 0x100;
constexpr char32_t kEnd = kFirstMoved + 68;

constexpr bool StandsForItself(int byte) {
  return (byte >= 33 && byte <= 126) || (byte >= 161 && byte <= 172) || byte >= 174;
}

struct Alphabet {
  std::array<char32_t, 256> of_byte{};
  std::array<int16_t, kEnd> byte_of{};  // -1: not in the alphabet
};

constexpr Alphabet MakeAlphabet() {
  Alphabet alphabet;
  for (int16_t& byte : alphabet.byte_of) byte = -1;
  char32_t moved = kFirstMoved;
  for (int byte = 0; byte < 256; ++byte) {
    const char32_t character = StandsForItself(byte) ? static_cast<char32_t>(byte) : moved++;
    alphabet.of_byte[static_cast<size_t>(byte)] = character;
    alphabet.byte_of[character] = static_cast<int16_t>(byte);
  }
  return alphabet;
}

constexpr Alphabet kAlphabet = MakeAlphabet();
static_assert(kAlphabet.of_byte[' '] == 0x120 && kAlphabet.of_byte[173] == kEnd - 1);

}  // namespace

std::string ByteLevelCharacter(uint8_t byte) {
  std::string character;
  AppendUtf8(kAlphabet.of_byte[byte], &character);
  return character;
}

std::optional<std::string> BytesFromByteLevel(absl::string_view text) {
  std::string bytes;
  bytes.reserve(text.size());
  while (!text.empty()) {
    const char32_t character = TakeCodePoint(&text);
    const int16_t byte = character < kEnd ? kAlphabet.byte_of[character] : int16_t{-1};
    if (byte < 0) return std::nullopt;
    bytes.push_back(static_cast<char>(static_cast<uint8_t>(byte)));
  }
  return bytes;
}

std::string DecodedToken(absl::string_view text) {
  std::optional<std::string> bytes = BytesFromByteLevel(text);
  return bytes.has_value() ? *std::move(bytes) : std::string(text);
}

}  // namespace kompakt
