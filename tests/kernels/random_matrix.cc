#include "tests/kernels/random_matrix.h"

#include <cstring>
#include <set>
#include <utility>

namespace kompakt {
namespace {

void FillExact(FormatId id, float magnitude, std::mt19937_64& random, RandomMatrix* m) {
  const BlockFormat& format = FormatOf(id);
  const MatrixShape shape = m->view.shape;
  StoredRows stored;
  stored.format = id;
  stored.rows = shape.rows;
  stored.cols = shape.cols;
  stored.elements.resize(static_cast<size_t>(shape.rows * shape.cols) * format.stored_element_bytes);
  std::normal_distribution<float> normal(0, magnitude);
  const auto bf16 = [](float x) {
    uint32_t bits;
    std::memcpy(&bits, &x, sizeof(bits));
    return static_cast<uint16_t>(bits >> 16);
  };
  for (int64_t i = 0; i < shape.rows * shape.cols; ++i) {
    uint8_t* const element = &stored.elements[static_cast<size_t>(i) * format.stored_element_bytes];
    switch (id) {
      case FormatId::kF32: {
        const float x = normal(random);
        std::memcpy(element, &x, sizeof(x));
        break;
      }
      case FormatId::kBf16: {
        const uint16_t x = bf16(normal(random));
        std::memcpy(element, &x, sizeof(x));
        break;
      }
      case FormatId::kF16: {
        // Every finite code: exponent 31 is infinity or NaN.
        const auto x = static_cast<uint16_t>((random() & 0x83ff) | ((random() % 16) << 10));
        std::memcpy(element, &x, sizeof(x));
        break;
      }
      case FormatId::kInt4G32:
      case FormatId::kMxfp4:
      case FormatId::kNvfp4:
        *element = static_cast<uint8_t>(random() % 16);
        break;
      default: {
        uint8_t code = static_cast<uint8_t>(random());
        if ((code & 0x7f) == 0x7f) code = 0;
        *element = code;
      }
    }
  }
  const auto blocks = [](int64_t n, int64_t block) { return static_cast<size_t>((n + block - 1) / block); };
  std::uniform_real_distribution<float> scale(magnitude / 400, magnitude / 200);
  if (format.side == SideKind::kBlockScale) {
    stored.block_scales.resize(blocks(shape.rows, kFp8Block) * blocks(shape.cols, kFp8Block));
    for (float& s : stored.block_scales) s = scale(random);
    std::memcpy(m->bytes.data() + m->view.layout.side_offset, stored.block_scales.data(),
                stored.block_scales.size() * sizeof(float));
  }
  if (format.native_low_bit()) {
    stored.group_scales.resize(static_cast<size_t>(shape.rows) * blocks(shape.cols, kTileCols));
    for (uint16_t& s : stored.group_scales) {
      const uint64_t bits = random();
      s = id == FormatId::kInt4G32 ? bf16(50 * scale(random))
          : id == FormatId::kMxfp4 ? static_cast<uint16_t>(117 + bits % 3)
                                   : static_cast<uint16_t>((0x30 + bits % 16) | (0x30 + bits / 16 % 16) << 8);
    }
  }
  if (format.side == SideKind::kTensorScale) {
    const float scales[2] = {1.0f, 1.7f / magnitude};
    std::memcpy(m->bytes.data() + m->view.layout.side_offset, scales, sizeof(scales));
  }
  PackTiles(stored, m->bytes.data());
}

// Without tiles.
RandomMatrix MakeMatrix(const BlockFormat& format, int64_t rows, int64_t cols) {
  RandomMatrix m;
  m.view.format = &format;
  m.view.shape = {rows, cols};
  m.view.layout = *LayoutOfMatrix(format, m.view.shape);
  m.bytes = *AlignedBuffer::Create(m.view.layout.total_bytes, "test matrix");
  m.view.data = m.bytes.data();
  return m;
}

}  // namespace

RandomMatrix MakeF32Matrix(std::vector<float> values, int64_t rows, int64_t cols) {
  RandomMatrix m = MakeMatrix(FormatOf(FormatId::kF32), rows, cols);
  StoredRows stored;
  stored.rows = rows;
  stored.cols = cols;
  stored.elements.resize(values.size() * sizeof(float));
  std::memcpy(stored.elements.data(), values.data(), stored.elements.size());
  PackTiles(stored, m.bytes.data());
  m.values = std::move(values);
  return m;
}

RandomMatrix MakeRandomMatrix(FormatId id, int64_t rows, int64_t cols, float magnitude, uint64_t seed) {
  std::mt19937_64 random(seed);
  const BlockFormat& format = FormatOf(id);
  RandomMatrix m = MakeMatrix(format, rows, cols);
  if (format.exact) {
    FillExact(id, magnitude, random, &m);
  } else {
    // Every byte is a valid code or group byte. Group scale times code is about 2^12 at most.
    for (uint64_t i = 0; i < m.view.layout.side_offset; ++i) m.bytes.data()[i] = static_cast<uint8_t>(random());
    std::uniform_real_distribution<float> scale(magnitude / 8192, magnitude / 4096);
    auto* const side = reinterpret_cast<float*>(m.bytes.data() + m.view.layout.side_offset);
    for (int64_t r = 0; r < rows; ++r) side[r] = scale(random);
  }
  m.values.resize(static_cast<size_t>(rows * cols));
  DecodeRows(m.view, 0, rows, absl::MakeSpan(m.values));
  return m;
}

RandomChoice RandomRouting(int64_t tokens, int64_t n_experts, int64_t chosen, int32_t never) {
  std::mt19937_64 random(static_cast<uint64_t>(tokens));
  RandomChoice choice;
  for (int64_t t = 0; t < tokens; ++t) {
    std::set<int32_t> experts;
    while (std::ssize(experts) < chosen) {
      const auto e = static_cast<int32_t>(random() % static_cast<uint64_t>(n_experts));
      if (e != never) experts.insert(e);
    }
    choice.ids.insert(choice.ids.end(), experts.begin(), experts.end());
    for (int64_t i = 0; i < chosen; ++i) choice.weights.push_back(0.1f + static_cast<float>(random() % 100) / 50.0f);
  }
  return choice;
}

std::vector<float> RandomVector(int64_t n, float magnitude, uint64_t seed) {
  std::mt19937_64 random(seed);
  std::normal_distribution<float> normal(0, magnitude);
  std::vector<float> x(static_cast<size_t>(n));
  for (float& value : x) value = normal(random);
  return x;
}

}  // namespace kompakt
