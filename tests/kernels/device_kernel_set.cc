#include "tests/kernels/device_kernel_set.h"

#include <algorithm>
#include <cmath>
#include <cstring>
#include <utility>
#include <vector>

#include "kernels/device.h"
#include "tests/kernels/on_device.h"
#include "tests/kernels/random_matrix.h"

namespace kompakt {
namespace {

// Of an RTX 3090: what splits of attention and blocks of products are chosen for.
constexpr int kMultiprocessors = 82;
constexpr int32_t kBlocks = 2 * kMultiprocessors;

std::string& DeviceName() {
  static std::string* const name = new std::string;
  return *name;
}

int PlanesFor(ActPrecision act) { return act == ActPrecision::kF32 ? 0 : act == ActPrecision::kInt8 ? 1 : 2; }

// Of activations on their way into a product with this matrix.
int PlanesFor(ActPrecision act, const MatrixView& w) {
  const bool codes = w.format->group_cols > 0 || w.format->id == FormatId::kQ8G32;
  return codes ? PlanesFor(act) : 0;
}

// An op at work: the device, and whether everything was queued.
class Call : public OnDevice {
 public:
  Call() : OnDevice(DeviceName()) {}

  void Queue(int code, const char* what) {
    if (status_.ok()) status_ = device().LaunchStatus(code, what);
  }
  // Waits for the ops, and copies `n` values of the result to the host.
  template <typename T>
  void Take(const T* from, int64_t n, T* to) {
    if (status_.ok()) status_ = device().Copy(to, from, static_cast<uint64_t>(n) * sizeof(T), nullptr);
    if (status_.ok()) status_ = device().Synchronize(nullptr);
  }
  absl::Status status() const { return status_; }

  // x: [rows, cols], `stride` apart, as codes or not.
  cuda::Activations Rows(const float* x, int64_t stride, int64_t rows, int64_t cols, int planes) {
    std::vector<float> packed;
    for (int64_t t = 0; t < rows; ++t) packed.insert(packed.end(), x + t * stride, x + t * stride + cols);
    return Quantized(packed, rows, cols, planes);
  }

  // y [T, width] <- `from`, rows `stride` apart.
  void TakeRows(const float* from, int64_t rows, int64_t width, float* y, int64_t stride) {
    std::vector<float> packed(static_cast<size_t>(rows * width));
    Take(from, rows * width, packed.data());
    for (int64_t t = 0; t < rows; ++t) std::copy_n(packed.data() + t * width, width, y + t * stride);
  }

 private:
  absl::Status status_;
};

absl::Status Embed(const EmbedParams& p, KernelContext& /*context*/) {
  Call call;
  const int64_t cols = p.table.shape.cols;
  float* const y = call.Zeros<float>(p.tokens * cols);
  call.Queue(call.kernels().embed({.table = call.Upload(p.table),
                                   .ids = call.Upload(p.ids, p.tokens),
                                   .tokens = p.tokens,
                                   .out = {.y = y, .y_stride = cols}},
                                  nullptr),
             "embed");
  call.Take(y, p.tokens * cols, p.y);
  return call.status();
}

absl::Status RmsNorm(const RmsNormParams& p, KernelContext& /*context*/) {
  Call call;
  const auto cols = static_cast<int32_t>(p.width);
  const cuda::Activations x = call.MakeActivations(p.tokens, cols, 0, true, true, static_cast<float>(p.eps));
  std::vector<float> packed;
  for (int64_t t = 0; t < p.tokens; ++t) packed.insert(packed.end(), p.x + t * p.x_stride, p.x + t * p.x_stride + cols);
  call.Queue(call.kernels().quantize({.x = call.Upload(packed),
                                      .x_stride = cols,
                                      .tokens = p.tokens,
                                      .out = {.next = x, .norm = call.Upload(p.weight, cols)}},
                                     nullptr),
             "quantize");
  std::vector<float> of_column_0(static_cast<size_t>(cols), 0);
  of_column_0[0] = 1;
  const RandomMatrix unit = MakeF32Matrix(std::move(of_column_0), 1, cols);
  float* const firsts = call.Zeros<float>(p.tokens);
  cuda::LinearParams product{.n_jobs = 1, .x = x, .tokens = p.tokens, .blocks = kBlocks};
  product.jobs[0] = {.w = call.Upload(unit), .out = {.y = firsts, .y_stride = 1}};
  call.Queue(call.kernels().linear(product, nullptr), "linear");
  const int64_t padded = cuda::Padded(cols);
  std::vector<float> waiting(static_cast<size_t>(p.tokens * padded)), first(static_cast<size_t>(p.tokens));
  call.Take(x.x, p.tokens * padded, waiting.data());
  call.Take(firsts, p.tokens, first.data());
  for (int64_t t = 0; t < p.tokens; ++t) {
    const float* const row = waiting.data() + t * padded;
    const float factor = first[static_cast<size_t>(t)] / row[0];
    for (int64_t i = 0; i < p.width; ++i) p.y[t * p.y_stride + i] = row[i] * factor;
  }
  return call.status();
}

absl::Status Linear(const LinearParams& p, KernelContext& /*context*/) {
  Call call;
  const int64_t rows = p.w.shape.rows;
  float* const y = call.Zeros<float>(p.tokens * rows);
  cuda::LinearParams params{.n_jobs = 1,
                            .x = call.Rows(p.x, p.x_stride, p.tokens, p.w.shape.cols, PlanesFor(p.act, p.w)),
                            .tokens = p.tokens,
                            .blocks = kBlocks};
  params.jobs[0] = {.w = call.Upload(p.w), .out = {.y = y, .y_stride = rows}};
  call.Queue(call.kernels().linear(params, nullptr), "linear");
  call.TakeRows(y, p.tokens, rows, p.y, p.y_stride);
  return call.status();
}

// ---- Attention.

// A latent cache of the CPU and the device's copy of its rows.
class CopiedCache {
 public:
  CopiedCache(Call& call, const LatentCache& cache) : call_(call), host_(cache) {
    device_ = {.format = cache.format == CacheFormat::kInt8 ? cuda::LatentFormat::kInt8 : cuda::LatentFormat::kBf16,
               .rank = static_cast<int>(cache.rank),
               .rope = static_cast<int>(cache.rope),
               .capacity = cache.capacity};
    if (cache.format == CacheFormat::kF32) status_ = absl::UnimplementedError("a device has no cache of F32");
    rows_.assign(static_cast<size_t>(cache.capacity * device_.row_bytes()), 0);
    for (int64_t j = 0; j < cache.capacity; ++j) {
      ForParts(
          [&](uint64_t host, int device, uint64_t bytes) { std::memcpy(RowOf(j) + device, HostRow(j) + host, bytes); });
    }
    device_.data = call.Upload(rows_);
  }

  absl::Status status() const { return status_; }
  const cuda::DeviceLatentCache& device() const { return device_; }

  // Rows [0, n) back into the CPU's cache.
  void Take(int64_t n) {
    call_.Take(device_.data, n * device_.row_bytes(), rows_.data());
    for (int64_t j = 0; j < n; ++j) {
      ForParts(
          [&](uint64_t host, int device, uint64_t bytes) { std::memcpy(HostRow(j) + host, RowOf(j) + device, bytes); });
    }
  }

 private:
  uint8_t* HostRow(int64_t j) const { return host_.data + static_cast<uint64_t>(j) * host_.row_bytes(); }
  uint8_t* RowOf(int64_t j) { return rows_.data() + j * device_.row_bytes(); }

  // part(offset in a row of the CPU, in a row of the device, bytes), as kernels/latent_cache.h has them.
  template <typename Part>
  void ForParts(const Part& part) const {
    const auto rank = static_cast<uint64_t>(host_.rank), rope = static_cast<uint64_t>(host_.rope);
    if (host_.format == CacheFormat::kInt8) {
      const uint64_t scales = rank + rank % 2, groups = (rank + kInt8CacheGroup - 1) / kInt8CacheGroup;
      part(0, 0, rank);
      part(scales, device_.rank_padded(), 2 * groups);
      part(scales + 2 * groups, device_.rope_offset(), 2 * rope);
    } else {
      part(0, 0, 2 * rank);
      part(2 * rank, device_.rope_offset(), 2 * rope);
    }
  }

  Call& call_;
  LatentCache host_;
  cuda::DeviceLatentCache device_;
  std::vector<uint8_t> rows_;
  absl::Status status_;
};

absl::Status LatentAppend(const LatentAppendParams& p, KernelContext& /*context*/) {
  Call call;
  CopiedCache cache(call, p.cache);
  if (!cache.status().ok()) return cache.status();
  const int64_t width = p.cache.width();
  const int32_t position = static_cast<int32_t>(p.position);
  call.Queue(call.kernels().mla_append({.a = call.Upload(p.a, p.tokens * width),
                                        .a_stride = width,
                                        .norm_weight = call.Upload(p.norm_weight, p.cache.rank),
                                        .eps = static_cast<float>(p.eps),
                                        .cos_sin = call.Upload(p.cos_sin, p.tokens * p.cache.rope),
                                        .position = call.Upload(&position, 1),
                                        .tokens = static_cast<int>(p.tokens),
                                        .cache = cache.device()},
                                       nullptr),
             "mla_append");
  cache.Take(p.position + p.tokens);
  return call.status();
}

// kv_b_proj as attention reads it: formats that it does not know are widened to F32.
cuda::KvBMatrix UploadKvB(Call& call, const MatrixView& w) {
  const auto as = [&](cuda::KvBFormat format, const MatrixView& m) {
    const cuda::Matrix on_device = call.Upload(m);
    return cuda::KvBMatrix{.format = format,
                           .tiles = on_device.data,
                           .side = reinterpret_cast<const float*>(on_device.data + on_device.side_offset)};
  };
  switch (w.format->id) {
    case FormatId::kF32:
      return as(cuda::KvBFormat::kF32, w);
    case FormatId::kF16:
      return as(cuda::KvBFormat::kF16, w);
    case FormatId::kBf16:
      return as(cuda::KvBFormat::kBf16, w);
    case FormatId::kFp8B128:
      return as(cuda::KvBFormat::kFp8B128, w);
    case FormatId::kQ8G32:
      return as(cuda::KvBFormat::kQ8G32, w);
    default:
      break;
  }
  std::vector<float> values(static_cast<size_t>(w.shape.rows * w.shape.cols));
  DecodeRows(w, 0, w.shape.rows, absl::MakeSpan(values));
  return as(cuda::KvBFormat::kF32, MakeF32Matrix(std::move(values), w.shape.rows, w.shape.cols).view);
}

// The queries of an op of attention turned back by angles of our own, and these angles: the device turns them forth.
struct TurnedBack {
  std::vector<float> q;        // [T, H, nope + rope]
  std::vector<float> cos_sin;  // [T, rope / 2, 2]
};
TurnedBack TurnBack(const MlaParams& p) {
  const int64_t head = p.nope_dim + p.rope_dim;
  TurnedBack out;
  out.q.assign(p.q, p.q + p.tokens * p.heads * head);
  for (int64_t t = 0; t < p.tokens; ++t) {
    for (int64_t i = 0; i < p.rope_dim / 2; ++i) {
      const double angle = 0.3 * static_cast<double>(p.position + t) + 0.7 * static_cast<double>(i);
      const auto c = static_cast<float>(std::cos(angle)), s = static_cast<float>(std::sin(angle));
      out.cos_sin.insert(out.cos_sin.end(), {c, s});
      for (int64_t h = 0; h < p.heads; ++h) {
        float* const pair = out.q.data() + (t * p.heads + h) * head + p.nope_dim + 2 * i;
        const float x = pair[0], y = pair[1];
        pair[0] = x * c + y * s;
        pair[1] = y * c - x * s;
      }
    }
  }
  return out;
}

absl::Status MlaPrefill(const MlaParams& p, KernelContext& /*context*/) {
  Call call;
  const CopiedCache cache(call, p.cache);
  if (!cache.status().ok()) return cache.status();
  const auto heads = static_cast<int>(p.heads), nope = static_cast<int>(p.nope_dim);
  const auto value = static_cast<int>(p.value_dim), rows = static_cast<int>(p.position + p.tokens);
  const cuda::KvBMatrix kv_b = UploadKvB(call, p.kv_b);
  const TurnedBack turned = TurnBack(p);
  const int64_t elements = cuda::MlaDecompressedElements(heads, rows, nope, value);
  auto* const kv = static_cast<uint16_t*>(call.Allocate(static_cast<uint64_t>(elements) * sizeof(uint16_t)));
  float* const y = call.Zeros<float>(p.tokens * p.heads * p.value_dim);
  call.Queue(call.kernels().mla_decompress({.heads = heads,
                                            .nope_dim = nope,
                                            .value_dim = value,
                                            .kv_b = kv_b,
                                            .cache = cache.device(),
                                            .rows = rows,
                                            .kv = kv},
                                           nullptr),
             "mla_decompress");
  call.Queue(call.kernels().mla_prefill({.heads = heads,
                                         .heads_total = heads,
                                         .nope_dim = nope,
                                         .rope_dim = static_cast<int>(p.rope_dim),
                                         .value_dim = value,
                                         .softmax_scale = p.softmax_scale,
                                         .q = call.Upload(turned.q),
                                         .cos_sin = call.Upload(turned.cos_sin),
                                         .tokens = static_cast<int>(p.tokens),
                                         .first = static_cast<int>(p.position),
                                         .cache = cache.device(),
                                         .rows = rows,
                                         .kv = kv,
                                         .y = y},
                                        nullptr),
             "mla_prefill");
  call.Take(y, p.tokens * p.heads * p.value_dim, p.y);
  return call.status();
}

// Over all rows, or over `selected` of each token.
absl::Status Decode(const MlaParams& p, const int32_t* ids, int64_t selected) {
  Call call;
  const CopiedCache cache(call, p.cache);
  if (!cache.status().ok()) return cache.status();
  const auto heads = static_cast<int>(p.heads), tokens = static_cast<int>(p.tokens);
  const auto nope = static_cast<int>(p.nope_dim), value = static_cast<int>(p.value_dim);
  const auto rank = static_cast<int>(p.cache.rank);
  const int64_t rows = ids != nullptr ? selected : p.position + p.tokens;
  const int splits = cuda::MlaSplits(heads, tokens, rows, kMultiprocessors);
  const cuda::KvBMatrix kv_b = UploadKvB(call, p.kv_b);
  const TurnedBack turned = TurnBack(p);
  const int32_t position = static_cast<int32_t>(p.position);
  auto* const latent_q = call.Zeros<uint16_t>(p.tokens * p.heads * cache.device().width_padded());
  float* const mean = call.Zeros<float>(p.tokens * splits * p.heads * rank);
  float* const log_sum = call.Zeros<float>(p.tokens * splits * p.heads);
  float* const y = call.Zeros<float>(p.tokens * p.heads * p.value_dim);
  call.Queue(call.kernels().mla_absorb({.heads = heads,
                                        .nope_dim = nope,
                                        .rope_dim = static_cast<int>(p.rope_dim),
                                        .value_dim = value,
                                        .rank = rank,
                                        .softmax_scale = p.softmax_scale,
                                        .kv_b = kv_b,
                                        .q = call.Upload(turned.q),
                                        .cos_sin = call.Upload(turned.cos_sin),
                                        .tokens = tokens,
                                        .latent_q = latent_q,
                                        .append = {}},
                                       nullptr),
             "mla_absorb");
  call.Queue(call.kernels().mla_decode({.heads = heads,
                                        .tokens = tokens,
                                        .splits = splits,
                                        .position = call.Upload(&position, 1),
                                        .cache = cache.device(),
                                        .ids = ids != nullptr ? call.Upload(ids, p.tokens * selected) : nullptr,
                                        .selected = static_cast<int>(selected),
                                        .latent_q = latent_q,
                                        .mean = mean,
                                        .log_sum = log_sum},
                                       nullptr),
             "mla_decode");
  call.Queue(call.kernels().mla_combine({.heads = heads,
                                         .nope_dim = nope,
                                         .value_dim = value,
                                         .rank = rank,
                                         .tokens = tokens,
                                         .splits = splits,
                                         .kv_b = kv_b,
                                         .mean = mean,
                                         .log_sum = log_sum,
                                         .y = y},
                                        nullptr),
             "mla_combine");
  call.Take(y, p.tokens * p.heads * p.value_dim, p.y);
  return call.status();
}

absl::Status MlaDecode(const MlaParams& p, KernelContext& /*context*/) { return Decode(p, nullptr, 0); }
absl::Status MlaSparse(const MlaSparseParams& p, KernelContext& /*context*/) {
  return Decode(p.mla, p.ids, p.selected);
}

// ---- The indexer.

// An index cache of the CPU and the device's copy of its rows, BF16 both.
class CopiedKeys {
 public:
  CopiedKeys(Call& call, const IndexCache& cache) : call_(call), host_(cache) {
    device_ = {.dim = static_cast<int>(cache.dim), .capacity = cache.capacity};
    if (cache.format == CacheFormat::kF32) status_ = absl::UnimplementedError("a device has no cache of F32");
    rows_.assign(static_cast<size_t>(cache.capacity * device_.dim_padded()), 0);
    for (int64_t j = 0; j < cache.capacity; ++j) std::memcpy(RowOf(j), HostRow(j), row_bytes());
    device_.data = call.Upload(rows_);
  }

  absl::Status status() const { return status_; }
  const cuda::DeviceIndexCache& device() const { return device_; }

  // Rows [0, n) back into the CPU's cache.
  void Take(int64_t n) {
    call_.Take(device_.data, n * device_.dim_padded(), rows_.data());
    for (int64_t j = 0; j < n; ++j) std::memcpy(HostRow(j), RowOf(j), row_bytes());
  }

 private:
  uint64_t row_bytes() const { return static_cast<uint64_t>(host_.dim) * sizeof(uint16_t); }
  uint8_t* HostRow(int64_t j) const { return host_.data + static_cast<uint64_t>(j) * host_.row_bytes(); }
  uint16_t* RowOf(int64_t j) { return rows_.data() + j * device_.dim_padded(); }

  Call& call_;
  IndexCache host_;
  cuda::DeviceIndexCache device_;
  std::vector<uint16_t> rows_;
  absl::Status status_;
};

absl::Status IndexAppend(const IndexAppendParams& p, KernelContext& /*context*/) {
  Call call;
  CopiedKeys keys(call, p.cache);
  if (!keys.status().ok()) return keys.status();
  const int32_t position = static_cast<int32_t>(p.position);
  call.Queue(call.kernels().index_append({.a = call.Upload(p.a, p.tokens * p.cache.dim),
                                          .norm = call.Upload(p.norm, p.cache.dim),
                                          .bias = call.Upload(p.bias, p.cache.dim),
                                          .eps = static_cast<float>(p.eps),
                                          .rotation = {.cos_sin = call.Upload(p.cos_sin, p.tokens * p.rope_dim),
                                                       .dim = static_cast<int>(p.rope_dim),
                                                       .halves = p.pairs == RotaryPairs::kHalves},
                                          .position = call.Upload(&position, 1),
                                          .tokens = static_cast<int>(p.tokens),
                                          .cache = keys.device()},
                                         nullptr),
             "index_append");
  keys.Take(p.position + p.tokens);
  return call.status();
}

// The queries of the op are rotated: the device is told that there is nothing to rotate.
absl::Status IndexSelect(const IndexSelectParams& p, KernelContext& /*context*/) {
  Call call;
  const CopiedKeys keys(call, p.cache);
  if (!keys.status().ok()) return keys.status();
  const int32_t position = static_cast<int32_t>(p.position);
  const int tokens = static_cast<int>(p.tokens);
  const int32_t* const at = call.Upload(&position, 1);
  float* const scores = call.Zeros<float>(p.tokens * p.cache.capacity);
  const cuda::IndexSelectParams select{.top_k = static_cast<int>(p.top_k),
                                       .position = at,
                                       .tokens = tokens,
                                       .capacity = p.cache.capacity,
                                       .scores = scores,
                                       .order = call.Zeros<int32_t>(p.tokens * p.cache.capacity),
                                       .ids = call.Zeros<int32_t>(p.tokens * p.top_k),
                                       .not_finite = call.Zeros<uint32_t>(1)};
  call.Queue(call.kernels().index_scores({.heads = static_cast<int>(p.heads),
                                          .q = call.Upload(p.q, p.tokens * p.heads * p.cache.dim),
                                          .w = call.Upload(p.w, p.tokens * p.heads),
                                          .scale = p.scale,
                                          .rotation = {},
                                          .position = at,
                                          .tokens = tokens,
                                          .rows = static_cast<int>(p.position + p.tokens),
                                          .cache = keys.device(),
                                          .scores = scores},
                                         nullptr),
             "index_scores");
  call.Queue(call.kernels().index_select(select, nullptr), "index_select");
  call.Take<int32_t>(select.ids, p.tokens * p.top_k, p.ids);
  uint32_t not_finite = 0;
  call.Take<uint32_t>(select.not_finite, 1, &not_finite);
  *p.finite = not_finite == 0;
  return call.status();
}

// ---- FFNs.

absl::Status Route(const RouteParams& p, KernelContext& /*context*/) {
  Call call;
  const int64_t n = p.rule.n_experts, k = p.rule.experts_per_token;
  const cuda::RouteParams params{
      .rule = p.rule,
      .w = call.Upload(p.w),
      .bias = p.bias != nullptr ? call.Upload(p.bias, n) : nullptr,
      .x = call.Rows(p.x, p.w.shape.cols, p.tokens, p.w.shape.cols, 0),
      .tokens = p.tokens,
      .parts = call.Zeros<float>(cuda::kMaxRouteParts * std::min(p.tokens, cuda::kDecodeTokens) * n),
      .logits = call.Zeros<float>(p.tokens * n),
      .ids = call.Zeros<int32_t>(p.tokens * k),
      .weights = call.Zeros<float>(p.tokens * k),
      .scores = call.Zeros<float>(p.tokens * n),
      .done = call.Zeros<uint32_t>(1)};
  call.Queue(call.kernels().route(params, nullptr), "route");
  call.Take<int32_t>(params.ids, p.tokens * k, p.ids);
  call.Take<float>(params.weights, p.tokens * k, p.weights);
  if (p.scores != nullptr) call.Take<float>(params.scores, p.tokens * n, p.scores);
  return call.status();
}

cuda::Activations Inner(Call& call, const FfnWeights& w, ActPrecision down_act, int64_t rows) {
  const int planes = PlanesFor(down_act, w.down);
  return call.MakeActivations(rows, w.down.shape.cols, planes, planes == 0);
}

absl::Status Ffn(const FfnParams& p, KernelContext& /*context*/) {
  Call call;
  const int64_t hidden = p.w.gate.shape.cols;
  const std::vector<float> before(static_cast<size_t>(p.tokens * hidden), 0);
  float* const y = call.Upload(p.accumulate ? p.y : before.data(), p.tokens * hidden);
  call.Queue(call.kernels().ffn({.w = {call.Upload(p.w.gate), call.Upload(p.w.up), call.Upload(p.w.down)},
                                 .x = call.Rows(p.x, hidden, p.tokens, hidden, PlanesFor(p.act, p.w.gate)),
                                 .tokens = p.tokens,
                                 .blocks = kBlocks,
                                 .inner = Inner(call, p.w, p.down_act, p.tokens),
                                 .out = {.y = y, .y_stride = hidden, .accumulate = p.accumulate}},
                                nullptr),
             "ffn");
  call.Take(y, p.tokens * hidden, p.y);
  return call.status();
}

absl::Status ExpertFfn(const ExpertFfnParams& p, KernelContext& /*context*/) {
  Call call;
  const FfnWeights& first = p.experts[0];
  const int64_t hidden = first.gate.shape.cols;
  cuda::ExpertFfnParams params;
  std::vector<const uint8_t*> records;
  for (int64_t e = 0; e < p.n_experts; ++e) {
    std::vector<uint8_t> record;
    const auto append = [&](const MatrixView& m) {
      const uint64_t offset = record.size();
      record.insert(record.end(), m.data, m.data + m.layout.total_bytes);
      record.resize((record.size() + 255) / 256 * 256);
      return offset;
    };
    params.gate_offset = append(p.experts[e].gate);
    params.up_offset = append(p.experts[e].up);
    params.down_offset = append(p.experts[e].down);
    const bool here = e >= p.expert_begin && e < p.expert_end;
    records.push_back(here ? call.Upload(record) : nullptr);
  }
  const auto shape_of = [](const MatrixView& m) {
    return cuda::Matrix{.side_offset = m.layout.side_offset,
                        .rows = static_cast<int32_t>(m.shape.rows),
                        .cols = static_cast<int32_t>(m.shape.cols),
                        .format = m.format->id};
  };
  params.records = call.Upload(records);
  params.routed = {shape_of(first.gate), shape_of(first.up), shape_of(first.down)};
  params.n_experts = static_cast<int32_t>(p.n_experts);
  params.ids = call.Upload(p.ids, p.tokens * p.k);
  params.weights = call.Upload(p.weights, p.tokens * p.k);
  params.k = static_cast<int32_t>(p.k);
  params.x = call.Rows(p.x, hidden, p.tokens, hidden, PlanesFor(p.act, first.gate));
  params.tokens = p.tokens;
  params.blocks = kBlocks;
  params.inner = Inner(call, first, p.down_act, p.tokens * p.k);
  params.scratch = call.Allocate(cuda::ExpertScratchBytes(p.n_experts, p.k, p.tokens, hidden));
  params.done = call.Zeros<uint32_t>(p.tokens * cuda::Groups(hidden));
  const std::vector<float> before(static_cast<size_t>(p.tokens * hidden), 0);
  float* const y = call.Upload(p.accumulate ? p.y : before.data(), p.tokens * hidden);
  params.out = {.y = y, .y_stride = hidden, .accumulate = p.accumulate};
  call.Queue(call.kernels().expert_ffn(params, nullptr), "expert_ffn");
  call.Take(y, p.tokens * hidden, p.y);
  return call.status();
}

absl::Status Add(const AddParams& p, KernelContext& /*context*/) {
  Call call;
  float* const y = call.Upload(p.y, p.n);
  call.Queue(call.kernels().add({.x = call.Upload(p.x, p.n), .y = y, .n = p.n}, nullptr), "add");
  call.Take(y, p.n, p.y);
  return call.status();
}

absl::Status AllFinite(const FiniteParams& p, KernelContext& /*context*/) {
  Call call;
  const cuda::Activations x = call.MakeActivations(1, p.n, 0, true, true);
  call.Queue(
      call.kernels().quantize({.x = call.Upload(p.x, p.n), .x_stride = p.n, .tokens = 1, .out = {.next = x}}, nullptr),
      "quantize");
  std::vector<float> squares(static_cast<size_t>(cuda::Groups(p.n)));
  call.Take<float>(x.squares, std::ssize(squares), squares.data());
  *p.finite = std::all_of(squares.begin(), squares.end(), [](float s) { return std::isfinite(s); });
  return call.status();
}

}  // namespace

const KernelSet& DeviceKernelSet(const std::string& device) {
  static constexpr KernelSet kSet = {
      .name = "device",
      .description = "the kernels of a device",
      .available = [] { return true; },
      .embed = Embed,
      .rms_norm = RmsNorm,
      .linear = Linear,
      .rope = nullptr,
      .latent_append = LatentAppend,
      .mla_prefill = MlaPrefill,
      .mla_decode = MlaDecode,
      .index_append = IndexAppend,
      .index_select = IndexSelect,
      .mla_sparse = MlaSparse,
      .route = Route,
      .ffn = Ffn,
      .expert_ffn = ExpertFfn,
      .add = Add,
      .all_finite = AllFinite,
  };
  DeviceName() = device;
  return kSet;
}

}  // namespace kompakt
