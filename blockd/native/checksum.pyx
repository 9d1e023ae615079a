# cython: boundscheck=False
"""CRC-32C over any contiguous buffer, by the processor's instructions where it has them.

The GIL is dropped around the kernel alone, and only for buffers that are worth it.
"""

from cpython.buffer cimport PyBUF_SIMPLE, PyBuffer_Release, PyObject_GetBuffer
from libc.stdint cimport uint32_t

import numpy

from blockd.model.errors import InvalidArgument

cdef enum:
    BLOCK_BYTES = 4096
    NOGIL_BYTES_MIN = 16384  # below that the GIL's release costs more than the checksum

cdef class _Lent:
    """A contiguous view of a caller's buffer, released with this object."""

    cdef Py_buffer view
    cdef bint held

    def __cinit__(self, data):
        self.held = False
        PyObject_GetBuffer(data, &self.view, PyBUF_SIMPLE)
        self.held = True

    def __dealloc__(self):
        if self.held:
            PyBuffer_Release(&self.view)


def crc32c(data, uint32_t crc=0):
    cdef _Lent lent = _Lent(data)
    cdef const void* start = lent.view.buf
    cdef size_t size = <size_t>lent.view.len
    if size < NOGIL_BYTES_MIN:
        return c_crc32c_extend(crc, start, size)
    with nogil:
        crc = c_crc32c_extend(crc, start, size)
    return crc


def checksum_blocks(data):
    cdef _Lent lent = _Lent(data)
    cdef size_t count = _block_count(lent.view.len)
    crcs = numpy.empty(count, dtype=numpy.uint32)
    if count == 0:
        return crcs
    cdef uint32_t[::1] out = crcs
    with nogil:
        c_checksum_blocks(lent.view.buf, &out[0], count)
    return crcs


def verify_blocks(data, crcs):
    cdef _Lent lent = _Lent(data)
    cdef size_t count = _block_count(lent.view.len)
    expected = numpy.ascontiguousarray(crcs, dtype=numpy.uint32)
    if expected.ndim != 1 or <size_t>expected.shape[0] != count:
        raise InvalidArgument(f"{count} blocks cannot be verified by {expected.size} checksums")
    if count == 0:
        return -1
    cdef const uint32_t[::1] wanted = expected
    cdef size_t bad
    with nogil:
        bad = c_verify_blocks(lent.view.buf, &wanted[0], count)
    return -1 if bad == count else <Py_ssize_t>bad


def kernel_name():
    return c_crc32c_kernel().decode("ascii")


cdef size_t _block_count(Py_ssize_t size) except? 0:
    if size % BLOCK_BYTES != 0:
        raise InvalidArgument(f"{size} bytes are not a whole number of {BLOCK_BYTES}-byte blocks")
    return <size_t>(size // BLOCK_BYTES)
