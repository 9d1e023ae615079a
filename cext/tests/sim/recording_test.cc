// Recorded histories that one disk could have shown, and such that none could.
#include "sim/recording.h"

#include <doctest/doctest.h>

#include <sstream>
#include <string>

namespace blockd::sim {
namespace {

std::string wrong(const std::string& operations, std::uint64_t sectors = 8) {
  std::istringstream lines("sectors " + std::to_string(sectors) + "\n" + operations);
  return check_recording(lines).wrong;
}

bool has(const std::string& text, const char* part) {
  CAPTURE(text);
  return text.find(part) != std::string::npos;
}

// Written once by an attachment that is replaced at 50.
const std::string kReplaced =
    "W 1 0 1 1 10 20\n"
    "W 1 0 1 2 30 -\n"
    "R 2 7 1 0 40 50\n";

TEST_CASE("what a disk could have shown passes") {
  CHECK(wrong("").empty());
  CHECK(wrong("W 1 0 8 1 10 20\nR 1 0 8 1*8 30 40\n").empty());
  CHECK(wrong("W 1 0 4 1 10 20\nW 1 1 2 2 30 40\nR 1 0 8 1,2*2,1,0*4 50 60\n").empty());
  CHECK(wrong("R 1 0 1 1 15 40\nW 1 0 1 1 10 20\n").empty());  // in any order
  CHECK(wrong("W 1 0 1 1 10 20\nR 1 0 1 0 20 30\n").empty());  // of one moment: concurrent
  CHECK(wrong("W 1 0 1 1 10 20\nW 1 0 1 0 30 40\nR 1 0 1 0 50 60\n").empty());
}

TEST_CASE("a stale read is found") {
  CHECK(has(wrong("W 1 0 1 1 10 20\nW 1 0 1 2 30 40\nR 1 0 1 1 50 60\n"), "was overwritten"));
}

TEST_CASE("a lost write is found") {
  CHECK(has(wrong("W 1 0 1 1 10 20\nR 1 0 1 0 30 40\n"), "was overwritten"));
  CHECK(has(wrong("W 1 0 8 1 10 20\nR 2 0 8 1*7,0 30 40\n"), "sector 7"));
}

TEST_CASE("a write that comes and goes is found") {
  const std::string seen = "W 1 0 1 1 10 20\nW 1 0 1 2 30 -\nR 1 0 1 2 40 50\n";
  CHECK(wrong(seen).empty());
  CHECK(has(wrong(seen + "R 1 0 1 1 60 70\n"), "came between two sights of 1"));
}

TEST_CASE("bytes that nobody wrote are found") {
  CHECK(has(wrong("R 1 0 1 5 10 20\n"), "nobody wrote here"));
  CHECK(has(wrong("W 1 1 1 5 10 20\nR 1 0 1 5 30 40\n"), "nobody wrote here"));
}

TEST_CASE("an unknown outcome is either, until another attachment serves") {
  CHECK(wrong("W 1 0 1 1 10 20\nW 1 0 1 2 30 -\nR 1 0 1 1 60 70\nR 1 0 1 2 80 90\n").empty());
  CHECK(wrong(kReplaced + "R 2 0 1 1 60 70\nR 2 0 1 1 80 90\n").empty());
  CHECK(wrong(kReplaced + "R 2 0 1 2 60 70\nR 2 0 1 2 80 90\n").empty());
}

TEST_CASE("a write that is resurrected after a takeover is found") {
  CHECK(has(wrong(kReplaced + "R 2 0 1 1 60 70\nR 2 0 1 2 80 90\n"), "each seen after the other"));
  CHECK(has(wrong(kReplaced + "W 1 0 1 3 60 -\nR 2 0 1 3 80 90\n"), "had been replaced"));
}

TEST_CASE("an engine that has been replaced answers nothing") {
  CHECK(has(wrong(kReplaced + "R 1 0 1 1 60 70\n"), "another had taken over"));
  CHECK(wrong(kReplaced + "R 1 0 1 1 45 70\n").empty());  // called before
}

TEST_CASE("a line that cannot be read is no history") {
  for (const char* line :
       {"X 1 0 1 1 1 2\n", "R 1 0 1 1 1 -\n", "W 1 0 9 1 1 2\n", "W 1 9 1 1 1 2\n",
        "W 1 0 0 1 1 2\n", "W 1 0 1 1 2 1\n", "R 1 0 2 1*3 1 2\n", "R 1 0 2 1 1 2\n",
        "R 1 0 2 1*x 1 2\n", "W 1 0 1 1\n", "\n"}) {
    CAPTURE(line);
    CHECK(has(wrong(line), "line 2 is no operation"));
  }
  std::istringstream headless("W 1 0 1 1 10 20\n");
  CHECK(has(check_recording(headless).wrong, "no recording"));
}

}  // namespace
}  // namespace blockd::sim
