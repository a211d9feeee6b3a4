/*
 * Primaries that acknowledge alone, for spin: a shard of two, of which one is enough to be promoted once the lease of
 * the one before is over; two managers that claim terms or go on with what was chosen, each of which may stand still
 * between any two steps, or die. What was not received may be lost here: that was agreed on. Two that acknowledge may not.
 *
 * Claim (the assertion below): nobody acknowledges after a primary of a later term did.
 *
 * tests/scripts/test_models.py runs it, and each mutation, which must fail:
 *   NO_WAIT      the lease of the old primary is not waited for
 *   NO_COMPARE   the record is written whoever wrote it meanwhile
 *   NO_PROOF     a lease is given without asking the record, or the other instance, whether the term is passed
 *   FROM_ARRIVAL a lease counts from when it arrives, not from the proof
 */
#define TERMS 4 /* the first primary's is 1 */
#define LEASE 2
#define END   7 /* of time */

byte now;

/* instances */
byte promised[2] = 1;
byte leads[2]; /* the term under which it is the primary, 0 = it is none */
byte until[2]; /* its lease */

byte acked_term = 1; /* of who acknowledged last */

/* the record */
byte term = 1, revision, chosen = 1, owner;

#ifdef NO_COMPARE
#define COMPARE true
#else
#define COMPARE (revision == mine)
#endif
#define WRITE(change) atomic { if :: COMPARE -> revision++; mine = revision; change :: else -> goto dead fi }
#define MAY_DIE if :: skip :: goto dead fi

active proctype time()
{
end:
    do
    :: now < END -> now++
    od
}

inline acknowledge(x)
{
    atomic {
        leads[x] != 0 && promised[x] == leads[x] && now < until[x] && leads[x] != acked_term ->
        assert(leads[x] >= acked_term);
        acked_term = leads[x]
    }
}

active proctype clients()
{
end:
    do
    :: acknowledge(0)
    :: acknowledge(1)
    od
}

/* It ends its sessions; from now on it obeys this term and later ones only. */
inline ask(x, confirmed)
{
    atomic {
        promised[x] <= t && leads[x] != t && !confirmed ->
        promised[x] = t;
        leads[x] = 0;
        confirmed = true
    }
}

proctype manager()
{
    byte mine, t, winner, from;
    bool c0, c1;

    atomic {
        mine = revision;
        if
        :: term < TERMS -> t = term + 1
        :: chosen == term -> t = term; winner = owner
        :: else -> goto dead
        fi
    }
    if
    :: t == term ->
       WRITE(skip);
       goto chose
    :: else
    fi;
    WRITE(term = t);
    do
    :: ask(0, c0)
    :: ask(1, c1)
    :: c0 || c1 -> break
    :: goto dead
    od;
#ifndef NO_WAIT
    if
    :: c0 && c1
    :: else ->
       from = now;
       if
       :: now >= from + LEASE
       :: goto dead
       fi
    fi;
#endif
    if
    :: c0 -> winner = 0
    :: c1 -> winner = 1
    fi;
    WRITE(chosen = t; owner = winner);
chose:
    do
    :: atomic {
           if
#ifdef NO_PROOF
           :: true
#else
           :: revision == mine
           :: promised[1 - winner] <= t
#endif
           :: else -> goto dead
           fi;
           from = now
       }
       MAY_DIE;
       atomic {
           if
#ifdef FROM_ARRIVAL
           :: promised[winner] <= t ->
              from = now;
#else
           :: promised[winner] <= t && now < from + LEASE ->
#endif
              promised[winner] = t;
              leads[winner] = t;
              until[winner] = from + LEASE
           :: else
           fi
       }
    :: break
    od;
dead:
    skip
}

init
{
    atomic {
        leads[0] = 1;
        until[0] = LEASE;
        run manager();
        run manager()
    }
}
