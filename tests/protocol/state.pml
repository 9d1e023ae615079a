/* What there is: members, engines, the metadata service's record, messages on their way; bounds. */

#ifndef N
#define N 3                  /* members that are configured */
#endif
#ifndef FIRST
#define FIRST ((1 << N) - 1) /* the in-sync set at the beginning */
#endif
#ifndef MIN
#define MIN 1                /* min_in_sync */
#endif
#ifndef E
#define E 2                  /* engines, one an epoch; the first one serves at the beginning */
#endif
#ifndef WRITES
#define WRITES 1             /* of each engine */
#endif
#ifndef SLOTS
#define SLOTS 1              /* mutations in flight at a time, of each engine */
#endif

#define CELLS 2              /* blocks of the one chunk: a mutation writes one of them */
#define SEQS 4
#define ROOM (SLOTS + 2)

#define BIT(m) (1 << (m))
#define ALL ((1 << N) - 1)
#define VERSION(e, seq) ((e) * SEQS + (seq))
#define MAX(a, b) ((a) > (b) -> (a) : (b))

/* A replica. d...: what a loss of power leaves of it. */
typedef Member {
  byte fence;     /* lower epochs get nothing any more; gone with the process (F1) */
  byte promised;  /* durable */
  byte writer;    /* the engine whose opening is the newest; 0: none */
  byte stable;
  byte version;
  byte cell[CELLS];
  byte dversion;
  byte dcell[CELLS];
}

/* A mutation in flight. Its content is its version. */
typedef Slot {
  byte version;   /* 0: free */
  byte cell;
  byte floor;     /* what a client had been told of the cell when this one began */
  byte sent;      /* outstanding, in a session that lives */
  byte applied;   /* the answer is on its way */
  byte acked;
  bool answered;  /* to the client */
  bool excused;   /* more was lost than the promise covers */
}

mtype:phase = { none, gather, reconcile, formed };
mtype:what = { write, copy, keep, flush };

typedef Engine {
  mtype:phase phase;
  byte agreed;
  byte asked;
  byte opened;     /* has answered OPEN; once formed: all of it is pending (J1) */
  byte base;
  byte synced;     /* of the base: reconciled and flushed */
  byte syncing;    /* the copy, or the flush, is on its way: gets mutations */
  byte ready;
  byte lease;      /* members whose grant the engine counts */
  bool serves;     /* serve_started_ */
  byte seq;
  byte writes;     /* that its clients will still send */
  byte stable;
  byte base_stable;
  byte durable[N]; /* seq up to which the member has flushed */
  byte flushed;    /* seq that a flush was answered for */
  bool flushing;
  bool flush_answered;
  byte flush_seq;
  byte flush_sent;       /* outstanding, in a session that lives */
  byte flush_acked;
  byte flush_floor[CELLS];
  Slot slot[SLOTS];
}

Member mem[N];
Engine eng[E];

/* The metadata service: the record, and who knows its generation as it is. */
byte m_epoch = 1;
byte m_set = FIRST;
byte m_known = 1;
byte late_ask[E];  /* only where the generation is not compared */

/* The stream of an engine's newest session with a member, in order. write: version, cell. copy, keep:
   what a member gets to be like the others, and flushes; keep has nothing to replace. */
chan wire[E * N] = [ROOM] of { mtype:what, byte, byte, byte };

/* Ghosts: what clients were told or shown of a cell, and what of it a flush was answered for. Versions
   are in the order of the writes. */
byte told[CELLS];
byte kept[CELLS];
byte unpowered;   /* members that lost power and were not brought to the common state since */

/* Faults that may still come. scripts/model.py sets them. */
byte links;    /* times that an engine gives a member up, or waits no longer for one, that is well */
byte crashes;  /* of a member's process */
byte power;    /* losses of power of a member's host */
byte kills;    /* members that go and never come back */
byte dead;

hidden byte i, j, highest, source;
hidden byte yes;
