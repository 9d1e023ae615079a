/* Rules that can be taken out of the protocol, one at a time: spin must find what breaks. Each line is
   a rule of docs/REPLICATION.md, and what is done instead. `mutant` is set by scripts/model.py. */

byte mutant;

#define ACK_READY          (mutant == 1)  /* Q1: quorums are those of the members that are left */
#define ONE_SET_BINDS      (mutant == 2)  /* Q2: the set that is asked for binds nobody yet */
#define ASK_UNHELD         (mutant == 3)  /* Q3: a set is asked for whatever its members hold */
#define FLUSH_ONE          (mutant == 4)  /* Q1: a flush is answered by its first member */
#define READ_ANY           (mutant == 5)  /* R1, R2: reads look at no mutation in flight */
#define READ_UNLEASED      (mutant == 6)  /* R3: an answer is given after the leases are over */
#define NO_FENCE           (mutant == 7)  /* F1, F3: members take mutations of older openings */
#define NO_PROMISE         (mutant == 8)  /* F1: a fence is gone with its process */
#define NO_LEASE_WAIT      (mutant == 9)  /* F2: OPEN is answered while an older lease lives */
#define SHORT_BASE         (mutant == 10) /* O1: the first member that answers is base enough */
#define ANY_COPY           (mutant == 11) /* O2: the first copy is the truth, not the newest */
#define NO_BASE_FLUSH      (mutant == 12) /* O2: what was reconciled is not flushed */
#define SERVE_WITHOUT_ALL  (mutant == 13) /* O3: an agreed member that is away is not waited for */
#define STABLE_AT_QUORUM   (mutant == 14) /* stable mark: the members that are ready have flushed */
#define SEND_TO_PENDING    (mutant == 15) /* J2: a joiner gets mutations of what it does not have */
#define NOT_MISSED         (mutant == 16) /* J1: what is in flight when a join begins is not missed */
#define JOIN_EARLY         (mutant == 17) /* J4: a joiner is ready before it has everything */
#define NO_GENERATION      (mutant == 18) /* the record's generation is not compared */
#define NO_EPOCH_AT_RECORD (mutant == 19) /* a replaced engine may change the in-sync set */
#define ASK_UNMARKED       (mutant == 20) /* Q3: the mark does not wait for a ready member, nor the ask for the mark */
#define LITERAL            (mutant == 21) /* what is lost with power: by counting losses alone */
