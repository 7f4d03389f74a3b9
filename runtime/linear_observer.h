// LinearObserver: sees what goes into the matrices of a layer while it runs. Nothing is paid where there is none.
#pragma once

#include <cstdint>

#include "absl/status/status.h"
#include "format/model_schema.h"

namespace kompakt {

// Matrices of a layer that multiply the same vectors are told apart by nobody: one of them stands for all.
//     self_attn.kv_a_proj_with_mqa  also q_proj, q_a_proj, indexer.wk, indexer.weights_proj: the normed hidden state
//     self_attn.q_b_proj            also indexer.wq_b: the normed query latent
//     self_attn.kv_b_proj           the normed key-value latent
//     mlp.gate_proj, ...gate_proj   also the up_proj beside it
// A tied embedding stands for the head; a matrix that multiplies nothing (an embedding that is not tied), a vector and
// the router have no input: false.
bool LinearInputOf(const ArchSpec& arch, TensorRole role, TensorRole* input);

struct LinearInput {
  TensorRole role;       // as LinearInputOf gives it
  int64_t expert = -1;   // of a routed expert
  const float* x;        // [tokens, width]
  int64_t x_stride = 0;  // floats from one token to the next
  int64_t tokens = 0;
  int64_t width = 0;
};

class LinearObserver {
 public:
  virtual ~LinearObserver() = default;
  // Called before the product, from the thread that runs the layer. x is valid during the call. Tokens ascend within a
  // call and from call to call; experts ascend within a call of the layer, and those without tokens are left out.
  virtual absl::Status Observe(const LinearInput& input) = 0;
};

}  // namespace kompakt
