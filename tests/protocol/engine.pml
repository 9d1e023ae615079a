/* The engine: what segment*.cc does. Inline parts run inside one step; `e` and `m` are the caller's. */

/* evaluate(): tells clients, lets go of what everybody has. */
inline evaluate() {
  for (i : 0 .. SLOTS - 1) {
    if
    :: ENG.slot[i].version != 0 && !ENG.slot[i].answered && ANSWERABLE(ENG.slot[i].acked) ->
       ENG.slot[i].answered = true;
       printf("engine %d: write %d of cell %d is acknowledged\n", e, ENG.slot[i].version,
              ENG.slot[i].cell);
       assert(ENG.slot[i].excused || ENG.slot[i].version > ENG.slot[i].floor);
       if
       :: !ENG.slot[i].excused ->
          told[ENG.slot[i].cell] = MAX(told[ENG.slot[i].cell], ENG.slot[i].version)
       :: else
       fi
    :: else
    fi;
    if
    :: ENG.slot[i].answered && ENG.slot[i].sent == 0 -> clear_slot()
    :: else
    fi
  }
  evaluate_flush()
}

inline clear_slot() {
  ENG.slot[i].version = 0; ENG.slot[i].cell = 0; ENG.slot[i].floor = 0;
  ENG.slot[i].sent = 0; ENG.slot[i].applied = 0; ENG.slot[i].acked = 0;
  ENG.slot[i].answered = false; ENG.slot[i].excused = false
}

#define FLUSH_DONE (FLUSH_ONE -> ENG.flush_acked != 0 : ANSWERABLE(ENG.flush_acked))

inline evaluate_flush() {
  if
  :: ENG.flushing && !ENG.flush_answered && FLUSH_DONE ->
     printf("engine %d: a flush is answered\n", e);
     ENG.flush_answered = true;
     ENG.flushed = MAX(ENG.flushed, ENG.flush_seq);
     for (i : 0 .. CELLS - 1) {
       kept[i] = MAX(kept[i], ENG.flush_floor[i]);
       told[i] = MAX(told[i], kept[i]);
       ENG.flush_floor[i] = 0
     }
  :: else
  fi;
  if
  :: ENG.flush_answered && ENG.flush_sent == 0 ->
     ENG.flushing = false; ENG.flush_answered = false;
     ENG.flush_seq = 0; ENG.flush_acked = 0
  :: else
  fi
}

#define BINDS(x) ((STABLE_AT_QUORUM -> ENG.ready : ENG.agreed | ENG.asked | (ASK_UNMARKED -> 0 : ENG.ready)) & BIT(x))

inline advance_stable() {
  if
  :: ENG.serves ->
     j = ENG.seq;
     for (i : 0 .. N - 1) {
       if :: BINDS(i) && ENG.durable[i] < j -> j = ENG.durable[i] :: else fi
     }
     ENG.stable = MAX(ENG.stable, VERSION(e, j))
  :: else
  fi
}

#define MAY_SERVE \
  (ENG.ready != 0 && (SERVE_WITHOUT_ALL || (ENG.agreed != 0 && (ENG.agreed & ~ENG.ready) == 0)))

inline maybe_serve() {
  if
  :: !ENG.serves && ENG.phase == formed && MAY_SERVE ->
     printf("engine %d: serves\n", e);
     ENG.serves = true;
     advance_stable()
  :: else
  fi
}

/* x holds everything: it came with a copy, or is on its way. */
inline become_ready(x) {
  ENG.ready = ENG.ready | BIT(x);
  ENG.durable[x] = ENG.seq;
  for (i : 0 .. SLOTS - 1) {
    if
    :: ENG.slot[i].version != 0 && !(ENG.slot[i].sent & BIT(x)) ->
       ENG.slot[i].acked = ENG.slot[i].acked | BIT(x)
    :: ENG.slot[i].version != 0 && (ENG.slot[i].sent & BIT(x)) ->
       ENG.durable[x] = (ENG.durable[x] < ENG.slot[i].version - VERSION(e, 1) ->
                         ENG.durable[x] : ENG.slot[i].version - VERSION(e, 1))
    :: else
    fi
  }
  if :: mem[x].fence == e -> ENG.lease = ENG.lease | BIT(x) :: else fi;
  if
  :: ENG.flushing && !ENG.flush_answered && !(ENG.flush_sent & BIT(x)) ->
     ENG.flush_sent = ENG.flush_sent | BIT(x);
     if
     :: mem[x].writer == e -> wire[(e - 1) * N + x]!flush,ENG.flush_seq,0,0
     :: else
     fi
  :: else
  fi
}

inline form() {
  printf("engine %d: formed by members %d\n", e, ENG.base);
  ENG.phase = formed;
  ENG.stable = MAX(ENG.stable, ENG.base_stable);
  ENG.base_stable = 0;
  j = ENG.base;
  ENG.base = 0;
  ENG.synced = 0;
  source = 0;
  do
  :: source < N ->
     if :: j & BIT(source) -> become_ready(source) :: else fi;
     source++
  :: else -> break
  od;
  maybe_serve();
  evaluate()
}

/* member_failed(): its session is over; what it still answers counts no more. */
inline fail() {
  ENG.opened = ENG.opened & ~BIT(m); ENG.syncing = ENG.syncing & ~BIT(m);
  ENG.ready = ENG.ready & ~BIT(m); ENG.lease = ENG.lease & ~BIT(m);
  ENG.flush_sent = ENG.flush_sent & ~BIT(m);
  for (i : 0 .. SLOTS - 1) {
    ENG.slot[i].sent = ENG.slot[i].sent & ~BIT(m);
    ENG.slot[i].applied = ENG.slot[i].applied & ~BIT(m)
  }
  if
  :: ENG.base & BIT(m) -> ENG.phase = gather; ENG.base = 0; ENG.synced = 0; ENG.base_stable = 0
  :: else
  fi;
  if
  :: ENG.phase == formed && ENG.ready == 0 -> reopen()
  :: else
  fi;
  evaluate();
  forget_read()
}

/* No member is left that holds everything (O4). */
inline reopen() {
  printf("engine %d: opens again\n", e);
  ENG.phase = gather;
  ENG.serves = false;
  ENG.opened = 0; ENG.syncing = 0; ENG.lease = 0; ENG.flush_sent = 0;
  for (i : 0 .. SLOTS - 1) {
    ENG.slot[i].sent = 0; ENG.slot[i].applied = 0;
    if
    :: ENG.slot[i].version != 0 && !ENG.slot[i].answered -> ENG.writes++; clear_slot()
    :: else
    fi
  };
  skip
}

#define BETTER(x) \
  (ANY_COPY -> source == N : mem[x].version > ENG.base_stable && mem[x].version > highest)

/* The base is heard: of the chunk the highest version above the highest mark is the truth (O2). */
inline list_base() {
  ENG.base = ENG.opened;
  ENG.opened = 0;
  ENG.base_stable = 0;
  highest = 0;
  source = N;
  for (i : 0 .. N - 1) {
    if
    :: ENG.base & BIT(i) -> ENG.base_stable = MAX(ENG.base_stable, mem[i].stable)
    :: else
    fi
  }
  for (i : 0 .. N - 1) {
    if
    :: (ENG.base & BIT(i)) && BETTER(i) ->
       highest = mem[i].version;
       source = i
    :: else
    fi
  }
  excuse_losses();
  if
  :: source == N -> form()
  :: else -> reconcile_base()
  fi
}

inline reconcile_base() {
  printf("engine %d: of base %d version %d of member %d is the truth\n", e, ENG.base, highest, source);
  ENG.phase = reconcile;
  for (i : 0 .. N - 1) {
    if
    :: (ENG.base & BIT(i)) && mem[i].version != highest ->
       wire[(e - 1) * N + i]!copy,highest,mem[source].cell[0],mem[source].cell[1]
    :: (ENG.base & BIT(i)) && mem[i].version == highest -> wire[(e - 1) * N + i]!keep,0,0,0
    :: else
    fi
  };
  skip
}

/* An acknowledged write that no flush covers is promised as long as the members that an opening does
   not hear, and those that lost power since, are fewer than a write quorum together. */
#define AWAY ((ENG.agreed | ENG.asked) & ((LITERAL -> 0 : ~ENG.base) | unpowered))

inline excuse_losses() {
  if
  :: unpowered != 0 && (COUNTED(AWAY, ENG.agreed) || (ENG.asked != 0 && COUNTED(AWAY, ENG.asked))) ->
     for (i : 0 .. CELLS - 1) { told[i] = kept[i] }
     for (j : 0 .. E - 1) {
       for (i : 0 .. SLOTS - 1) {
         eng[j].slot[i].excused = (eng[j].slot[i].version != 0)
       }
     }
  :: else
  fi
}

/* receivers() and send_part(). */
#define RECEIVERS (ENG.ready | ENG.syncing | (SEND_TO_PENDING -> ENG.opened : 0))

inline sequence(c) {
  ENG.seq++;
  ENG.writes--;
  printf("engine %d: write %d of cell %d goes to members %d\n", e, VERSION(e, ENG.seq), c, RECEIVERS);
  i = 0;
  do
  :: ENG.slot[i].version != 0 -> i++
  :: else -> break
  od;
  ENG.slot[i].version = VERSION(e, ENG.seq);
  ENG.slot[i].cell = c;
  ENG.slot[i].floor = told[c];
  ENG.slot[i].sent = RECEIVERS;
  for (j : 0 .. N - 1) {
    if
    :: (RECEIVERS & BIT(j)) && mem[j].writer == e ->
       wire[(e - 1) * N + j]!write,ENG.slot[i].version,c,0
    :: else
    fi
  };
  skip
}

inline submit_flush() {
  ENG.flushing = true;
  ENG.flush_seq = ENG.seq;
  ENG.flush_sent = ENG.ready;
  for (i : 0 .. CELLS - 1) { ENG.flush_floor[i] = told[i] }
  for (j : 0 .. N - 1) {
    if
    :: (ENG.ready & BIT(j)) && mem[j].writer == e -> wire[(e - 1) * N + j]!flush,ENG.seq,0,0
    :: else
    fi
  };
  skip
}

inline announce_stable() {
  for (i : 0 .. N - 1) {
    if :: BEHIND(i) -> mem[i].stable = ENG.stable :: else fi
  };
  skip
}

inline answer_write(x) {
  ENG.slot[x].applied = ENG.slot[x].applied & ~BIT(m);
  ENG.slot[x].sent = ENG.slot[x].sent & ~BIT(m);
  ENG.slot[x].acked = ENG.slot[x].acked | BIT(m);
  evaluate();
  retire_engines()
}

/* The joiner and a source are compared; what differs, or may have missed something, is copied once
   the source has every mutation (J2, J3). */
#define CLEAN(x) (mem[m].version == mem[x].version && (NOT_MISSED || !MISSES))
#define MAY_JOIN (ENG.phase == formed && (ENG.opened & BIT(m)) && mem[m].writer == e && \
                  CAN_JOIN(SOURCE) && (CLEAN(SOURCE) || QUIET(SOURCE) || JOIN_EARLY))

inline start_join(x) {
  ENG.opened = ENG.opened & ~BIT(m);
  ENG.syncing = ENG.syncing | BIT(m);
  if
  :: JOIN_EARLY ->
     ENG.syncing = ENG.syncing & ~BIT(m);
     become_ready(m); maybe_serve(); evaluate()
  :: !JOIN_EARLY && CLEAN(x) -> WIRE!keep,0,0,0
  :: else -> WIRE!copy,mem[x].version,mem[x].cell[0],mem[x].cell[1]
  fi
}
