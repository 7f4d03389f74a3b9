// The transposition of words against the loop that says what it is.
#include "format/word_transpose.h"

#include <cstring>
#include <random>
#include <vector>

#include "gtest/gtest.h"

namespace kompakt {
namespace {

TEST(WordTranspose, MovesEveryWordOfEveryShapeAndNothingElse) {
  std::mt19937 rng(5);
  for (const int64_t n_words : {0, 1, 3, 4, 15, 16, 17, 31, 40}) {
    for (int64_t n_rows = 0; n_rows <= kTileRows; ++n_rows) {
      for (const int64_t slack : {0, 2, 7}) {  // rows that are not aligned
        const int64_t stride = n_words * kWordBytes + slack;
        std::vector<uint8_t> rows(static_cast<size_t>(kTileRows * stride + slack));
        for (uint8_t& byte : rows) byte = static_cast<uint8_t>(rng());
        std::vector<uint8_t> words(static_cast<size_t>(n_words * kTileRows * kWordBytes) + 8, 0xab);
        TransposeWords(rows.data() + slack, stride, n_rows, n_words, words.data());
        for (int64_t k = 0; k < n_words; ++k) {
          for (int64_t r = 0; r < kTileRows; ++r) {
            uint32_t expected = 0;
            uint32_t found;
            if (r < n_rows) std::memcpy(&expected, rows.data() + slack + r * stride + k * kWordBytes, 4);
            std::memcpy(&found, words.data() + (k * kTileRows + r) * kWordBytes, 4);
            ASSERT_EQ(found, expected) << n_words << " words, " << n_rows << " rows: word " << k << " of row " << r;
          }
        }
        for (size_t i = words.size() - 8; i < words.size(); ++i) ASSERT_EQ(words[i], 0xab) << i;

        std::vector<uint8_t> back = rows;
        for (int64_t r = 0; r < n_rows && n_words > 0; ++r) {
          std::memset(back.data() + slack + r * stride, 0, static_cast<size_t>(n_words * kWordBytes));
        }
        TransposeWordsBack(words.data(), n_words, n_rows, stride, back.data() + slack);
        ASSERT_TRUE(back == rows) << n_words << " words, " << n_rows << " rows, slack " << slack;
      }
    }
  }
}

}  // namespace
}  // namespace kompakt
