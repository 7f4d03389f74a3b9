#include "runtime/linear_observer.h"

namespace kompakt {

bool LinearInputOf(const ArchSpec& arch, TensorRole role, TensorRole* input) {
  switch (role) {
    case TensorRole::kQProj:
    case TensorRole::kQAProj:
    case TensorRole::kKvAProj:
    case TensorRole::kIndexK:
    case TensorRole::kIndexWeights:
      *input = TensorRole::kKvAProj;
      return true;
    case TensorRole::kQBProj:
    case TensorRole::kIndexQB:
      *input = TensorRole::kQBProj;
      return true;
    case TensorRole::kDenseGate:
    case TensorRole::kDenseUp:
      *input = TensorRole::kDenseGate;
      return true;
    case TensorRole::kExpertGate:
    case TensorRole::kExpertUp:
      *input = TensorRole::kExpertGate;
      return true;
    case TensorRole::kSharedGate:
    case TensorRole::kSharedUp:
      *input = TensorRole::kSharedGate;
      return true;
    case TensorRole::kKvBProj:
    case TensorRole::kOProj:
    case TensorRole::kDenseDown:
    case TensorRole::kExpertDown:
    case TensorRole::kSharedDown:
    case TensorRole::kMtpProj:
    case TensorRole::kLmHead:
      *input = role;
      return true;
    case TensorRole::kEmbedTokens:
      *input = TensorRole::kLmHead;
      return arch.tie_word_embeddings();
    default:
      return false;
  }
}

}  // namespace kompakt
