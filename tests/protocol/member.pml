/* The member: what cext/peer does with openings and with what comes on a stream. */

inline drop_streams(x) {
  for (i : 0 .. E - 1) {
    do
    :: len(wire[i * N + x]) > 0 -> wire[i * N + x]?_,_,_,_
    :: else -> break
    od
  };
  skip
}

/* An opening ends the one before it; what is on its way of that one is refused when it comes (F3). */
inline detach(x) {
  mem[x].writer = 0;
  if
  :: !NO_FENCE -> drop_streams(x)
  :: else
  fi
}

/* An engine that nobody listens to any more, to which no answer is on its way: what it remembers makes
   no difference. So it is forgotten, for the number of states. */
#define WILL_TELL(x, s) (eng[x].slot[s].version != 0 && !eng[x].slot[s].answered && \
  (eng[x].slot[s].applied != 0 || COUNT(eng[x].slot[s].acked) > 1))
#if SLOTS == 1
#define WILL_TELL_ANY(x) WILL_TELL(x, 0)
#else
#define WILL_TELL_ANY(x) (WILL_TELL(x, 0) || WILL_TELL(x, 1))
#endif

#define IS_OVER(x) \
  (eng[x - 1].phase != none && m_epoch > x && eng[x - 1].lease == 0 && !WILL_TELL_ANY(x - 1) && \
   !NO_FENCE && !NO_EPOCH_AT_RECORD)

inline retire_engines() {
  for (j : 1 .. E - 1) {
    if
    :: IS_OVER(j) ->
       yes = true;
       for (i : 0 .. N - 1) {
         if :: mem[i].fence <= j && !(dead & BIT(i)) -> yes = false :: else fi
       };
       if :: yes -> forget_engine(j - 1) :: else fi
    :: else
    fi
  };
  skip
}

inline forget_engine(x) {
  eng[x].phase = none;
  eng[x].agreed = 0; eng[x].asked = 0;
  eng[x].opened = 0; eng[x].base = 0; eng[x].synced = 0; eng[x].syncing = 0; eng[x].ready = 0;
  eng[x].serves = false; eng[x].seq = 0; eng[x].writes = 0; eng[x].stable = 0;
  eng[x].base_stable = 0; eng[x].flushed = 0; eng[x].flushing = false;
  eng[x].flush_answered = false; eng[x].flush_seq = 0; eng[x].flush_sent = 0;
  eng[x].flush_acked = 0;
  for (i : 0 .. N - 1) { eng[x].durable[i] = 0 };
  for (i : 0 .. CELLS - 1) { eng[x].flush_floor[i] = 0 };
  for (i : 0 .. SLOTS - 1) {
    eng[x].slot[i].version = 0; eng[x].slot[i].cell = 0; eng[x].slot[i].floor = 0;
    eng[x].slot[i].sent = 0; eng[x].slot[i].applied = 0; eng[x].slot[i].acked = 0;
    eng[x].slot[i].answered = false; eng[x].slot[i].excused = false
  };
  m_known = m_known & ~BIT(x + 1);
  forget_read_of(x)
}

/* OPEN has come (F1). */
inline open_arrives() {
  mem[m].fence = e;
  detach(m)
}

/* It is answered, once the leases of lower epochs are over (F2): they are from here on. */
inline open_answered() {
  mem[m].fence = e;
  printf("engine %d: member %d is opened\n", e, m);
  detach(m);
  if :: !NO_PROMISE -> mem[m].promised = e :: else fi;
  mem[m].writer = e;
  for (j : 0 .. E - 1) {
    if :: j < e - 1 && !NO_LEASE_WAIT -> eng[j].lease = eng[j].lease & ~BIT(m) :: else fi
  }
  ENG.opened = ENG.opened | BIT(m);
  retire_engines()
}

/* Of what was not flushed a loss of power keeps a prefix: at each mutation it is drawn whether what
   there is by then will stay. When no power will be lost any more, it does not matter. */
inline settle(x) {
  mem[x].dversion = mem[x].version;
  for (i : 0 .. CELLS - 1) { mem[x].dcell[i] = mem[x].cell[i] };
  skip
}

inline settle_all() {
  for (j : 0 .. N - 1) { settle(j) };
  skip
}

inline stop_process(x) {
  mem[x].fence = mem[x].promised;
  mem[x].writer = 0;
  drop_streams(x)
}

inline lose_power(x) {
  mem[x].version = mem[x].dversion;
  for (i : 0 .. CELLS - 1) { mem[x].cell[i] = mem[x].dcell[i] }
  unpowered = unpowered | BIT(x);
  stop_process(x)
}

#define HEARD (NO_FENCE || mem[m].writer == e)

inline take_write(stays) {
  WIRE?_,highest,source,_;
  printf("member %d: has write %d of engine %d\n", m, highest, e);
  mem[m].version = highest;
  mem[m].cell[source] = highest;
  if :: stays -> settle(m) :: else fi;
  for (i : 0 .. SLOTS - 1) {
    if
    :: ENG.slot[i].version == highest && (ENG.slot[i].sent & BIT(m)) ->
       ENG.slot[i].applied = ENG.slot[i].applied | BIT(m)
    :: else
    fi
  };
  skip
}

/* The member is like the others, durably, and says so. */
inline take_copy(stays) {
  if
  :: WIRE?[copy,_,_,_] ->
     WIRE?_,mem[m].version,mem[m].cell[0],mem[m].cell[1];
     printf("member %d: has a copy of version %d from engine %d\n", m, mem[m].version, e)
  :: else -> WIRE?_,_,_,_
  fi;
  if :: stays -> settle(m) :: else fi;
  unpowered = unpowered & ~BIT(m);
  if
  :: ENG.base & BIT(m) ->
     ENG.synced = ENG.synced | BIT(m);
     if :: ENG.synced == ENG.base -> form() :: else fi
  :: ENG.syncing & BIT(m) ->
     printf("engine %d: member %d is ready\n", e, m);
     ENG.syncing = ENG.syncing & ~BIT(m);
     become_ready(m);
     maybe_serve();
     evaluate();
     advance_stable()
  :: else
  fi
}

inline take_flush() {
  WIRE?_,_,_,_;
  printf("member %d: has flushed for engine %d\n", m, e);
  settle(m);
  if
  :: ENG.flush_sent & BIT(m) ->
     ENG.flush_sent = ENG.flush_sent & ~BIT(m);
     ENG.flush_acked = ENG.flush_acked | BIT(m);
     ENG.durable[m] = MAX(ENG.durable[m], ENG.flush_seq);
     advance_stable();
     evaluate()
  :: else
  fi
}
