// What encoding and packing cost on one core: weights/s of every encoder, search and instruction set, GB/s of every
// exact format, each beside what the memory gives in the same minute.
//
//   encode_bench           all of it, about a minute
//   encode_bench --smoke   runs everything once on little data; its numbers mean nothing
//
// CPU time, so that other work on the machine shows less. Every case runs once per round, case after case (A B C A B
// C), and its best round counts: a slow minute slows all of them.
#include <xxhash.h>

#include <algorithm>
#include <cmath>
#include <cstdio>
#include <cstring>
#include <ctime>
#include <functional>
#include <random>
#include <string>
#include <vector>

#include "absl/strings/str_cat.h"
#include "quant/encoder.h"
#include "quant/encoder_set.h"
#include "quant/error_feedback.h"

namespace kompakt {
namespace {

constexpr int64_t kCols = 2048;  // rows of DeepSeek-V2-Lite's experts
constexpr int64_t kProbeBytes = int64_t{256} << 20;

struct Case {
  std::string name;
  double units = 0;  // done by one run: weights, or bytes
  std::function<void()> run;
  double best_seconds = 1e9;
};

double Seconds(const std::function<void()>& run) {
  const std::clock_t start = std::clock();
  run();
  return static_cast<double>(std::clock() - start) / CLOCKS_PER_SEC;
}

// Results that nobody reads must still be computed.
uint64_t sink = 0;

Case MemoryProbe(const std::vector<uint64_t>& memory) {
  return {"memory, read", static_cast<double>(memory.size() * sizeof(uint64_t)), [&memory] {
            uint64_t sum[8] = {};
            for (size_t i = 0; i + 8 <= memory.size(); i += 8) {
              for (size_t j = 0; j < 8; ++j) sum[j] += memory[i + j];
            }
            for (const uint64_t s : sum) sink += s;
          }};
}

std::vector<Case> EncoderCases(const std::vector<float>& weights, EncoderScratch* scratch,
                               std::vector<uint8_t>* tiles) {
  std::vector<Case> cases;
  for (const Encoder& encoder : AllEncoders()) {
    const bool lossy = !FormatOf(encoder.format).exact;
    for (const EncoderSet* set : AvailableEncoderSets()) {
      for (const SearchEffort effort : {SearchEffort::kFast, SearchEffort::kDefault, SearchEffort::kBest}) {
        // A cast searches nothing and has one form.
        if (!lossy && (effort != SearchEffort::kDefault || set != AvailableEncoderSets().back())) continue;
        const std::string name =
            lossy ? absl::StrCat(FormatOf(encoder.format).name, " ", EffortName(effort), " ", set->name)
                  : absl::StrCat(FormatOf(encoder.format).name, " cast");
        cases.push_back({name, static_cast<double>(weights.size()), [&encoder, set, effort, &weights, scratch, tiles] {
                           const int64_t rows = static_cast<int64_t>(weights.size()) / kCols;
                           for (int64_t row = 0; row + kTileRows <= rows; row += kTileRows) {
                             const RowTile in = {weights.data() + row * kCols, kTileRows, kCols, {}};
                             float row_scales[kTileRows];
                             TileError error;
                             (void)encoder.encode(*set, effort, in, *scratch, tiles->data(), row_scales, &error);
                             sink += (*tiles)[0];
                           }
                         }});
      }
    }
  }
  return cases;
}

// Second moments of channels that differ in size and resemble their neighbours.
std::vector<float> Moments() {
  std::vector<float> h;
  for (int64_t i = 0; i < kCols; ++i) {
    for (int64_t j = 0; j < kCols; ++j) {
      const auto size = [](int64_t c) { return 1 + static_cast<double>(c * 37 % 101) / 50; };
      h.push_back(static_cast<float>(size(i) * size(j) * std::pow(0.95, std::abs(static_cast<double>(i - j)))));
    }
  }
  return h;
}

// With the importance of the columns, and with error feedback; of the best set, as EncodeRowTile takes it.
std::vector<Case> CalibratedCases(const std::vector<float>& weights, const std::vector<float>& moments,
                                  const FeedbackFactor& factor, EncoderScratch* scratch, std::vector<uint8_t>* tiles) {
  std::vector<Case> cases;
  const auto n = static_cast<double>(weights.size());
  for (const Encoder& encoder : AllEncoders()) {
    const BlockFormat& format = FormatOf(encoder.format);
    if (format.exact) continue;
    for (const bool feedback : {false, true}) {
      if (feedback && format.id == FormatId::kQ8G32) continue;
      for (const SearchEffort effort : {SearchEffort::kFast, SearchEffort::kDefault, SearchEffort::kBest}) {
        const std::string name =
            absl::StrCat(format.name, " ", EffortName(effort), feedback ? " feedback" : " weighted");
        cases.push_back({name, n, [id = format.id, effort, feedback, &weights, &factor, scratch, tiles] {
                           const int64_t rows = static_cast<int64_t>(weights.size()) / kCols;
                           const absl::Span<uint8_t> out = absl::MakeSpan(*tiles).first(
                               static_cast<size_t>(kCols / kTileCols) * FormatOf(id).tile_bytes);
                           for (int64_t row = 0; row + kTileRows <= rows; row += kTileRows) {
                             const RowTile in = {weights.data() + row * kCols, kTileRows, kCols, factor.diagonal()};
                             float scales[kTileRows];
                             const absl::Status done =
                                 feedback
                                     ? EncodeRowTileWithFeedback(id, effort, in, factor, *scratch, out,
                                                                 absl::MakeSpan(scales), nullptr)
                                     : EncodeRowTile(id, effort, in, *scratch, out, absl::MakeSpan(scales), nullptr);
                             sink += done.ok() ? (*tiles)[0] : 0;
                           }
                         }});
      }
    }
  }
  cases.push_back({absl::StrCat("factors of ", kCols, " columns"), static_cast<double>(kCols) * kCols * kCols / 6,
                   [&moments] { sink += FeedbackFactor::FromMatrix(moments, kCols).ok() ? 1 : 0; }});
  return cases;
}

std::vector<Case> PackCases(int64_t rows, std::vector<StoredRows>* sources, std::vector<uint8_t>* tiles) {
  std::mt19937_64 rng(1);
  for (const BlockFormat& format : AllFormats()) {
    if (!format.exact) continue;
    StoredRows stored;
    stored.format = format.id;
    stored.rows = rows;
    stored.cols = kCols;
    stored.elements.resize(static_cast<size_t>(rows * kCols) * format.stored_element_bytes);
    for (uint8_t& byte : stored.elements) byte = static_cast<uint8_t>(rng());
    stored.group_scales.resize(static_cast<size_t>(rows * kCols / kTileCols), uint16_t{0x3f80});
    sources->push_back(std::move(stored));
  }
  std::vector<Case> cases;
  for (const StoredRows& stored : *sources) {
    const BlockFormat& format = FormatOf(stored.format);
    // Bytes of the packed tensor: a code of 4 bits lies in a byte of its own in StoredRows only.
    const size_t bytes = static_cast<size_t>(stored.rows / kTileRows * (kCols / kTileCols)) * format.tile_bytes;
    cases.push_back({absl::StrCat(format.name, " pack"), static_cast<double>(bytes), [&stored, tiles] {
                       PackTiles(stored, tiles->data());
                       sink += (*tiles)[0];
                     }});
    cases.push_back({absl::StrCat(format.name, " pack, hash"), static_cast<double>(bytes), [&stored, tiles, bytes] {
                       PackTiles(stored, tiles->data());
                       sink += XXH3_64bits(tiles->data(), bytes);
                     }});
  }
  return cases;
}

void Run(bool smoke) {
  const int64_t rows = smoke ? 16 : 512;
  const int rounds = smoke ? 1 : 15;
  std::mt19937_64 rng(42);
  std::normal_distribution<double> gaussian;
  std::vector<float> weights(static_cast<size_t>(rows * kCols));
  for (float& w : weights) w = static_cast<float>(0.02 * gaussian(rng));
  const std::vector<uint64_t> memory(static_cast<size_t>(smoke ? kCols : kProbeBytes / 8), 1);
  std::vector<uint8_t> tiles(static_cast<size_t>(rows * kCols) * 4);
  EncoderScratch scratch;
  std::vector<StoredRows> sources;
  sources.reserve(AllFormats().size());

  std::vector<Case> probes = {MemoryProbe(memory)};
  std::vector<Case> encoders = EncoderCases(weights, &scratch, &tiles);
  const std::vector<float> moments = Moments();
  const FeedbackFactor factor = FeedbackFactor::FromMatrix(moments, kCols).value();
  std::vector<Case> calibrated = CalibratedCases(weights, moments, factor, &scratch, &tiles);
  std::vector<Case> packs = PackCases(rows, &sources, &tiles);
  for (int round = 0; round < rounds; ++round) {
    for (std::vector<Case>* group : {&probes, &encoders, &calibrated, &packs}) {
      for (Case& c : *group) {
        // Twice: the first one finds what the case before left in the caches.
        for (int i = 0; i < 2; ++i) c.best_seconds = std::min(c.best_seconds, Seconds(c.run));
      }
    }
  }
  const auto print = [](const std::vector<Case>& group, double unit, const char* name) {
    for (const Case& c : group) {
      std::printf("%-28s %10.2f %s\n", c.name.c_str(), c.units / std::max(c.best_seconds, 1e-9) / unit, name);
    }
  };
  print(probes, 1e9, "GB/s");
  print(encoders, 1e6, "M weights/s");
  print(calibrated, 1e6, "M weights/s (factors: M products/s)");
  print(packs, 1e9, "GB/s of packed bytes");
}

}  // namespace
}  // namespace kompakt

int main(int argc, char** argv) {
  kompakt::Run(argc > 1 && std::strcmp(argv[1], "--smoke") == 0);
  std::fprintf(stderr, "%s", kompakt::sink == 0 ? "nothing was computed\n" : "");
  return 0;
}
