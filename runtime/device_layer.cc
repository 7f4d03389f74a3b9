#include "runtime/device_layer.h"

#include <algorithm>
#include <cmath>

#include "format/status.h"

namespace kompakt {
namespace {

// DeviceScratch has room for the partial results of so many.
constexpr int kMostMultiprocessors = 256;

bool HasCodes(FormatId format) {
  return format != FormatId::kF32 && format != FormatId::kF16 && format != FormatId::kBf16 &&
         format != FormatId::kFp8B128;
}

int PlanesFor(ActPrecision precision) {
  switch (precision) {
    case ActPrecision::kInt8:
      return 1;
    case ActPrecision::kInt16:
      return 2;
    case ActPrecision::kF32:
      break;
  }
  return 0;
}

// Rows from `first` on.
cuda::Activations From(cuda::Activations a, int64_t first) {
  const int64_t cols = cuda::Padded(a.cols);
  const int64_t groups = cuda::Groups(a.cols);
  if (a.x != nullptr) a.x += first * cols;
  if (a.codes != nullptr) a.codes += first * a.planes * cols;
  if (a.scales != nullptr) a.scales += first * groups;
  if (a.sums != nullptr) a.sums += first * 2 * groups;
  if (a.squares != nullptr) a.squares += first * groups;
  return a;
}

// Results that nothing else is made of.
cuda::RowsOut Plain(float* y, int64_t stride) {
  cuda::RowsOut out;
  out.y = y;
  out.y_stride = stride;
  return out;
}

}  // namespace

DeviceLayers::Step DeviceLayers::StepOf(DeviceStream stream, int64_t tokens, int64_t position, int64_t rows) const {
  const bool selects = Selects(rows);
  const int64_t attended = selects ? arch_.indexer().index_topk() : rows;
  const int64_t together = std::min(tokens, cuda::kDecodeTokens);
  const int splits = cuda::MlaSplits(static_cast<int>(arch_.mla().num_attention_heads()), static_cast<int>(together),
                                     attended, std::min(device_.properties().multiprocessors, kMostMultiprocessors));
  return {.stream = stream, .tokens = tokens, .position = position, .splits = splits, .rows = rows, .selects = selects};
}

cuda::ActivationLayout DeviceLayers::LayoutFor(std::initializer_list<Consumer> consumers, int64_t cols, bool router,
                                               bool norm) const {
  cuda::ActivationLayout layout{.cols = static_cast<int32_t>(cols), .with_squares = norm};
  bool floats = router;
  for (const Consumer& consumer : consumers) {
    if (!consumer.there) continue;
    const int planes = HasCodes(consumer.format) ? PlanesFor(model_.options().act.Of(consumer.role)) : 0;
    layout.planes = std::max(layout.planes, planes);
    floats |= planes == 0;
  }
  layout.with_x = floats;
  return layout;
}

cuda::Activations DeviceLayers::Entering(const Step& step, int64_t layer) const {
  const int64_t h = arch_.hidden_size();
  const auto layers = static_cast<int64_t>(device_model_.layers().size());
  cuda::ActivationLayout layout;
  if (layer == layers) {
    layout = LayoutFor({{device_model_.head().format, TensorRole::kLmHead}}, h, false, true);
  } else {
    const DeviceLayer& w = LayerAt(layer);
    const bool compressed = w.q_a_proj.rows > 0;
    layout = LayoutFor(
        {{compressed ? w.q_a_proj.format : w.q_proj.format, compressed ? TensorRole::kQAProj : TensorRole::kQProj},
         {w.kv_a_proj.format, TensorRole::kKvAProj},
         {w.indexer.wk.format, TensorRole::kIndexK, KeepsKeys(layer)},
         {w.indexer.weights.format, TensorRole::kIndexWeights, KeepsKeys(layer)}},
        h, false, true);
  }
  cuda::Activations a = layout.Place(scratch_.attention_x, step.tokens, static_cast<float>(arch_.rms_norm_eps()));
  a.squares = scratch_.squares + layer * scratch_.tokens() * cuda::Groups(h);
  return a;
}

cuda::Activations DeviceLayers::QueryLatent(const Step& step, int64_t layer) const {
  const DeviceLayer& w = LayerAt(layer);
  return LayoutFor({{w.q_b_proj.format, TensorRole::kQBProj},
                    {w.indexer.wq_b.format, TensorRole::kIndexQB, KeepsKeys(layer)}},
                   arch_.mla().q_lora_rank(), false, true)
      .Place(scratch_.q_latent, step.tokens, static_cast<float>(arch_.mla().latent_norm_eps()));
}

cuda::Activations DeviceLayers::Attended(const Step& step, int64_t layer) const {
  const MlaSpec& mla = arch_.mla();
  return LayoutFor({{LayerAt(layer).o_proj.format, TensorRole::kOProj}}, mla.num_attention_heads() * mla.v_head_dim(),
                   false, false)
      .Place(scratch_.attended_x, step.tokens, 0);
}

cuda::Activations DeviceLayers::FfnInput(const Step& step, int64_t layer) const {
  const DeviceLayer& w = LayerAt(layer);
  const int64_t h = arch_.hidden_size();
  cuda::ActivationLayout layout;
  if (w.router.rows == 0) {
    layout = LayoutFor({{w.dense.gate.format, TensorRole::kDenseGate}, {w.dense.up.format, TensorRole::kDenseUp}}, h,
                       false, true);
  } else if (w.shared.gate.rows == 0) {
    layout = LayoutFor({{w.routed.gate.format, TensorRole::kExpertGate}, {w.routed.up.format, TensorRole::kExpertUp}},
                       h, true, true);
  } else {
    layout = LayoutFor({{w.routed.gate.format, TensorRole::kExpertGate},
                        {w.routed.up.format, TensorRole::kExpertUp},
                        {w.shared.gate.format, TensorRole::kSharedGate},
                        {w.shared.up.format, TensorRole::kSharedUp}},
                       h, true, true);
  }
  return layout.Place(scratch_.ffn_x, step.tokens, static_cast<float>(arch_.rms_norm_eps()));
}

const float* DeviceLayers::NormEntering(int64_t layer) const {
  return layer == static_cast<int64_t>(device_model_.layers().size()) ? device_model_.final_norm()
                                                                      : LayerAt(layer).input_norm;
}

cuda::RowsOut DeviceLayers::Leaving(const Step& step, int64_t layer) const {
  return {.y = scratch_.residual,
          .y_stride = arch_.hidden_size(),
          .accumulate = true,
          .next = Entering(step, layer + 1),
          .norm = NormEntering(layer + 1)};
}

absl::Status DeviceLayers::Begin(const Step& step, int64_t first) const {
  const int64_t h = arch_.hidden_size();
  const DeviceScratch::Input input = DeviceScratch::InputAt(scratch_.input, arch_, step.tokens);
  const cuda::QuantizeParams params{
      .x = input.x,
      .x_stride = h,
      .tokens = step.tokens,
      .out = {.y = scratch_.residual, .y_stride = h, .next = Entering(step, first), .norm = NormEntering(first)}};
  return device_.LaunchStatus(device_.kernels().quantize(params, step.stream), "quantize");
}

cuda::LinearParams DeviceLayers::Product(const Step& step, const cuda::Activations& x) const {
  cuda::LinearParams params;
  params.n_jobs = 1;
  params.x = x;
  params.tokens = step.tokens;
  params.blocks = Blocks();
  return params;
}

absl::Status DeviceLayers::Queries(const Step& step, const DeviceLayer& w, int64_t layer) const {
  const bool compressed = w.q_a_proj.rows > 0;
  const MlaSpec& mla = arch_.mla();
  const int64_t q_width = mla.num_attention_heads() * (mla.qk_nope_head_dim() + mla.qk_rope_head_dim());
  const cuda::RowsOut to_q = Plain(scratch_.q, q_width);
  cuda::LinearParams first = Product(step, Entering(step, layer));
  first.n_jobs = 2;
  if (compressed) {
    first.jobs[0] = {.w = w.q_a_proj, .out = {.next = QueryLatent(step, layer), .norm = w.q_a_norm}};
  } else {
    first.jobs[0] = {.w = w.q_proj, .out = to_q};
  }
  first.jobs[1] = {.w = w.kv_a_proj, .out = Plain(scratch_.kv_a, mla.kv_lora_rank() + mla.qk_rope_head_dim())};
  const bool selects = step.selects && KeepsKeys(layer);
  if (KeepsKeys(layer)) {
    first.jobs[first.n_jobs++] = {.w = w.indexer.wk, .out = Plain(scratch_.index_k, w.indexer.wk.rows)};
  }
  if (selects) {
    first.jobs[first.n_jobs++] = {.w = w.indexer.weights, .out = Plain(scratch_.index_weights, w.indexer.weights.rows)};
  }
  KOMPAKT_RETURN_IF_ERROR(device_.LaunchStatus(device_.kernels().linear(first, step.stream), "linear"));
  if (!compressed) return absl::OkStatus();
  cuda::LinearParams second = Product(step, QueryLatent(step, layer));
  second.n_jobs = 0;
  // Few tokens leave it to mla_absorb.
  if (step.tokens > cuda::kDecodeTokens) second.jobs[second.n_jobs++] = {.w = w.q_b_proj, .out = to_q};
  if (selects) {
    second.jobs[second.n_jobs++] = {.w = w.indexer.wq_b, .out = Plain(scratch_.index_q, w.indexer.wq_b.rows)};
  }
  if (second.n_jobs == 0) return absl::OkStatus();
  return device_.LaunchStatus(device_.kernels().linear(second, step.stream), "linear");
}

cuda::MlaAppendParams DeviceLayers::Append(const Step& step, const DeviceLayer& w, int64_t layer) const {
  const MlaSpec& mla = arch_.mla();
  const DeviceScratch::Input input = DeviceScratch::InputAt(scratch_.input, arch_, step.tokens);
  return {.a = scratch_.kv_a,
          .a_stride = mla.kv_lora_rank() + mla.qk_rope_head_dim(),
          .norm_weight = w.kv_a_norm,
          .eps = static_cast<float>(mla.latent_norm_eps()),
          .cos_sin = input.cos_sin,
          .position = input.position,
          .tokens = static_cast<int>(step.tokens),
          .cache = caches_[layer]};
}

absl::Status DeviceLayers::AppendRows(const Step& step, int64_t layer) const {
  return device_.LaunchStatus(device_.kernels().mla_append(Append(step, LayerAt(layer), layer), step.stream),
                              "mla_append");
}

cuda::IndexRotation DeviceLayers::IndexRotationOf(const float* cos_sin) const {
  return {.cos_sin = cos_sin,
          .dim = static_cast<int>(arch_.mla().qk_rope_head_dim()),
          .halves = !arch_.indexer().rope_interleave()};
}

absl::Status DeviceLayers::AppendKeys(const Step& step, int64_t layer) const {
  const DeviceIndexer& w = LayerAt(layer).indexer;
  const DeviceScratch::Input input = DeviceScratch::InputAt(scratch_.input, arch_, step.tokens);
  const cuda::IndexAppendParams params{.a = scratch_.index_k,
                                       .norm = w.k_norm,
                                       .bias = w.k_bias,
                                       .eps = static_cast<float>(arch_.indexer().k_norm_eps()),
                                       .rotation = IndexRotationOf(input.cos_sin),
                                       .position = input.position,
                                       .tokens = static_cast<int>(step.tokens),
                                       .cache = keys_[layer]};
  return device_.LaunchStatus(device_.kernels().index_append(params, step.stream), "index_append");
}

absl::Status DeviceLayers::SelectRows(const Step& step, int64_t layer) const {
  const IndexerSpec& spec = arch_.indexer();
  const int64_t rope = arch_.mla().qk_rope_head_dim();
  const int64_t heads = spec.index_n_heads(), top_k = spec.index_topk();
  const auto size = static_cast<double>(heads) * static_cast<double>(spec.index_head_dim());
  const CudaKernels& kernels = device_.kernels();
  const DeviceScratch::Input input = DeviceScratch::InputAt(scratch_.input, arch_, step.tokens);
  const int64_t group = DeviceScratch::SelectGroup(keys_[layer].capacity, scratch_.tokens());
  for (int64_t first = 0; first < step.tokens; first += group) {
    const auto tokens = static_cast<int>(std::min(group, step.tokens - first));
    const cuda::IndexScoresParams scores{.heads = static_cast<int>(heads),
                                         .q = scratch_.index_q + first * heads * spec.index_head_dim(),
                                         .w = scratch_.index_weights + first * heads,
                                         .scale = static_cast<float>(1 / std::sqrt(size)),
                                         .rotation = IndexRotationOf(input.cos_sin + first * rope),
                                         .position = input.position,
                                         .first = static_cast<int>(first),
                                         .tokens = tokens,
                                         .rows = static_cast<int>(step.rows),
                                         .cache = keys_[layer],
                                         .scores = scratch_.index_scores};
    KOMPAKT_RETURN_IF_ERROR(device_.LaunchStatus(kernels.index_scores(scores, step.stream), "index_scores"));
    const cuda::IndexSelectParams select{.top_k = static_cast<int>(top_k),
                                         .position = input.position,
                                         .first = static_cast<int>(first),
                                         .tokens = tokens,
                                         .capacity = keys_[layer].capacity,
                                         .scores = scratch_.index_scores,
                                         .order = scratch_.index_order,
                                         .ids = scratch_.selected + first * top_k,
                                         .not_finite = scratch_.index_not_finite + layer};
    KOMPAKT_RETURN_IF_ERROR(device_.LaunchStatus(kernels.index_select(select, step.stream), "index_select"));
  }
  return absl::OkStatus();
}

absl::Status DeviceLayers::AttendFew(const Step& step, const DeviceLayer& w, int64_t layer, int64_t first,
                                     int64_t few) const {
  const MlaSpec& mla = arch_.mla();
  const auto heads = static_cast<int>(mla.num_attention_heads());
  const auto nope = static_cast<int>(mla.qk_nope_head_dim());
  const auto value = static_cast<int>(mla.v_head_dim());
  const auto rank = static_cast<int>(mla.kv_lora_rank());
  const auto tokens = static_cast<int>(few);
  const bool whole = few == step.tokens;
  const int64_t top_k = arch_.indexer().index_topk();
  const int64_t rope = mla.qk_rope_head_dim();
  const CudaKernels& kernels = device_.kernels();
  const DeviceScratch::Input input = DeviceScratch::InputAt(scratch_.input, arch_, step.tokens);
  cuda::MlaAbsorbParams absorb{.heads = heads,
                               .nope_dim = nope,
                               .rope_dim = static_cast<int>(mla.qk_rope_head_dim()),
                               .value_dim = value,
                               .rank = rank,
                               .softmax_scale = model_.binding().softmax_scale,
                               .kv_b = w.kv_b_proj,
                               .q = scratch_.q + first * heads * (nope + rope),
                               .cos_sin = input.cos_sin + first * rope,
                               .tokens = tokens,
                               .latent_q = scratch_.latent_q,
                               .append = {}};
  if (whole) absorb.append = Append(step, w, layer);
  if (whole && w.q_a_proj.rows > 0) {
    absorb.q = nullptr;
    absorb.q_b = w.q_b_proj;
    absorb.compressed = QueryLatent(step, layer);
    absorb.queries = scratch_.q;
    absorb.done = scratch_.query_done;
  }
  KOMPAKT_RETURN_IF_ERROR(device_.LaunchStatus(kernels.mla_absorb(absorb, step.stream), "mla_absorb"));
  const cuda::MlaDecodeParams decode{.heads = heads,
                                     .tokens = tokens,
                                     .splits = step.splits,
                                     .position = input.position,
                                     .first = static_cast<int>(first),
                                     .cache = caches_[layer],
                                     .ids = step.selects ? scratch_.selected + first * top_k : nullptr,
                                     .selected = static_cast<int>(top_k),
                                     .latent_q = scratch_.latent_q,
                                     .mean = scratch_.mean,
                                     .log_sum = scratch_.log_sum};
  KOMPAKT_RETURN_IF_ERROR(device_.LaunchStatus(kernels.mla_decode(decode, step.stream), "mla_decode"));
  const cuda::MlaCombineParams combine{.heads = heads,
                                       .nope_dim = nope,
                                       .value_dim = value,
                                       .rank = rank,
                                       .tokens = tokens,
                                       .splits = step.splits,
                                       .kv_b = w.kv_b_proj,
                                       .mean = scratch_.mean,
                                       .log_sum = scratch_.log_sum,
                                       .next = From(Attended(step, layer), first)};
  return device_.LaunchStatus(kernels.mla_combine(combine, step.stream), "mla_combine");
}

absl::Status DeviceLayers::AttendSelected(const Step& step, const DeviceLayer& w, int64_t layer) const {
  KOMPAKT_RETURN_IF_ERROR(AppendRows(step, layer));
  for (int64_t first = 0; first < step.tokens; first += cuda::kDecodeTokens) {
    const int64_t tokens = std::min(cuda::kDecodeTokens, step.tokens - first);
    KOMPAKT_RETURN_IF_ERROR(AttendFew(step, w, layer, first, tokens));
  }
  return absl::OkStatus();
}

absl::Status DeviceLayers::AttendMany(const Step& step, const DeviceLayer& w, int64_t layer) const {
  const MlaSpec& mla = arch_.mla();
  const auto heads = static_cast<int>(mla.num_attention_heads());
  const auto nope = static_cast<int>(mla.qk_nope_head_dim());
  const auto value = static_cast<int>(mla.v_head_dim());
  const auto rows = static_cast<int>(step.position + step.tokens);
  const CudaKernels& kernels = device_.kernels();
  const DeviceScratch::Input input = DeviceScratch::InputAt(scratch_.input, arch_, step.tokens);
  KOMPAKT_RETURN_IF_ERROR(device_.LaunchStatus(kernels.mla_append(Append(step, w, layer), step.stream), "mla_append"));
  const int group = DeviceScratch::HeadGroup(arch_, caches_[layer].capacity);
  for (int begin = 0; begin < heads; begin += group) {
    const int count = std::min(group, heads - begin);
    const cuda::MlaDecompressParams decompress{.head_begin = begin,
                                               .heads = count,
                                               .nope_dim = nope,
                                               .value_dim = value,
                                               .kv_b = w.kv_b_proj,
                                               .cache = caches_[layer],
                                               .rows = rows,
                                               .kv = scratch_.kv};
    KOMPAKT_RETURN_IF_ERROR(device_.LaunchStatus(kernels.mla_decompress(decompress, step.stream), "mla_decompress"));
    const cuda::MlaPrefillParams prefill{.head_begin = begin,
                                         .heads = count,
                                         .heads_total = heads,
                                         .nope_dim = nope,
                                         .rope_dim = static_cast<int>(mla.qk_rope_head_dim()),
                                         .value_dim = value,
                                         .softmax_scale = model_.binding().softmax_scale,
                                         .q = scratch_.q,
                                         .cos_sin = input.cos_sin,
                                         .tokens = static_cast<int>(step.tokens),
                                         .first = static_cast<int>(step.position),
                                         .cache = caches_[layer],
                                         .rows = rows,
                                         .kv = scratch_.kv,
                                         .y = scratch_.attended};
    KOMPAKT_RETURN_IF_ERROR(device_.LaunchStatus(kernels.mla_prefill(prefill, step.stream), "mla_prefill"));
  }
  const cuda::QuantizeParams quantize{.x = scratch_.attended,
                                      .x_stride = mla.num_attention_heads() * mla.v_head_dim(),
                                      .tokens = step.tokens,
                                      .out = {.next = Attended(step, layer)}};
  return device_.LaunchStatus(kernels.quantize(quantize, step.stream), "quantize");
}

absl::Status DeviceLayers::Attention(const Step& step, int64_t layer) const {
  const DeviceLayer& w = LayerAt(layer);
  KOMPAKT_RETURN_IF_ERROR(Queries(step, w, layer));
  if (KeepsKeys(layer)) {
    KOMPAKT_RETURN_IF_ERROR(AppendKeys(step, layer));
    if (step.selects) KOMPAKT_RETURN_IF_ERROR(SelectRows(step, layer));
  }
  if (step.tokens <= cuda::kDecodeTokens) {
    KOMPAKT_RETURN_IF_ERROR(AttendFew(step, w, layer, 0, step.tokens));
  } else {
    KOMPAKT_RETURN_IF_ERROR(step.selects ? AttendSelected(step, w, layer) : AttendMany(step, w, layer));
  }
  cuda::LinearParams o_proj = Product(step, Attended(step, layer));
  o_proj.jobs[0] = {.w = w.o_proj,
                    .out = {.y = scratch_.residual,
                            .y_stride = arch_.hidden_size(),
                            .accumulate = true,
                            .next = FfnInput(step, layer),
                            .norm = w.post_attention_norm}};
  return device_.LaunchStatus(device_.kernels().linear(o_proj, step.stream), "linear");
}

absl::Status DeviceLayers::Route(const Step& step, int64_t layer) const {
  const DeviceLayer& w = LayerAt(layer);
  const cuda::RouteParams route{.rule = model_.binding().router_rule,
                                .w = w.router,
                                .bias = w.router_bias,
                                .x = FfnInput(step, layer),
                                .tokens = step.tokens,
                                .parts = scratch_.router_parts,
                                .logits = scratch_.router_logits,
                                .ids = scratch_.router_ids,
                                .weights = scratch_.router_weights,
                                .scores = scratch_.router_scores,
                                .done = scratch_.router_done};
  return device_.LaunchStatus(device_.kernels().route(route, step.stream), "route");
}

absl::Status DeviceLayers::DenseFfn(const Step& step, const cuda::FfnMatrices& w, TensorRole down_role, void* inner,
                                    int64_t layer, const cuda::RowsOut& out) const {
  const cuda::FfnParams params{
      .w = w,
      .x = FfnInput(step, layer),
      .tokens = step.tokens,
      .blocks = Blocks(),
      .inner = LayoutFor({{w.down.format, down_role}}, w.down.cols, false, false).Place(inner, step.tokens, 0),
      .out = out};
  return device_.LaunchStatus(device_.kernels().ffn(params, step.stream), "ffn");
}

absl::Status DeviceLayers::Experts(const Step& step, int64_t layer, const cuda::RowsOut& out) const {
  const DeviceLayer& w = LayerAt(layer);
  const auto k = static_cast<int32_t>(arch_.moe().num_experts_per_tok());
  cuda::ExpertFfnParams params;
  params.records = w.records;
  params.routed = w.routed;
  params.gate_offset = w.record.gate;
  params.up_offset = w.record.up;
  params.down_offset = w.record.down;
  params.n_experts = static_cast<int32_t>(arch_.moe().n_routed_experts());
  params.ids = scratch_.router_ids;
  params.weights = scratch_.router_weights;
  params.k = k;
  params.shared = w.shared;
  params.x = FfnInput(step, layer);
  params.tokens = step.tokens;
  params.blocks = Blocks();
  params.scratch = scratch_.expert_scratch;
  params.done = scratch_.expert_done;
  params.out = out;
  params.inner = LayoutFor({{w.routed.down.format, TensorRole::kExpertDown}}, w.routed.down.cols, false, false)
                     .Place(scratch_.inner, step.tokens * k, 0);
  if (w.shared.gate.rows > 0) {
    params.shared_inner = LayoutFor({{w.shared.down.format, TensorRole::kSharedDown}}, w.shared.down.cols, false, false)
                              .Place(scratch_.shared_inner, step.tokens, 0);
  }
  return device_.LaunchStatus(device_.kernels().expert_ffn(params, step.stream), "expert_ffn");
}

absl::Status DeviceLayers::FeedForward(const Step& step, int64_t layer, bool host_part_follows) const {
  const DeviceLayer& w = LayerAt(layer);
  cuda::RowsOut out = Leaving(step, layer);
  if (w.router.rows == 0) return DenseFfn(step, w.dense, TensorRole::kDenseDown, scratch_.inner, layer, out);
  if (!host_part_follows) return Experts(step, layer, out);
  out.next = {};
  out.norm = nullptr;
  // Copies of single experts serve decoding. For many tokens nearly every expert of the layer is wanted.
  if (step.tokens == 1 && device_model_.placement().slots > 0) return Experts(step, layer, out);
  if (w.shared.gate.rows == 0) return absl::OkStatus();
  return DenseFfn(step, w.shared, TensorRole::kSharedDown, scratch_.shared_inner, layer, out);
}

absl::Status DeviceLayers::FinishWithHostPart(const Step& step, int64_t layer) const {
  const cuda::QuantizeParams params{
      .x = scratch_.host_part, .x_stride = arch_.hidden_size(), .tokens = step.tokens, .out = Leaving(step, layer)};
  return device_.LaunchStatus(device_.kernels().quantize(params, step.stream), "quantize");
}

absl::Status DeviceLayers::Head(const Step& step, int64_t first, int64_t tokens, int64_t ids) const {
  cuda::Matrix w = device_model_.head();
  w.rows = static_cast<int32_t>(ids);
  const auto layers = static_cast<int64_t>(device_model_.layers().size());
  const cuda::HeadParams params{.w = w,
                                .x = From(Entering(step, layers), first),
                                .tokens = tokens,
                                .logits = scratch_.logits,
                                .best = scratch_.best,
                                .scratch = scratch_.head_scratch};
  return device_.LaunchStatus(device_.kernels().head(params, step.stream), "head");
}

}  // namespace kompakt
