/* blockd's replication protocol (docs/REPLICATION.md) for one chunk of one segment, to be checked with
   spin: scripts/model.py builds and runs it. What it holds and what it leaves out: there, "The model".

   Each step of a process is atomic. Engines that stand still need no step of their own: another engine
   may attach at any time, and what the old one does afterwards it may do at any time, or never. So a
   crash of an engine is one of its lives. */

#include "mutants.pml"
#include "state.pml"
#include "quorum.pml"
#include "reads.pml"
#include "engine.pml"
#include "member.pml"
#include "checks.pml"

/* The record changes for the engine of its epoch, and from the generation that this one knows. */
#define CURRENT (NO_EPOCH_AT_RECORD || m_epoch == e)

/* What an engine that was replaced finds out only takes from what it may do. */
#ifdef OLD_ENGINES_LEARN
#define HEARS_NEWS true
#else
#define HEARS_NEWS (m_epoch == e)
#endif
#define NOTICES (NO_EPOCH_AT_RECORD || mem[m].fence <= e)

#define BASE_HEARD (ENG.opened != 0 && MEETS_EVERY_QUORUM(ENG.opened))
#define ALL_WAITED_FOR (((ENG.agreed | ENG.asked) & ~(ENG.opened | dead)) == 0)
#define OPENED_OK(x) (!(ENG.opened & BIT(x)) || mem[x].writer == e)
#if N == 2
#define ALL_OPENED_OK (OPENED_OK(0) && OPENED_OK(1))
#elif N == 3
#define ALL_OPENED_OK (OPENED_OK(0) && OPENED_OK(1) && OPENED_OK(2))
#else
#define ALL_OPENED_OK (OPENED_OK(0) && OPENED_OK(1) && OPENED_OK(2) && OPENED_OK(3))
#endif

#if SLOTS == 1
#define A_SLOT (ENG.slot[0].version == 0)
#else
#define A_SLOT (ENG.slot[0].version == 0 || ENG.slot[1].version == 0)
#endif
#define MAY_WRITE (SERVING && ENG.writes > 0 && ENG.seq < SEQS - 1 && A_SLOT)

#define MAY_WANT (ENG.phase == formed && ENG.asked == 0 && ENG.ready != ENG.agreed && \
                  ENG.ready != 0 && COUNT(ENG.ready) >= MIN)

proctype engine(byte e) {
end:
  do
  /* attach: the record's next epoch, and the set as it is then */
  :: d_step { ENG.phase == none && m_epoch == e - 1 ->
       printf("engine %d: attaches, in sync are %d\n", e, m_set);
       m_epoch = e; m_known = m_known | BIT(e);
       ENG.phase = gather; ENG.agreed = m_set; ENG.writes = WRITES }
  :: d_step { ENG.phase == gather && BASE_HEARD && ALL_OPENED_OK && (ALL_WAITED_FOR || links > 0) ->
       if :: !ALL_WAITED_FOR -> links-- :: else fi;
       list_base() }
  :: d_step { MAY_WRITE -> sequence(0) }
  :: d_step { MAY_WRITE && ENG.seq > 0 -> sequence(1) }
  :: d_step { ENG.phase == formed && !ENG.flushing && ENG.ready != 0 && ANY_UNFLUSHED ->
       submit_flush() }
  /* the mark; it rides on messages */
  :: d_step { ENG.phase == formed && ANY_BEHIND -> announce_stable() }
  /* maybe_ask() */
  :: d_step { MAY_WANT && MAY_ASK ->
       printf("engine %d: asks for %d instead of %d\n", e, ENG.ready, ENG.agreed);
       ENG.asked = ENG.ready;
       evaluate() }
  /* the metadata service hears it: compare and set */
  :: d_step { ENG.asked != 0 && (m_known & BIT(e)) && CURRENT ->
       printf("metadata: in sync are %d instead of %d, engine %d asked\n", ENG.asked, m_set, e);
       m_set = ENG.asked; m_known = 0 }
  :: d_step { NO_GENERATION && late_ask[e - 1] != 0 && CURRENT && late_ask[e - 1] != m_set ->
       printf("metadata: in sync are %d, engine %d asked long ago\n", late_ask[e - 1], e);
       m_set = late_ask[e - 1]; m_known = 0 }
  /* configure() */
  :: d_step { ENG.phase != none && !(m_known & BIT(e)) && HEARS_NEWS ->
       printf("engine %d: learns that in sync are %d\n", e, m_set);
       if :: NO_GENERATION -> late_ask[e - 1] = ENG.asked :: else fi;
       m_known = m_known | BIT(e);
       ENG.agreed = m_set; ENG.asked = 0;
       maybe_serve(); evaluate(); advance_stable() }
  READ_DONE
  od
}

#if E == 2
#define LEASED_TO_OLDER (e == 2 && (eng[0].lease & BIT(m)))
#else
#define LEASED_TO_OLDER ((e > 1 && (eng[0].lease & BIT(m))) || (e > 2 && (eng[1].lease & BIT(m))))
#endif
#define DEAD(x) (dead & BIT(x))
#define WANTED ((ENG.phase == formed || (ENG.phase == gather && ((ENG.agreed | ENG.asked) & BIT(m)))) \
                && !(LIVE & BIT(m)) && !DEAD(m))
#if N == 2
#define SOURCE (CAN_JOIN(0) -> 0 : 1)
#elif N == 3
#define SOURCE (CAN_JOIN(0) -> 0 : (CAN_JOIN(1) -> 1 : 2))
#else
#define SOURCE (CAN_JOIN(0) -> 0 : (CAN_JOIN(1) -> 1 : (CAN_JOIN(2) -> 2 : 3)))
#endif
#define CAN_JOIN(x) ((ENG.ready & BIT(x)) && mem[x].writer == e)
/* An engine and a member: openings, joins, what goes over the link in both directions. */
proctype link(byte e; byte m) {
end:
  do
  :: d_step { WANTED && mem[m].fence < e && LEASED_TO_OLDER -> open_arrives() }
  :: d_step { WANTED && (mem[m].fence == e || (mem[m].fence < e && !LEASED_TO_OLDER)) -> open_answered() }
  :: d_step { MAY_JOIN -> start_join(SOURCE) }
  /* the stream */
  :: d_step { HEARD && WIRE?[write,_,_,_] -> take_write(power == 0) }
  :: d_step { power > 0 && HEARD && WIRE?[write,_,_,_] -> take_write(true) }
  :: d_step { HEARD && (WIRE?[copy,_,_,_] || WIRE?[keep,_,_,_]) ->
       take_copy(power == 0 || !NO_BASE_FLUSH) }
  :: d_step { HEARD && WIRE?[flush,_,_,_] -> take_flush() }
  /* answers */
  :: d_step { ENG.slot[0].applied & BIT(m) -> answer_write(0) }
#if SLOTS > 1
  :: d_step { ENG.slot[1].applied & BIT(m) -> answer_write(1) }
#endif
  /* its session is over there, and the engine finds out; or a link breaks, the member is slow: what
     was sent may still come */
  :: d_step { (LIVE & BIT(m)) && (mem[m].writer == e -> links > 0 : NOTICES) ->
       printf("engine %d: gives member %d up\n", e, m);
       if :: mem[m].writer == e -> links-- :: else fi;
       fail() }
  READ_STEPS
  od
}

/* Faults of hosts. */
proctype fault(byte m) {
end:
  do
  :: d_step { crashes > 0 && mem[m].writer != 0 ->
       printf("member %d: its process crashes\n", m); crashes--; stop_process(m) }
  :: d_step { power > 0 && !DEAD(m) -> 
       printf("member %d: its host loses power\n", m); power--; lose_power(m);
       if :: power == 0 -> settle_all() :: else fi }
  :: d_step { kills > 0 && !DEAD(m) ->
       printf("member %d: is gone for good\n", m); kills--; dead = dead | BIT(m); stop_process(m) }
  od
}

c_code {
  static int setting(const char *name) {
    const char *value = getenv(name);
    return value ? atoi(value) : 0;
  }
}

/* Engine 1 serves. */
init {
  d_step {
    c_code {
      now.mutant = setting("MUTANT"); now.links = setting("LINKS"); now.kills = setting("KILLS");
      now.crashes = setting("CRASHES"); now.power = setting("POWER");
    };
    for (i : 0 .. N - 1) {
      if
      :: FIRST & BIT(i) -> mem[i].fence = 1; mem[i].promised = 1; mem[i].writer = 1
      :: else
      fi
    }
    for (i : 0 .. E - 1) { eng[i].phase = none }
    m_known = BIT(1);
    eng[0].phase = formed; eng[0].agreed = FIRST; eng[0].ready = FIRST; eng[0].lease = FIRST;
    eng[0].serves = true; eng[0].writes = WRITES; eng[0].stable = VERSION(1, 0)
  }
  atomic {
    byte a, b;
    for (a : 1 .. E) {
      run engine(a);
      for (b : 0 .. N - 1) { run link(a, b) }
    }
    for (b : 0 .. N - 1) { run fault(b) }
    run checks()
  }
}
