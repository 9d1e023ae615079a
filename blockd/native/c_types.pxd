# Mirrors cext/include/blockd/types.h and errors.h.
from libc.stdint cimport uint8_t, uint16_t, uint32_t, uint64_t

cdef extern from "blockd/errors.h" namespace "blockd" nogil:
    cdef cppclass Error:
        pass

cdef extern from "blockd/types.h" namespace "blockd" nogil:
    cdef cppclass Uuid:
        Uuid() noexcept

    cdef cppclass Version:
        uint64_t epoch
        uint64_t seq

    cdef cppclass SegmentId:
        SegmentId() noexcept
        Uuid volume
        uint32_t index

cdef extern from *:
    """
    #include <cstring>
    #include "blockd/errors.h"
    #include "blockd/types.h"

    static inline blockd::Uuid blockd_uuid(const char* bytes) noexcept {
      blockd::Uuid id;
      std::memcpy(id.bytes.data(), bytes, 16);
      return id;
    }
    static inline const char* blockd_uuid_bytes(const blockd::Uuid& id) noexcept {
      return reinterpret_cast<const char*>(id.bytes.data());
    }
    static inline int blockd_error_number(blockd::Error error) noexcept { return static_cast<int>(error); }
    static inline blockd::Error blockd_error(int number) noexcept {
      return static_cast<blockd::Error>(number);
    }
    """
    Uuid uuid_from_bytes "blockd_uuid"(const char* data) noexcept nogil
    const char* uuid_bytes "blockd_uuid_bytes"(const Uuid& id) noexcept nogil
    int error_number "blockd_error_number"(Error error) noexcept nogil
    Error error_from_number "blockd_error"(int number) noexcept nogil
