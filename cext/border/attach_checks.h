// What an engine and a snapshot's reader take for granted of what they are given. A description
// that breaks it is the caller's mistake: Fault(InvalidArgument), in a line that names it.
#pragma once

#include <string>

#include "border/base_stack.h"
#include "engine/volume.h"

namespace blockd::border {

[[noreturn]] void refuse(const Uuid& id, const std::string& why);
void check(const engine::VolumeConfig& config);
void check(const BaseSpec& spec);  // and those beneath it
void check(const SnapshotSpec& spec);

}  // namespace blockd::border
