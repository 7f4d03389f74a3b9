// Any bytes as config.json, tokenizer.json, tokenizer_config.json and tiktoken.model. A configuration that is accepted
// must make a schema.
#include <cstdint>
#include <cstdlib>

#include "absl/strings/string_view.h"
#include "converters/config.h"
#include "converters/vocabulary.h"
#include "format/arch_spec.h"
#include "format/model_schema.h"

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  const absl::string_view text(reinterpret_cast<const char*>(data), size);
  const auto config = kompakt::ParseConfig(text, "config.json");
  if (config.ok()) {
    if (!kompakt::ValidateArchSpec(config->arch).ok()) std::abort();
    // A larger one is weighed against the files before it is built, see checkpoint.cc.
    const int64_t tensors = config->arch.num_hidden_layers() * config->arch.moe().n_routed_experts();
    if (tensors < 100000 && !kompakt::ModelSchema::Create(config->arch).ok()) std::abort();
  }
  auto vocabulary = kompakt::ScanTokenizerJson(text, "tokenizer.json");
  if (vocabulary.ok() && vocabulary->max_id < -1) std::abort();
  (void)kompakt::ScanTiktoken(text, "tiktoken.model");
  kompakt::Vocabulary added;
  (void)kompakt::AddTokensDecoder(text, "tokenizer_config.json", &added);
  return 0;
}
