# What Python gives, as the native core takes it. Included by core.pyx.

cdef Uuid _uuid(value) except *:
    if not isinstance(value, UUID):
        raise TypeError(f"expected a UUID, not {value!r}")
    cdef bytes data = value.bytes
    return uuid_from_bytes(data)


cdef uint64_t _u64(value, what) except? 0:
    if not 0 <= value < 1 << 64:
        raise InvalidArgument(f"{what} is out of range: {value}")
    return value


cdef uint16_t _u16(value, what) except? 0:
    if not 0 <= value < 1 << 16:
        raise InvalidArgument(f"{what} is out of range: {value}")
    return value


cdef uint32_t _u32(value, what) except? 0:
    if not 0 <= value < 1 << 32:
        raise InvalidArgument(f"{what} is out of range: {value}")
    return value


cdef Py_ssize_t _size(value, what) except -1:
    if not 0 <= value < 1 << 62:
        raise InvalidArgument(f"{what} is out of range: {value}")
    return value


cdef int _error_code(name) except -1:
    try:
        return error_class(name).code
    except KeyError:
        raise InvalidArgument(f"no such error: {name!r}") from None


cdef SegmentId _segment_id(volume_id, segment) except *:
    cdef SegmentId id
    id.volume = _uuid(volume_id)
    id.index = _u32(segment, "segment")
    return id


cdef Openings _openings(newest) except *:
    cdef Openings openings
    for store_id, incarnation in newest.items():
        openings[_uuid(store_id)] = _u64(incarnation, "incarnation")
    return openings


cdef uint32_t _flag(value, uint32_t told, uint32_t what):
    return 0 if value is None else told | (what if value else 0)


cdef NativeFindings _native_findings(findings) except *:
    cdef NativeFindings found
    found.probed_unix_s = _u64(findings.probed_unix_s, "probed_unix_s")
    found.direct_alignment_bytes = _u32(findings.direct_alignment_bytes, "direct_alignment_bytes")
    found.logical_block_bytes = _u32(findings.logical_block_bytes, "logical_block_bytes")
    found.physical_block_bytes = _u32(findings.physical_block_bytes, "physical_block_bytes")
    found.atomic_write_bytes = _u32(findings.atomic_write_bytes, "atomic_write_bytes")
    found.discard_granularity_bytes = _u32(
        findings.discard_granularity_bytes, "discard_granularity_bytes")
    found.flags = (
        _flag(findings.rotational, c_store.rotational_told, c_store.rotational)
        | _flag(findings.volatile_cache, c_store.cache_told, c_store.volatile_cache)
        | _flag(findings.fua, c_store.fua_told, c_store.fua_works)
        | (c_store.discard_zeroes if findings.discard_zeroes else 0)
    )
    found.write_us = _u32(findings.write_us, "write_us")
    found.flush_us = _u32(findings.flush_us, "flush_us")
    found.dsync_write_us = _u32(findings.dsync_write_us, "dsync_write_us")
    found.write_mib_s = _u32(findings.write_mib_s, "write_mib_s")
    found.read_mib_s = _u32(findings.read_mib_s, "read_mib_s")
    found.write_iops = _u32(findings.write_iops, "write_iops")
    found.flushed_write_iops = _u32(findings.flushed_write_iops, "flushed_write_iops")
    return found


cdef SegmentConfig _segment(segment) except *:
    cdef SegmentConfig config
    cdef MemberConfig native_member
    config.index = _u32(segment.index, "index")
    config.generation = _u64(segment.generation, "generation")
    for member in segment.members:
        native_member.host = _uuid(member.host_id)
        native_member.store = _uuid(member.store_id)
        native_member.distance = _u32(member.distance, "distance")
        native_member.in_sync = bool(member.in_sync)
        config.members.push_back(native_member)
    return config


cdef vector[SegmentConfig] _segments(segments) except *:
    cdef vector[SegmentConfig] configs
    for segment in segments:
        configs.push_back(_segment(segment))
    return configs


cdef SnapshotConfig _snapshot(volume_id, era, size_bytes, segments) except *:
    cdef SnapshotConfig config
    config.volume = _uuid(volume_id)
    config.era = _u32(era, "era")
    config.size_bytes = _u64(size_bytes, "size_bytes")
    config.segments = _segments(segments)
    return config


cdef native.BasePtr _base(spec) except *:
    cdef native.BaseSpec base
    cdef native.BasePtr none
    if spec is None:
        return none
    base.snapshot = _snapshot(spec.volume_id, spec.era, spec.size_bytes, spec.segments)
    base.rules.self_ = bool(spec.rolled_back)
    base.rules.era = base.snapshot.era
    base.rules.since = _u32(spec.since, "since")
    base.base = _base(spec.base)
    return native.share_base(base)


cdef native.ChunkView _view(view) except *:
    cdef native.ChunkView found
    found.era = _u32(view.era, "era")
    found.base_era = _u32(view.base_era, "base_era")
    found.since = _u32(view.since, "since")
    return found


cdef SnapshotSet _snapshot_set(volume_id, known_below, eras, uncovered_below) except *:
    cdef SnapshotSet found
    found.volume = _uuid(volume_id)
    found.known_below = _u32(known_below, "known_below")
    found.uncovered_below = _u32(uncovered_below, "uncovered_below")
    for era in eras:
        found.eras.push_back(_u32(era, "era"))
    return found
