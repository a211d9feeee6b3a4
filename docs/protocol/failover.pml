/*
 * The choice of another primary, for spin: three instances, 0 the primary in the beginning; two managers that claim terms,
 * each of which may be stale or die at any step; or one, and another that changes the sync set of the first primary from
 * 1 of {1, 2} to 1 of {1}, and back. What an instance confirmed it keeps. A log is a number of entries and the term of the last:
 * what is before is known, since one term has one primary.
 *
 * Claims (assertions below):
 *   who acknowledges a commit has the one that was acknowledged last, and so all;
 *   nobody acknowledges after a primary of a later term did.
 *
 * tests/scripts/test_models.py runs it, and each mutation, which must fail:
 *   NO_QUORUM    the winner is chosen from whoever answered
 *   NO_COMPARE   the record is written whoever wrote it meanwhile
 *   NOT_RECORDED the sync set is relaxed before that is recorded
 *   FORGETS      an instance goes on receiving from whom it followed, whatever it confirmed
 *   EARLY_READ   its position is read before it stops receiving
 *   CHOSEN_LATE  the winner's config is recorded after its promotion
 *   TOO_EARLY    the older config is dropped before its commits are where the new one says
 */
#define COMMITS 1 /* by each primary, at most */
#define TERMS   3 /* the first primary's is 1 */
#define NOBODY  9

/* instances, on disk */
byte promised[3] = 1;
byte has[3] = 1;     /* entries of the log */
byte last[3] = 1;    /* term of the last one */
byte follows[3] = 1; /* term of the primary that it receives from; 0 = none */

/* primaries, by term */
byte primary[4] = NOBODY;
byte begun[4];   /* entries that were there before its first one */
byte base[4];    /* term of the last of those */
byte written[4]; /* entries of its log by now */
bool narrow = false; /* the first one acknowledges by 1 of {1}, else by 1 of {1, 2} */

/* acknowledged last: that many entries, the last of that term */
byte acked = 1, acked_term = 1;

/* the record */
byte term = 1, revision = 0;
bool has_wide = true, has_narrow = false; /* configs of term 1 */
byte owner[4] = NOBODY;                   /* the config of a later term: this one by 1 of the two others */

#ifdef NO_COMPARE
#define COMPARE true
#else
#define COMPARE (revision == mine)
#endif
#define WRITE(change) atomic { if :: COMPARE -> revision++; mine = revision; change :: else -> goto dead fi }
#define MAY_DIE if :: skip :: goto dead fi
/* term of entry n in the log of the primary of term t */
#define TERM_AT(t, n) ((n > begun[t]) * t + (n <= begun[t]) * (1 + (base[t] == 2 && n > begun[2])))
#define LEADS(t) (primary[t] != NOBODY && promised[primary[t]] == t)
#define LEAST(a, b) ((a < b) * a + (a >= b) * b)

/* A commit, of which nobody is told yet. */
inline write(t)
{
    atomic {
        LEADS(t) && written[t] < begun[t] + 1 + COMMITS ->
        written[t]++;
        has[primary[t]] = written[t];
        last[primary[t]] = t
    }
}

/* An entry arrives at x. */
inline arrive(t, x)
{
    atomic {
        primary[t] != NOBODY && x != primary[t] && follows[x] == t && has[x] < written[t] ->
        has[x]++;
        last[x] = TERM_AT(t, has[x])
    }
}

/* A client is told that what x has is committed. */
inline acknowledge(t, x)
{
    atomic {
        LEADS(t) && x != primary[t] && follows[x] == t && last[x] == t && !(t == 1 && narrow && x == 2) &&
        !(t == acked_term && has[x] <= acked) ->
        assert(t >= acked_term);
        assert(written[t] >= acked && TERM_AT(t, acked) == acked_term);
        acked = has[x];
        acked_term = t
    }
}

active proctype shard()
{
end:
    do
    :: write(1)
    :: write(2)
    :: write(3)
    :: arrive(1, 1)
    :: arrive(1, 2)
    :: arrive(2, 0)
    :: arrive(2, 1)
    :: arrive(2, 2)
    :: arrive(3, 0)
    :: arrive(3, 1)
    :: arrive(3, 2)
    :: acknowledge(1, 1)
    :: acknowledge(1, 2)
    :: acknowledge(2, 0)
    :: acknowledge(2, 1)
    :: acknowledge(2, 2)
    :: acknowledge(3, 0)
    :: acknowledge(3, 1)
    :: acknowledge(3, 2)
    od
}

/* ---- the sync set ---- */

proctype syncer()
{
    byte mine, at;

    mine = 0;
    WRITE(has_narrow = true);
    MAY_DIE;
    atomic { if :: promised[0] == 1 -> narrow = true; at = written[1] :: else -> goto dead fi }
#ifndef TOO_EARLY
    if
    :: atomic { follows[1] == 1 && has[1] >= at }
    :: goto dead
    fi;
#endif
    WRITE(has_wide = false);
    MAY_DIE;
#ifndef NOT_RECORDED
    WRITE(has_wide = true);
    MAY_DIE;
#endif
    atomic { if :: promised[0] == 1 -> narrow = false :: else -> goto dead fi };
dead:
    skip
}

/* ---- a failover ---- */

#define CONFIRMED(x) ((confirmed & (1 << x)) != 0)
#define BOTH_BUT(x)  ((confirmed | (1 << x)) == 7)
#define SATISFIES(x) (CONFIRMED(x) || BOTH_BUT(x))
#define MAY_CONFIRM(x) \
    (promised[x] <= t && follows[x] != t && !(primary[t] != NOBODY && primary[t] == x) && !CONFIRMED(x))

inline ask(x)
{
#ifdef EARLY_READ
    atomic { MAY_CONFIRM(x) -> seen_has[x] = has[x]; seen_last[x] = last[x] };
#endif
    atomic {
        MAY_CONFIRM(x) ->
        promised[x] = t;
#ifndef FORGETS
        follows[x] = 0;
#endif
#ifndef EARLY_READ
        seen_has[x] = has[x];
        seen_last[x] = last[x];
#endif
        confirmed = confirmed | (1 << x)
    }
}

#define FORGET(x) seen_has[x] = 0; seen_last[x] = 0 /* fewer states */

/* It goes back to where its log leaves the primary's, and follows. */
inline follow(x)
{
    atomic {
        if
        :: x != winner && promised[x] <= t && follows[x] != t ->
           promised[x] = t;
           follows[x] = t;
           if
           :: last[x] == base[t] -> has[x] = LEAST(has[x], begun[t])
           :: last[x] < base[t] -> has[x] = LEAST(has[x], begun[base[t]])
           :: last[x] > base[t] -> has[x] = LEAST(begun[last[x]], begun[t])
           fi;
           last[x] = TERM_AT(t, has[x])
        :: else
        fi
    }
}

inline promote()
{
    atomic {
        if
        :: promised[winner] == t && primary[t] == NOBODY ->
           primary[t] = winner;
           begun[t] = has[winner];
           base[t] = last[winner];
           follows[winner] = 0;
           has[winner]++;
           last[winner] = t;
           written[t] = has[winner]
        :: else -> goto dead
        fi
    }
}

proctype manager()
{
    byte mine, t, confirmed, winner;
    byte seen_has[3], seen_last[3];
    bool wide, small;
    byte owner2;

    atomic {
        term < TERMS;
        mine = revision;
        t = term + 1;
        wide = has_wide;
        small = has_narrow;
        owner2 = owner[2]
    }
    MAY_DIE;
    WRITE(term = t);
    do
    :: ask(0)
    :: ask(1)
    :: ask(2)
    :: goto dead
    :: atomic {
           (confirmed != 0
#ifndef NO_QUORUM
           && (!wide || SATISFIES(0)) && (!small || CONFIRMED(0) || CONFIRMED(1)) &&
           (owner2 == NOBODY || t == 2 || SATISFIES(owner2))
#endif
           ) -> break
       }
    od;
    atomic {
        winner = NOBODY;
        if :: CONFIRMED(0) -> winner = 0 :: else fi;
        if
        :: CONFIRMED(1) &&
           (winner == NOBODY || seen_last[1] > seen_last[0] || (seen_last[1] == seen_last[0] && seen_has[1] > seen_has[0]))
           -> winner = 1
        :: else
        fi;
        if
        :: CONFIRMED(2) && winner == NOBODY -> winner = 2
        :: CONFIRMED(2) && winner != NOBODY &&
           (seen_last[2] > seen_last[winner] || (seen_last[2] == seen_last[winner] && seen_has[2] > seen_has[winner]))
           -> winner = 2
        :: else
        fi;
        confirmed = 0;
        FORGET(0);
        FORGET(1);
        FORGET(2)
    }
#ifndef CHOSEN_LATE
    WRITE(owner[t] = winner);
    MAY_DIE;
#endif
    promote();
    follow(0);
    MAY_DIE;
    follow(1);
    MAY_DIE;
    follow(2);
#ifdef CHOSEN_LATE
    MAY_DIE;
    WRITE(owner[t] = winner);
#endif
dead:
    atomic {
        confirmed = 0;
        FORGET(0);
        FORGET(1);
        FORGET(2)
    }
}

init
{
    atomic {
        primary[1] = 0;
        follows[0] = 0;
        written[1] = 1;
        if /* not all at once, which were too many states */
        :: run manager(); run manager()
        :: run manager(); run syncer()
        fi
    }
}
