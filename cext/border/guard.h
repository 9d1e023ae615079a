// The choke point of every command: refused while closing, and where exceptions end.
#pragma once

#include <exception>

#include "border/host_plane.h"

namespace blockd::border {

template <class Command>
void HostPlane::guard(Token token, Command command) noexcept {
  if (closing_) return answer(token, Error::ShuttingDown);
  try {
    command();
  } catch (const Fault& fault) {
    answer(token, fault.code(), fault.what());
  } catch (const std::bad_alloc&) {
    answer(token, Error::Busy, "out of memory");
  } catch (const std::exception& error) {
    answer(token, Error::InvalidArgument, error.what());
  }
}

}  // namespace blockd::border
