// The attention kernels on every device of this machine, against the reference ops.
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <limits>
#include <string>
#include <vector>

#include "format/float_formats.h"
#include "kernels/cuda/sim/block.h"
#include "kernels/device.h"
#include "kernels/kernel_set.h"
#include "kernels/reference/reference_ops.h"
#include "tests/fixtures/test_name.h"
#include "tests/kernels/random_matrix.h"

namespace kompakt {
namespace {

using cuda::DeviceLatentCache;
using cuda::KvBFormat;
using cuda::LatentFormat;

struct Shape {
  int heads, nope, rope, value, rank;
};

constexpr LatentFormat kLatentFormats[] = {LatentFormat::kBf16, LatentFormat::kFp8, LatentFormat::kInt8};

struct FormatPair {
  FormatId file;
  KvBFormat device;
};
constexpr FormatPair kKvBFormats[] = {{FormatId::kF32, KvBFormat::kF32},
                                      {FormatId::kF16, KvBFormat::kF16},
                                      {FormatId::kBf16, KvBFormat::kBf16},
                                      {FormatId::kFp8B128, KvBFormat::kFp8B128},
                                      {FormatId::kQ8G32, KvBFormat::kQ8G32}};

// Half of the distance between neighbours, relative: what one rounding to BF16 changes at most; a third of its square
// is the variance.
constexpr double kUlp = 1.0 / 256;

struct Expected {
  std::vector<float> y;           // [T, H, value]
  std::vector<double> tolerance;  // of each
};

class EveryDeviceMla : public testing::TestWithParam<std::string> {
 protected:
  void SetUp() override {
    auto device = OpenDevice(GetParam());
    ASSERT_TRUE(device.ok()) << device.status();
    device_ = *std::move(device);
  }
  void TearDown() override { cuda_sim::SetSchedule({}); }

  template <typename T>
  DeviceBuffer Upload(const std::vector<T>& values) {
    return UploadBytes(values.data(), values.size() * sizeof(T));
  }
  DeviceBuffer UploadBytes(const void* values, uint64_t bytes) {
    DeviceBuffer buffer = *DeviceBuffer::Create(*device_, bytes, "test");
    EXPECT_TRUE(device_->Copy(buffer.as<void>(), values, bytes, nullptr).ok());
    EXPECT_TRUE(device_->Synchronize(nullptr).ok());
    return buffer;
  }
  template <typename T>
  std::vector<T> Download(const DeviceBuffer& buffer) {
    std::vector<T> values(buffer.bytes() / sizeof(T));
    EXPECT_TRUE(device_->Copy(values.data(), buffer.as<void>(), buffer.bytes(), nullptr).ok());
    const absl::Status done = device_->Synchronize(nullptr);
    EXPECT_TRUE(done.ok()) << done;
    return values;
  }
  void Ok(int code, const char* what) {
    const absl::Status status = device_->LaunchStatus(code, what);
    ASSERT_TRUE(status.ok()) << status;
  }

  // A cache with `position` + `tokens` rows, queries of the tokens, and everything on both sides.
  struct Case {
    Shape shape{};
    LatentFormat latent = LatentFormat::kBf16;
    int position = 0, tokens = 0;
    RandomMatrix kv_b;
    std::vector<float> a, norm, q, rotated_q;
    std::vector<float> cos_sin;  // [T, rope / 2, 2]
    std::vector<float> rows;     // [position + tokens, rank + rope], as the device stored them
    float scale = 0;
    DeviceBuffer kv_b_on_device, cache_on_device;
    DeviceLatentCache cache;
    cuda::KvBMatrix matrix;
  };

  static std::vector<float> Angles(int first, int tokens, int rope) {
    std::vector<float> cos_sin;
    for (int t = 0; t < tokens; ++t) {
      for (int i = 0; i < rope / 2; ++i) {
        const double angle = (first + t) * std::pow(100.0, -2.0 * i / rope);
        cos_sin.push_back(static_cast<float>(std::cos(angle)));
        cos_sin.push_back(static_cast<float>(std::sin(angle)));
      }
    }
    return cos_sin;
  }

  // Values of the rows on the device.
  std::vector<float> DecodeRowsOf(const Case& c, int rows) {
    const std::vector<uint8_t> bytes = Download<uint8_t>(c.cache_on_device);
    const DeviceLatentCache& cache = c.cache;
    std::vector<float> values;
    const auto bf16 = [&](size_t at) { return Bf16ToF32(static_cast<uint16_t>(bytes[at] | bytes[at + 1] << 8)); };
    for (int j = 0; j < rows; ++j) {
      const auto row = static_cast<size_t>(j * cache.row_bytes());
      for (int i = 0; i < cache.rank; ++i) {
        const auto at = static_cast<size_t>(i);
        if (cache.format == LatentFormat::kBf16) {
          values.push_back(bf16(row + 2 * at));
        } else {
          const float scale = bf16(row + static_cast<size_t>(cache.rank_padded()) + at / 32 * 2);
          const uint8_t code = bytes[row + at];
          values.push_back(scale * (cache.format == LatentFormat::kInt8 ? static_cast<float>(static_cast<int8_t>(code))
                                                                        : Fp8E4m3ToF32(code)));
        }
      }
      for (int i = 0; i < cache.rope; ++i) {
        values.push_back(bf16(row + static_cast<size_t>(cache.rope_offset() + 2 * i)));
      }
    }
    return values;
  }

  cuda::MlaAppendParams AppendParams(const Case& c, const DeviceBuffer& a, const DeviceBuffer& norm,
                                     const DeviceBuffer& cos_sin, const DeviceBuffer& position, int tokens) {
    return {.a = a.as<float>(),
            .a_stride = c.shape.rank + c.shape.rope,
            .norm_weight = norm.as<float>(),
            .eps = 1e-6f,
            .cos_sin = cos_sin.as<float>(),
            .position = position.as<int32_t>(),
            .tokens = tokens,
            .cache = c.cache};
  }

  Case MakeCase(const Shape& s, const FormatPair& format, LatentFormat latent, int position, int tokens) {
    Case c;
    c.shape = s;
    c.latent = latent;
    c.position = position;
    c.tokens = tokens;
    const int rows = position + tokens;
    c.kv_b = MakeRandomMatrix(format.file, int64_t{s.heads} * (s.nope + s.value), s.rank,
                              1.0f / std::sqrt(static_cast<float>(s.rank)), 1);
    c.kv_b_on_device = UploadBytes(c.kv_b.view.data, c.kv_b.view.layout.total_bytes);
    c.matrix = {
        .format = format.device,
        .tiles = c.kv_b_on_device.as<uint8_t>(),
        .side = reinterpret_cast<const float*>(c.kv_b_on_device.as<uint8_t>() + c.kv_b.view.layout.side_offset)};
    c.a = RandomVector(int64_t{rows} * (s.rank + s.rope), 1.0f, 2);
    c.norm = RandomVector(s.rank, 1.0f, 4);
    c.q = RandomVector(int64_t{tokens} * s.heads * (s.nope + s.rope), 1.0f, 3);
    c.scale = 1.0f / std::sqrt(static_cast<float>(s.nope + s.rope));
    c.cos_sin = Angles(position, tokens, s.rope);
    c.cache = {.format = latent, .rank = s.rank, .rope = s.rope, .capacity = rows + 2};
    // Rows behind the filled ones stay as the device's memory comes: what is read of them becomes NaN.
    c.cache_on_device = *DeviceBuffer::Create(
        *device_, static_cast<uint64_t>(c.cache.row_bytes()) * (static_cast<uint64_t>(rows) + 2), "cache");
    EXPECT_TRUE(device_->Fill(c.cache_on_device.as<void>(), 0xff, c.cache_on_device.bytes(), nullptr).ok());
    c.cache.data = c.cache_on_device.as<uint8_t>();

    const DeviceBuffer a = Upload(c.a), norm = Upload(c.norm), angles = Upload(Angles(0, rows, s.rope));
    const DeviceBuffer zero = Upload(std::vector<int32_t>{0});
    Ok(device_->kernels().mla_append(AppendParams(c, a, norm, angles, zero, rows), nullptr), "append");
    c.rows = DecodeRowsOf(c, rows);

    c.rotated_q = c.q;
    Workspace workspace;
    KernelContext context{.workspace = &workspace};
    EXPECT_TRUE(reference::Rope({.x = c.rotated_q.data() + s.nope,
                                 .x_stride = int64_t{s.heads} * (s.nope + s.rope),
                                 .head_stride = s.nope + s.rope,
                                 .heads = s.heads,
                                 .dim = s.rope,
                                 .cos_sin = c.cos_sin.data(),
                                 .tokens = tokens},
                                context)
                    .ok());
    return c;
  }

  // The reference's answer, from the values that the device has in its cache, and how far off a device may be that
  // rounds queries, probabilities and (`decompressed`) weights, keys and values to BF16 once. Roundings are
  // independent, so errors add up as their squares: 6 standard deviations.
  Expected Reference(const Case& c, bool decompressed) {
    const Shape& s = c.shape;
    const int filled = c.position + c.tokens, width = s.rank + s.rope, head_rows = s.nope + s.value;
    Workspace workspace;
    KernelContext context{.workspace = &workspace};
    LatentCache cache{.rank = s.rank, .rope = s.rope, .capacity = filled};
    const AlignedBuffer bytes = *AlignedBuffer::Create(cache.row_bytes() * static_cast<uint64_t>(filled), "cache");
    cache.data = bytes.data();
    for (int j = 0; j < filled; ++j) StoreLatentRow(cache, j, &c.rows[static_cast<size_t>(j * width)]);
    Expected e;
    e.y.resize(static_cast<size_t>(c.tokens) * static_cast<size_t>(s.heads * s.value));
    const MlaParams p{.heads = s.heads,
                      .nope_dim = s.nope,
                      .rope_dim = s.rope,
                      .value_dim = s.value,
                      .softmax_scale = c.scale,
                      .kv_b = c.kv_b.view,
                      .q = c.rotated_q.data(),
                      .tokens = c.tokens,
                      .position = c.position,
                      .cache = cache,
                      .y = e.y.data()};
    EXPECT_TRUE((decompressed ? reference::MlaPrefill(p, context) : reference::MlaDecode(p, context)).ok());

    const auto square = [](double x) { return x * x; };
    for (int t = 0; t < c.tokens; ++t) {
      for (int h = 0; h < s.heads; ++h) {
        const float* const q = &c.rotated_q[static_cast<size_t>((t * s.heads + h) * (s.nope + s.rope))];
        const float* const w = &c.kv_b.values[static_cast<size_t>(h * head_rows * s.rank)];
        std::vector<double> latent_q(static_cast<size_t>(s.rank), 0);
        for (int d = 0; d < s.nope; ++d) {
          for (int i = 0; i < s.rank; ++i) latent_q[static_cast<size_t>(i)] += double{q[d]} * double{w[d * s.rank + i]};
        }
        double of_score = 0;  // largest variance of a score, in units of (kUlp * scale)^2 / 3
        std::vector<double> value_square(static_cast<size_t>(s.value), 0);  // largest v^2 + sum (w r)^2
        for (int j = 0; j <= c.position + t; ++j) {
          const float* const row = &c.rows[static_cast<size_t>(j * width)];
          double variance = 0;
          for (int i = 0; i < s.rope; ++i) variance += square(double{q[s.nope + i]} * double{row[s.rank + i]});
          if (decompressed) {
            for (int d = 0; d < s.nope; ++d) {
              double key = 0, products = 0;
              for (int i = 0; i < s.rank; ++i) {
                key += double{w[d * s.rank + i]} * double{row[i]};
                products += square(double{w[d * s.rank + i]} * double{row[i]});
              }
              variance += square(q[d]) * (2 * square(key) + products);
            }
          } else {
            for (int i = 0; i < s.rank; ++i) variance += square(latent_q[static_cast<size_t>(i)] * double{row[i]});
          }
          of_score = std::max(of_score, variance);
          for (int d = 0; d < s.value; ++d) {
            const float* const up = w + (s.nope + d) * s.rank;
            double value = 0, products = 0;
            for (int i = 0; i < s.rank; ++i) {
              value += double{up[i]} * double{row[i]};
              products += square(double{up[i]} * double{row[i]});
            }
            double& largest = value_square[static_cast<size_t>(d)];
            largest = std::max(largest, square(value) + (decompressed ? products : 0));
          }
        }
        const double score_sigma = double{c.scale} * kUlp * std::sqrt(of_score / 3);
        for (int d = 0; d < s.value; ++d) {
          // A score that is off by x scales its weight by e^x; a rounded probability by 1 + kUlp, and so does a value.
          const double magnitude = std::sqrt(value_square[static_cast<size_t>(d)]);
          e.tolerance.push_back(1e-5 + 6 * magnitude * std::sqrt(square(score_sigma) + 2 * square(kUlp) / 3));
        }
      }
    }
    return e;
  }

  void ExpectNear(const std::vector<float>& got, const Expected& e, const Case& c, const std::string& what) {
    ASSERT_EQ(got.size(), e.y.size());
    for (size_t i = 0; i < got.size(); ++i) {
      ASSERT_LE(std::fabs(double{got[i]} - double{e.y[i]}), e.tolerance[i])
          << what << ": heads " << c.shape.heads << ", rank " << c.shape.rank << ", " << c.kv_b.view.format->name
          << ", cache " << static_cast<int>(c.latent) << ", position " << c.position << ", " << c.tokens
          << " tokens: value " << i << " is " << got[i] << ", expected " << e.y[i];
    }
  }

  // `appended`: the last row was put there by this launch's own append.
  std::vector<float> Decode(const Case& c, int splits, const std::vector<int32_t>& ids = {}) {
    const Shape& s = c.shape;
    const auto tokens = static_cast<uint64_t>(c.tokens), heads = static_cast<uint64_t>(s.heads);
    const DeviceBuffer q = Upload(c.q), cos_sin = Upload(c.cos_sin),
                       position = Upload(std::vector<int32_t>{c.position});
    const DeviceBuffer latent_q =
        *DeviceBuffer::Create(*device_, tokens * heads * static_cast<uint64_t>(c.cache.width_padded()) * 2, "q");
    const DeviceBuffer mean =
        *DeviceBuffer::Create(*device_, tokens * heads * static_cast<uint64_t>(splits * s.rank) * 4, "mean");
    const DeviceBuffer log_sum =
        *DeviceBuffer::Create(*device_, tokens * heads * static_cast<uint64_t>(splits) * 4, "sums");
    const DeviceBuffer y = *DeviceBuffer::Create(*device_, tokens * heads * static_cast<uint64_t>(s.value) * 4, "y");
    DeviceBuffer ids_on_device;
    if (!ids.empty()) ids_on_device = Upload(ids);
    const CudaKernels& kernels = device_->kernels();
    Ok(kernels.mla_absorb({.heads = s.heads,
                           .nope_dim = s.nope,
                           .rope_dim = s.rope,
                           .value_dim = s.value,
                           .rank = s.rank,
                           .softmax_scale = c.scale,
                           .kv_b = c.matrix,
                           .q = q.as<float>(),
                           .cos_sin = cos_sin.as<float>(),
                           .tokens = c.tokens,
                           .latent_q = latent_q.as<uint16_t>(),
                           .append = {}},
                          nullptr),
       "absorb");
    Ok(kernels.mla_decode({.heads = s.heads,
                           .tokens = c.tokens,
                           .splits = splits,
                           .position = position.as<int32_t>(),
                           .cache = c.cache,
                           .ids = ids.empty() ? nullptr : ids_on_device.as<int32_t>(),
                           .selected = static_cast<int>(ids.size()) / c.tokens,
                           .latent_q = latent_q.as<uint16_t>(),
                           .mean = mean.as<float>(),
                           .log_sum = log_sum.as<float>()},
                          nullptr),
       "decode");
    Ok(kernels.mla_combine({.heads = s.heads,
                            .nope_dim = s.nope,
                            .value_dim = s.value,
                            .rank = s.rank,
                            .tokens = c.tokens,
                            .splits = splits,
                            .kv_b = c.matrix,
                            .mean = mean.as<float>(),
                            .log_sum = log_sum.as<float>(),
                            .y = y.as<float>()},
                           nullptr),
       "combine");
    return Download<float>(y);
  }

  std::vector<float> Prefill(const Case& c, int heads_at_a_time) {
    const Shape& s = c.shape;
    const int rows = c.position + c.tokens;
    const DeviceBuffer q = Upload(c.q), cos_sin = Upload(c.cos_sin);
    const DeviceBuffer kv = *DeviceBuffer::Create(
        *device_, static_cast<uint64_t>(cuda::MlaDecompressedElements(heads_at_a_time, rows, s.nope, s.value)) * 2,
        "kv");
    const DeviceBuffer y =
        *DeviceBuffer::Create(*device_, static_cast<uint64_t>(c.tokens * s.heads * s.value) * 4, "y");
    for (int head = 0; head < s.heads; head += heads_at_a_time) {
      const int heads = std::min(heads_at_a_time, s.heads - head);
      Ok(device_->kernels().mla_decompress({.head_begin = head,
                                            .heads = heads,
                                            .nope_dim = s.nope,
                                            .value_dim = s.value,
                                            .kv_b = c.matrix,
                                            .cache = c.cache,
                                            .rows = rows,
                                            .kv = kv.as<uint16_t>()},
                                           nullptr),
         "decompress");
      Ok(device_->kernels().mla_prefill({.head_begin = head,
                                         .heads = heads,
                                         .heads_total = s.heads,
                                         .nope_dim = s.nope,
                                         .rope_dim = s.rope,
                                         .value_dim = s.value,
                                         .softmax_scale = c.scale,
                                         .q = q.as<float>(),
                                         .cos_sin = cos_sin.as<float>(),
                                         .tokens = c.tokens,
                                         .first = c.position,
                                         .cache = c.cache,
                                         .rows = rows,
                                         .kv = kv.as<uint16_t>(),
                                         .y = y.as<float>()},
                                        nullptr),
         "prefill");
    }
    return Download<float>(y);
  }

  std::unique_ptr<Device> device_;
};
INSTANTIATE_TEST_SUITE_P(Devices, EveryDeviceMla, testing::ValuesIn(AvailableDevices()),
                         [](const auto& info) { return TestNameOf(info.param); });

// The fixtures' shapes, one where nothing is a multiple of anything, one with more than 16 heads.
constexpr Shape kFixture = {4, 32, 16, 32, 64};
constexpr Shape kOdd = {3, 20, 6, 13, 41};
constexpr Shape kManyHeads = {19, 8, 4, 8, 16};
// V2-Lite's and V3's dimensions of a head; and those of GLM, whose values are wider.
constexpr Shape kV3 = {2, 128, 64, 128, 512};
constexpr Shape kGlm = {1, 192, 64, 256, 512};

TEST_P(EveryDeviceMla, AppendedRowsAreTheReferencesRounded) {
  for (const Shape& s : {kFixture, kOdd, kV3}) {
    for (const LatentFormat latent : kLatentFormats) {
      const int tokens = 3;
      const Case c = MakeCase(s, kKvBFormats[2], latent, 0, tokens);
      LatentCache cache{.rank = s.rank, .rope = s.rope, .capacity = tokens};
      const AlignedBuffer bytes = *AlignedBuffer::Create(cache.row_bytes() * tokens, "cache");
      cache.data = bytes.data();
      Workspace workspace;
      KernelContext context{.workspace = &workspace};
      ASSERT_TRUE(reference::LatentAppend({.a = c.a.data(),
                                           .norm_weight = c.norm.data(),
                                           .eps = 1e-6f,
                                           .cos_sin = c.cos_sin.data(),
                                           .tokens = tokens,
                                           .position = 0,
                                           .cache = cache},
                                          context)
                      .ok());
      const int width = s.rank + s.rope;
      std::vector<float> scratch(static_cast<size_t>(tokens * width));
      const float* const want = LatentRows(cache, 0, tokens, scratch.data());
      for (int j = 0; j < tokens; ++j) {
        for (int i = 0; i < width; ++i) {
          float largest = 0;  // of the group
          for (int k = i / 32 * 32; i < s.rank && k < std::min(s.rank, i / 32 * 32 + 32); ++k) {
            largest = std::max(largest, std::fabs(want[j * width + k]));
          }
          const double x = want[j * width + i];
          // Half a step: of BF16; of E4M3, whose steps are 2^-3 and, below 2^-6 of a scale that is at most 1/224 of the
          // largest, 2^-9; of int8 with a scale that BF16 rounded up. And what F32 sums differ by.
          double step = std::fabs(x) * 2 * kUlp;
          if (i < s.rank && latent == LatentFormat::kFp8)
            step = std::max(std::fabs(x) / 8, double{largest} / 224 / 512);
          if (i < s.rank && latent == LatentFormat::kInt8) step = double{largest} / 127 * (1 + 2 * kUlp);
          const double got = c.rows[static_cast<size_t>(j * width + i)];
          ASSERT_LE(std::fabs(got - x), step / 2 + 1e-5 * std::fabs(x) + 1e-7)
              << "rank " << s.rank << ", format " << static_cast<int>(latent) << ", row " << j << ", value " << i
              << " is " << got << ", expected " << x;
        }
      }
    }
  }
}

TEST_P(EveryDeviceMla, AValueThatIsNotFiniteIsNotHidden) {
  for (const LatentFormat latent : kLatentFormats) {
    for (const float bad : {std::nanf(""), std::numeric_limits<float>::infinity()}) {
      Case c = MakeCase(kOdd, kKvBFormats[2], latent, 0, 2);
      c.a[5] = bad;
      const DeviceBuffer a = Upload(c.a), norm = Upload(c.norm), cos_sin = Upload(c.cos_sin);
      const DeviceBuffer position = Upload(std::vector<int32_t>{0});
      Ok(device_->kernels().mla_append(AppendParams(c, a, norm, cos_sin, position, 2), nullptr), "append");
      EXPECT_FALSE(std::isfinite(DecodeRowsOf(c, 2)[5])) << static_cast<int>(latent);
      for (const float y : Decode(c, 1)) ASSERT_FALSE(std::isfinite(y)) << static_cast<int>(latent);
    }
  }
}

TEST_P(EveryDeviceMla, DecodeEqualsTheReferenceInEveryFormat) {
  for (const FormatPair& format : kKvBFormats) {
    const Case c = MakeCase(kOdd, format, LatentFormat::kBf16, 40, 1);
    ExpectNear(Decode(c, 2), Reference(c, false), c, "decode");
  }
  for (const LatentFormat latent : kLatentFormats) {
    for (const Shape& shape : {kOdd, kFixture}) {
      const Case c = MakeCase(shape, kKvBFormats[4], latent, 75, 1);
      ExpectNear(Decode(c, 1), Reference(c, false), c, "decode");
    }
  }
}

TEST_P(EveryDeviceMla, DecodeEqualsTheReferenceAtEveryTailAndSplit) {
  for (const int position : {0, 1, 30, 31, 32, 63, 64, 100}) {
    const Case c = MakeCase(kFixture, kKvBFormats[4], LatentFormat::kBf16, position, 1);
    const Expected e = Reference(c, false);
    for (const int splits : {1, 3, 7}) ExpectNear(Decode(c, splits), e, c, "decode");
  }
  const Case c = MakeCase(kManyHeads, kKvBFormats[4], LatentFormat::kInt8, 30, 4);
  ExpectNear(Decode(c, 2), Reference(c, false), c, "decode of four tokens");
}

TEST_P(EveryDeviceMla, DecodeEqualsTheReferenceAtTheShapesOfV3) {
  for (const LatentFormat latent : kLatentFormats) {
    const Case c = MakeCase(kV3, kKvBFormats[4], latent, 40, 1);
    ExpectNear(Decode(c, 2), Reference(c, false), c, "decode");
  }
}

TEST_P(EveryDeviceMla, DecodeOverSelectedRowsSeesThoseRowsOnly) {
  // A cache in which only the selected rows are: the same answer as attention over all of a shorter one.
  Case c = MakeCase(kFixture, kKvBFormats[4], LatentFormat::kBf16, 79, 1);
  std::vector<int32_t> ids;
  for (int j = 0; j < 80; j += 2) ids.push_back(j);
  const std::vector<float> got = Decode(c, 2, ids);
  const int width = c.shape.rank + c.shape.rope;
  std::vector<float> rows;
  for (const int32_t j : ids) rows.insert(rows.end(), c.rows.begin() + j * width, c.rows.begin() + (j + 1) * width);
  c.rows = rows;
  c.position = 39;
  ExpectNear(got, Reference(c, false), c, "selected rows");
}

TEST_P(EveryDeviceMla, AbsorbAppendsTheTokenOfItsStep) {
  Case c = MakeCase(kOdd, kKvBFormats[4], LatentFormat::kInt8, 20, 2);
  const std::vector<uint8_t> whole = Download<uint8_t>(c.cache_on_device);
  const auto row_bytes = static_cast<size_t>(c.cache.row_bytes());
  ASSERT_TRUE(device_->Fill(c.cache.data + 20 * row_bytes, 0xee, 2 * row_bytes, nullptr).ok());
  const std::vector<float> last(c.a.end() - 2 * (c.shape.rank + c.shape.rope), c.a.end());
  const DeviceBuffer a = Upload(last), norm = Upload(c.norm), cos_sin = Upload(c.cos_sin), q = Upload(c.q);
  const DeviceBuffer position = Upload(std::vector<int32_t>{20});
  const DeviceBuffer latent_q =
      *DeviceBuffer::Create(*device_, static_cast<uint64_t>(2 * 3 * c.cache.width_padded()) * 2, "q");
  Ok(device_->kernels().mla_absorb({.heads = c.shape.heads,
                                    .nope_dim = c.shape.nope,
                                    .rope_dim = c.shape.rope,
                                    .value_dim = c.shape.value,
                                    .rank = c.shape.rank,
                                    .softmax_scale = c.scale,
                                    .kv_b = c.matrix,
                                    .q = q.as<float>(),
                                    .cos_sin = cos_sin.as<float>(),
                                    .tokens = 2,
                                    .latent_q = latent_q.as<uint16_t>(),
                                    .append = AppendParams(c, a, norm, cos_sin, position, 2)},
                                   nullptr),
     "absorb");
  EXPECT_EQ(Download<uint8_t>(c.cache_on_device), whole);
}

TEST_P(EveryDeviceMla, PrefillEqualsTheReference) {
  for (const LatentFormat latent : kLatentFormats) {
    const Case c = MakeCase(kOdd, kKvBFormats[4], latent, 0, 37);
    ExpectNear(Prefill(c, 2), Reference(c, true), c, "prefill");
  }
  for (const FormatPair& format : kKvBFormats) {
    const Case c = MakeCase(kOdd, format, LatentFormat::kBf16, 33, 2);
    ExpectNear(Prefill(c, 3), Reference(c, true), c, "prefill");
  }
  const Case late = MakeCase(kFixture, kKvBFormats[4], LatentFormat::kBf16, 45, 70);
  ExpectNear(Prefill(late, 4), Reference(late, true), late, "prefill behind a prompt");
  const Case glm = MakeCase(kGlm, kKvBFormats[4], LatentFormat::kBf16, 0, 5);
  ExpectNear(Prefill(glm, 1), Reference(glm, true), glm, "prefill with wide values");
}

TEST_P(EveryDeviceMla, ResultsDoNotDependOnTheSchedule) {
  const Case c = MakeCase(kOdd, kKvBFormats[4], LatentFormat::kInt8, 40, 3);
  const std::vector<float> decoded = Decode(c, 2), prefilled = Prefill(c, 3);
  using Order = cuda_sim::Schedule::Order;
  for (const auto& schedule : {cuda_sim::Schedule{Order::kBackward}, {Order::kShuffled, 1}, {Order::kShuffled, 2}}) {
    cuda_sim::SetSchedule(schedule);
    EXPECT_EQ(Decode(c, 2), decoded);
    EXPECT_EQ(Prefill(c, 3), prefilled);
  }
}

TEST_P(EveryDeviceMla, SurvivesLargeScores) {
  Case c = MakeCase(kFixture, kKvBFormats[4], LatentFormat::kBf16, 70, 3);
  c.scale = 3000;
  for (const float y : Decode(c, 2)) ASSERT_TRUE(std::isfinite(y));
  for (const float y : Prefill(c, 4)) ASSERT_TRUE(std::isfinite(y));
}

TEST(MlaSplits, FillTheDeviceAndLeaveNoSplitNearlyEmpty) {
  EXPECT_EQ(cuda::MlaSplits(16, 1, 4096, 82), 64);
  EXPECT_EQ(cuda::MlaSplits(16, 1, 32768, 82), 82);
  EXPECT_EQ(cuda::MlaSplits(128, 1, 32768, 132), 17);
  EXPECT_EQ(cuda::MlaSplits(16, 1, 10, 82), 1);
}

}  // namespace
}  // namespace kompakt
