/* The quorums (Q1 to Q3), as segment_member.cc has them. `e` is an epoch from 1 on. */

#define ENG eng[(e) - 1]
#define WIRE wire[((e) - 1) * N + (m)]
#define COUNT(x) (((x) & 1) + (((x) >> 1) & 1) + (((x) >> 2) & 1) + (((x) >> 3) & 1))

#define ALL_BUT_ONE(n) ((n) >= 3 -> (n) - 1 : (n))
#define W(n) (ALL_BUT_ONE(n) > MIN -> ALL_BUT_ONE(n) : MIN)
#define COUNTED(mask, set) (COUNT((mask) & (set)) >= W(COUNT(set)))

#define BOTH(mask) \
  (COUNTED(mask, ENG.agreed) && (ENG.asked == 0 || ONE_SET_BINDS || COUNTED(mask, ENG.asked)))
#define QUORUM(mask) \
  (ACK_READY -> ENG.ready != 0 && COUNTED((mask) & ENG.ready, ENG.ready) : BOTH((mask) & ENG.ready))

#define GROWS (ENG.asked == 0 && (ENG.ready & ~ENG.agreed) != 0)
#define ANSWERABLE(mask) (QUORUM(mask) && (!GROWS || COUNTED((mask) & ENG.ready, ENG.ready)))

#define W_WITHIN(n) (W(n) < (n) -> W(n) : (n))
#define MEETS(mask, set) (COUNT((mask) & (set)) + W_WITHIN(COUNT(set)) > COUNT(set))
#define MEETS_EVERY_QUORUM(mask) \
  (SHORT_BASE || (MEETS(mask, ENG.agreed) && (ENG.asked == 0 || MEETS(mask, ENG.asked))))

#define SERVING (ENG.serves && QUORUM(ENG.lease & ENG.ready))
#define LIVE (ENG.base | ENG.opened | ENG.syncing | ENG.ready)

/* Member x has every mutation in flight. */
#if SLOTS == 1
#define QUIET(x) (ENG.slot[0].version == 0 || (ENG.slot[0].acked & BIT(x)))
#define MISSES (ENG.slot[0].version != 0)
#else
#define QUIET(x) ((ENG.slot[0].version == 0 || (ENG.slot[0].acked & BIT(x))) && \
                  (ENG.slot[1].version == 0 || (ENG.slot[1].acked & BIT(x))))
#define MISSES (ENG.slot[0].version != 0 || ENG.slot[1].version != 0)
#endif

/* Ready, and not told the mark. */
#define BEHIND(x) ((ENG.ready & BIT(x)) && mem[x].writer == e && mem[x].stable < ENG.stable)
#if N == 2
#define ANY_BEHIND (BEHIND(0) || BEHIND(1))
#elif N == 3
#define ANY_BEHIND (BEHIND(0) || BEHIND(1) || BEHIND(2))
#else
#define ANY_BEHIND (BEHIND(0) || BEHIND(1) || BEHIND(2) || BEHIND(3))
#endif

/* may_ask_for(ready): Q3. */
#define HELD(s) (!ENG.slot[s].answered || COUNTED(ENG.slot[s].acked & ENG.ready, ENG.ready))
#define DURABLE(x) (ENG.durable[x] >= ENG.flushed -> ENG.ready & BIT(x) : 0)
#if SLOTS == 1
#define ALL_HELD HELD(0)
#else
#define ALL_HELD (HELD(0) && HELD(1))
#endif
#if N == 2
#define ALL_DURABLE (DURABLE(0) | DURABLE(1))
#elif N == 3
#define ALL_DURABLE (DURABLE(0) | DURABLE(1) | DURABLE(2))
#else
#define ALL_DURABLE (DURABLE(0) | DURABLE(1) | DURABLE(2) | DURABLE(3))
#endif
#define HAS_MARK(x) (!(ENG.ready & BIT(x)) || VERSION(e, ENG.durable[x]) >= ENG.stable)
#if N == 2
#define ALL_HAVE_MARK (HAS_MARK(0) && HAS_MARK(1))
#elif N == 3
#define ALL_HAVE_MARK (HAS_MARK(0) && HAS_MARK(1) && HAS_MARK(2))
#else
#define ALL_HAVE_MARK (HAS_MARK(0) && HAS_MARK(1) && HAS_MARK(2) && HAS_MARK(3))
#endif
#define MAY_ASK (ASK_UNHELD || (ALL_HELD && COUNTED(ALL_DURABLE, ENG.ready) && \
                                (ASK_UNMARKED || ALL_HAVE_MARK)))

/* Ready, and has not flushed everything. */
#define UNFLUSHED(x) ((ENG.ready & BIT(x)) && ENG.durable[x] < ENG.seq)
#if N == 2
#define ANY_UNFLUSHED (UNFLUSHED(0) || UNFLUSHED(1))
#elif N == 3
#define ANY_UNFLUSHED (UNFLUSHED(0) || UNFLUSHED(1) || UNFLUSHED(2))
#else
#define ANY_UNFLUSHED (UNFLUSHED(0) || UNFLUSHED(1) || UNFLUSHED(2) || UNFLUSHED(3))
#endif
