// PassCost: what a forward pass has to read and compute, whatever computes it. What measured speeds are compared with.
#pragma once

#include <cstdint>

#include "runtime/binding.h"

namespace kompakt {

struct PassCost {
  // Bytes of the matrices that `tokens` tokens need, each read once. Of the routed experts of a layer as many as that
  // many tokens choose when all are equally likely: for one token exactly experts_per_token.
  double weight_bytes = 0;
  // Multiplications and additions, each as one: the matrices of all layers for every token, attention in its plain
  // form, and the head for the last token.
  double products = 0;
};

// Of tokens [position, position + tokens) in one pass, logits of the last one wanted.
PassCost CostOfPass(const ModelBinding& model, int64_t position, int64_t tokens);

}  // namespace kompakt
