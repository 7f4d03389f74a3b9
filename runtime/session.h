// Session: one mutable timeline over a Model, with its latent KV cache (kv_lora_rank + rope values per token and
// layer, in the ModelOptions' cache_format).
#pragma once

#include <cstdint>
#include <memory>
#include <vector>

#include "absl/status/statusor.h"
#include "absl/types/span.h"
#include "runtime/model.h"

namespace kompakt {

// What a forward pass saw, for traces and comparisons. Filled for the tokens of one Forward call (T tokens).
struct ForwardTrace {
  std::vector<float> hidden;          // [layers + 1][T][h]: input of each layer, then the output of the final norm
  std::vector<int32_t> router_ids;    // [moe layers][T][K] ascending
  std::vector<float> router_weights;  // [moe layers][T][K] in the same order, scaling factor included
  std::vector<float> router_scores;   // [moe layers][T][E]: softmax or sigmoid of the router's logits, before selection
};

class Session {
 public:
  // On the device that the model's options name, else on the CPU. `max_tokens`: room of the cache. kInvalidArgument
  // when it is not positive, kResourceExhausted when it cannot be had; what runtime/device_session.h fails with.
  static absl::StatusOr<std::unique_ptr<Session>> Create(std::shared_ptr<const Model> model, int64_t max_tokens);
  virtual ~Session() = default;

  virtual const Model& model() const = 0;
  virtual int64_t position() const = 0;  // tokens in the cache
  virtual int64_t max_tokens() const = 0;
  virtual uint64_t cache_bytes() const = 0;
  // Activations, and the scratch memory that the calls so far needed (runtime/footprint.h bounds it beforehand).
  virtual uint64_t working_bytes() const = 0;
  // Forgets the tokens from `position` on.
  virtual absl::Status Rewind(int64_t position) = 0;
  // Appends `tokens` rows of random values to the caches, as if so many tokens had been computed: how long a token at
  // that depth takes does not depend on what the rows hold. For measuring. kInvalidArgument when there is no room.
  virtual absl::Status AppendRandomRows(int64_t tokens) = 0;

  // Appends `ids` to the timeline. Which logits are wanted: of the last token only, or of every token.
  // Results do not depend on how a text is cut into calls beyond rounding, and not at all on the thread count.
  // kInvalidArgument: an id outside the vocabulary, no room. kDataLoss naming the layer: a hidden state that is not
  // finite. kResourceExhausted: no memory. After an error the timeline is where it was.
  enum class Logits { kNone, kLast, kAll };
  struct Output {
    std::vector<float> logits;  // [T or 1 or 0][vocab_size]
  };
  // `routing` (may be null): another run's trace of the same tokens, whose experts and weights every MoE layer then
  // takes instead of its router's choice; of it only router_ids and router_weights are used. kInvalidArgument when they
  // are not those of so many tokens.
  virtual absl::StatusOr<Output> Forward(absl::Span<const int32_t> ids, Logits logits, ForwardTrace* trace = nullptr,
                                         const ForwardTrace* routing = nullptr) = 0;

  // Does ForwardGreedy spare anything?
  virtual bool prefers_greedy() const { return false; }
  // The same as Forward, for the token of the largest last logit among ids below `limit`, the lower one of equals. A
  // device then keeps its logits to itself. kInvalidArgument without ids.
  virtual absl::StatusOr<int32_t> ForwardGreedy(absl::Span<const int32_t> ids, int64_t limit);
};

}  // namespace kompakt
