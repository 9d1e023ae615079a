// What a front (NBD, VolumeIO) asks of a volume: the one contract between them and the engine.
//
// One request is one mutation or one read of at most kMutationBytesMax bytes; fronts split larger
// ones. All on the reactor's thread; done() may be called from inside submit() only for errors
// found at once. Requests submitted together may take effect in any order; a flush covers every
// write whose done() came before the flush was submitted.
#pragma once

#include <cstddef>
#include <cstdint>

#include "base/buffer.h"
#include "blockd/errors.h"

namespace blockd::engine {

struct BlockRequest {
  enum class Op : std::uint8_t { read, write, flush, trim, write_zeroes };
  Op op = Op::read;
  bool fua = false;         // durable on return: write, trim, write_zeroes
  bool covers = false;      // chunks left without data keep a record: there is a base beneath
  Error error = Error::Ok;  // set before done()
  std::uint64_t offset_bytes =
      0;  // any byte for write, trim, write_zeroes; a multiple of 4096 for read
  std::uint32_t length_bytes = 0;  // <= kMutationBytesMax for read and write (read: a multiple of
                                   // 4096; the volume's last block is read whole even when the size
                                   // cuts it); any length for trim and write_zeroes
  // write: the payload, read until done(); any alignment. read: where it goes, aligned to 4096.
  std::byte* data = nullptr;
  BufferRef hold;  // keeps `data` alive; the backend may copy the ref and hold it
                   // beyond done() (slow members)
  void (*done)(BlockRequest&) noexcept = nullptr;
  void* owner = nullptr;
  BlockRequest* next = nullptr;  // the backend's own until done(), as is the next
  std::uint8_t turn = 0;
};

class BlockBackend {
 public:
  virtual ~BlockBackend() = default;
  [[nodiscard]] virtual std::uint64_t size_bytes() const noexcept = 0;  // multiple of 512
  virtual void submit(BlockRequest& request) noexcept = 0;
};

}  // namespace blockd::engine
