#include "tools/compare_html.h"

#include <algorithm>
#include <cmath>
#include <map>
#include <utility>
#include <vector>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_format.h"
#include "tools/html_chart.h"
#include "tools/terminal.h"

namespace kompakt {
namespace {

// Nothing may be loaded: the page is what it holds.
constexpr absl::string_view kHead = R"(<!doctype html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<meta http-equiv="Content-Security-Policy" content="default-src 'none'; style-src 'unsafe-inline'">
<style>
:root { color-scheme: light dark; --page: #fbfbfa; --card: #ffffff; --text: #1d2226; --faint: #5d676f; --rule: #dfe3e6;
  --one: #2166ac; --two: #b2622a; --unseen: #c3263a; }
@media (prefers-color-scheme: dark) { :root { --page: #14181b; --card: #1c2226; --text: #e4e8ea; --faint: #9aa5ac;
  --rule: #343d43; --one: #6cb0ea; --two: #e39a5c; --unseen: #f0616f; } }
* { box-sizing: border-box; }
body { margin: 0; background: var(--page); color: var(--text); font: 15px/1.5 system-ui, sans-serif; }
main { max-width: 1180px; margin: 0 auto; padding: 20px 16px 60px; }
h1 { font-size: 22px; margin: 0 0 4px; overflow-wrap: anywhere; }
h2 { font-size: 16px; margin: 0 0 8px; }
p { margin: 4px 0; } .faint, .axis { color: var(--faint); font-size: 13px; overflow-wrap: anywhere; }
.cards { display: grid; grid-template-columns: repeat(auto-fit, minmax(min(340px, 100%), 1fr)); gap: 14px; margin-top: 14px; }
section { background: var(--card); border: 1px solid var(--rule); border-radius: 8px; padding: 14px; min-width: 0; }
section.wide { grid-column: 1 / -1; }
.figures { display: grid; grid-template-columns: repeat(auto-fit, minmax(min(190px, 45%), 1fr)); gap: 10px 14px; }
.figures b { display: block; font-size: 17px; font-variant-numeric: tabular-nums; } .figures span { color: var(--faint); font-size: 13px; }
.scroll { overflow-x: auto; }
table { border-collapse: collapse; width: 100%; font-size: 13px; font-variant-numeric: tabular-nums; }
th, td { text-align: right; padding: 3px 8px; border-bottom: 1px solid var(--rule); white-space: nowrap; }
th { color: var(--faint); font-weight: 600; } td:first-child, th:first-child { text-align: left; padding-left: 0; }
td.unseen { white-space: normal; text-align: left; min-width: 120px; }
summary { cursor: pointer; padding: 4px 0; }
section > svg { width: 100%; height: auto; display: block; }
svg text { fill: var(--faint); font-size: 11.5px; font-family: inherit; }
.grid { stroke: var(--rule); } .mark { stroke: var(--two); stroke-width: 1.5; stroke-dasharray: 4 3; }
.bar { fill: var(--one); } .bar2 { fill: var(--two); } .band { fill: var(--one); opacity: .22; }
.curve { fill: none; stroke: var(--one); stroke-width: 1.8; }
.map { display: flex; } .map svg { flex: 1; min-width: 0; shape-rendering: crispEdges; border: 1px solid var(--rule); }
.map .rows { display: flex; flex-direction: column; padding-right: 6px; color: var(--faint); font-size: 11px; text-align: right; }
.map .rows span { height: 16px; line-height: 17px; }
.coverage rect { fill: var(--one); } .error rect { fill: var(--two); } svg rect.unseen { fill: var(--unseen); }
i.key { display: inline-block; width: 11px; height: 11px; margin: 0 2px 0 8px; vertical-align: -1px; }
i.key.unseen { background: var(--unseen); } i.key.coverage { background: var(--one); } i.key.error { background: var(--two); }
</style>
)";

constexpr absl::string_view kNotInBaseline =
    "<p>Not measured: the original was a baseline, which holds neither hidden states nor routing. Compare with the "
    "original itself.</p>\n";

std::string Figure(absl::string_view value, absl::string_view name) {
  return absl::StrCat("<div><b>", Html(value), "</b><span>", Html(name), "</span></div>\n");
}

std::string Section(absl::string_view title, absl::string_view body, bool wide = false) {
  return absl::StrCat("<section", wide ? " class=\"wide\"" : "", "><h2>", Html(title), "</h2>\n", body, "</section>\n");
}

// Cells are HTML already.
std::string Row(absl::string_view tag, const std::vector<std::string>& cells) {
  std::string row = "<tr>";
  for (const std::string& cell : cells) absl::StrAppend(&row, "<", tag, ">", cell, "</", tag, ">");
  return row + "</tr>\n";
}

std::string Figures(const CompareReport& report) {
  const DivergenceSummary& d = report.comparison.divergence;
  const char* const bound = report.baseline.has_value() ? "\u2265 " : "";
  const auto kl = [&](double value) { return absl::StrFormat("%s%.3g", bound, value); };
  std::string html = "<div class=\"figures\">\n";
  html += Figure(absl::StrFormat("%s%.5f \u00b1 %.5f", bound, d.kl.mean(), d.kl.standard_error()), "mean KL, nats");
  html += Figure(kl(d.kl_quantiles.At(0.5)), "median KL");
  html += Figure(absl::StrCat(kl(d.kl_quantiles.At(0.9)), " / ", kl(d.kl_quantiles.At(0.95))), "KL, 90 / 95 %");
  html += Figure(absl::StrCat(kl(d.kl_quantiles.At(0.99)), " / ", kl(d.kl_quantiles.At(0.999))), "KL, 99 / 99.9 %");
  html += Figure(kl(d.kl_quantiles.At(1)), "largest KL");
  html += Figure(absl::StrFormat("%.2f %%", 100 * d.same_top_share()), "same most likely token");
  html += Figure(absl::StrFormat("%.3f %%", 100 * d.rms_delta_p()), "RMS \u0394p of the next token");
  html += Figure(absl::StrFormat("%+.5f \u00b1 %.5f", d.nll_difference.mean(), d.nll_difference.standard_error()),
                 "ln(PPL ratio), paired");
  html += Figure(absl::StrFormat("%.3f", d.perplexity_p()), "perplexity, original");
  html += Figure(absl::StrFormat("%.3f", d.perplexity_q()), "perplexity, packed");
  html += Figure(HumanBytes(report.tensor_bytes_original), "tensors, original");
  html += Figure(HumanBytes(report.tensor_bytes_packed), "tensors, packed");
  return html + "</div>\n";
}

std::string Floor(const CompareReport& report) {
  if (report.floor.empty()) return "<p class=\"faint\">Not measured.</p>\n";
  std::string html =
      "<p class=\"faint\">A model against itself, computed in another way: figures near these say nothing "
      "about the weights.</p>\n<div class=\"scroll\"><table>\n" +
      Row("th", {"", "mean KL", "\u00b1", "median", "same top"});
  for (const auto& [name, floor] : report.floor) {
    const DivergenceSummary& d = floor.divergence;
    html += Row(
        "td", {Html(name), absl::StrFormat("%.3g", d.kl.mean()), absl::StrFormat("%.2g", d.kl.standard_error()),
               absl::StrFormat("%.3g", d.kl_quantiles.At(0.5)), absl::StrFormat("%.2f %%", 100 * d.same_top_share())});
  }
  return html + "</table></div>\n";
}

std::string Layers(const Comparison& comparison) {
  std::string html = "<div class=\"scroll\"><table>\n" + Row("th", {"layer", "hidden error", "same experts", "overlap",
                                                                    "router KL", "experts without tokens"});
  for (size_t l = 0; l < comparison.layers.size(); ++l) {
    const LayerComparison& layer = comparison.layers[l];
    std::vector<std::string> cells = {absl::StrCat(l), absl::StrFormat("%.5f", layer.hidden_error), "", "", "", ""};
    if (layer.moe) {
      cells[2] = absl::StrFormat("%.2f %%", 100 * layer.router_agreement);
      cells[3] = absl::StrFormat("%.2f %%", 100 * layer.router_overlap);
      cells[4] = absl::StrFormat("%.3g", layer.router_kl);
      cells[5] = absl::StrCat(std::count(layer.tokens_per_expert.begin(), layer.tokens_per_expert.end(), 0), " of ",
                              layer.tokens_per_expert.size());
    }
    html += Row("td", cells);
  }
  return html + "</table></div>\n";
}

std::string ErrorText(const TensorLine& line) {
  if (line.exact) return "exact";
  if (!line.has_error) return "not known";
  return std::isfinite(line.error_db) ? absl::StrFormat("%.2f dB", line.error_db) : std::string("none");
}

std::string Tensors(const std::vector<TensorLine>& tensors) {
  struct Total {
    uint64_t bytes = 0;
    int64_t parameters = 0;
    std::string rows;
  };
  std::vector<std::string> order;
  std::map<std::string, Total> classes;
  for (const TensorLine& line : tensors) {
    Total& total = classes[line.tensor_class];
    if (total.rows.empty()) order.push_back(line.tensor_class);
    total.bytes += line.bytes;
    total.parameters += line.parameters;
    const double bits =
        line.parameters > 0 ? 8 * static_cast<double>(line.bytes) / static_cast<double>(line.parameters) : 0;
    total.rows += Row("td", {Html(line.name), Html(line.format), absl::StrFormat("%.3f", bits),
                             GroupedDigits(static_cast<int64_t>(line.bytes)), ErrorText(line)});
  }
  std::string html;
  for (const std::string& name : order) {
    const Total& total = classes[name];
    absl::StrAppend(&html, "<details", name == order.front() || classes.size() < 3 ? " open" : "", "><summary>",
                    Html(name), ": ", HumanBytes(total.bytes), ", ",
                    absl::StrFormat("%.3f", 8 * static_cast<double>(total.bytes) /
                                                static_cast<double>(std::max<int64_t>(1, total.parameters))),
                    " bits per weight</summary>\n<div class=\"scroll\"><table>\n",
                    Row("th", {"tensor", "format", "bits", "bytes", "error against the source"}), total.rows,
                    "</table></div></details>\n");
  }
  return html;
}

}  // namespace

std::string CompareHtml(const CompareReport& report) {
  const Comparison& comparison = report.comparison;
  const bool layers_known = !comparison.layers.empty();
  std::string html(kHead);
  absl::StrAppend(
      &html, "<title>kompakt compare: ", Html(report.packed), "</title>\n</head>\n<body>\n<main>\n<h1>",
      Html(report.packed), "</h1>\n<p class=\"faint\">against ", Html(report.original),
      report.baseline.has_value() ? absl::StrCat(" (a baseline of ", Html(report.baseline->model), ")") : "", "; ",
      comparison.divergence.tokens_scored, " tokens of ", Html(report.text), " scored, in ", comparison.chunks,
      " chunks of ", comparison.context, "; kernels ", Html(report.path), "; kompakt ", Html(KOMPAKT_VERSION),
      "</p>\n");
  if (report.baseline.has_value()) {
    absl::StrAppend(
        &html, absl::StrFormat("<p class=\"faint\">Every KL is a lower bound: %.3g of the probability lies outside "
                               "of the tokens that the baseline keeps and counts as one token.</p>\n",
                               comparison.baseline_rest->mean()));
  }
  absl::StrAppend(&html, "<div class=\"cards\">\n", Section("What packing cost", Figures(report), true),
                  Section("Distribution of KL", KlHistogram(comparison.divergence)),
                  Section("KL against position", KlByPosition(comparison)), Section("Noise floor", Floor(report)));
  absl::StrAppend(
      &html,
      Section("Sensitivity per class",
              report.sensitivity.has_value()
                  ? absl::StrCat(SensitivityBars(*report.sensitivity), "<p class=\"faint\">each class alone in ",
                                 Html(report.sensitivity->format), ", on ", Html(report.sensitivity->text), "</p>\n")
                  : std::string("<p class=\"faint\">Not given: kompakt sensitivity measures it, --sensitivity "
                                "FILE puts it here.</p>\n")));
  const std::string coverage = CoverageMap(comparison);
  const std::string none = "<p class=\"faint\">The model has no routed experts.</p>\n";
  const std::string empty = layers_known ? none : std::string(kNotInBaseline);
  absl::StrAppend(&html, Section("Coverage: tokens per expert", coverage.empty() ? empty : coverage),
                  Section("Error of the layer's output, by expert", coverage.empty() ? empty : ErrorMap(comparison)),
                  Section("Layers", layers_known ? Layers(comparison) : std::string(kNotInBaseline), true),
                  Section("Tensors", Tensors(report.tensors), true));
  return html + "</div>\n</main>\n</body>\n</html>\n";
}

}  // namespace kompakt
