// What is usable in a checkpoint but looks wrong: notices that begin with "warning: ", which --strict turns into an
// error. They name no folder, because a packed file keeps them and its bytes must not depend on where the source
// lay. No published checkpoint of the supported families has one. What cannot be used is refused elsewhere;
// docs/checks.md lists both.
#pragma once

#include <string>
#include <vector>

#include "converters/assets.h"
#include "converters/json_fields.h"
#include "converters/source_binder.h"
#include "format/model_schema.h"

namespace kompakt {

// Of config.json alone: keys that nobody reads, YaRN without its softmax correction, grouped keys.
std::vector<std::string> ConfigWarnings(const JsonFields& config, const ArchSpec& arch);

// Of config.json and tensors together. `names_quantization`: the configuration says how tensors are quantized.
std::vector<std::string> TensorWarnings(const ModelSchema& schema, const BoundTensors& bound, bool names_quantization);

std::vector<std::string> AssetWarnings(const FolderAssets& assets);

}  // namespace kompakt
