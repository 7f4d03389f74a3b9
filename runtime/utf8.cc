#include "runtime/utf8.h"

#include <cstddef>
#include <cstdint>
#include <utility>

namespace kompakt {
namespace {

constexpr absl::string_view kReplacement = "\xEF\xBF\xBD";

struct Subpart {
  size_t bytes;  // length of the character, or of the maximal ill-formed subpart
  bool well_formed;
  bool truncated;  // the text ends before the character does
};

// The well-formed sequences of Unicode table 3-7: what the second byte may be depends on the first, all later bytes are
// 80..BF. A subpart ends before the first byte that no well-formed sequence has at that place.
Subpart FirstSubpart(absl::string_view text) {
  const auto byte = [text](size_t i) { return static_cast<uint8_t>(text[i]); };
  const uint8_t lead = byte(0);
  if (lead < 0x80) return {1, true, false};
  size_t length = 0;
  uint8_t low = 0x80, high = 0xBF;
  if (lead >= 0xC2 && lead <= 0xDF) {
    length = 2;
  } else if (lead >= 0xE0 && lead <= 0xEF) {
    length = 3;
    if (lead == 0xE0) low = 0xA0;
    if (lead == 0xED) high = 0x9F;
  } else if (lead >= 0xF0 && lead <= 0xF4) {
    length = 4;
    if (lead == 0xF0) low = 0x90;
    if (lead == 0xF4) high = 0x8F;
  } else {
    return {1, false, false};
  }
  for (size_t i = 1; i < length; ++i) {
    if (i == text.size()) return {i, false, true};
    if (byte(i) < low || byte(i) > high) return {i, false, false};
    low = 0x80;
    high = 0xBF;
  }
  return {length, true, false};
}

// Could bytes after `text`, which begins with an ill-formed subpart, still change what becomes of it?
bool MayBeContinued(absl::string_view text, const Subpart& part) {
  if (part.truncated) return true;
  // Half of a surrogate (ED A0..BF): no byte makes it a character, but Python's decoder waits for the third one.
  return text.size() == 2 && text[0] == '\xED' && static_cast<uint8_t>(text[1]) >= 0xA0 &&
         static_cast<uint8_t>(text[1]) <= 0xBF;
}

// Appends the replaced text to `out`. Where more may come, bytes at the end that it may continue are returned instead.
absl::string_view Replace(absl::string_view bytes, bool more_may_come, std::string* out) {
  size_t start = 0;  // of the well-formed run not yet copied
  size_t at = 0;
  while (at < bytes.size()) {
    const absl::string_view rest = bytes.substr(at);
    const Subpart part = FirstSubpart(rest);
    if (!part.well_formed) {
      out->append(bytes.data() + start, at - start);
      if (more_may_come && MayBeContinued(rest, part)) return rest;
      out->append(kReplacement.data(), kReplacement.size());
      start = at + part.bytes;
    }
    at += part.bytes;
  }
  out->append(bytes.data() + start, at - start);
  return {};
}

}  // namespace

bool IsWellFormedUtf8(absl::string_view bytes) {
  size_t at = 0;
  while (at < bytes.size()) {
    if (static_cast<uint8_t>(bytes[at]) < 0x80) {
      ++at;
      continue;
    }
    const Subpart part = FirstSubpart(bytes.substr(at));
    if (!part.well_formed) return false;
    at += part.bytes;
  }
  return true;
}

std::string Utf8WithReplacement(absl::string_view bytes) {
  std::string out;
  out.reserve(bytes.size());
  Replace(bytes, false, &out);
  return out;
}

void AppendUtf8(char32_t code_point, std::string* out) {
  const auto put = [out](char32_t byte) { out->push_back(static_cast<char>(static_cast<uint8_t>(byte))); };
  if (code_point < 0x80) {
    put(code_point);
  } else if (code_point < 0x800) {
    put(0xC0 | (code_point >> 6));
    put(0x80 | (code_point & 0x3F));
  } else if (code_point < 0x10000) {
    put(0xE0 | (code_point >> 12));
    put(0x80 | ((code_point >> 6) & 0x3F));
    put(0x80 | (code_point & 0x3F));
  } else {
    put(0xF0 | (code_point >> 18));
    put(0x80 | ((code_point >> 12) & 0x3F));
    put(0x80 | ((code_point >> 6) & 0x3F));
    put(0x80 | (code_point & 0x3F));
  }
}

char32_t TakeCodePoint(absl::string_view* text) {
  const uint8_t lead = static_cast<uint8_t>(text->front());
  const size_t length = lead < 0x80 ? 1 : lead < 0xE0 ? 2 : lead < 0xF0 ? 3 : 4;
  char32_t code_point = length == 1 ? lead : lead & (0x7Fu >> length);
  for (size_t i = 1; i < length; ++i) code_point = (code_point << 6) | (static_cast<uint8_t>((*text)[i]) & 0x3Fu);
  text->remove_prefix(length);
  return code_point;
}

std::string Utf8Stream::Append(absl::string_view bytes) {
  std::string out;
  if (pending_.empty()) {
    const absl::string_view rest = Replace(bytes, true, &out);
    pending_.assign(rest.data(), rest.size());
    return out;
  }
  pending_.append(bytes.data(), bytes.size());
  const std::string all = std::move(pending_);
  const absl::string_view rest = Replace(all, true, &out);
  pending_.assign(rest.data(), rest.size());
  return out;
}

std::string Utf8Stream::Flush() {
  std::string out = Utf8WithReplacement(pending_);
  pending_.clear();
  return out;
}

}  // namespace kompakt
