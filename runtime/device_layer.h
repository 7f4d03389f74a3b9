// One decoder layer on a device, as launches: what runtime/layer.h computes, in the coarser ops of CudaKernels. Queues
// work and waits for nothing.
//
// The residual stream x stays where it is; each product that adds to it also leaves the activations of the next one: x
// times the weight of the next RMSNorm, the norm's own factor being applied at the end of the product
// (kernels/cuda/matrix_params.h). A layer of few tokens is at most eight launches:
//     linear    q_proj or q_a_proj, and kv_a_proj
//     absorb    q_b_proj, where queries are compressed; queries into the latent space; the new row into the cache
//     decode    attention over the cache, in splits
//     combine   the splits, and W_UV
//     linear    o_proj, onto the residual stream
//     route     router and choice of experts; not in a dense layer
//     gate_up, down   of the experts that were chosen and of the shared one, or of a dense FFN
// and one more, quantize, where the host computes experts. For many tokens q_b_proj is a launch of its own, and so is
// what o_proj multiplies.
//
// A layer with an indexer, in a timeline that goes beyond index_topk, has
//     linear        wk and, where rows are to be selected, the weights of its heads are in the first one; wq_b
//     index_append  the new key
//     index_scores, index_select   the rows that a token attends to
// before absorb: one launch more, and four where rows are selected. Then decode takes those rows, also of many tokens,
// in as many rounds of absorb, decode and combine as it takes with kDecodeTokens at a time.
#pragma once

#include <cstdint>

#include "absl/status/status.h"
#include "format/model_schema.h"
#include "kernels/device.h"
#include "runtime/device_model.h"
#include "runtime/device_scratch.h"
#include "runtime/model.h"

namespace kompakt {

class DeviceLayers {
 public:
  // All of them must outlive it. `caches`, `keys`: [layers], of those on the device; keys have data in layers with an
  // indexer where rows may be selected.
  DeviceLayers(const Model& model, DeviceModel& device_model, DeviceScratch& scratch,
               const cuda::DeviceLatentCache* caches, const cuda::DeviceIndexCache* keys)
      : model_(model),
        arch_(model.arch()),
        device_model_(device_model),
        device_(device_model.device()),
        scratch_(scratch),
        caches_(caches),
        keys_(keys) {}

  // What a call is about. Nothing of it but `splits` is a launch argument that a later step of decoding would change.
  struct Step {
    DeviceStream stream = nullptr;
    int64_t tokens = 0;
    int64_t position = 0;  // of the first token; read on the device from scratch.input where tokens <= kDecodeTokens
    int splits = 1;        // of MlaDecode
    int64_t rows = 0;      // no token sees more
    bool selects = false;  // some token may see more rows than it attends to
  };
  // A step of tokens that see up to `rows` rows.
  Step StepOf(DeviceStream stream, int64_t tokens, int64_t position, int64_t rows) const;
  // Does a token that sees so many rows attend to some of them only?
  bool Selects(int64_t rows) const {
    return arch_.attention() == ATTENTION_MLA_INDEXED && rows > arch_.indexer().index_topk();
  }

  // scratch.input's x -> residual, and the activations of layer `first`.
  absl::Status Begin(const Step& step, int64_t first) const;
  // scratch.kv_a's rows into the cache of a layer; no part of a step.
  absl::Status AppendRows(const Step& step, int64_t layer) const;
  // scratch.index_k's rows into the keys of a layer that has some.
  absl::Status AppendKeys(const Step& step, int64_t layer) const;
  // Attention of a layer, added to the residual stream; leaves the activations of its FFN.
  absl::Status Attention(const Step& step, int64_t layer) const;
  // scratch.router_ids, router_weights, router_scores.
  absl::Status Route(const Step& step, int64_t layer) const;
  // The FFN of a layer, added to the residual stream; leaves the activations of what follows. With `host_part_follows`
  // only what is on the device is added, and FinishWithHostPart has to follow.
  absl::Status FeedForward(const Step& step, int64_t layer, bool host_part_follows) const;
  // Adds scratch.host_part.
  absl::Status FinishWithHostPart(const Step& step, int64_t layer) const;
  // Logits of `tokens` rows from row `first` on, after the last layer, and the best of each among the first `ids`.
  absl::Status Head(const Step& step, int64_t first, int64_t tokens, int64_t ids) const;

 private:
  // How rows of activations wait for the products that read them.
  struct Point {
    cuda::ActivationLayout layout;
    void* base = nullptr;
    float eps = 0;
  };
  struct Consumer {
    FormatId format;
    TensorRole role;
    bool there = true;
  };
  cuda::ActivationLayout LayoutFor(std::initializer_list<Consumer> consumers, int64_t cols, bool router,
                                   bool norm) const;
  // What enters layer `layer`; the head for the number of layers.
  cuda::Activations Entering(const Step& step, int64_t layer) const;
  cuda::Activations QueryLatent(const Step& step, int64_t layer) const;
  cuda::Activations Attended(const Step& step, int64_t layer) const;
  cuda::Activations FfnInput(const Step& step, int64_t layer) const;
  // The residual stream onto which a product is added, and what follows `layer`.
  cuda::RowsOut Leaving(const Step& step, int64_t layer) const;
  const float* NormEntering(int64_t layer) const;

  // One product, its matrix to be filled in.
  cuda::LinearParams Product(const Step& step, const cuda::Activations& x) const;
  absl::Status Queries(const Step& step, const DeviceLayer& w, int64_t layer) const;
  // scratch.selected.
  absl::Status SelectRows(const Step& step, int64_t layer) const;
  // Tokens [first, first + tokens) of the step, at most kDecodeTokens. Of a step that has no more, with q_b_proj and
  // the new rows of the cache.
  absl::Status AttendFew(const Step& step, const DeviceLayer& w, int64_t layer, int64_t first, int64_t tokens) const;
  absl::Status AttendSelected(const Step& step, const DeviceLayer& w, int64_t layer) const;
  absl::Status AttendMany(const Step& step, const DeviceLayer& w, int64_t layer) const;
  absl::Status DenseFfn(const Step& step, const cuda::FfnMatrices& w, TensorRole down_role, void* inner, int64_t layer,
                        const cuda::RowsOut& out) const;
  absl::Status Experts(const Step& step, int64_t layer, const cuda::RowsOut& out) const;
  cuda::IndexRotation IndexRotationOf(const float* cos_sin) const;
  bool KeepsKeys(int64_t layer) const { return keys_[layer].data != nullptr; }
  cuda::MlaAppendParams Append(const Step& step, const DeviceLayer& w, int64_t layer) const;
  const DeviceLayer& LayerAt(int64_t layer) const { return device_model_.layers()[static_cast<size_t>(layer)]; }
  int32_t Blocks() const { return 2 * device_.properties().multiprocessors; }

  const Model& model_;
  const ArchSpec& arch_;
  DeviceModel& device_model_;
  Device& device_;
  DeviceScratch& scratch_;
  const cuda::DeviceLatentCache* caches_;
  const cuda::DeviceIndexCache* keys_;
};

}  // namespace kompakt
