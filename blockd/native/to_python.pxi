# What the native core says, as Python values. Included by core.pyx.

cdef object _text(const string& text):
    cdef bytes data = text.c_str()[:text.size()]
    return data.decode("utf-8", "surrogateescape")


cdef object _id(const Uuid& id):
    return UUID(bytes=uuid_bytes(id)[:16])


cdef tuple _ids(const vector[Uuid]& ids):
    cdef size_t i
    return tuple([_id(ids[i]) for i in range(ids.size())])


cdef tuple _version(const Version& version):
    return (version.epoch, version.seq)


cdef object _store(const native.StoreReport& report):
    cdef int failed = error_number(report.info.failed)
    return StoreInfo(
        store_id=_id(report.info.store_id),
        path=_text(report.path),
        capacity_bytes=report.info.capacity_bytes,
        allocated_bytes=report.info.allocated_bytes,
        past_bytes=report.info.past_bytes,
        journal_bytes=report.info.journal_bytes,
        journal_used_bytes=report.info.journal_used_bytes,
        segment_count=report.info.segment_count,
        findings=_findings(report.info.findings),
        power_loss_protected=report.info.power_loss_protected,
        incarnation=report.info.incarnation,
        failed="" if failed == 0 else make_error(failed).name,
    )


cdef object _told(uint32_t flags, uint32_t told, uint32_t what):
    return bool(flags & what) if flags & told else None


cdef object _findings(const NativeFindings& found):
    if found.probed_unix_s == 0:
        return None
    return DeviceFindings(
        direct_alignment_bytes=found.direct_alignment_bytes,
        logical_block_bytes=found.logical_block_bytes,
        physical_block_bytes=found.physical_block_bytes,
        atomic_write_bytes=found.atomic_write_bytes,
        discard_granularity_bytes=found.discard_granularity_bytes,
        rotational=_told(found.flags, c_store.rotational_told, c_store.rotational),
        volatile_cache=_told(found.flags, c_store.cache_told, c_store.volatile_cache),
        fua=_told(found.flags, c_store.fua_told, c_store.fua_works),
        discard_zeroes=bool(found.flags & c_store.discard_zeroes),
        probed_unix_s=found.probed_unix_s,
        write_us=found.write_us,
        flush_us=found.flush_us,
        dsync_write_us=found.dsync_write_us,
        write_mib_s=found.write_mib_s,
        read_mib_s=found.read_mib_s,
        write_iops=found.write_iops,
        flushed_write_iops=found.flushed_write_iops,
    )


cdef object _one_store(native.Reply* reply):
    return _store(reply.stores[0])


cdef object _all_stores(native.Reply* reply):
    cdef size_t i
    return [_store(reply.stores[i]) for i in range(reply.stores.size())]


cdef object _replica(const native.ReplicaReport& report):
    return ReplicaInfo(
        volume_id=_id(report.info.id.volume),
        segment=report.info.id.index,
        store_id=_id(report.store_id),
        block_count=report.info.block_count,
        promised_epoch=report.info.promised_epoch,
        lease_us=report.lease_us,
        stable=_version(report.info.stable),
        chunk_count=report.info.chunk_count,
        past_count=report.info.past_count,
        newest_era=report.info.newest_era,
    )


cdef object _replicas(native.Reply* reply):
    cdef size_t i
    return [_replica(reply.replicas[i]) for i in range(reply.replicas.size())]


cdef object _digest(const NativeDigest& digest):
    return ChunkDigest(
        chunk=digest.chunk,
        version=_version(digest.version),
        valid_mask=digest.valid_mask,
        digest=digest.digest,
    )


cdef object _digests(native.Reply* reply):
    cdef size_t i
    return [_digest(reply.digests[i]) for i in range(reply.digests.size())]


cdef object _chunks(native.Reply* reply):
    return list(reply.chunks)


cdef object _era(native.Reply* reply):
    return reply.era


cdef object _location(native.Reply* reply):
    return BlockLocation(
        store_id=_id(reply.store_id),
        allocated=reply.location.allocated,
        device_offset_bytes=reply.location.device_offset_bytes,
        in_journal=reply.location.in_journal,
        chunk_version=_version(reply.location.chunk_version),
        crc32c=reply.location.crc32c,
    )


cdef object _endpoint(native.Reply* reply):
    return _text(reply.endpoint)


cdef object _status(const NativeSegmentStatus& status):
    cdef uint64_t never = <uint64_t>-1  # SegmentStatus::kNeverProven
    return SegmentStatus(
        index=status.index,
        generation=status.generation,
        state=native.state_name(status.state).decode("ascii"),
        in_sync=_ids(status.in_sync),
        joining=_ids(status.joining),
        absent=_ids(status.absent),
        behind=_ids(status.behind),
        missing=_ids(status.missing),
        differing=_ids(status.differing),
        proven_ago_us=None if status.proven_ago_us == never else status.proven_ago_us,
        resync_bytes_done=status.resync_bytes_done,
        resync_bytes_total=status.resync_bytes_total,
        resync_us=status.resync_us,
        in_flight=status.in_flight,
    )


cdef object _statuses(native.Reply* reply):
    cdef size_t i
    return [_status(reply.segments[i]) for i in range(reply.segments.size())]


cdef object _finding(const native.ScrubFinding& finding):
    return ScrubFinding(
        volume_id=_id(finding.segment.volume),
        segment=finding.segment.index,
        block=finding.block,
        born=finding.born,
        error=make_error(error_number(finding.error)).name,
    )


cdef object _scrub(const native.ScrubReport& report):
    cdef size_t i
    return ScrubReport(
        store_id=_id(report.store),
        running=report.running,
        finished=report.finished,
        rate_bytes=report.rate_bytes,
        cursor=ScrubCursor(
            _id(report.cursor.segment.volume), report.cursor.segment.index, report.cursor.chunk
        ),
        chunks_done=report.chunks_done,
        chunks_total=report.chunks_total,
        read_bytes=report.read_bytes,
        findings_dropped=report.findings_dropped,
        findings=tuple([_finding(report.findings[i]) for i in range(report.findings.size())]),
    )


cdef object _scrubs(native.Reply* reply):
    cdef size_t i
    return [_scrub(reply.scrubs[i]) for i in range(reply.scrubs.size())]


cdef dict _counter(const native.CounterReport& report):
    cdef size_t i
    counters = {_text(report.counters[i].first): report.counters[i].second
                for i in range(report.counters.size())}
    for i in range(report.histograms.size()):
        counters[_text(report.histograms[i].name)] = list(report.histograms[i].buckets)
    return counters


cdef object _counters(native.Reply* reply):
    cdef size_t i
    stats = {"stores": {}, "volumes": {}, "nbd": {}, "reactor": {}}
    for i in range(reply.counters.size()):
        counters = _counter(reply.counters[i])
        if reply.counters[i].subject == native.subject_store:
            stats["stores"][_id(reply.counters[i].id)] = counters
        elif reply.counters[i].subject == native.subject_volume:
            stats["volumes"][_id(reply.counters[i].id)] = counters
        elif reply.counters[i].subject == native.subject_nbd:
            stats["nbd"] = counters
        else:
            stats["reactor"] = counters
    return stats


cdef object _event(native.Event* event):
    cdef int code
    if event.kind == native.in_sync_change_wanted:
        return InSyncChangeWanted(
            volume_id=_id(event.volume),
            segment=event.segment,
            generation=event.generation,
            in_sync=_ids(event.in_sync),
            reason=_text(event.text),
        )
    if event.kind == native.state_changed:
        code = error_number(event.error)
        return VolumeStateChanged(
            volume_id=_id(event.volume),
            state=native.state_name(event.state).decode("ascii"),
            error="Ok" if code == 0 else make_error(code).name,
        )
    return Notice(
        volume_id=_id(event.volume),
        segment=event.segment,
        host_id=_id(event.host),
        kind=_text(event.text),
        value=event.value,
    )
