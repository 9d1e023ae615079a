/* Reads (R1 to R3): one at a time of each engine, in three steps. Without READS a read is one step, of a
   member that may be read, while nothing that it would see is unsettled. */

#define SETTLED(s, x, c) (READ_ANY || ENG.slot[s].version == 0 || ENG.slot[s].cell != (c) || \
                          (ENG.slot[s].answered && (ENG.slot[s].acked & BIT(x))))
#define UNSETTLED(s, c) (!READ_ANY && ENG.slot[s].version != 0 && ENG.slot[s].cell == (c) && \
                         !ENG.slot[s].answered)
#if SLOTS == 1
#define ALL_SETTLED(x, c) SETTLED(0, x, c)
#define ANY_UNSETTLED(c) UNSETTLED(0, c)
#else
#define ALL_SETTLED(x, c) (SETTLED(0, x, c) && SETTLED(1, x, c))
#define ANY_UNSETTLED(c) (UNSETTLED(0, c) || UNSETTLED(1, c))
#endif
#define READABLE(x, c) (SERVING && (ENG.ready & ENG.agreed & BIT(x)) && ALL_SETTLED(x, c))

inline show_client(c, value, least) {
  printf("engine %d: a read of cell %d shows %d, clients know of %d\n", e, c, value, least);
  assert(value >= least);
  told[c] = MAX(told[c], value)
}

#ifdef READS

typedef Read {
  byte state;   /* 0: none; 1: sent; 2: the member has answered */
  byte member;
  byte cell;
  byte floor;
  byte value;
}
Read rd[E];
#define RD rd[(e) - 1]

inline end_read() {
  RD.state = 0; RD.member = 0; RD.cell = 0; RD.floor = 0; RD.value = 0
}
inline forget_read() {
  if :: RD.state != 0 && RD.member == m -> end_read() :: else fi
}
inline forget_read_of(x) {
  rd[x].state = 0; rd[x].member = 0; rd[x].cell = 0; rd[x].floor = 0; rd[x].value = 0
}
inline start_read(c) {
  RD.state = 1; RD.member = m; RD.cell = c; RD.floor = told[c]
}
#define MAY_SHOW (READ_UNLEASED || SERVING)
#define READ_STEPS \
  :: d_step { RD.state == 0 && mem[m].writer == e && READABLE(m, 0) -> start_read(0) } \
  :: d_step { RD.state == 1 && RD.member == m && mem[m].writer == e -> \
       RD.state = 2; RD.value = mem[m].cell[RD.cell] }
#define READ_DONE \
  :: d_step { RD.state == 2 && !ANY_UNSETTLED(RD.cell) && MAY_SHOW -> \
       show_client(RD.cell, RD.value, RD.floor); end_read() } \
  :: d_step { RD.state == 2 && !SERVING -> end_read() }

#else

#define forget_read() skip
#define forget_read_of(x) skip
#define READ_STEPS \
  READ_NOW(0) \
  READ_NOW(1)
#define READ_NOW(c) \
  :: d_step { mem[m].cell[c] != told[c] && mem[m].writer == e && READABLE(m, c) -> \
       show_client(c, mem[m].cell[c], told[c]) }
#define READ_DONE

#endif
