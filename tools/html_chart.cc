#include "tools/html_chart.h"

#include <algorithm>
#include <cmath>
#include <map>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_format.h"
#include "absl/strings/str_replace.h"
#include "tools/terminal.h"

namespace kompakt {
namespace {

// A chart is drawn for a column of about this width, so that its text has the size of the page's at any width.
constexpr double kWidth = 380;
constexpr double kHeight = 230;
constexpr double kLeft = 48;
constexpr double kRight = 12;
constexpr double kTop = 10;
constexpr double kBottom = 40;
constexpr double kPlotWidth = kWidth - kLeft - kRight;
constexpr double kPlotHeight = kHeight - kTop - kBottom;
constexpr double kLeastKl = 1e-9;
constexpr int kBinsPerBar = 32;  // of Quantiles: half an octave
// Above so many cells a map does without texts for the mouse.
constexpr size_t kMostTitles = 8192;
constexpr int kMapRowPixels = 16;

std::string Open(double height, absl::string_view label) {
  return absl::StrFormat("<svg viewBox=\"0 0 %g %g\" role=\"img\" aria-label=\"%s\">\n", kWidth, height, Html(label));
}

std::string Text(double x, double y, absl::string_view anchor, absl::string_view text) {
  return absl::StrFormat("<text x=\"%.1f\" y=\"%.1f\" text-anchor=\"%s\">%s</text>\n", x, y, anchor, Html(text));
}

std::string Line(double x1, double y1, double x2, double y2, absl::string_view css) {
  return absl::StrFormat("<line x1=\"%.1f\" y1=\"%.1f\" x2=\"%.1f\" y2=\"%.1f\" class=\"%s\"/>\n", x1, y1, x2, y2, css);
}

// Horizontal lines at 0, half and all of `most`, with numbers.
std::string VerticalAxis(double most, const char* format) {
  std::string svg;
  for (const double share : {0.0, 0.5, 1.0}) {
    const double y = kTop + kPlotHeight * (1 - share);
    svg += Line(kLeft, y, kWidth - kRight, y, "grid");
    const auto number = absl::ParsedFormat<'g'>::New(format);
    svg += Text(kLeft - 5, y + 4, "end", absl::StrFormat(*number, most * share));
  }
  return svg;
}

std::string PowerOfTen(int exponent) { return absl::StrFormat("1e%d", exponent); }

// Cells of a map, row by row; a cell of less than 0 is one that nobody chose.
std::string Map(const Comparison& comparison, const std::vector<std::vector<double>>& share,
                const std::vector<std::vector<std::string>>& titles, absl::string_view css) {
  std::string labels;
  std::string cells;
  size_t rows = 0;
  size_t columns = 0;
  for (size_t l = 0; l < share.size(); ++l) {
    if (share[l].empty()) continue;
    columns = std::max(columns, share[l].size());
    absl::StrAppend(&labels, "<span>", l, "</span>");
    for (size_t e = 0; e < share[l].size(); ++e) {
      const double s = share[l][e];
      const std::string place = absl::StrFormat("<rect x=\"%d\" y=\"%d\" width=\"1\" height=\"1\"", e, rows);
      absl::StrAppend(&cells, place,
                      s < 0 ? std::string(" class=\"unseen\"") : absl::StrFormat(" opacity=\"%.2f\"", s));
      if (titles.empty()) {
        cells += "/>";
      } else {
        absl::StrAppend(&cells, "><title>", Html(titles[l][e]), "</title></rect>");
      }
    }
    cells += '\n';
    ++rows;
  }
  if (rows == 0) return "";
  return absl::StrFormat(
      "<div class=\"map\"><div class=\"rows\">%s</div><svg viewBox=\"0 0 %d %d\" preserveAspectRatio=\"none\" "
      "style=\"height:%dpx\" class=\"%s\" role=\"img\" aria-label=\"layers %d, experts %d\">\n%s</svg></div>\n"
      "<p class=\"axis\">layer (downwards) &times; expert 0 to %d</p>\n",
      labels, columns, rows, kMapRowPixels * static_cast<int>(rows), css, comparison.layers.size(), columns, cells,
      columns - 1);
}

size_t CellCount(const Comparison& comparison) {
  size_t cells = 0;
  for (const LayerComparison& layer : comparison.layers) cells += layer.tokens_per_expert.size();
  return cells;
}

struct Range {
  double least = 0;
  double most = 0;
};

// A map of value(layer, expert) of the experts that some token chose: the least is pale, the largest full. `show`
// writes a value for the mouse.
template <typename Value, typename Show>
std::string MapOf(const Comparison& comparison, absl::string_view css, const Value& value, const Show& show,
                  Range* range) {
  constexpr double kPale = 0.12;
  bool any = false;
  const auto seen = [&](size_t l, size_t e) { return comparison.layers[l].tokens_per_expert[e] > 0; };
  for (size_t l = 0; l < comparison.layers.size(); ++l) {
    for (size_t e = 0; e < comparison.layers[l].tokens_per_expert.size(); ++e) {
      if (!seen(l, e)) continue;
      range->least = any ? std::min(range->least, value(l, e)) : value(l, e);
      range->most = any ? std::max(range->most, value(l, e)) : value(l, e);
      any = true;
    }
  }
  const double width = range->most - range->least;
  std::vector<std::vector<double>> share(comparison.layers.size());
  std::vector<std::vector<std::string>> titles;
  if (CellCount(comparison) <= kMostTitles) titles.resize(share.size());
  for (size_t l = 0; l < share.size(); ++l) {
    for (size_t e = 0; e < comparison.layers[l].tokens_per_expert.size(); ++e) {
      const double part = width > 0 ? (value(l, e) - range->least) / width : 1;
      share[l].push_back(seen(l, e) ? kPale + (1 - kPale) * part : -1);
      if (titles.empty()) continue;
      titles[l].push_back(absl::StrCat("layer ", l, ", expert ", e, ": ",
                                       seen(l, e) ? show(l, e) : std::string("no token chose it, nothing was shown")));
    }
  }
  return Map(comparison, share, titles, css);
}

std::string Legend(absl::string_view css, absl::string_view text) {
  return absl::StrCat("<p class=\"axis\"><i class=\"key unseen\"></i> no token <i class=\"key ", css, "\"></i> ",
                      Html(text), "</p>\n");
}

}  // namespace

std::string Html(absl::string_view text) {
  return absl::StrReplaceAll(Escaped(text, false),
                             {{"&", "&amp;"}, {"<", "&lt;"}, {">", "&gt;"}, {"\"", "&quot;"}, {"'", "&#39;"}});
}

std::string KlHistogram(const DivergenceSummary& divergence) {
  std::vector<Quantiles::Bar> bars;
  Quantiles::Bar below{kLeastKl / 2, kLeastKl, 0};
  for (const Quantiles::Bar& bar : divergence.kl_quantiles.Bars(kBinsPerBar)) {
    if (bar.begin < kLeastKl) {
      below.count += bar.count;
    } else {
      bars.push_back(bar);
    }
  }
  if (below.count > 0) bars.insert(bars.begin(), below);
  if (bars.empty()) return "";
  const double low = std::log10(bars.front().begin);
  const double high = std::max(std::log10(bars.back().end), low + 1);
  const auto x_of = [&](double kl) {
    return kLeft + kPlotWidth * (std::clamp(std::log10(std::max(kl, 1e-30)), low, high) - low) / (high - low);
  };
  int64_t most = 1;
  for (const Quantiles::Bar& bar : bars) most = std::max(most, bar.count);
  most += most % 2;  // half of it stands at the axis
  std::string svg = Open(kHeight, "distribution of KL over tokens") + VerticalAxis(static_cast<double>(most), "%.6g");
  for (const Quantiles::Bar& bar : bars) {
    const double height = kPlotHeight * static_cast<double>(bar.count) / static_cast<double>(most);
    absl::StrAppendFormat(&svg,
                          "<rect x=\"%.1f\" y=\"%.1f\" width=\"%.1f\" height=\"%.1f\" class=\"bar\"><title>%.2g to "
                          "%.2g nats: %d tokens</title></rect>\n",
                          x_of(bar.begin), kTop + kPlotHeight - height,
                          std::max(0.5, x_of(bar.end) - x_of(bar.begin) - 1), height, bar.begin, bar.end, bar.count);
  }
  const int first = static_cast<int>(std::ceil(low - 1e-9));
  const int last = static_cast<int>(std::floor(high + 1e-9));
  const int step = std::max(1, (last - first + 6) / 7);
  for (int exponent = first; exponent <= last; exponent += step) {
    svg += Text(x_of(std::pow(10, exponent)), kTop + kPlotHeight + 15, "middle",
                below.count > 0 && exponent == first ? "<" + PowerOfTen(exponent) : PowerOfTen(exponent));
  }
  svg += Line(x_of(divergence.kl.mean()), kTop, x_of(divergence.kl.mean()), kTop + kPlotHeight, "mark");
  svg += Text(kLeft + kPlotWidth / 2, kHeight - 6, "middle", "KL in nats (line: mean); height: tokens");
  return svg + "</svg>\n";
}

std::string KlByPosition(const Comparison& comparison) {
  const std::vector<RunningMean>& bins = comparison.kl_by_position;
  double most = 0;
  for (const RunningMean& bin : bins) most = std::max(most, bin.mean() + bin.standard_error());
  const double scale = most > 0 ? most : 1;
  const auto y_of = [&](double kl) { return kTop + kPlotHeight * (1 - std::clamp(kl / scale, 0.0, 1.0)); };
  const int64_t first = comparison.context / 2;
  const auto x_of = [&](size_t bin) {
    return kLeft + kPlotWidth * (static_cast<double>(bin) + 0.5) / static_cast<double>(bins.size());
  };
  std::string upper;
  std::string lower;
  std::string mean;
  for (size_t b = 0; b < bins.size(); ++b) {
    if (bins[b].count() == 0) continue;
    const double error = bins[b].standard_error();
    absl::StrAppendFormat(&upper, "%.1f,%.1f ", x_of(b), y_of(bins[b].mean() + error));
    lower.insert(0, absl::StrFormat("%.1f,%.1f ", x_of(b), y_of(bins[b].mean() - error)));
    absl::StrAppendFormat(&mean, "%.1f,%.1f ", x_of(b), y_of(bins[b].mean()));
  }
  std::string svg = Open(kHeight, "mean KL against position") + VerticalAxis(scale, "%.2g");
  absl::StrAppend(&svg, "<polygon points=\"", upper, lower, "\" class=\"band\"/>\n<polyline points=\"", mean,
                  "\" class=\"curve\"/>\n");
  svg += Text(kLeft, kTop + kPlotHeight + 15, "start", absl::StrCat(first));
  svg += Text(kWidth - kRight, kTop + kPlotHeight + 15, "end", absl::StrCat(comparison.context - 1));
  svg += Text(kLeft + kPlotWidth / 2, kHeight - 6, "middle", "position in the chunk; mean KL and its standard error");
  return svg + "</svg>\n";
}

std::string CoverageMap(const Comparison& comparison) {
  // Square roots: what matters is how near an expert is to none.
  const auto tokens = [&](size_t l, size_t e) { return comparison.layers[l].tokens_per_expert[e]; };
  Range range;
  const std::string map = MapOf(
      comparison, "coverage", [&](size_t l, size_t e) { return std::sqrt(static_cast<double>(tokens(l, e))); },
      [&](size_t l, size_t e) { return absl::StrCat(tokens(l, e), " tokens"); }, &range);
  if (map.empty()) return "";
  return map + Legend("coverage", absl::StrFormat("%.0f (pale) to %.0f (full) tokens", range.least * range.least,
                                                  range.most * range.most));
}

std::string ErrorMap(const Comparison& comparison) {
  const auto error = [&](size_t l, size_t e) { return comparison.layers[l].expert_error[e]; };
  Range range;
  const std::string map = MapOf(
      comparison, "error", error,
      [&](size_t l, size_t e) { return absl::StrFormat("relative error %.4g", error(l, e)); }, &range);
  if (map.empty()) return "";
  return map + Legend("error", absl::StrFormat("%.3g (pale) to %.3g (full)", range.least, range.most)) +
         "<p class=\"axis\">of the layer's output, over the tokens that the original sent to the expert</p>\n";
}

std::string SensitivityBars(const SensitivityReport& report) {
  struct Sum {
    double free = 0;
    double frozen = 0;
  };
  std::map<std::string, Sum> sums;
  for (const SensitivityUnit& unit : report.units) {
    Sum& sum = sums[unit.weight_class];
    sum.free += std::max(0.0, unit.kl_free - report.floor_free);
    sum.frozen += std::max(0.0, unit.kl_frozen - report.floor_frozen);
  }
  std::vector<std::pair<std::string, Sum>> sorted(sums.begin(), sums.end());
  std::stable_sort(sorted.begin(), sorted.end(),
                   [](const auto& a, const auto& b) { return a.second.free > b.second.free; });
  double most = 0;
  for (const auto& [name, sum] : sorted) most = std::max({most, sum.free, sum.frozen});
  if (!(most > 0)) most = 1;
  constexpr double kLabel = 116;
  constexpr double kValue = 62;
  constexpr double kRow = 26;
  const double room = kWidth - kLabel - kValue;
  const double height = kRow * static_cast<double>(sorted.size()) + 22;
  std::string svg = Open(height, "sensitivity per class");
  double y = 4;
  for (const auto& [name, sum] : sorted) {
    svg += Text(kLabel - 6, y + 14, "end", name);
    absl::StrAppendFormat(&svg,
                          "<rect x=\"%.1f\" y=\"%.1f\" width=\"%.1f\" height=\"9\" class=\"bar\"/>\n"
                          "<rect x=\"%.1f\" y=\"%.1f\" width=\"%.1f\" height=\"9\" class=\"bar2\"/>\n",
                          kLabel, y, room * sum.free / most, kLabel, y + 10, room * sum.frozen / most);
    svg += Text(kWidth, y + 14, "end", absl::StrFormat("%.2g", sum.free));
    y += kRow;
  }
  svg += Text(kWidth / 2, height - 6, "middle", "KL in nats: routing free (upper), frozen (lower)");
  return svg + "</svg>\n";
}

}  // namespace kompakt
