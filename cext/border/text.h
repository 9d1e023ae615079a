// How the border writes things into the lines that people read.
#pragma once

#include <string>

#include "blockd/types.h"

namespace blockd::border {

// RFC 4122 text, lower case.
inline std::string text(const Uuid& id) {
  static constexpr char kHex[] = "0123456789abcdef";
  std::string out;
  out.reserve(36);
  for (std::size_t i = 0; i < id.bytes.size(); ++i) {
    if (i == 4 || i == 6 || i == 8 || i == 10) out.push_back('-');
    out.push_back(kHex[id.bytes[i] >> 4]);
    out.push_back(kHex[id.bytes[i] & 15]);
  }
  return out;
}

inline std::string text(const SegmentId& id) {
  return "segment " + std::to_string(id.index) + " of volume " + text(id.volume);
}

}  // namespace blockd::border
