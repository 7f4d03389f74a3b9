#include <cstdio>

int main() {
  std::fputs("kompakt " KOMPAKT_VERSION "\n", stdout);
  return 0;
}
