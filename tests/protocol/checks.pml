/* What must hold in every state, and at the end of every run. The assertions about what clients are told
   and shown stand where that happens: evaluate(), show(). */

#define SERVES(x) (eng[x].serves && QUORUM_OF(x))
#define QUORUM_OF(x) (COUNTED(eng[x].lease & eng[x].ready, eng[x].agreed) && \
  (eng[x].asked == 0 || COUNTED(eng[x].lease & eng[x].ready, eng[x].asked)))
#if E == 2
#define TWO_SERVE (SERVES(0) && SERVES(1))
#else
#define TWO_SERVE ((SERVES(0) && SERVES(1)) || (SERVES(0) && SERVES(2)) || (SERVES(1) && SERVES(2)))
#endif

/* I1 */
#define DIFFER(x, y) (mem[x].version == mem[y].version && \
  (mem[x].cell[0] != mem[y].cell[0] || mem[x].cell[1] != mem[y].cell[1]))
#if N == 2
#define ANY_DIFFER DIFFER(0, 1)
#elif N == 3
#define ANY_DIFFER (DIFFER(0, 1) || DIFFER(0, 2) || DIFFER(1, 2))
#else
#define ANY_DIFFER (DIFFER(0, 1) || DIFFER(0, 2) || DIFFER(1, 2) || \
                    DIFFER(0, 3) || DIFFER(1, 3) || DIFFER(2, 3))
#endif

/* When nothing can happen any more the newest engine serves, from all that are left, and they agree. */
inline check_end() {
  printf("nothing is left to happen\n");
  assert(m_epoch == E);
  assert(eng[E - 1].serves && eng[E - 1].phase == formed);
  assert(eng[E - 1].ready == (ALL & ~dead) && m_set == eng[E - 1].ready);
  assert(eng[E - 1].slot[0].version == 0);
  for (i : 0 .. N - 1) {
    for (j : 0 .. N - 1) {
      assert((dead & (BIT(i) | BIT(j))) || mem[i].version == mem[j].version)
    }
  };
  skip
}

proctype checks() {
end:
  do
  :: d_step { TWO_SERVE -> printf("two engines serve\n"); assert(false) }
  :: d_step { ANY_DIFFER -> printf("equal versions, but other contents\n"); assert(false) }
  :: atomic { timeout -> d_step { check_end() } }
  od
}
