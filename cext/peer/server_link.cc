#include "peer/server_link.h"

#include <algorithm>

#include "base/assert.h"
#include "base/crc32c.h"
#include "peer/wire_codec.h"

namespace blockd::peer {

ServerLink::ServerLink(io::Loop& loop, Buffers& buffers, ReplicaService& service,
                       ServerConfig config, std::unique_ptr<io::Link> link,
                       void (*over)(ServerLink&, void*) noexcept, void* owner)
    : loop_(loop),
      buffers_(buffers),
      service_(service),
      config_(config),
      link_(std::move(link)),
      over_(over),
      owner_(owner),
      reader_(*this) {
  ops_.reserve(kOps);
  free_ops_.reserve(kOps);
  waiter_.owner = this;
  waiter_.ready = [](PoolWaiter& waiter) noexcept {
    ServerLink& self = *static_cast<ServerLink*>(waiter.owner);
    self.waited_pool_ = nullptr;
    self.loop_.defer(self.wake_task_);
  };
  wake_task_.owner = over_task_.owner = this;
  wake_task_.run = [](io::Task& task) noexcept { static_cast<ServerLink*>(task.owner)->wake(); };
  over_task_.run = [](io::Task& task) noexcept {
    ServerLink& self = *static_cast<ServerLink*>(task.owner);
    if (self.wake_task_.queued) return self.loop_.defer(task);
    self.over_(self, self.owner_);
  };
}

ServerLink::~ServerLink() {
  if (waited_pool_) waited_pool_->cancel(waiter_);
}

void ServerLink::close() noexcept {
  if (link_open_) link_->close();
}

// --- receiving -----------------------------------------------------------------------------------

std::span<std::byte> ServerLink::receive_buffer() noexcept {
  return reader_.receive_buffer();
}

void ServerLink::received(std::size_t bytes) noexcept {
  if (!reader_.received(bytes)) link_->close();
}

FrameSink::Verdict ServerLink::on_hello(const format::Hello& hello) noexcept {
  hello_.cluster_id = config_.cluster_id;
  hello_.host_id = config_.host_id;
  const bool foreign = hello.cluster_id != config_.cluster_id;
  const bool unknown = agreed_version(hello, config_.wire_version_max) == 0;
  const Error error = foreign ? Error::StoreForeign : unknown ? Error::Unsupported : Error::Ok;
  hello_.version_max = config_.wire_version_max;
  hello_.error = static_cast<std::uint16_t>(error);
  seal(hello_);
  hello_item_.iov[0] = {&hello_, sizeof hello_};
  hello_item_.iov_count = 1;
  hello_item_.owner = this;
  hello_item_.done = [](io::SendItem& item) noexcept {
    ServerLink& self = *static_cast<ServerLink*>(item.owner);
    if (self.hello_.error != 0) self.close();  // only after the reason has been sent
  };
  link_->send(hello_item_);
  return Verdict::go_on;
}

FrameSink::Verdict ServerLink::on_header(const format::FrameHeader& header,
                                         PayloadTarget& target) noexcept {
  if (hello_.error != 0) return Verdict::refuse;
  if (current_ == nullptr) current_ = take_op();
  if (current_ == nullptr) return Verdict::pause;  // put_op() wakes
  ServerOp& server_op = *current_;
  ReplicaOp& op = server_op.op;
  if (!decode_request(header, op)) return Verdict::refuse;
  if (!take_memory(server_op)) return Verdict::pause;
  const PayloadShape shape = request_shape(op);
  target.runs[0] = {reinterpret_cast<std::byte*>(op.frame.tail.data()), shape.head_bytes};
  target.runs[1] = {op.data, shape.data_bytes};
  return Verdict::go_on;
}

// Memory for the payload, or for the data of the answer. False: none now, wake() will come.
bool ServerLink::take_memory(ServerOp& server_op) noexcept {
  ReplicaOp& op = server_op.op;
  std::uint32_t bytes = request_shape(op).data_bytes;
  if (is_read(op.kind)) bytes = op.block_count * kBlockBytes;
  if (op.kind == ReplicaOp::Kind::read_chunk) bytes = kChunkBytes;
  if (is_listing(op.kind)) {
    bytes = op.block_count * static_cast<std::uint32_t>(sizeof(format::ChunkEntry));
    op.data_bytes = bytes;
  }
  op.crcs = server_op.crcs.data();
  if (bytes == 0) return true;
  BufferPool& pool = buffers_.pool_for(bytes);
  op.hold = pool.get();
  if (op.hold) {
    op.data = op.hold.data();
    return true;
  }
  if (waited_pool_ == nullptr) {
    waited_pool_ = &pool;
    pool.wait(waiter_);
  }
  return false;
}

void ServerLink::wake() noexcept {
  if (!link_open_ || !reader_.paused()) return;
  if (!reader_.retry()) {
    link_->close();
  } else {
    link_->resume();
  }
}

FrameSink::Verdict ServerLink::on_frame(const format::FrameHeader& header) noexcept {
  ServerOp& server_op = *std::exchange(current_, nullptr);
  ReplicaOp& op = server_op.op;
  decode_body(op);
  if (request_shape(op).data_bytes > 0) {
    const std::uint32_t blocks =
        op.kind == ReplicaOp::Kind::replace ? kBlocksPerChunk : header.block_count;
    std::copy_n(op.frame.tail.begin(), blocks, server_op.crcs.begin());
    const std::span<const std::uint32_t> crcs(server_op.crcs.data(), blocks);
    if (crc32c_verify(op.data, crcs) != crcs.size()) {
      put_op(server_op);
      return Verdict::refuse;
    }
  }
  service_.submit(session_, op);
  return Verdict::go_on;
}

// --- answering -----------------------------------------------------------------------------------

void ServerLink::op_done(ReplicaOp& op) noexcept {
  ServerOp& server_op = *static_cast<ServerOp*>(op.owner);
  ServerLink& self = *server_op.link;
  if (!self.link_open_) return self.put_op(server_op);
  encode_reply(op);
  op.item.owner = &server_op;
  op.item.done = reply_sent;
  self.link_->send(op.item);
}

void ServerLink::reply_sent(io::SendItem& item) noexcept {
  ServerOp& server_op = *static_cast<ServerOp*>(item.owner);
  server_op.link->put_op(server_op);
}

ServerLink::ServerOp* ServerLink::take_op() noexcept {
  if (free_ops_.empty() && ops_.size() < kOps) {
    ops_.push_back(std::make_unique<ServerOp>());
    ops_.back()->link = this;
    free_ops_.push_back(ops_.back().get());
  }
  if (free_ops_.empty()) return nullptr;
  ServerOp* server_op = free_ops_.back();
  free_ops_.pop_back();
  server_op->op.owner = server_op;
  server_op->op.done = op_done;
  return server_op;
}

void ServerLink::put_op(ServerOp& server_op) noexcept {
  server_op.op.hold.reset();
  free_ops_.push_back(&server_op);
  if (!link_open_) {
    maybe_over();
  } else if (reader_.paused() && waited_pool_ == nullptr) {
    loop_.defer(wake_task_);
  }
}

void ServerLink::closed(Error) noexcept {
  link_open_ = false;
  link_.reset();
  service_.close_session(session_);
  if (current_) put_op(*std::exchange(current_, nullptr));
  maybe_over();
}

void ServerLink::maybe_over() noexcept {
  if (!link_open_ && free_ops_.size() == ops_.size()) loop_.defer(over_task_);
}

}  // namespace blockd::peer
