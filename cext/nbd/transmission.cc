#include "nbd/transmission.h"

#include <algorithm>
#include <utility>

#include "nbd/server_context.h"

namespace blockd::nbd {
namespace {

// Payloads up to this are waited for in the receive buffer and handed on without a copy; larger
// ones are worth a receive of their own.
constexpr std::uint32_t kGatherBytesMax = 16 * 1024;

engine::BlockRequest::Op block_op(OpKind kind) noexcept {
  switch (kind) {
    case OpKind::read:
      return engine::BlockRequest::Op::read;
    case OpKind::write:
      return engine::BlockRequest::Op::write;
    case OpKind::flush:
      return engine::BlockRequest::Op::flush;
    case OpKind::trim:
      return engine::BlockRequest::Op::trim;
    case OpKind::write_zeroes:
      break;
  }
  return engine::BlockRequest::Op::write_zeroes;
}

bool carries_data(OpKind kind) noexcept {
  return kind == OpKind::read || kind == OpKind::write;
}

std::uint32_t pieces_needed(const RequestHeader& header, const Verdict& verdict) noexcept {
  if (verdict.error != Errno::ok) return 0;
  if (carries_data(verdict.kind)) return piece_count(header.offset_bytes, header.length_bytes);
  return verdict.kind == OpKind::flush || header.length_bytes > 0 ? 1 : 0;
}

void set_iov(iovec& iov, std::byte* data, std::size_t bytes) noexcept {
  iov.iov_base = data;
  iov.iov_len = bytes;
}

}  // namespace

Transmission::Transmission(ServerContext& context, io::StreamReader& reader, io::Task& wake)
    : context_(context),
      reader_(reader),
      wake_(wake),
      // Enough pieces for the bytes in flight; each request may have one more, by where it begins.
      pool_(context.config.requests_max,
            context.config.requests_max +
                std::max(context.config.inflight_bytes_max, kRequestBytesMax) / kMutationBytesMax) {
  budget_waiter_.owner = this;
  budget_waiter_.ready = [](BudgetWaiter& waiter) noexcept {
    auto& self = *static_cast<Transmission*>(waiter.owner);
    self.context_.loop.defer(self.wake_);
  };
  pool_waiter_.owner = this;
  pool_waiter_.ready = [](PoolWaiter& waiter) noexcept {
    auto& self = *static_cast<Transmission*>(waiter.owner);
    self.context_.loop.defer(self.wake_);
  };
}

Transmission::~Transmission() {
  BLOCKD_ASSERT(idle());
  BLOCKD_ASSERT(!budget_waiter_.queued && !budget_waiter_.granted);
  BLOCKD_ASSERT(!pool_waiter_.queued);
}

void Transmission::begin(Export& target, io::Link& link) noexcept {
  BLOCKD_ASSERT(!export_);
  export_ = &target;
  link_ = &link;
  progress_us_ = context_.loop.now_us();
}

// ---- Taking in
// -----------------------------------------------------------------------------------

std::span<std::byte> Transmission::receive_buffer() noexcept {
  starved_ = false;
  if (input_ == Input::none) return {};
  const std::span<std::byte> space = reader_.receive_buffer();
  if (space.empty()) {
    starved_ = true;
    context_.watch_memory();
  }
  return space;
}

void Transmission::received(std::size_t bytes) noexcept {
  if (stage_ == Stage::stopped) return;
  BLOCKD_ASSERT(input_ != Input::none);
  progress_us_ = context_.loop.now_us();
  reader_.received(bytes);
  pump();
}

void Transmission::pump() noexcept {
  if (pumping_ || !export_) return;  // a backend that ends requests at once leads back here
  pumping_ = true;
  while (step()) {
  }
  pumping_ = false;
}

bool Transmission::step() noexcept {
  input_ = Input::none;
  switch (stage_) {
    case Stage::header:
      return take_header();
    case Stage::admit:
      return admit();
    case Stage::read_buffers:
      return gather_read_buffers();
    case Stage::payload:
      return take_payload();
    case Stage::drain:
      return drain_payload();
    case Stage::stopped:
      return false;
  }
  return false;
}

bool Transmission::need(Input input) noexcept {
  input_ = input;
  return false;
}

bool Transmission::blocked() noexcept {
  BLOCKD_ASSERT(requests_in_flight_ > 0);  // else nobody would unblock
  blocked_ = true;
  return false;
}

bool Transmission::take_header() noexcept {
  const std::byte* in = reader_.peek(kRequestHeaderBytes);
  if (!in) return need(Input::buffered);
  if (!decode_request(std::span<const std::byte, kRequestHeaderBytes>(in, kRequestHeaderBytes),
                      header_)) {
    broken_ = true;
    stop();
    return false;
  }
  reader_.consume(kRequestHeaderBytes);
  verdict_ = judge(header_, *export_);
  started_us_ = context_.loop.now_us();
  stage_ = Stage::admit;
  return true;
}

bool Transmission::admit() noexcept {
  if (verdict_.disconnect) {
    stop();
    return false;
  }
  const bool accepted = verdict_.error == Errno::ok;
  const std::uint32_t bytes = accepted && carries_data(verdict_.kind) ? header_.length_bytes : 0;
  if (bytes_in_flight_ > 0 && bytes_in_flight_ + bytes > context_.config.inflight_bytes_max)
    return blocked();
  Request* request = pool_.take(pieces_needed(header_, verdict_));
  if (!request) return blocked();
  request->owner = this;
  request->cookie = header_.cookie;
  request->started_us = started_us_;
  request->length_bytes = header_.length_bytes;
  request->inflight_bytes = bytes;
  request->pending = 1;  // this side's own, until everything has been submitted
  request->kind = verdict_.kind;
  request->counted = verdict_.counted;
  request->abandoned = false;
  request->error = verdict_.error;
  ++requests_in_flight_;
  bytes_in_flight_ += bytes;
  if (request->pieces) cut(*request);
  incoming_ = request;
  incoming_piece_ = request->pieces;
  drain_bytes_ = accepted ? 0 : verdict_.payload_bytes;
  if (!accepted) {
    stage_ = Stage::drain;
  } else {
    stage_ = verdict_.kind == OpKind::write ? Stage::payload : Stage::read_buffers;
  }
  return true;
}

void Transmission::cut(Request& request) noexcept {
  std::uint64_t at = header_.offset_bytes;
  const std::uint64_t end = at + header_.length_bytes;
  for (Piece* piece = request.pieces; piece; piece = piece->next) {
    const std::uint64_t boundary = (at / kMutationBytesMax + 1) * kMutationBytesMax;
    const std::uint64_t piece_end = carries_data(request.kind) ? std::min(boundary, end) : end;
    piece->offset_bytes = at;
    piece->length_bytes = static_cast<std::uint32_t>(piece_end - at);
    engine::BlockRequest& block = piece->block;
    block.op = block_op(request.kind);
    block.fua = verdict_.fua && request.kind != OpKind::read && request.kind != OpKind::flush;
    block.covers = false;
    block.error = Error::Ok;
    block.offset_bytes = at;
    block.length_bytes = piece->length_bytes;
    if (request.kind == OpKind::read) {
      block.offset_bytes = at / kBlockBytes * kBlockBytes;
      const std::uint64_t rounded_end = (piece_end + kBlockBytes - 1) / kBlockBytes * kBlockBytes;
      block.length_bytes = static_cast<std::uint32_t>(rounded_end - block.offset_bytes);
    }
    block.data = nullptr;
    block.owner = piece;
    block.done = [](engine::BlockRequest& done) noexcept {
      auto& piece_ = *static_cast<Piece*>(done.owner);
      static_cast<Transmission*>(piece_.request->owner)->piece_done(piece_);
    };
    at = piece_end;
  }
  BLOCKD_ASSERT(at == end);
}

// All the memory, then all the pieces at once. Flush, trim and write_zeroes come here too: they
// have one piece and need no memory.
bool Transmission::gather_read_buffers() noexcept {
  Request& request = *incoming_;
  if (request.kind == OpKind::read && request.pieces) {
    if (request.pieces->charged_bytes == 0) {
      std::uint64_t bytes = 0;
      for (Piece* piece = request.pieces; piece; piece = piece->next) {
        bytes += context_.buffers.pool_for(piece->block.length_bytes).buffer_bytes();
      }
      if (!context_.take_memory(budget_waiter_, bytes)) return false;
      for (Piece* piece = request.pieces; piece; piece = piece->next) {
        piece->charged_bytes = context_.buffers.pool_for(piece->block.length_bytes).buffer_bytes();
      }
    }
    for (; incoming_piece_; incoming_piece_ = incoming_piece_->next) {
      if (!take_buffer(*incoming_piece_, incoming_piece_->block.length_bytes)) return false;
    }
  }
  for (Piece* piece = request.pieces; piece; piece = piece->next) submit(*piece);
  taken_in();
  return true;
}

bool Transmission::take_payload() noexcept {
  while (Piece* piece = incoming_piece_) {
    if (!piece->block.data && !place_payload(*piece)) return false;
    if (reader_.busy()) return need(Input::direct);
    incoming_piece_ = piece->next;
    submit(*piece);
  }
  taken_in();
  return true;
}

// Gives the piece its memory and its payload, or has the rest received straight into it: a slice of
// the receive buffer when all of it is there, else a buffer of its own.
bool Transmission::place_payload(Piece& piece) noexcept {
  const std::uint32_t bytes = piece.length_bytes;
  if (bytes <= kGatherBytesMax && !reader_.peek(bytes)) return need(Input::buffered);
  if (reader_.available() >= bytes) {
    if (!context_.take_memory(budget_waiter_, bytes)) return false;
    piece.charged_bytes = bytes;
    io::StreamReader::Slice slice = reader_.slice(bytes);
    piece.block.data = const_cast<std::byte*>(slice.data);  // a write's is only read
    piece.block.hold = std::move(slice.hold);
    return true;
  }
  if (piece.charged_bytes == 0) {
    const std::uint64_t buffer_bytes = context_.buffers.pool_for(bytes).buffer_bytes();
    if (!context_.take_memory(budget_waiter_, buffer_bytes)) return false;
    piece.charged_bytes = buffer_bytes;
  }
  if (!take_buffer(piece, bytes)) return false;
  (void)reader_.read_into({piece.block.data, bytes});
  return true;
}

bool Transmission::take_buffer(Piece& piece, std::uint32_t bytes) noexcept {
  BufferPool& pool = context_.buffers.pool_for(bytes);
  BufferRef buffer = pool.get();
  if (!buffer) {
    awaited_pool_ = &pool;
    pool.wait(pool_waiter_);
    context_.watch_memory();
    return false;
  }
  piece.block.data = buffer.data();
  piece.block.hold = std::move(buffer);
  return true;
}

// A request with an error is answered once its payload is out of the way.
bool Transmission::drain_payload() noexcept {
  if (drain_bytes_ > 0) (void)reader_.skip(std::exchange(drain_bytes_, 0));
  if (reader_.busy()) return need(Input::buffered);
  taken_in();
  return true;
}

// The request is on its way; on to the next one.
void Transmission::taken_in() noexcept {
  Request& request = *incoming_;
  incoming_ = nullptr;
  incoming_piece_ = nullptr;
  stage_ = Stage::header;
  part_ended(request);
}

// ---- Carrying out and answering
// ------------------------------------------------------------------

void Transmission::submit(Piece& piece) noexcept {
  ++piece.request->pending;
  ++blocks_in_flight_;
  export_->backend().submit(piece.block);
}

void Transmission::piece_done(Piece& piece) noexcept {
  BLOCKD_ASSERT(blocks_in_flight_ > 0);
  --blocks_in_flight_;
  Request& request = *piece.request;
  if (piece.block.error != Error::Ok && request.error == Errno::ok) {
    request.error = reply_errno(piece.block.error);
  }
  if (request.kind != OpKind::read) release(piece);
  part_ended(request);
}

void Transmission::part_ended(Request& request) noexcept {
  BLOCKD_ASSERT(request.pending > 0);
  if (--request.pending == 0) finish(request);
}

void Transmission::finish(Request& request) noexcept {
  if (!link_ || request.abandoned) {
    free_request(request);
    return;
  }
  context_.count(*export_, request, context_.loop.now_us() - request.started_us);
  send_reply(request);
}

void Transmission::send_reply(Request& request) noexcept {
  const auto part_sent = [](io::SendItem& item) noexcept {
    auto& sent = *static_cast<Request*>(item.owner);
    static_cast<Transmission*>(sent.owner)->reply_part_sent(sent);
  };
  encode_reply(request.reply_header, request.cookie, request.error);
  request.reply.owner = &request;
  request.reply.done = part_sent;
  request.reply.iov_count = 1;
  set_iov(request.reply.iov[0], request.reply_header.data(), kSimpleReplyBytes);
  request.pending = 1;
  Piece* part = nullptr;
  if (request.kind == OpKind::read && request.error == Errno::ok && request.pieces) {
    Piece& first = *request.pieces;
    request.reply.iov_count = 2;
    set_iov(request.reply.iov[1],
            first.block.data + (first.offset_bytes - first.block.offset_bytes), first.length_bytes);
    part = first.next;
    for (Piece* piece = part; piece; piece = piece->next) {
      piece->send.owner = &request;
      piece->send.done = part_sent;
      piece->send.iov_count = 1;
      set_iov(piece->send.iov[0],
              piece->block.data + (piece->offset_bytes - piece->block.offset_bytes),
              piece->length_bytes);
      ++request.pending;
    }
  } else {
    for (Piece* piece = request.pieces; piece; piece = piece->next) release(*piece);
  }
  parts_unsent_ += request.pending;
  link_->send(request.reply);
  while (part) {
    Piece& piece = *part;
    part = part->next;
    link_->send(piece.send);
  }
}

void Transmission::reply_part_sent(Request& request) noexcept {
  BLOCKD_ASSERT(request.pending > 0 && parts_unsent_ > 0);
  --parts_unsent_;
  progress_us_ = context_.loop.now_us();
  if (--request.pending == 0) free_request(request);
}

void Transmission::release(Piece& piece) noexcept {
  piece.block.hold.reset();
  piece.block.data = nullptr;
  if (piece.charged_bytes == 0) return;
  const std::uint64_t bytes = piece.charged_bytes;
  piece.charged_bytes = 0;
  context_.budget.release(bytes);
}

void Transmission::free_request(Request& request) noexcept {
  BLOCKD_ASSERT(requests_in_flight_ > 0);
  for (Piece* piece = request.pieces; piece; piece = piece->next) release(*piece);
  bytes_in_flight_ -= request.inflight_bytes;
  --requests_in_flight_;
  pool_.put(request);
  if (blocked_ || stage_ == Stage::stopped) {
    blocked_ = false;
    context_.loop.defer(wake_);
  }
}

// ---- The end
// -------------------------------------------------------------------------------------

void Transmission::stop() noexcept {
  if (stage_ == Stage::stopped) return;
  stage_ = Stage::stopped;
  // A receive into the piece may be under way: its memory stays until the link is gone.
  if (input_ != Input::direct) abandon_incoming();
  input_ = Input::none;
  context_.loop.defer(wake_);
}

void Transmission::link_lost() noexcept {
  stage_ = Stage::stopped;
  input_ = Input::none;
  link_ = nullptr;
  abandon_incoming();
}

void Transmission::abandon_incoming() noexcept {
  context_.budget.cancel(budget_waiter_);
  if (awaited_pool_) {
    awaited_pool_->cancel(pool_waiter_);
    awaited_pool_->pass_on();  // it may just have called us: then it is the next one's turn
    awaited_pool_ = nullptr;
  }
  if (!incoming_) return;
  Request& request = *incoming_;
  // Reads are submitted in one go, so none of theirs has been; of a write, those from here on.
  Piece* piece = request.kind == OpKind::read ? request.pieces : incoming_piece_;
  for (; piece; piece = piece->next) release(*piece);
  incoming_ = nullptr;
  incoming_piece_ = nullptr;
  request.abandoned = true;
  part_ended(request);
}

bool Transmission::answered() const noexcept {
  return stage_ == Stage::stopped && requests_in_flight_ == (incoming_ ? 1u : 0u);
}

bool Transmission::holds_up_memory() const noexcept {
  return link_ && (parts_unsent_ > 0 || input_ == Input::direct);
}

}  // namespace blockd::nbd
