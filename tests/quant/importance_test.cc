// The search weighted by importance: what it promises, on weights and importances of many kinds.
#include <algorithm>
#include <cmath>
#include <cstring>
#include <random>
#include <string>
#include <vector>

#include "absl/strings/str_cat.h"
#include "gtest/gtest.h"
#include "quant/encoder.h"

namespace kompakt {
namespace {

// In the order of their bits.
constexpr FormatId kByBits[] = {FormatId::kQ2G32, FormatId::kQ2G16, FormatId::kQ3G32,
                                FormatId::kQ3G16, FormatId::kQ4G32, FormatId::kQ4G16,
                                FormatId::kQ5G32, FormatId::kQ6G32, FormatId::kQ8G32};

struct Sample {
  std::string name;
  int64_t rows = 0;
  int64_t cols = 0;
  std::vector<float> weights;
  std::vector<float> importance;
};

// Gaussian and heavy-tailed weights, columns of very different size, widths that fill no group; importances from alike
// to spread over six powers of ten, some of them zero.
std::vector<Sample> Samples() {
  std::vector<Sample> samples;
  std::mt19937_64 rng(17);
  std::normal_distribution<double> gaussian;
  std::student_t_distribution<double> student(3);
  for (int i = 0; i < 24; ++i) {
    Sample s;
    s.rows = i % 3 == 0 ? 16 : 5 + i;
    s.cols = i % 2 == 0 ? 256 : 33 + 31 * i;
    const double spread = std::vector<double>{0.1, 1, 3}[static_cast<size_t>(i % 3)];
    std::vector<double> size(static_cast<size_t>(s.cols), 1);
    if (i % 4 == 3) {
      for (double& v : size) v = std::exp(gaussian(rng));
    }
    for (int64_t c = 0; c < s.cols; ++c) {
      s.importance.push_back(c % 29 == 28 ? 0 : static_cast<float>(std::exp(spread * gaussian(rng))));
    }
    for (int64_t r = 0; r < s.rows; ++r) {
      for (const double v : size) {
        s.weights.push_back(static_cast<float>(0.02 * v * (i % 4 < 2 ? gaussian(rng) : student(rng))));
      }
    }
    s.name = absl::StrCat("sample ", i, " (", s.rows, " x ", s.cols, ")");
    samples.push_back(std::move(s));
  }
  return samples;
}

// Of every row, the error with the weights that the encoder is told to use.
std::vector<double> WeightedErrors(const Sample& s, FormatId id, bool with_importance,
                                   SearchEffort effort = SearchEffort::kDefault) {
  const BlockFormat& format = FormatOf(id);
  MatrixView view;
  view.format = &format;
  view.shape = {s.rows, s.cols};
  view.layout = LayoutOfMatrix(format, view.shape).value();
  std::vector<uint8_t> bytes(view.layout.total_bytes);
  view.data = bytes.data();
  EncoderScratch scratch;
  const uint64_t row_tile_bytes = view.layout.row_tile_bytes(format);
  for (int64_t t = 0; t < view.layout.row_tiles; ++t) {
    RowTile in = {s.weights.data() + t * kTileRows * s.cols, std::min(kTileRows, s.rows - t * kTileRows), s.cols, {}};
    if (with_importance) in.importance = s.importance;
    float scales[kTileRows];
    const absl::Status status = EncodeRowTile(
        id, effort, in, scratch, absl::MakeSpan(bytes).subspan(static_cast<size_t>(t) * row_tile_bytes, row_tile_bytes),
        absl::MakeSpan(scales), nullptr);
    EXPECT_TRUE(status.ok()) << status;
    std::memcpy(bytes.data() + view.layout.side_offset + static_cast<uint64_t>(t) * sizeof(scales), scales,
                sizeof(scales));
  }
  std::vector<float> decoded(s.weights.size());
  DecodeRows(view, 0, s.rows, absl::MakeSpan(decoded));
  const float least = *std::max_element(s.importance.begin(), s.importance.end()) * 0x1p-20f;
  std::vector<double> errors;
  for (int64_t r = 0; r < s.rows; ++r) {
    const size_t row = static_cast<size_t>(r * s.cols);
    double mean = 0;
    for (int64_t c = 0; c < s.cols; ++c) {
      mean += std::pow(static_cast<double>(s.weights[row + static_cast<size_t>(c)]), 2) / static_cast<double>(s.cols);
    }
    double sum = 0;
    for (int64_t c = 0; c < s.cols; ++c) {
      const size_t at = row + static_cast<size_t>(c);
      const double w = static_cast<double>(s.weights[at]);
      const double e = w - static_cast<double>(decoded[at]);
      sum +=
          static_cast<double>(std::max(s.importance[static_cast<size_t>(c)], least)) * std::sqrt(mean + w * w) * e * e;
    }
    errors.push_back(sum);
  }
  return errors;
}

// Sums of a few hundred terms in F32 decide: 2^-24 for each of them, and they partly cancel.
constexpr double kRoom = 1 + 1e-5;

TEST(Importance, WeightingNeverMakesTheWeightedErrorOfARowLarger) {
  for (const Sample& s : Samples()) {
    for (const FormatId id : kByBits) {
      for (const SearchEffort effort : {SearchEffort::kFast, SearchEffort::kDefault}) {
        const std::vector<double> plain = WeightedErrors(s, id, false, effort);
        const std::vector<double> weighted = WeightedErrors(s, id, true, effort);
        for (size_t r = 0; r < plain.size(); ++r) {
          EXPECT_TRUE(weighted[r] <= plain[r] * kRoom)
              << FormatOf(id).name << ", " << s.name << ", row " << r << ": " << weighted[r] << " against " << plain[r];
        }
      }
    }
  }
}

TEST(Importance, MoreBitsNeverMakeTheWeightedErrorLarger) {
  for (const Sample& s : Samples()) {
    std::vector<double> fewer;
    for (const FormatId id : kByBits) {
      const std::vector<double> errors = WeightedErrors(s, id, true);
      double sum = 0, sum_of_fewer = 0;
      for (size_t r = 0; r < errors.size(); ++r) {
        sum += errors[r];
        if (!fewer.empty()) sum_of_fewer += fewer[r];
      }
      if (!fewer.empty()) {
        EXPECT_TRUE(sum <= sum_of_fewer) << FormatOf(id).name << ", " << s.name << ": " << sum << " against "
                                         << sum_of_fewer;
      }
      fewer = errors;
    }
  }
}

}  // namespace
}  // namespace kompakt
