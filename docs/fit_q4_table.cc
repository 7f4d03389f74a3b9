// Derives kQ4Table and kQ4Shift (format/q4_table.h): the 16 values and the shift that, with the best scale, orientation
// and shift bit for every group, lose least on Gaussian and Student-t(5) weights in groups of 32 and of 16.
//
//   g++ -O3 -march=native -ffp-contract=off -std=c++20 docs/fit_q4_table.cc -o fit_q4_table && ./fit_q4_table
//
// Method and result: docs/quantization.md, "Shifted tables". About five minutes on one core.
#include <algorithm>
#include <array>
#include <cmath>
#include <cstdint>
#include <cstdio>
#include <random>
#include <vector>

namespace {

constexpr int kLanes = 16;  // groups side by side
typedef float F __attribute__((vector_size(kLanes * 4)));

constexpr int kUnknowns = 17;  // 16 table values, then the shift
using Table = std::array<double, kUnknowns>;

struct Groups {
  int width;
  std::vector<F> x;  // [groups / 16][width]
};

// Unit variance. `freedom` 0: Gaussian, else Student-t.
Groups RandomGroups(int width, int weights, int freedom, uint64_t seed) {
  std::mt19937_64 rng(seed);
  const auto uniform = [&rng] { return (static_cast<double>(rng() >> 11) + 0.5) * 0x1p-53; };
  const auto gaussian = [&] { return std::sqrt(-2 * std::log(uniform())) * std::cos(2 * M_PI * uniform()); };
  Groups groups = {width, std::vector<F>(static_cast<size_t>(weights / kLanes))};
  for (F& lanes : groups.x) {
    for (int lane = 0; lane < kLanes; ++lane) {
      double value = gaussian();
      if (freedom > 0) {
        double chi = 0;
        for (int i = 0; i < freedom; ++i) chi += std::pow(gaussian(), 2);
        value /= std::sqrt(chi / freedom) * std::sqrt(freedom / (freedom - 2.0));
      }
      lanes[lane] = static_cast<float>(value);
    }
  }
  return groups;
}

// The normal equations of the table, given codes and scales.
struct Fit {
  double matrix[kUnknowns][kUnknowns] = {};
  double right[kUnknowns] = {};
};

int CodeOf(const float* threshold, float y) {
  int code = 0;
  for (int i = 0; i < 15; ++i) code += y > threshold[i] ? 1 : 0;
  return code;
}

// Relative squared error with the best of 16 scales x 2 orientations x 2 shifts per group, each scale least-squares
// fitted to its codes. Adds the normal equations to `fit` (may be null), weighted by sample_weight / error.
double Error(const Groups& groups, const Table& table, double sample_weight, Fit* fit) {
  constexpr int kFactors = 16;
  float value[2][16];
  float threshold[2][15];
  for (int b = 0; b < 2; ++b) {
    for (int i = 0; i < 16; ++i) value[b][i] = static_cast<float>(table[i] + b * table[16]);
    for (int i = 0; i < 15; ++i) threshold[b][i] = (value[b][i] + value[b][i + 1]) / 2;
  }
  Fit sums;
  double error = 0;
  double weight = 0;
  for (size_t first = 0; first < groups.x.size(); first += static_cast<size_t>(groups.width)) {
    const F* x = &groups.x[first];
    F up{}, down{}, total{};
    for (int k = 0; k < groups.width; ++k) {
      up = x[k] > up ? x[k] : up;
      down = -x[k] > down ? -x[k] : down;
      total += x[k] * x[k];
    }
    F best_gain{}, best_scale{}, best_fitted{}, best_shift{};
    for (int combination = 0; combination < 4; ++combination) {
      const int b = combination & 1;
      const float sign = combination < 2 ? 1.0f : -1.0f;
      F reach = (combination < 2 ? up : down) / value[b][15];
      const F other = (combination < 2 ? down : up) / -value[b][0];
      reach = other > reach ? other : reach;
      for (int f = 0; f < kFactors; ++f) {
        const F scale = reach * (sign * (0.8f + 0.7f * static_cast<float>(f) / (kFactors - 1)));
        const F inverse = 1.0f / scale;
        F xq{}, qq{};
        for (int k = 0; k < groups.width; ++k) {
          const F y = x[k] * inverse;
          F q = F{} + value[b][0];
          for (int i = 0; i < 15; ++i) q += y > threshold[b][i] ? F{} + (value[b][i + 1] - value[b][i]) : F{};
          xq += x[k] * q;
          qq += q * q;
        }
        const F gain = xq * xq / qq;
        const auto better = gain > best_gain;
        best_gain = better ? gain : best_gain;
        best_scale = better ? scale : best_scale;
        best_fitted = better ? xq / qq : best_fitted;
        best_shift = better ? F{} + static_cast<float>(b) : best_shift;
      }
    }
    for (int lane = 0; lane < kLanes; ++lane) {
      error += static_cast<double>(total[lane] - best_gain[lane]);
      weight += static_cast<double>(total[lane]);
      if (fit == nullptr) continue;
      const int b = best_shift[lane] != 0 ? 1 : 0;
      const double scale = static_cast<double>(best_fitted[lane]);
      for (int k = 0; k < groups.width; ++k) {
        const double w = static_cast<double>(x[k][lane]);
        const int code = CodeOf(threshold[b], x[k][lane] / best_scale[lane]);
        sums.matrix[code][code] += scale * scale;
        sums.right[code] += scale * w;
        if (b == 0) continue;
        sums.matrix[code][16] += scale * scale;
        sums.matrix[16][code] += scale * scale;
        sums.matrix[16][16] += scale * scale;
        sums.right[16] += scale * w;
      }
    }
  }
  for (int i = 0; fit != nullptr && i < kUnknowns; ++i) {
    fit->right[i] += sums.right[i] * sample_weight / error;
    for (int j = 0; j < kUnknowns; ++j) fit->matrix[i][j] += sums.matrix[i][j] * sample_weight / error;
  }
  return error / weight;
}

// Gauss-Jordan with pivots.
Table Solve(Fit fit) {
  for (int i = 0; i < kUnknowns; ++i) {
    int pivot = i;
    for (int j = i; j < kUnknowns; ++j) {
      if (std::fabs(fit.matrix[j][i]) > std::fabs(fit.matrix[pivot][i])) pivot = j;
    }
    std::swap(fit.matrix[i], fit.matrix[pivot]);
    std::swap(fit.right[i], fit.right[pivot]);
    for (int j = 0; j < kUnknowns; ++j) {
      if (j == i) continue;
      const double factor = fit.matrix[j][i] / fit.matrix[i][i];
      for (int k = i; k < kUnknowns; ++k) fit.matrix[j][k] -= factor * fit.matrix[i][k];
      fit.right[j] -= factor * fit.right[i];
    }
  }
  Table table;
  for (int i = 0; i < kUnknowns; ++i) table[i] = fit.right[i] / fit.matrix[i][i];
  std::sort(table.begin(), table.begin() + 16);
  return table;
}

// The unit of the table is free: its largest magnitude, shifted or not, becomes 127.
Table Normalised(Table table) {
  double largest = 0;
  for (int b = 0; b < 2; ++b) {
    largest = std::max({largest, std::fabs(table[0] + b * table[16]), std::fabs(table[15] + b * table[16])});
  }
  for (double& value : table) value *= 127 / largest;
  return table;
}

std::vector<Groups> Samples(int weights, uint64_t seed) {
  return {RandomGroups(32, weights, 0, seed), RandomGroups(32, weights, 5, seed + 1),
          RandomGroups(16, weights, 0, seed + 2), RandomGroups(16, weights, 5, seed + 3)};
}

// Mean over the four samples of the error in dB. The Gaussian ones count twice: trained matrices are closer to them.
constexpr double kWeight[4] = {2, 1, 2, 1};
double Objective(const std::vector<Groups>& samples, const Table& table, Fit* fit) {
  double sum = 0;
  for (int i = 0; i < 4; ++i) sum += kWeight[i] * 10 * std::log10(Error(samples[i], table, kWeight[i], fit));
  return sum / (kWeight[0] + kWeight[1] + kWeight[2] + kWeight[3]);
}

Table Iterate(const std::vector<Groups>& samples, Table table, int rounds) {
  for (int i = 0; i < rounds; ++i) {
    Fit fit;
    Objective(samples, table, &fit);
    table = Normalised(Solve(fit));
  }
  return table;
}

void Print(const char* what, double objective, const Table& table, const char* number) {
  std::printf("%-28s %9.4f dB  ", what, objective);
  for (const double value : table) std::printf(number, value);
  std::printf("\n");
  std::fflush(stdout);
}

}  // namespace

int main() {
  // Starts: the Lloyd-Max quantizer of a Gaussian, its lower end stretched and its upper half squeezed, with two
  // shifts.
  constexpr double kLloydMax[8] = {0.1284, 0.3881, 0.6568, 0.9424, 1.2562, 1.6181, 2.0691, 2.7326};
  const std::vector<Groups> small = Samples(1 << 17, 1);
  Table best{};
  double best_objective = 0;
  for (int start = 0; start < 8; ++start) {
    Table table;
    for (int i = 0; i < 8; ++i) {
      table[7 - i] = -kLloydMax[i];
      table[8 + i] = kLloydMax[i] * (start & 1 ? 0.85 : 1.0);
    }
    table[0] *= start & 2 ? 1.45 : 1.2;
    table[16] = start & 4 ? 0.25 : 0.12;
    table = Iterate(small, Normalised(table), 250);
    const double objective = Objective(small, table, nullptr);
    Print("start", objective, table, "%.1f ");
    if (objective < best_objective) {
      best_objective = objective;
      best = table;
    }
  }
  const std::vector<Groups> large = Samples(1 << 20, 11);
  best = Iterate(large, best, 150);
  Print("fitted", Objective(large, best, nullptr), best, "%.2f ");

  // Integers, odd and even in turn, so that the middle between two neighbours is never an integer. The best of all
  // units, then any single step that still gains. The shift may be any integer.
  const Table fitted = best;
  best_objective = 0;
  for (int unit = 100; unit <= 127; ++unit) {
    for (int first_odd = 0; first_odd < 2; ++first_odd) {
      Table candidate = fitted;
      for (double& value : candidate) value *= unit / 127.0;
      for (int i = 0; i < 16; ++i) {
        const int odd = (i + first_odd) % 2;
        candidate[i] = 2 * std::round((candidate[i] - odd) / 2) + odd;
      }
      candidate[16] = std::round(candidate[16]);
      if (candidate[0] < -127) continue;
      const double objective = Objective(large, candidate, nullptr);
      if (objective < best_objective) {
        best_objective = objective;
        best = candidate;
      }
    }
  }
  Print("rounded", best_objective, best, "%.0f ");
  for (bool moved = true; moved;) {
    moved = false;
    for (int i = 0; i < kUnknowns; ++i) {
      const double least = i < 16 ? 2 : 1;
      for (const double step : {-least, least}) {
        Table candidate = best;
        candidate[i] += step;
        if (candidate[0] < -127 || candidate[15] + std::max(0.0, candidate[16]) > 127) continue;
        const double objective = Objective(large, candidate, nullptr);
        if (objective < best_objective - 1e-5) {
          best_objective = objective;
          best = candidate;
          moved = true;
        }
      }
    }
  }
  Print("result", best_objective, best, "%.0f ");
  const std::vector<Groups> fresh = Samples(1 << 20, 101);
  const char* const names[4] = {"Gaussian, groups of 32", "Student-t(5), groups of 32", "Gaussian, groups of 16",
                                "Student-t(5), groups of 16"};
  for (int i = 0; i < 4; ++i)
    std::printf("%-28s %9.3f dB\n", names[i], 10 * std::log10(Error(fresh[i], best, 1, nullptr)));
  return 0;
}
