// Charts of the report as inline SVG, and the escaping of text that goes into a page. Colours are CSS variables of the
// page (tools/compare_html.cc), so that they follow light and dark.
#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include "absl/strings/string_view.h"
#include "tools/sensitivity_file.h"
#include "validate/compare.h"

namespace kompakt {

// Text for the inside of an element or of a quoted attribute. What a browser could take for markup is written out, and
// so is what a terminal could not show (Escaped).
std::string Html(absl::string_view text);

// How many tokens had which KL, on a logarithmic axis; what lies below 1e-9 is one bar.
std::string KlHistogram(const DivergenceSummary& divergence);
// Mean KL and its standard error against the position in a chunk.
std::string KlByPosition(const Comparison& comparison);
// One row per MoE layer, one column per expert: how many tokens chose it, and the relative error of the layer's output
// over these tokens. Experts that no token chose are marked as such.
std::string CoverageMap(const Comparison& comparison);
std::string ErrorMap(const Comparison& comparison);
// KL of each class quantized alone, summed over the bands of layers, with free and with frozen routing.
std::string SensitivityBars(const SensitivityReport& report);

}  // namespace kompakt
