// Scrubs of this host's stores, and repairs of what they find, on the host plane.
#include <utility>

#include "border/guard.h"
#include "border/host_plane.h"
#include "border/text.h"

namespace blockd::border {

void HostPlane::start_scrub(Token token, const Uuid& store, std::uint64_t rate_bytes,
                            const ScrubCursor& cursor, std::uint64_t chunks_done) noexcept {
  guard(token, [&] {
    if (rate_bytes == 0) throw Fault(Error::InvalidArgument, "a scrub's rate must be positive");
    OpenStore& open = open_store_of(store);
    if (!open.scrubber) {
      open.scrubber = std::make_unique<Scrubber>(loop_, buffers_, *open.store);
    }
    open.scrubber->start(rate_bytes, cursor, chunks_done);
    answer(token, Error::Ok);
  });
}

void HostPlane::stop_scrub(Token token, const Uuid& store) noexcept {
  guard(token, [&] {
    const OpenStore& open = open_store_of(store);
    if (open.scrubber) open.scrubber->stop();
    answer(token, Error::Ok);
  });
}

void HostPlane::scrub_reports(Token token) noexcept {
  guard(token, [&] {
    auto reply = std::make_unique<Reply>();
    for (const auto& [id, open] : stores_) {
      if (!open.closing && open.scrubber) reply->scrubs.push_back(open.scrubber->report());
    }
    answer(token, std::move(reply));
  });
}

void HostPlane::repair_chunk(Token token, const SegmentId& id, std::uint32_t chunk, Era born,
                             const Uuid& host) noexcept {
  guard(token, [&] {
    Attached& attached = engine_of(id.volume);
    if (attached.closing) throw Fault(Error::ShuttingDown, "the volume is being detached");
    attached.engine_tokens.insert(token);
    attached.volume->repair_chunk(id.index, chunk, born, host, [this, id, token](Error error) {
      end_engine_command(id.volume, token, error);
    });
  });
}

}  // namespace blockd::border
