// The requests in flight of one connection and the pieces they are cut into, all allocated at
// accept.
//
// A piece is one BlockRequest: at most kMutationBytesMax, cut at multiples of it, so that a large
// aligned request never straddles. A request takes all its pieces when it is admitted and returns
// them together when its reply has left.
#pragma once

#include <array>
#include <cstddef>
#include <cstdint>
#include <vector>

#include "blockd/types.h"
#include "engine/block_backend.h"
#include "io/link.h"
#include "nbd/request.h"

namespace blockd::nbd {

struct Request;

struct Piece {
  engine::BlockRequest block;
  io::SendItem send;  // second and later parts of a read's reply
  Request* request = nullptr;
  Piece* next = nullptr;            // of the same request, ascending; or of the free list
  std::uint64_t charged_bytes = 0;  // in the server's memory budget
  std::uint64_t offset_bytes = 0;  // what the client asked for: block is rounded outwards for reads
  std::uint32_t length_bytes = 0;
};

struct Request {
  void* owner = nullptr;
  std::uint64_t cookie = 0;
  std::uint64_t started_us = 0;
  std::uint32_t length_bytes = 0;
  std::uint32_t inflight_bytes = 0;  // counted against the connection's bound
  std::uint32_t pending = 0;         // pieces not yet done; then parts of the reply not yet sent
  OpKind kind = OpKind::read;
  bool counted = true;
  bool abandoned = false;   // cut off in mid-payload: ends without a reply
  Errno error = Errno::ok;  // the first one
  Piece* pieces = nullptr;
  io::SendItem reply;
  std::array<std::byte, kSimpleReplyBytes> reply_header{};
  Request* next = nullptr;
};

// How many pieces the extent is cut into.
[[nodiscard]] constexpr std::uint32_t piece_count(std::uint64_t offset_bytes,
                                                  std::uint32_t length_bytes) noexcept {
  if (length_bytes == 0) return 0;
  const std::uint64_t last = (offset_bytes + length_bytes - 1) / kMutationBytesMax;
  return static_cast<std::uint32_t>(last - offset_bytes / kMutationBytesMax + 1);
}

class RequestPool {
 public:
  RequestPool(std::uint32_t request_count, std::uint32_t piece_count)
      : requests_(request_count), pieces_(piece_count), free_piece_count_(piece_count) {
    for (Request& request : requests_) put_free(request);
    for (Piece& piece : pieces_) put_free(piece);
  }

  // Null: not enough of either is free.
  [[nodiscard]] Request* take(std::uint32_t piece_count) noexcept {
    if (!free_requests_ || piece_count > free_piece_count_) return nullptr;
    Request* request = free_requests_;
    free_requests_ = request->next;
    request->next = nullptr;
    request->pieces = nullptr;
    for (std::uint32_t i = 0; i < piece_count; ++i) {
      Piece* piece = free_pieces_;
      free_pieces_ = piece->next;
      piece->next = request->pieces;
      piece->request = request;
      request->pieces = piece;
    }
    free_piece_count_ -= piece_count;
    return request;
  }

  // REQUIRES: nothing of it is in flight, no memory held.
  void put(Request& request) noexcept {
    while (Piece* piece = request.pieces) {
      BLOCKD_ASSERT(piece->charged_bytes == 0);
      BLOCKD_ASSERT(!piece->block.hold);
      request.pieces = piece->next;
      put_free(*piece);
      ++free_piece_count_;
    }
    put_free(request);
  }

 private:
  void put_free(Request& request) noexcept {
    request.next = free_requests_;
    free_requests_ = &request;
  }
  void put_free(Piece& piece) noexcept {
    piece.next = free_pieces_;
    free_pieces_ = &piece;
  }

  std::vector<Request> requests_;
  std::vector<Piece> pieces_;
  Request* free_requests_ = nullptr;
  Piece* free_pieces_ = nullptr;
  std::uint32_t free_piece_count_;
};

}  // namespace blockd::nbd
