// Derives the tables of the nonlinear formats (format/value_tables.h): the 2^BITS values and the shift that, with the
// best scale, orientation and shift bit for every group, lose least.
//
//   g++ -O3 -march=native -ffp-contract=off -std=c++20 docs/fit_table.cc -o fit_table
//   ./fit_table BITS [--start N] [MATRIX.npy ...]           fits, makes it integer, measures it
//   ./fit_table BITS --values "V0 V1 ... SHIFT" [...]       measures a given table
//
// Samples: Gaussian and Student-t(5) weights in groups of 32 and of 16, and the same groups of each matrix given (F32
// [rows, cols] in C order, as docs/read_kpk.py writes them), one sample of all matrices per group size. Method and
// results: docs/quantization.md, "Shifted tables". One to five minutes on one core.
#include <algorithm>
#include <cmath>
#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <fstream>
#include <iterator>
#include <random>
#include <sstream>
#include <string>
#include <vector>

namespace {

constexpr int kLanes = 16;  // groups side by side
typedef float F __attribute__((vector_size(kLanes * 4)));
typedef int32_t I __attribute__((vector_size(kLanes * 4)));

// Values, ascending, then the shift.
using Table = std::vector<double>;
int Codes(const Table& table) { return static_cast<int>(table.size()) - 1; }

struct Sample {
  std::string name;
  double weight;  // in the objective
  int width;
  std::vector<F> x;  // [groups / 16][width]
};

// Groups of `width` from consecutive values, every value times one factor so that its group's row has unit variance.
Sample MakeSample(std::string name, double weight, int width, const std::vector<float>& values) {
  Sample sample = {std::move(name), weight, width, {}};
  const size_t groups = values.size() / static_cast<size_t>(width * kLanes) * kLanes;
  sample.x.resize(groups / kLanes * static_cast<size_t>(width));
  for (size_t g = 0; g < groups; ++g) {
    for (size_t k = 0; k < static_cast<size_t>(width); ++k) {
      sample.x[g / kLanes * static_cast<size_t>(width) + k][g % kLanes] = values[g * static_cast<size_t>(width) + k];
    }
  }
  return sample;
}

// Unit variance. `freedom` 0: Gaussian, else Student-t.
std::vector<float> RandomValues(size_t n, int freedom, uint64_t seed) {
  std::mt19937_64 rng(seed);
  const auto uniform = [&rng] { return (static_cast<double>(rng() >> 11) + 0.5) * 0x1p-53; };
  const auto gaussian = [&] { return std::sqrt(-2 * std::log(uniform())) * std::cos(2 * M_PI * uniform()); };
  std::vector<float> values(n);
  for (float& v : values) {
    double value = gaussian();
    if (freedom > 0) {
      double chi = 0;
      for (int i = 0; i < freedom; ++i) chi += std::pow(gaussian(), 2);
      value /= std::sqrt(chi / freedom) * std::sqrt(freedom / (freedom - 2.0));
    }
    v = static_cast<float>(value);
  }
  return values;
}

// Row after row of a .npy file, each divided by its root mean square; rows are cut to whole groups of 32. One row of
// `every` is taken. `blur`: values are multiplied by 1 +- 1/22, which is about half a step of FP8, so that the grid of
// a source that was stored in it is not what is fitted.
void AppendMatrix(const std::string& path, size_t first, size_t every, bool blur, std::vector<float>* values) {
  std::mt19937 rng(7);
  std::ifstream file(path, std::ios::binary);
  const std::string bytes{std::istreambuf_iterator<char>(file), {}};
  const size_t at = bytes.find("'shape': (");
  if (bytes.size() < 10 || at == std::string::npos || bytes.find("'<f4'") == std::string::npos) {
    std::fprintf(stderr, "%s: not a .npy file of float32\n", path.c_str());
    std::exit(1);
  }
  const size_t data = 10 + static_cast<uint8_t>(bytes[8]) + 256u * static_cast<uint8_t>(bytes[9]);
  char* end = nullptr;
  const size_t rows = std::strtoul(bytes.c_str() + at + 10, &end, 10);
  const size_t cols = *end == ',' ? std::strtoul(end + 1, nullptr, 10) : 0;
  for (size_t r = first; r < rows && cols >= 32; r += every) {
    std::vector<float> row(cols);
    std::memcpy(row.data(), bytes.data() + data + r * cols * 4, cols * 4);
    double square = 0;
    for (const float v : row) square += static_cast<double>(v) * static_cast<double>(v);
    if (square == 0) continue;
    const float scale = static_cast<float>(1 / std::sqrt(square / static_cast<double>(cols)));
    for (size_t c = 0; c < cols / 32 * 32; ++c) {
      const float noise = (static_cast<float>(rng()) * 0x1p-31f - 1) / 22;
      values->push_back(row[c] * scale * (blur ? 1 + noise : 1));
    }
  }
}

// Trained matrices, where there are any, count as much as all others together. Of those the Gaussian ones count twice.
// `fold` 0 and 1 take different rows of the matrices: what was fitted on one is measured on the other.
std::vector<Sample> Samples(size_t weights, uint64_t seed, const std::vector<std::string>& matrices, size_t fold,
                            bool measure = false) {
  std::vector<Sample> samples = {MakeSample("Gaussian, groups of 32", 2, 32, RandomValues(weights, 0, seed)),
                                 MakeSample("Student-t(5), groups of 32", 1, 32, RandomValues(weights, 5, seed + 1)),
                                 MakeSample("Gaussian, groups of 16", 2, 16, RandomValues(weights, 0, seed + 2)),
                                 MakeSample("Student-t(5), groups of 16", 1, 16, RandomValues(weights, 5, seed + 3))};
  if (matrices.empty()) return samples;
  for (const bool blur : {true, false}) {
    std::vector<float> trained;
    for (const std::string& path : matrices) AppendMatrix(path, fold, 16, blur, &trained);
    trained.resize(std::min(trained.size(), 2 * weights));
    const double weight = blur ? 3 : 0;
    if (!blur && !measure) continue;
    samples.push_back(MakeSample(blur ? "trained, blurred, 32" : "trained, groups of 32", weight, 32, trained));
    samples.push_back(MakeSample(blur ? "trained, blurred, 16" : "trained, groups of 16", weight, 16, trained));
  }
  return samples;
}

// The normal equations of the table, given codes and scales.
struct Fit {
  explicit Fit(size_t unknowns) : matrix(unknowns, std::vector<double>(unknowns)), right(unknowns) {}
  std::vector<std::vector<double>> matrix;
  std::vector<double> right;
};

// Nearest values by look-up, in steps of 1/16.
constexpr int kSteps = 16;
constexpr int kHalf = 192 * kSteps;
struct Nearest {
  std::vector<float> value;
  std::vector<int> code;

  Nearest(const Table& table, double shift) : value(2 * kHalf), code(2 * kHalf) {
    int c = 0;
    for (int i = 0; i < 2 * kHalf; ++i) {
      const double y = static_cast<double>(i - kHalf) / kSteps;
      const auto at = [&](int k) { return table[static_cast<size_t>(k)] + shift; };
      while (c + 1 < Codes(table) && y > (at(c) + at(c + 1)) / 2) ++c;
      value[static_cast<size_t>(i)] = static_cast<float>(at(c));
      code[static_cast<size_t>(i)] = c;
    }
  }
};

I IndexOf(const F& y) {
  const F bounded = y < -191.0f ? F{} - 191.0f : y > 191.0f ? F{} + 191.0f : y;
  return __builtin_convertvector(bounded * static_cast<float>(kSteps) + (static_cast<float>(kHalf) + 0.5f), I);
}

// Relative squared error with the best of 16 scales x 2 orientations x 2 shifts per group, each scale least-squares
// fitted to its codes. Adds the normal equations to `fit` (may be null), weighted by sample_weight / error.
double Error(const Sample& sample, const Table& table, Fit* fit) {
  constexpr int kFactors = 16;
  const size_t n = static_cast<size_t>(Codes(table));
  // Times the scale at which the group's extremes meet the ends of the table: with four values it pays to cut them off.
  const float least = n == 4 ? 0.45f : 0.8f;
  const Nearest nearest[2] = {Nearest(table, 0), Nearest(table, table[n])};
  Fit sums(n + 1);
  double error = 0;
  double weight = 0;
  const auto width = static_cast<size_t>(sample.width);
  for (size_t first = 0; first < sample.x.size(); first += width) {
    const F* x = &sample.x[first];
    F up{}, down{}, total{};
    for (size_t k = 0; k < width; ++k) {
      up = x[k] > up ? x[k] : up;
      down = -x[k] > down ? -x[k] : down;
      total += x[k] * x[k];
    }
    F best_gain = F{} - 1.0f, best_inverse{}, best_fitted{}, best_shift{};
    for (int combination = 0; combination < 4; ++combination) {
      const int b = combination & 1;
      const float shift = b ? static_cast<float>(table[n]) : 0;
      const float sign = combination < 2 ? 1.0f : -1.0f;
      F reach = (combination < 2 ? up : down) / (static_cast<float>(table[n - 1]) + shift);
      const F other = (combination < 2 ? down : up) / -(static_cast<float>(table[0]) + shift);
      reach = other > reach ? other : reach;
      for (int f = 0; f < kFactors; ++f) {
        const F inverse = 1.0f / (reach * (sign * (least + 0.7f * static_cast<float>(f) / (kFactors - 1))));
        F xq{}, qq{};
        for (size_t k = 0; k < width; ++k) {
          const I index = IndexOf(x[k] * inverse);
          F q;
          for (int lane = 0; lane < kLanes; ++lane) q[lane] = nearest[b].value[static_cast<size_t>(index[lane])];
          xq += x[k] * q;
          qq += q * q;
        }
        const F gain = qq > 0.0f ? xq * xq / qq : F{};
        const auto better = gain > best_gain;
        best_gain = better ? gain : best_gain;
        best_inverse = better ? inverse : best_inverse;
        best_fitted = better ? xq / qq : best_fitted;
        best_shift = better ? F{} + static_cast<float>(b) : best_shift;
      }
    }
    for (int lane = 0; lane < kLanes; ++lane) {
      if (!(total[lane] > 0)) continue;
      error += static_cast<double>(total[lane] - best_gain[lane]);
      weight += static_cast<double>(total[lane]);
      if (fit == nullptr) continue;
      const int b = best_shift[lane] != 0 ? 1 : 0;
      const double scale = static_cast<double>(best_fitted[lane]);
      for (size_t k = 0; k < width; ++k) {
        const double w = static_cast<double>(x[k][lane]);
        const float y = std::clamp(x[k][lane] * best_inverse[lane], -191.0f, 191.0f);
        const auto code = static_cast<size_t>(nearest[b].code[static_cast<size_t>(y * kSteps + kHalf + 0.5f)]);
        sums.matrix[code][code] += scale * scale;
        sums.right[code] += scale * w;
        if (b == 0) continue;
        sums.matrix[code][n] += scale * scale;
        sums.matrix[n][code] += scale * scale;
        sums.matrix[n][n] += scale * scale;
        sums.right[n] += scale * w;
      }
    }
  }
  for (size_t i = 0; fit != nullptr && i <= n; ++i) {
    fit->right[i] += sums.right[i] * sample.weight / error;
    for (size_t j = 0; j <= n; ++j) fit->matrix[i][j] += sums.matrix[i][j] * sample.weight / error;
  }
  return error / weight;
}

// Gauss-Jordan with pivots.
Table Solve(Fit fit) {
  const size_t n = fit.right.size();
  for (size_t i = 0; i < n; ++i) {
    size_t pivot = i;
    for (size_t j = i; j < n; ++j) {
      if (std::fabs(fit.matrix[j][i]) > std::fabs(fit.matrix[pivot][i])) pivot = j;
    }
    std::swap(fit.matrix[i], fit.matrix[pivot]);
    std::swap(fit.right[i], fit.right[pivot]);
    for (size_t j = 0; j < n; ++j) {
      if (j == i) continue;
      const double factor = fit.matrix[j][i] / fit.matrix[i][i];
      for (size_t k = i; k < n; ++k) fit.matrix[j][k] -= factor * fit.matrix[i][k];
      fit.right[j] -= factor * fit.right[i];
    }
  }
  Table table(n);
  for (size_t i = 0; i < n; ++i) table[i] = fit.right[i] / fit.matrix[i][i];
  std::sort(table.begin(), table.end() - 1);
  return table;
}

// The unit of the table is free: its largest magnitude, shifted or not, becomes 127.
Table Normalised(Table table) {
  const double shift = table.back();
  double largest = 0;
  for (const double s : {0.0, shift}) {
    largest = std::max({largest, std::fabs(table.front() + s), std::fabs(table[table.size() - 2] + s)});
  }
  for (double& value : table) value *= 127 / largest;
  return table;
}

// Mean over the samples of the error in dB.
double Objective(const std::vector<Sample>& samples, const Table& table, Fit* fit) {
  double sum = 0;
  double weights = 0;
  for (const Sample& sample : samples) {
    sum += sample.weight * 10 * std::log10(Error(sample, table, fit));
    weights += sample.weight;
  }
  return sum / weights;
}

Table Iterate(const std::vector<Sample>& samples, Table table, int rounds) {
  for (int i = 0; i < rounds; ++i) {
    Fit fit(table.size());
    Objective(samples, table, &fit);
    table = Normalised(Solve(std::move(fit)));
  }
  return table;
}

void Print(const char* what, double objective, const Table& table, const char* number) {
  std::printf("%-12s %9.4f dB  ", what, objective);
  for (const double value : table) std::printf(number, value);
  std::printf("\n");
  std::fflush(stdout);
}

// A quantizer of a Gaussian whose cells shrink with the cube root of its density, its lower end stretched, its upper
// half squeezed or not, with a small or a large shift.
Table Start(int bits, int start) {
  const int n = 1 << bits;
  Table table;
  for (int i = 0; i < n; ++i) {
    const double p = (i + 0.5) / n;
    // The quantile p of a Gaussian of variance 3, by bisection.
    double low = -20, high = 20;
    for (int step = 0; step < 60; ++step) {
      const double middle = (low + high) / 2;
      (0.5 * std::erfc(-middle / std::sqrt(6.0)) < p ? low : high) = middle;
    }
    table.push_back(low * (i >= n / 2 && (start & 1) ? 0.85 : 1.0));
  }
  if (bits <= 4) table[0] *= start & 2 ? 1.25 : 1.0;
  const double step = table[static_cast<size_t>(n / 2)] - table[static_cast<size_t>(n / 2 - 1)];
  table.push_back(step * (start & 4 ? 0.5 : 0.3));
  return Normalised(table);
}

// Integers, odd and even in turn, so that the middle between two neighbours is never an integer. The shift may be any.
bool Integers(const Table& fitted, double unit, int first_odd, int least_step, Table* out) {
  *out = fitted;
  for (size_t i = 0; i < fitted.size(); ++i) {
    double& value = (*out)[i];
    value *= unit / 127;
    if (i + 1 == fitted.size()) {
      value = std::max(1.0, std::round(value));
      break;
    }
    const double odd = static_cast<double>((i + static_cast<size_t>(first_odd)) % 2);
    value = 2 * std::round((value - odd) / 2) + odd;
  }
  // Steps are made wide enough from the middle outwards.
  const size_t n = fitted.size() - 1;
  for (size_t i = n / 2; i < n; ++i) (*out)[i] = std::max((*out)[i], (*out)[i - 1] + least_step);
  for (size_t i = n / 2 - 1; i-- > 0;) (*out)[i] = std::min((*out)[i], (*out)[i + 1] - least_step);
  return out->front() >= -127 && (*out)[fitted.size() - 2] + std::max(0.0, out->back()) <= 127;
}

// Any single step that gains: one value, all values from one on (a wider or narrower gap), the shift.
Table Improved(const std::vector<Sample>& samples, Table best, double* best_objective) {
  const size_t n = best.size() - 1;
  for (bool moved = true; moved;) {
    moved = false;
    for (size_t move = 0; move < 2 * n + 1; ++move) {
      for (const double sign : {-1.0, 1.0}) {
        Table candidate = best;
        if (move == 2 * n) {
          candidate[n] += sign;
        } else if (move < n) {
          candidate[move] += 2 * sign;
        } else if (move - n < n / 2) {
          for (size_t i = 0; i <= move - n; ++i) candidate[i] += 2 * sign;
        } else {
          for (size_t i = move - n; i < n; ++i) candidate[i] += 2 * sign;
        }
        bool possible = candidate[0] >= -127 && candidate[n - 1] + candidate[n] <= 127 && candidate[n] >= 1;
        for (size_t i = 1; i < n; ++i) possible = possible && candidate[i] > candidate[i - 1];
        if (!possible) continue;
        const double objective = Objective(samples, candidate, nullptr);
        if (objective < *best_objective - 2e-4) {
          *best_objective = objective;
          best = candidate;
          moved = true;
        }
      }
    }
  }
  return best;
}

}  // namespace

int main(int argc, char** argv) {
  const int bits = argc > 1 ? std::atoi(argv[1]) : 0;
  std::vector<std::string> matrices;
  Table given;
  int only_start = -1;
  for (int i = 2; i < argc; ++i) {
    const std::string arg = argv[i];
    if (arg == "--values" && i + 1 < argc) {
      std::istringstream text(argv[++i]);
      for (double value = 0; text >> value;) given.push_back(value);
    } else if (arg == "--start" && i + 1 < argc) {
      only_start = std::atoi(argv[++i]);
    } else {
      matrices.push_back(arg);
    }
  }
  if (bits < 2 || bits > 6 || (!given.empty() && given.size() != (size_t{1} << bits) + 1)) {
    std::fprintf(stderr, "usage: fit_table BITS [--start N | --values \"V0 ... SHIFT\"] [MATRIX.npy ...], BITS 2..6\n");
    return 2;
  }
  Table best = given;
  if (given.empty()) {
    const size_t few = size_t{1} << (bits < 5 ? 16 : 17);
    const std::vector<Sample> small = Samples(few, 1, matrices, 0);
    double best_objective = 0;
    for (int start = 0; start < 8; ++start) {
      if (only_start >= 0 && start != only_start) continue;
      const Table table = Iterate(small, Start(bits, start), bits < 5 ? 100 : 20);
      const double objective = Objective(small, table, nullptr);
      Print("start", objective, table, "%.1f ");
      if (objective < best_objective) {
        best_objective = objective;
        best = table;
      }
    }
    const std::vector<Sample> large = Samples(few * 4, 11, matrices, 0);
    best = Iterate(large, best, bits < 5 ? 40 : 10);
    Print("fitted", Objective(large, best, nullptr), best, "%.2f ");

    // Starts in integers: the fitted table in every unit, and, since at 5 and 6 bits that would need steps of less than
    // 3, tables whose steps grow from the middle outwards, p(t) = sinh(b t) / sinh(b). The best three are improved.
    struct Rounded {
      double objective;
      Table table;
    };
    std::vector<Rounded> rounded;
    std::vector<Table> real = {best};
    for (double b = 0.4; bits >= 5 && b < 4; b += 0.2) {
      for (const double squeezed : {1.0, 0.93, 0.86}) {
        Table table;
        for (int i = 0; i < 1 << bits; ++i) {
          const double t = (i + 0.5) / (1 << (bits - 1)) - 1;
          table.push_back(127 * std::sinh(b * t) / std::sinh(b) * (t > 0 ? squeezed : 1));
        }
        table.push_back(best.back());
        real.push_back(table);
      }
    }
    const std::vector<Sample> fewer = Samples(few / (bits < 5 ? 1 : 8), 1, matrices, 0);
    for (const Table& table : real) {
      for (int unit = 90; unit <= 180; ++unit) {
        for (int first_odd = 0; first_odd < 2; ++first_odd) {
          Table candidate;
          if (Integers(table, unit, first_odd, bits < 5 ? 1 : 3, &candidate)) {
            rounded.push_back({Objective(fewer, candidate, nullptr), candidate});
          }
        }
      }
    }
    std::sort(rounded.begin(), rounded.end(),
              [](const Rounded& a, const Rounded& b) { return a.objective < b.objective; });
    best_objective = 0;
    for (size_t i = 0; i < std::min<size_t>(3, rounded.size()); ++i) {
      double objective = rounded[i].objective;
      Print("rounded", objective, rounded[i].table, "%.0f ");
      const Table improved = Improved(fewer, rounded[i].table, &objective);
      if (objective < best_objective) {
        best_objective = objective;
        best = improved;
      }
    }
    best_objective = Objective(small, best, nullptr);
    best = Improved(small, best, &best_objective);
    Print("result", best_objective, best, "%.0f ");
  }
  for (const Sample& sample : Samples(1 << 20, 101, matrices, 8, true)) {
    std::printf("%-28s %9.3f dB\n", sample.name.c_str(), 10 * std::log10(Error(sample, best, nullptr)));
  }
  return 0;
}
