#include "quant/encoder_set.h"

#include <vector>

namespace kompakt {

extern const EncoderSet kPortableEncoders;
#if defined(__x86_64__)
extern const EncoderSet kSse2Encoders;
extern const EncoderSet kAvx2Encoders;
extern const EncoderSet kAvx512Encoders;
#endif

absl::Span<const EncoderSet* const> AvailableEncoderSets() {
  static const std::vector<const EncoderSet*> sets = [] {
    std::vector<const EncoderSet*> available;
    for (const EncoderSet* set : {
           &kPortableEncoders,
#if defined(__x86_64__)
               &kSse2Encoders, &kAvx2Encoders, &kAvx512Encoders,
#endif
         }) {
      if (set->available()) available.push_back(set);
    }
    return available;
  }();
  return sets;
}

const EncoderSet& BestEncoderSet() { return *AvailableEncoderSets().back(); }

}  // namespace kompakt
