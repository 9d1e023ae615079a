// Histories that clients of real processes have recorded, checked like those of the simulator.
//
// One operation a line; times are of one clock, in any unit, and lines come in any order:
//
//   sectors N                                     first: how many sectors of 512 bytes there are
//   W ATTACHMENT FIRST COUNT TAG CALLED ANSWERED  a write; TAG 0: zeros, a trim
//   R ATTACHMENT FIRST COUNT TAGS CALLED ANSWERED a read; TAGS: TAG*COUNT,TAG*COUNT,...
//
// ANSWERED is "-" for a write of which nobody knows whether it happened: it failed, or was never
// answered. Reads that failed are left out. ATTACHMENT counts the places where the volume has been
// served, one after the other: as soon as one has answered, those before it have had their say.
// Nobody loses power here, so flushes need no record: what was acknowledged has to stay.
#pragma once

#include <istream>
#include <string>

namespace blockd::sim {

struct Verdict {
  std::string wrong;  // empty: all is well; else the first contradiction, in words
  std::size_t writes = 0, reads = 0, unknown = 0;
};

// A line that cannot be read is a contradiction, too.
Verdict check_recording(std::istream& lines);

}  // namespace blockd::sim
