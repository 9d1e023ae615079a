// One incoming link: another host's engines at this host's replicas.
//
// Requests are decoded into operations from a pool; an empty pool, or no memory for a payload,
// pauses the link until there is some: a peer cannot make this host hold more. A payload whose CRCs
// do not match, or any breach of the protocol, ends the link. The object lives until its last
// operation is back from the store.
#pragma once

#include <cstdint>
#include <memory>
#include <vector>

#include "base/buffer.h"
#include "io/link.h"
#include "peer/frame_reader.h"
#include "peer/replica_client.h"
#include "peer/replica_service.h"

namespace blockd::peer {

struct ServerConfig {
  Uuid cluster_id;
  Uuid host_id;
  std::uint16_t wire_version_max = format::kWireVersionMax;
};

class ServerLink final : public io::LinkHandler, private FrameSink {
 public:
  // `over` is called once the link is closed and nothing of it is under way, from the loop.
  ServerLink(io::Loop& loop, Buffers& buffers, ReplicaService& service, ServerConfig config,
             std::unique_ptr<io::Link> link, void (*over)(ServerLink&, void*) noexcept,
             void* owner);
  ~ServerLink() override;

  void close() noexcept;

 private:
  static constexpr std::uint32_t kOps = 2048;
  struct ServerOp {
    ReplicaOp op;
    ServerLink* link = nullptr;
    std::uint32_t index = 0;
    std::array<std::uint32_t, format::kWireBlocksMax> crcs;
  };

  std::span<std::byte> receive_buffer() noexcept override;
  void received(std::size_t bytes) noexcept override;
  void closed(Error reason) noexcept override;
  Verdict on_hello(const format::Hello& hello) noexcept override;
  Verdict on_header(const format::FrameHeader& header, PayloadTarget& target) noexcept override;
  Verdict on_frame(const format::FrameHeader& header) noexcept override;

  bool take_memory(ServerOp& op) noexcept;
  ServerOp* take_op() noexcept;
  void put_op(ServerOp& op) noexcept;
  void wake() noexcept;
  void maybe_over() noexcept;
  static void op_done(ReplicaOp& op) noexcept;
  static void reply_sent(io::SendItem& item) noexcept;

  io::Loop& loop_;
  Buffers& buffers_;
  ReplicaService& service_;
  ServerConfig config_;
  std::unique_ptr<io::Link> link_;
  void (*over_)(ServerLink&, void*) noexcept;
  void* owner_;
  Session session_;
  FrameReader reader_;
  std::vector<std::unique_ptr<ServerOp>> ops_;
  std::vector<ServerOp*> free_ops_;
  ServerOp* current_ = nullptr;  // the one whose frame is arriving
  BufferPool* waited_pool_ = nullptr;
  PoolWaiter waiter_;
  io::Task wake_task_;
  io::Task over_task_;
  bool link_open_ = true;
  format::Hello hello_;
  io::SendItem hello_item_;
};

}  // namespace blockd::peer
