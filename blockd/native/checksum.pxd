# Mirrors cext/base/crc32c.h.
from libc.stdint cimport uint32_t

cdef extern from "base/crc32c.h" namespace "blockd" nogil:
    uint32_t c_crc32c "blockd::crc32c"(const void* data, size_t size) noexcept
    uint32_t c_crc32c_extend "blockd::crc32c_extend"(uint32_t crc, const void* data, size_t size) noexcept
    const char* c_crc32c_kernel "blockd::crc32c_kernel"() noexcept

cdef extern from *:
    """
    #include <span>
    #include "base/crc32c.h"

    static inline void blockd_checksum_blocks(const void* data, uint32_t* crcs, size_t count) noexcept {
      blockd::crc32c_blocks(data, std::span<std::uint32_t>(crcs, count));
    }
    static inline size_t blockd_verify_blocks(const void* data, const uint32_t* crcs,
                                              size_t count) noexcept {
      return blockd::crc32c_verify(data, std::span<const std::uint32_t>(crcs, count));
    }
    """
    void c_checksum_blocks "blockd_checksum_blocks"(const void* data, uint32_t* crcs, size_t count) noexcept nogil
    size_t c_verify_blocks "blockd_verify_blocks"(const void* data, const uint32_t* crcs, size_t count) noexcept nogil
