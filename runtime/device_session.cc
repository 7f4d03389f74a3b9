#include "runtime/device_session.h"

#include <algorithm>
#include <cmath>
#include <functional>
#include <numeric>
#include <utility>
#include <vector>

#include "format/status.h"
#include "runtime/device_footprint.h"
#include "runtime/device_layer.h"
#include "runtime/device_target.h"
#include "runtime/expert_uploads.h"
#include "runtime/host_part.h"
#include "runtime/random_rows.h"
#include "runtime/session_checks.h"

namespace kompakt {
namespace {

// Rows that a captured step expects in the cache: splits of attention fill the device for this many, and past them the
// step is captured anew.
constexpr int64_t kFirstBucketRows = 1024;

// Pinned memory that the device reads and writes while a step runs.
struct HostSide {
  PinnedBuffer input;  // as DeviceScratch::input
  PinnedBuffer output;
  float* squares = nullptr;              // [T, Groups(h)] of what leaves the last layer
  float* residual = nullptr;             // [T, h] at a layer with experts on the host
  float* host_part = nullptr;            // [T, h]
  int32_t* ids = nullptr;                // [T, K]
  float* weights = nullptr;              // [T, K]
  int32_t* best = nullptr;               // [1]
  uint32_t* index_not_finite = nullptr;  // [layers], as in DeviceScratch
  // [T, index_topk]: rows that the last layer of the host attended to, where the first one of the device does, too.
  PinnedBuffer selected;
};

absl::StatusOr<HostSide> CreateHostSide(Device& device, const ArchSpec& arch, int64_t tokens) {
  HostSide side;
  const int64_t h = arch.hidden_size();
  const int64_t k = arch.moe().num_experts_per_tok();
  const int64_t squares = tokens * cuda::Groups(h);
  KOMPAKT_ASSIGN_OR_RETURN(
      side.input, PinnedBuffer::Create(device, DeviceScratch::InputBytes(arch, tokens), "input of the session"));
  const int64_t words = squares + 2 * tokens * h + 2 * tokens * k + 1 + arch.num_hidden_layers();
  KOMPAKT_ASSIGN_OR_RETURN(
      side.output, PinnedBuffer::Create(device, static_cast<uint64_t>(words) * sizeof(float), "output of the session"));
  side.squares = side.output.as<float>();
  side.residual = side.squares + squares;
  side.host_part = side.residual + tokens * h;
  side.weights = side.host_part + tokens * h;
  side.ids = reinterpret_cast<int32_t*>(side.weights + tokens * k);
  side.best = side.ids + tokens * k;
  side.index_not_finite = reinterpret_cast<uint32_t*>(side.best + 1);
  std::fill_n(side.index_not_finite, arch.num_hidden_layers(), 0u);
  return side;
}

class DeviceSession : public Session {
 public:
  static absl::StatusOr<std::unique_ptr<DeviceSession>> Create(std::shared_ptr<const Model> model,
                                                               std::shared_ptr<DeviceModel> device_model,
                                                               int64_t max_tokens);
  ~DeviceSession() override { (void)device_.Synchronize(stream_.get()); }

  const Model& model() const override { return *model_; }
  int64_t position() const override { return position_; }
  int64_t max_tokens() const override { return max_tokens_; }
  uint64_t cache_bytes() const override { return cache_.bytes() + key_cache_.bytes() + host_->cache_bytes(); }
  uint64_t working_bytes() const override { return scratch_.bytes() + host_->working_bytes(); }

  absl::Status Rewind(int64_t position) override {
    KOMPAKT_RETURN_IF_ERROR(CheckRewind(position, position_));
    position_ = position;
    return absl::OkStatus();
  }

  absl::Status AppendRandomRows(int64_t tokens) override;

  absl::StatusOr<Output> Forward(absl::Span<const int32_t> ids, Logits logits, ForwardTrace* trace,
                                 const ForwardTrace* routing) override {
    return WithinMemory(ids.size(), [&] { return ForwardAll(ids, logits, trace, routing); });
  }

  bool prefers_greedy() const override { return true; }
  absl::StatusOr<int32_t> ForwardGreedy(absl::Span<const int32_t> ids, int64_t limit) override;

 private:
  using Step = DeviceLayers::Step;
  // What a walk through the layers does besides queueing them; each may be empty.
  struct Walk {
    std::function<absl::Status(int64_t layer)> before_layer;
    std::function<absl::Status(int64_t layer)> after_route;
    // Around what the device computes of a FFN whose other part the host computes. The first is called when what the
    // host needs has been queued for it; after the second its part must be in the pinned memory.
    std::function<absl::Status(int64_t layer)> host_part_begins;
    std::function<absl::Status(int64_t layer)> host_part_is_due;
  };
  // Part of a captured step of decoding, up to a layer whose experts the host computes.
  struct Piece {
    OwnedGraph until_route;  // from the last piece's host part on
    OwnedGraph own_part;     // of that FFN; none in the last piece
    int64_t layer = -1;
  };
  // Tokens [begin, begin + tokens) of a call.
  struct Chunk {
    absl::Span<const int32_t> ids;  // of the whole call
    int64_t begin = 0;
    int64_t tokens = 0;
    ForwardTrace* trace = nullptr;
    const ForwardTrace* routing = nullptr;
  };

  DeviceSession(std::shared_ptr<const Model> model, std::shared_ptr<DeviceModel> device_model, int64_t max_tokens)
      : model_(std::move(model)),
        device_model_(std::move(device_model)),
        device_(device_model_->device()),
        max_tokens_(max_tokens) {}

  int64_t layer_count() const { return std::ssize(device_model_->layers()); }
  int64_t width() const { return model_->arch().hidden_size(); }
  int64_t topk() const { return model_->arch().indexer().index_topk(); }
  int64_t chosen() const { return model_->arch().moe().num_experts_per_tok(); }
  const LayerBinding& BindingOf(int64_t layer) const { return model_->binding().layers[static_cast<size_t>(layer)]; }
  int64_t MoeLayersBelow(int64_t layer) const {
    return std::count_if(model_->binding().layers.begin(), model_->binding().layers.begin() + layer,
                         [](const LayerBinding& l) { return l.moe; });
  }
  absl::Status Copy(void* to, const void* from, int64_t words) {
    return device_.Copy(to, from, static_cast<uint64_t>(words) * sizeof(float), stream_.get());
  }

  absl::StatusOr<Output> ForwardAll(absl::Span<const int32_t> ids, Logits logits, ForwardTrace* trace,
                                    const ForwardTrace* routing);
  absl::Status CreateKeys();
  // Queues a chunk from the embedding to the last layer. What comes after it still waits to be queued.
  absl::Status QueueChunk(const Chunk& chunk);
  absl::Status RunHostLayers(const Chunk& chunk);
  absl::Status Repeat(uint8_t* first, int64_t row_bytes, int64_t n, int64_t tokens);
  absl::Status QueueLayers(const Step& step, const Walk& walk);
  absl::Status RunDirectly(const Chunk& chunk, const Step& step);
  absl::Status Capture(Step step);
  absl::Status RunCaptured();
  absl::Status HostPartBegins(int64_t layer);
  absl::Status HostPartIsDue(const Step& step, int64_t layer);
  // Waits for the chunk, and names the layer that left something that is not finite.
  absl::Status FinishChunk(const Chunk& chunk);
  absl::Status NotFinite(const Chunk& chunk);
  // An error for the first layer whose indexer scored something that is not finite, if it is below layer `end`.
  absl::Status CheckIndexers(const Chunk& chunk, int64_t end);
  // Does the first layer on the device attend to the rows that a layer of the host selected?
  bool TakesOverSelection() const {
    const int64_t first = device_model_->placement().first_device_layer;
    return key_rows_ > 0 && first > 0 && first < layer_count() && !BindingOf(first).has_indexer;
  }

  std::shared_ptr<const Model> model_;
  std::shared_ptr<DeviceModel> device_model_;
  Device& device_;
  int64_t max_tokens_;
  int64_t position_ = 0;
  DeviceBuffer cache_;  // [layer on the device][max_tokens] rows
  std::vector<cuda::DeviceLatentCache> caches_;
  DeviceBuffer key_cache_;  // [layer on the device with an indexer][max_tokens] rows, where rows may be selected
  std::vector<cuda::DeviceIndexCache> keys_;
  int64_t key_rows_ = 0;
  DeviceScratch scratch_;
  HostSide host_side_;
  std::unique_ptr<HostPart> host_;
  std::unique_ptr<DeviceLayers> layers_;
  OwnedStream stream_, side_stream_;
  OwnedEvent event_;
  bool final_norm_is_finite_ = true;
  std::vector<Piece> pieces_;
  int64_t bucket_rows_ = 0;  // of the captured step; 0: none is captured
};

absl::StatusOr<std::unique_ptr<DeviceSession>> DeviceSession::Create(std::shared_ptr<const Model> model,
                                                                     std::shared_ptr<DeviceModel> device_model,
                                                                     int64_t max_tokens) {
  auto session = std::unique_ptr<DeviceSession>(new DeviceSession(model, std::move(device_model), max_tokens));
  const ArchSpec& arch = model->arch();
  Device& device = session->device_;
  const Placement& placement = session->device_model_->placement();
  const int64_t tokens = std::min(max_tokens, kDeviceChunkTokens);
  cuda::DeviceLatentCache cache = DeviceCacheOf(arch, model->options().cache_format, max_tokens);
  const uint64_t layer_bytes = static_cast<uint64_t>(cache.row_bytes()) * static_cast<uint64_t>(max_tokens);
  KOMPAKT_ASSIGN_OR_RETURN(session->cache_,
                           DeviceBuffer::Create(device, layer_bytes * static_cast<uint64_t>(placement.device_layers()),
                                                absl::StrCat("latent cache of ", max_tokens, " tokens")));
  for (int64_t l = 0; l < session->layer_count(); ++l) {
    const int64_t on_device = l - placement.first_device_layer;
    cache.data =
        on_device < 0 ? nullptr : session->cache_.as<uint8_t>() + static_cast<uint64_t>(on_device) * layer_bytes;
    session->caches_.push_back(cache);
  }
  KOMPAKT_RETURN_IF_ERROR(session->CreateKeys());
  KOMPAKT_ASSIGN_OR_RETURN(session->scratch_, DeviceScratch::Create(device, arch, max_tokens, tokens));
  KOMPAKT_ASSIGN_OR_RETURN(session->host_side_, CreateHostSide(device, arch, tokens));
  if (session->TakesOverSelection()) {
    const auto ids = static_cast<uint64_t>(tokens * arch.indexer().index_topk());
    KOMPAKT_ASSIGN_OR_RETURN(session->host_side_.selected,
                             PinnedBuffer::Create(device, ids * sizeof(int32_t), "selected rows of the session"));
  }
  KOMPAKT_ASSIGN_OR_RETURN(session->host_, HostPart::Create(model, placement.first_device_layer, max_tokens, tokens));
  KOMPAKT_ASSIGN_OR_RETURN(session->stream_, CreateOwnedStream(device));
  KOMPAKT_ASSIGN_OR_RETURN(session->side_stream_, CreateOwnedStream(device));
  KOMPAKT_ASSIGN_OR_RETURN(session->event_, CreateOwnedEvent(device));
  const std::vector<float>& norm = model->binding().final_norm;
  session->final_norm_is_finite_ =
      std::all_of(norm.begin(), norm.end(), [](float weight) { return std::isfinite(weight); });
  session->layers_ = std::make_unique<DeviceLayers>(*model, *session->device_model_, session->scratch_,
                                                    session->caches_.data(), session->keys_.data());
  return session;
}

absl::Status DeviceSession::CreateKeys() {
  cuda::DeviceIndexCache keys = DeviceIndexCacheOf(model_->arch(), max_tokens_);
  key_rows_ = keys.capacity;
  const int64_t first = device_model_->placement().first_device_layer;
  const auto has_keys = [&](int64_t l) { return l >= first && key_rows_ > 0 && BindingOf(l).has_indexer; };
  uint64_t indexers = 0;
  for (int64_t l = 0; l < layer_count(); ++l) indexers += has_keys(l) ? 1 : 0;
  const uint64_t layer_bytes = static_cast<uint64_t>(keys.row_bytes()) * static_cast<uint64_t>(key_rows_);
  if (indexers > 0) {
    KOMPAKT_ASSIGN_OR_RETURN(key_cache_, DeviceBuffer::Create(device_, layer_bytes * indexers,
                                                              absl::StrCat("index cache of ", max_tokens_, " tokens")));
  }
  auto* at = key_cache_.as<uint8_t>();
  for (int64_t l = 0; l < layer_count(); ++l) {
    keys.data = has_keys(l) ? reinterpret_cast<uint16_t*>(at) : nullptr;
    if (has_keys(l)) at += layer_bytes;
    keys_.push_back(keys);
  }
  return absl::OkStatus();
}

// The device writes a few rows, in its own form, and copies them.
absl::Status DeviceSession::AppendRandomRows(int64_t tokens) {
  KOMPAKT_RETURN_IF_ERROR(CheckRoom(tokens, position_, max_tokens_));
  if (tokens == 0) return absl::OkStatus();
  const MlaSpec& mla = model_->arch().mla();
  const int64_t n = std::min({tokens, kRandomRows, scratch_.tokens()});
  const int64_t dim = model_->arch().indexer().index_head_dim();
  const std::vector<float> rows = RandomRows(std::max(mla.kv_lora_rank() + mla.qk_rope_head_dim(), dim));
  KOMPAKT_RETURN_IF_ERROR(Copy(scratch_.kv_a, rows.data(), n * (mla.kv_lora_rank() + mla.qk_rope_head_dim())));
  if (key_rows_ > 0) KOMPAKT_RETURN_IF_ERROR(Copy(scratch_.index_k, rows.data(), n * dim));
  uint8_t* const host = host_side_.input.as<uint8_t>();
  const DeviceScratch::Input input = DeviceScratch::InputAt(host, model_->arch(), n);
  *input.position = static_cast<int32_t>(position_);
  model_->binding().rope.Fill(position_, n, input.cos_sin);
  KOMPAKT_RETURN_IF_ERROR(
      device_.Copy(scratch_.input, host, DeviceScratch::InputBytes(model_->arch(), n), stream_.get()));
  const Step step{.stream = stream_.get(), .tokens = n, .position = position_};
  for (int64_t l = device_model_->placement().first_device_layer; l < layer_count(); ++l) {
    KOMPAKT_RETURN_IF_ERROR(layers_->AppendRows(step, l));
    const cuda::DeviceLatentCache& cache = caches_[static_cast<size_t>(l)];
    KOMPAKT_RETURN_IF_ERROR(Repeat(cache.data + position_ * cache.row_bytes(), cache.row_bytes(), n, tokens));
    const cuda::DeviceIndexCache& keys = keys_[static_cast<size_t>(l)];
    if (keys.data == nullptr) continue;
    KOMPAKT_RETURN_IF_ERROR(layers_->AppendKeys(step, l));
    auto* const first_key = reinterpret_cast<uint8_t*>(keys.data + position_ * keys.dim_padded());
    KOMPAKT_RETURN_IF_ERROR(Repeat(first_key, keys.row_bytes(), n, tokens));
  }
  host_->AppendRandomRows(position_, tokens);
  KOMPAKT_RETURN_IF_ERROR(device_.Synchronize(stream_.get()));
  position_ += tokens;
  return absl::OkStatus();
}

// The first n of `tokens` rows again and again.
absl::Status DeviceSession::Repeat(uint8_t* first, int64_t row_bytes, int64_t n, int64_t tokens) {
  for (int64_t there = n; there < tokens; there *= 2) {
    const auto bytes = static_cast<uint64_t>(std::min(there, tokens - there) * row_bytes);
    KOMPAKT_RETURN_IF_ERROR(device_.Copy(first + there * row_bytes, first, bytes, stream_.get()));
  }
  return absl::OkStatus();
}

absl::Status DeviceSession::QueueLayers(const Step& step, const Walk& walk) {
  const DeviceLayers& layers = *layers_;
  const int64_t first = device_model_->placement().first_device_layer;
  KOMPAKT_RETURN_IF_ERROR(device_.Copy(scratch_.input, host_side_.input.as<void>(),
                                       DeviceScratch::InputBytes(model_->arch(), step.tokens), step.stream));
  if (step.selects && TakesOverSelection()) {
    KOMPAKT_RETURN_IF_ERROR(Copy(scratch_.selected, host_side_.selected.as<void>(), step.tokens * topk()));
  }
  KOMPAKT_RETURN_IF_ERROR(layers.Begin(step, first));
  for (int64_t l = first; l < layer_count(); ++l) {
    const DeviceLayer& layer = device_model_->layers()[static_cast<size_t>(l)];
    if (walk.before_layer) KOMPAKT_RETURN_IF_ERROR(walk.before_layer(l));
    KOMPAKT_RETURN_IF_ERROR(layers.Attention(step, l));
    if (layer.router.rows > 0) {
      KOMPAKT_RETURN_IF_ERROR(layers.Route(step, l));
      if (walk.after_route) KOMPAKT_RETURN_IF_ERROR(walk.after_route(l));
    }
    if (!layer.experts_on_host) {
      KOMPAKT_RETURN_IF_ERROR(layers.FeedForward(step, l, false));
      continue;
    }
    KOMPAKT_RETURN_IF_ERROR(Copy(host_side_.residual, scratch_.residual, step.tokens * width()));
    KOMPAKT_RETURN_IF_ERROR(Copy(host_side_.ids, scratch_.router_ids, step.tokens * chosen()));
    KOMPAKT_RETURN_IF_ERROR(Copy(host_side_.weights, scratch_.router_weights, step.tokens * chosen()));
    KOMPAKT_RETURN_IF_ERROR(walk.host_part_begins(l));
    KOMPAKT_RETURN_IF_ERROR(layers.FeedForward(step, l, true));
    KOMPAKT_RETURN_IF_ERROR(walk.host_part_is_due(l));
    KOMPAKT_RETURN_IF_ERROR(Copy(scratch_.host_part, host_side_.host_part, step.tokens * width()));
    KOMPAKT_RETURN_IF_ERROR(layers.FinishWithHostPart(step, l));
  }
  if (step.selects) {
    KOMPAKT_RETURN_IF_ERROR(Copy(host_side_.index_not_finite, scratch_.index_not_finite, layer_count()));
  }
  const int64_t groups = cuda::Groups(width());
  return Copy(host_side_.squares, scratch_.squares + layer_count() * scratch_.tokens() * groups, step.tokens * groups);
}

absl::Status DeviceSession::HostPartBegins(int64_t layer) {
  KOMPAKT_RETURN_IF_ERROR(device_.Record(event_.get(), stream_.get()));
  ExpertUploads* const uploads = device_model_->uploads();
  return uploads == nullptr ? absl::OkStatus() : uploads->BeforeExperts(layer, stream_.get());
}

// The experts that the device lacks, for all tokens of the step; meanwhile it computes its own part.
absl::Status DeviceSession::HostPartIsDue(const Step& step, int64_t layer) {
  KOMPAKT_RETURN_IF_ERROR(device_.Wait(side_stream_.get(), event_.get()));
  KOMPAKT_RETURN_IF_ERROR(device_.Synchronize(side_stream_.get()));
  const HostSide& side = host_side_;
  int64_t k = chosen();
  ExpertUploads* const uploads = device_model_->uploads();
  if (step.tokens == 1 && uploads != nullptr) k = uploads->KeepMissing(layer, k, side.ids, side.weights);
  if (k == 0) {
    std::fill_n(side.host_part, step.tokens * width(), 0.0f);
    return absl::OkStatus();
  }
  return host_->Experts(layer, side.residual, step.tokens, side.ids, side.weights, k, side.host_part);
}

absl::Status DeviceSession::RunHostLayers(const Chunk& chunk) {
  const int64_t position = position_ + chunk.begin;
  const int64_t all = std::ssize(chunk.ids);
  const Activations& a = host_->activations();
  KOMPAKT_RETURN_IF_ERROR(
      host_->Embed(chunk.ids.subspan(static_cast<size_t>(chunk.begin), static_cast<size_t>(chunk.tokens)), position));
  for (int64_t l = 0; l < host_->layers(); ++l) {
    const int64_t at = MoeLayersBelow(l) * all + chunk.begin;
    FrozenRouting frozen;
    if (chunk.routing != nullptr && BindingOf(l).moe) {
      frozen = {chunk.routing->router_ids.data() + at * chosen(), chunk.routing->router_weights.data() + at * chosen()};
    }
    if (chunk.trace != nullptr) {
      std::copy_n(a.x, chunk.tokens * width(), chunk.trace->hidden.begin() + (l * all + chunk.begin) * width());
    }
    KOMPAKT_RETURN_IF_ERROR(host_->RunOwnLayer(l, position, chunk.tokens, frozen));
    if (chunk.trace == nullptr || !BindingOf(l).moe) continue;
    const int64_t experts = model_->arch().moe().n_routed_experts();
    std::copy_n(a.router_ids, chunk.tokens * chosen(), chunk.trace->router_ids.begin() + at * chosen());
    std::copy_n(a.router_weights, chunk.tokens * chosen(), chunk.trace->router_weights.begin() + at * chosen());
    std::copy_n(a.router_scores, chunk.tokens * experts, chunk.trace->router_scores.begin() + at * experts);
  }
  const DeviceScratch::Input input =
      DeviceScratch::InputAt(host_side_.input.as<uint8_t>(), model_->arch(), chunk.tokens);
  *input.position = static_cast<int32_t>(position);
  std::copy_n(a.cos_sin, chunk.tokens * model_->arch().mla().qk_rope_head_dim(), input.cos_sin);
  std::copy_n(a.x, chunk.tokens * width(), input.x);
  if (TakesOverSelection()) {
    auto* const selected = host_side_.selected.as<int32_t>();
    for (int64_t t = 0; t < chunk.tokens; ++t) {
      int32_t* const ids = selected + t * topk();
      if (position + t < topk()) {  // the host selects nothing for a token that sees no more than that
        std::iota(ids, ids + position + t + 1, 0);
      } else {
        std::copy_n(a.selected + t * topk(), topk(), ids);
      }
    }
  }
  return absl::OkStatus();
}

absl::Status DeviceSession::RunDirectly(const Chunk& chunk, const Step& step) {
  const int64_t all = std::ssize(chunk.ids);
  const int64_t choices = chunk.tokens * chosen();
  Walk walk;
  walk.host_part_begins = [&](int64_t layer) { return HostPartBegins(layer); };
  walk.host_part_is_due = [&](int64_t layer) { return HostPartIsDue(step, layer); };
  if (chunk.trace != nullptr) {
    walk.before_layer = [&](int64_t layer) {
      return Copy(chunk.trace->hidden.data() + (layer * all + chunk.begin) * width(), scratch_.residual,
                  chunk.tokens * width());
    };
  }
  walk.after_route = [&](int64_t layer) {
    const int64_t at = MoeLayersBelow(layer) * all + chunk.begin;
    if (chunk.routing != nullptr) {
      KOMPAKT_RETURN_IF_ERROR(Copy(scratch_.router_ids, chunk.routing->router_ids.data() + at * chosen(), choices));
      KOMPAKT_RETURN_IF_ERROR(
          Copy(scratch_.router_weights, chunk.routing->router_weights.data() + at * chosen(), choices));
    }
    if (chunk.trace == nullptr) return absl::OkStatus();
    const int64_t experts = model_->arch().moe().n_routed_experts();
    KOMPAKT_RETURN_IF_ERROR(Copy(chunk.trace->router_ids.data() + at * chosen(), scratch_.router_ids, choices));
    KOMPAKT_RETURN_IF_ERROR(Copy(chunk.trace->router_weights.data() + at * chosen(), scratch_.router_weights, choices));
    return Copy(chunk.trace->router_scores.data() + at * experts, scratch_.router_scores, chunk.tokens * experts);
  };
  KOMPAKT_RETURN_IF_ERROR(QueueLayers(step, walk));
  if (chunk.trace == nullptr) return absl::OkStatus();
  float* const last = chunk.trace->hidden.data() + (layer_count() * all + chunk.begin) * width();
  KOMPAKT_RETURN_IF_ERROR(Copy(last, scratch_.residual, chunk.tokens * width()));
  KOMPAKT_RETURN_IF_ERROR(device_.Synchronize(stream_.get()));
  return host_->FinalNorm(chunk.tokens, last);
}

absl::Status DeviceSession::Capture(Step step) {
  pieces_.clear();
  bucket_rows_ = 0;
  Piece piece;
  const auto end = [&](OwnedGraph* graph) -> absl::Status {
    KOMPAKT_ASSIGN_OR_RETURN(const DeviceGraph captured, device_.EndCapture(step.stream));
    *graph = OwnedGraph(device_, captured);
    return absl::OkStatus();
  };
  Walk walk;
  walk.host_part_begins = [&](int64_t layer) {
    piece.layer = layer;
    KOMPAKT_RETURN_IF_ERROR(end(&piece.until_route));
    return device_.BeginCapture(step.stream);
  };
  walk.host_part_is_due = [&](int64_t) {
    KOMPAKT_RETURN_IF_ERROR(end(&piece.own_part));
    pieces_.push_back(std::exchange(piece, Piece()));
    return device_.BeginCapture(step.stream);
  };
  KOMPAKT_RETURN_IF_ERROR(device_.BeginCapture(step.stream));
  const absl::Status queued = QueueLayers(step, walk);
  const absl::Status ended = end(&piece.until_route);
  KOMPAKT_RETURN_IF_ERROR(queued);
  KOMPAKT_RETURN_IF_ERROR(ended);
  pieces_.push_back(std::move(piece));
  return absl::OkStatus();
}

absl::Status DeviceSession::RunCaptured() {
  const int64_t rows = position_ + 1;
  if (rows > bucket_rows_) {
    int64_t bucket = std::max(kFirstBucketRows, bucket_rows_);
    while (bucket < rows) bucket *= 2;
    bucket = std::min(bucket, max_tokens_);
    // A step that selects rows does so for tokens that see few, too, but there is a shorter one for them.
    if (!layers_->Selects(rows) && layers_->Selects(bucket)) bucket = topk();
    KOMPAKT_RETURN_IF_ERROR(Capture(layers_->StepOf(stream_.get(), 1, position_, bucket)));
    bucket_rows_ = bucket;
  }
  const Step step{.stream = stream_.get(), .tokens = 1};
  for (const Piece& piece : pieces_) {
    KOMPAKT_RETURN_IF_ERROR(device_.LaunchGraph(piece.until_route.get(), stream_.get()));
    if (piece.layer < 0) continue;
    KOMPAKT_RETURN_IF_ERROR(HostPartBegins(piece.layer));
    KOMPAKT_RETURN_IF_ERROR(device_.LaunchGraph(piece.own_part.get(), stream_.get()));
    KOMPAKT_RETURN_IF_ERROR(HostPartIsDue(step, piece.layer));
  }
  return absl::OkStatus();
}

absl::Status DeviceSession::QueueChunk(const Chunk& chunk) {
  KOMPAKT_RETURN_IF_ERROR(RunHostLayers(chunk));
  if (chunk.tokens == 1 && chunk.trace == nullptr && chunk.routing == nullptr) return RunCaptured();
  const int64_t position = position_ + chunk.begin;
  return RunDirectly(chunk, layers_->StepOf(stream_.get(), chunk.tokens, position, position + chunk.tokens));
}

absl::Status DeviceSession::FinishChunk(const Chunk& chunk) {
  KOMPAKT_RETURN_IF_ERROR(device_.Synchronize(stream_.get()));
  const int64_t values = chunk.tokens * cuda::Groups(width());
  const bool finite =
      std::all_of(host_side_.squares, host_side_.squares + values, [](float square) { return std::isfinite(square); });
  if (!finite) return NotFinite(chunk);
  KOMPAKT_RETURN_IF_ERROR(CheckIndexers(chunk, layer_count()));
  // Of the final norm the device only leaves the logits.
  if (!final_norm_is_finite_) {
    return CorruptError(model_->weights().origin(), ": final norm: expected finite hidden states at position ",
                        position_ + chunk.begin);
  }
  ExpertUploads* const uploads = device_model_->uploads();
  return uploads != nullptr && chunk.tokens == 1 ? uploads->AfterStep() : absl::OkStatus();
}

absl::Status DeviceSession::CheckIndexers(const Chunk& chunk, int64_t end) {
  const uint32_t* const flags = host_side_.index_not_finite;
  const int64_t layer = std::find(flags, flags + layer_count(), 1u) - flags;
  if (layer == layer_count()) return absl::OkStatus();
  // They stay until somebody has read them.
  std::fill_n(host_side_.index_not_finite, layer_count(), 0u);
  KOMPAKT_RETURN_IF_ERROR(device_.Fill(scratch_.index_not_finite, 0,
                                       static_cast<uint64_t>(layer_count()) * sizeof(uint32_t), stream_.get()));
  KOMPAKT_RETURN_IF_ERROR(device_.Synchronize(stream_.get()));
  if (layer >= end) return absl::OkStatus();
  return CorruptError(model_->weights().origin(), ": layer ", layer,
                      ": indexer: expected finite scores at positions from ", position_ + chunk.begin);
}

absl::Status DeviceSession::NotFinite(const Chunk& chunk) {
  const int64_t groups = cuda::Groups(width());
  std::vector<float> squares(static_cast<size_t>(chunk.tokens * groups));
  for (int64_t l = device_model_->placement().first_device_layer + 1; l <= layer_count(); ++l) {
    KOMPAKT_RETURN_IF_ERROR(
        Copy(squares.data(), scratch_.squares + l * scratch_.tokens() * groups, chunk.tokens * groups));
    KOMPAKT_RETURN_IF_ERROR(device_.Synchronize(stream_.get()));
    for (int64_t i = 0; i < chunk.tokens * groups; ++i) {
      if (std::isfinite(squares[static_cast<size_t>(i)])) continue;
      // An indexer comes before what its layer leaves.
      KOMPAKT_RETURN_IF_ERROR(CheckIndexers(chunk, l));
      return CorruptError(model_->weights().origin(), ": layer ", l - 1,
                          ": expected finite hidden states, found one that is not in channels from ",
                          i % groups * cuda::kGroupCols, " at position ", position_ + chunk.begin + i / groups);
    }
  }
  return absl::InternalError("a hidden state was not finite, and then it was");
}

absl::StatusOr<Session::Output> DeviceSession::ForwardAll(absl::Span<const int32_t> ids, Logits logits,
                                                          ForwardTrace* trace, const ForwardTrace* routing) {
  KOMPAKT_RETURN_IF_ERROR(CheckIds(*model_, ids, position_, max_tokens_));
  const int64_t tokens = std::ssize(ids);
  if (routing != nullptr) KOMPAKT_RETURN_IF_ERROR(CheckRouting(*model_, *routing, tokens));
  if (trace != nullptr) ClearTrace(*model_, tokens, *trace);
  const int64_t vocab = model_->arch().vocab_size();
  Output output;
  const int64_t wanted = logits == Logits::kAll ? tokens : logits == Logits::kLast ? std::min<int64_t>(1, tokens) : 0;
  output.logits.resize(static_cast<size_t>(wanted * vocab));
  for (int64_t begin = 0; begin < tokens; begin += scratch_.tokens()) {
    const Chunk chunk{ids, begin, std::min(scratch_.tokens(), tokens - begin), trace, routing};
    KOMPAKT_RETURN_IF_ERROR(QueueChunk(chunk));
    // Rows of this chunk whose logits are wanted: [first, chunk.tokens).
    int64_t first = std::max<int64_t>(0, tokens - wanted - begin);
    const Step step{.stream = stream_.get(), .tokens = chunk.tokens};
    for (; first < chunk.tokens; first += kLogitsTokens) {
      const int64_t n = std::min(kLogitsTokens, chunk.tokens - first);
      KOMPAKT_RETURN_IF_ERROR(layers_->Head(step, first, n, vocab));
      KOMPAKT_RETURN_IF_ERROR(
          Copy(output.logits.data() + (begin + first - (tokens - wanted)) * vocab, scratch_.logits, n * vocab));
    }
    KOMPAKT_RETURN_IF_ERROR(FinishChunk(chunk));
  }
  position_ += tokens;
  return output;
}

absl::StatusOr<int32_t> DeviceSession::ForwardGreedy(absl::Span<const int32_t> ids, int64_t limit) {
  const int64_t vocab = std::min(limit, model_->arch().vocab_size());
  if (ids.empty() || vocab < 1) return UsageError("the likeliest token after ", ids.size(), " tokens, of ", vocab);
  KOMPAKT_RETURN_IF_ERROR(CheckIds(*model_, ids, position_, max_tokens_));
  const int64_t tokens = std::ssize(ids);
  for (int64_t begin = 0; begin < tokens; begin += scratch_.tokens()) {
    const Chunk chunk{ids, begin, std::min(scratch_.tokens(), tokens - begin), nullptr, nullptr};
    KOMPAKT_RETURN_IF_ERROR(QueueChunk(chunk));
    if (begin + chunk.tokens == tokens) {
      KOMPAKT_RETURN_IF_ERROR(
          layers_->Head({.stream = stream_.get(), .tokens = chunk.tokens}, chunk.tokens - 1, 1, vocab));
      KOMPAKT_RETURN_IF_ERROR(Copy(host_side_.best, scratch_.best, 1));
    }
    KOMPAKT_RETURN_IF_ERROR(FinishChunk(chunk));
  }
  position_ += tokens;
  return *host_side_.best;
}

}  // namespace

absl::StatusOr<std::unique_ptr<Session>> CreateDeviceSession(std::shared_ptr<const Model> model, int64_t max_tokens) {
  if (max_tokens <= 0) return UsageError("max_tokens: expected a positive number, found ", max_tokens);
  if (model->weights().experts() != nullptr) {
    return UnsupportedError("--ram: experts that are read as they are needed stay on the CPU; expected --device cpu");
  }
  KOMPAKT_RETURN_IF_ERROR(SupportOf(model->binding()));
  DeviceTarget& target = *model->options().device;
  std::shared_ptr<DeviceModel> device_model;
  {
    const std::lock_guard<std::mutex> lock(target.mutex);
    std::weak_ptr<DeviceModel>& known = target.models[model.get()];
    device_model = known.lock();
    if (device_model == nullptr) {
      KOMPAKT_ASSIGN_OR_RETURN(
          device_model, DeviceModel::Create(model->binding(), target, model->options().cache_format, max_tokens));
      known = device_model;
    }
  }
  return DeviceSession::Create(std::move(model), std::move(device_model), max_tokens);
}

}  // namespace kompakt
