#include "tools/compare_html.h"

#include <string>

#include "gmock/gmock.h"
#include "gtest/gtest.h"
#include "tools/html_chart.h"

namespace kompakt {
namespace {

using testing::HasSubstr;
using testing::Not;

CompareReport Report() {
  CompareReport report;
  report.original = "original";
  report.packed = "packed.kpk";
  report.text = "text.txt";
  report.path = "portable";
  Comparison& comparison = report.comparison;
  comparison.context = 64;
  comparison.chunks = 1;
  comparison.kl_by_position.resize(static_cast<size_t>(kPositionBins));
  for (int64_t t = 32; t < 63; ++t) {
    TokenDivergence token;
    token.kl = static_cast<double>(t - 32) * 1e-3;
    comparison.AddToken(t, 32, token);
  }
  LayerComparison moe;
  moe.moe = true;
  moe.tokens_per_expert = {0, 5, 59};
  moe.expert_error = {0, 0.25, 0.125};
  comparison.layers = {LayerComparison(), moe};
  report.tensors.push_back({"0.self_attn.o_proj", "attention", "q4_g32", 1000, 1800, false, true, -23.0});
  return report;
}

TEST(Html, WritesOutWhatABrowserWouldTakeForMarkup) {
  EXPECT_EQ(Html("a<b>&\"'c"), "a&lt;b&gt;&amp;&quot;&#39;c");
  EXPECT_EQ(Html("caf\xc3\xa9"), "caf\xc3\xa9");
  EXPECT_THAT(Html("\x01\xff"), Not(HasSubstr("\xff")));
}

TEST(CompareHtml, EscapesEveryNameThatComesFromOutside) {
  CompareReport report = Report();
  const std::string evil = "</title><script>alert(1)</script>\"'";
  report.original = report.packed = report.text = report.path = evil;
  report.tensors[0].name = report.tensors[0].format = report.tensors[0].tensor_class = evil;
  report.floor.emplace_back(evil, report.comparison);
  report.sensitivity.emplace();
  report.sensitivity->format = report.sensitivity->text = evil;
  report.sensitivity->units.push_back({evil, 0, 1, 1, 10, 0.01, 0.5, 0.1, 0.25, 0.1});
  const std::string html = CompareHtml(report);
  EXPECT_THAT(html, Not(HasSubstr("<script")));
  EXPECT_THAT(html, HasSubstr("&lt;script&gt;"));
  report.baseline.emplace();
  report.baseline->model = evil;
  report.comparison.baseline_rest.emplace();
  EXPECT_THAT(CompareHtml(report), Not(HasSubstr("<script")));
}

TEST(CompareHtml, LoadsNothing) {
  const std::string html = CompareHtml(Report());
  for (const char* word : {"http:", "https:", "src=", "href=", "url(", "@import", "javascript:"}) {
    EXPECT_THAT(html, Not(HasSubstr(word)));
  }
}

TEST(CompareHtml, MarksExpertsWithoutTokensAndTellsTheOthersApart) {
  const std::string html = CompareHtml(Report());
  EXPECT_THAT(html, HasSubstr("layer 1, expert 0: no token chose it"));
  EXPECT_THAT(html, HasSubstr("layer 1, expert 2: 59 tokens"));
  EXPECT_THAT(html, HasSubstr("layer 1, expert 1: relative error 0.25"));
}

TEST(CompareHtml, SaysWhatABaselineDoesNotHold) {
  CompareReport report = Report();
  report.baseline.emplace();
  report.baseline->model = "big";
  report.comparison.baseline_rest.emplace();
  report.comparison.baseline_rest->Add(0.125);
  report.comparison.layers.clear();
  const std::string html = CompareHtml(report);
  EXPECT_THAT(html, HasSubstr("holds neither hidden states nor routing"));
  EXPECT_THAT(html, HasSubstr("lower bound: 0.125"));
}

TEST(CompareHtml, HoldsForNothingAndForAHugeSpread) {
  CompareReport report = Report();
  report.comparison.divergence = DivergenceSummary();
  report.comparison.layers.clear();
  report.tensors.clear();
  EXPECT_THAT(CompareHtml(report), Not(HasSubstr("nan")));
  for (const double kl : {0.0, 1e-300, 1e-12, 1.0, 1e9}) {
    TokenDivergence token;
    token.kl = kl;
    report.comparison.AddToken(40, 32, token);
  }
  const std::string html = CompareHtml(report);
  EXPECT_THAT(html, Not(HasSubstr("nan")));
  EXPECT_THAT(html, Not(HasSubstr("inf\"")));
}

}  // namespace
}  // namespace kompakt
