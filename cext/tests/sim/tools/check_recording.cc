// check_recording FILE...: are these recorded histories (sim/recording.h) linearizable?
// Exit code 0: all are; 1: one is not, and why; 2: a file cannot be read.
#include <cstdio>
#include <fstream>

#include "sim/recording.h"

int main(int count, char** arguments) {
  for (int i = 1; i < count; ++i) {
    std::ifstream file(arguments[i]);
    if (!file) {
      std::fprintf(stderr, "check_recording: cannot read %s\n", arguments[i]);
      return 2;
    }
    const blockd::sim::Verdict verdict = blockd::sim::check_recording(file);
    if (!verdict.wrong.empty()) {
      std::fprintf(stderr, "%s: %s\n", arguments[i], verdict.wrong.c_str());
      return 1;
    }
    std::printf("%zu writes, %zu of them unknown, %zu reads: linearizable\n", verdict.writes,
                verdict.unknown, verdict.reads);
  }
  return count > 1 ? 0 : 2;
}
