/*
 * The way back of a move, for spin: T owns R already, S follows it from the opening on, and then R goes back. T's log
 * holds what came from S before the opening, up to X, and what clients wrote since. S may crash, which takes what is not
 * on its disk, and may once be failed over to a standby that lags; two managers, each of which may be stale or die at any
 * step. The fence itself is move.pml's: here it is one step.
 *
 * S's old copy may differ from T's rows, by a fault that nobody sees. As soon as S follows they are compared. A
 * difference holds the move: a person has it compared again (and may have repaired it), accepts that the old copy goes,
 * or that it counts. What was found to differ is known to differ until it was found to be equal.
 *
 * Claims (assertions below):
 *   never do S and T follow each other;
 *   S is never sent what came from it, nor the same write twice;
 *   when S owns R again it has every write that T acknowledged;
 *   when the move has ended nothing follows anything;
 *   a copy that differs is not taken away, unless a person said so or S cannot follow;
 *   a copy that is known to differ does not become the one that counts, unless a person said so.
 *
 * tests/scripts/test_models.py runs it, and each mutation, which must fail:
 *   NO_ORIGIN    S begins wherever T's slot does
 *   NOT_FLUSHED  the commit that enables the subscription leaves the position in memory
 *   BACKWARD     a resume sets the position again, whatever it is by now
 *   NO_PROOF     enabled because the journal says that the forward subscription was dropped
 *   NO_TERM      an older leader's transactions are not refused
 *   NO_TIMELINE  nobody looks whether S is still the same server
 *   NO_MARKER    the fence does not wait until S has all
 *   NOT_AWAITED  the clean-up begins when the bake time is over, compared or not
 *   NOT_KEPT     a difference is held in memory, not in the journal
 *   NO_REFUSAL   a rollback is not refused while a difference is known
 *   BLIND        who has it compared again is believed
 *   FORGETS      nothing is known as soon as another comparison is asked for
 *   GIVES_IN     a copy that differed, and cannot be compared again, goes
 *   BAKES_ON     a rollback that is given up bakes on, whatever is known
 */
#define X      2 /* entries of T's log that came from S */
#define WRITES 2 /* acknowledged by T afterwards, at most */
#define ASKS   2 /* what a person asks for, at most: going back, or how a move that is held goes on */

#define NONE     0
#define DISABLED 1
#define ENABLED  2

bool forward_subscription = true; /* on T, enabled */
bool forward_slot = true;         /* on S */
byte reverse = NONE;              /* the subscription on S */
bool reverse_slot = true;         /* on T */
byte t_log = X;                   /* entries of T's log */
byte confirmed = 0;               /* of it, what T's slot need not send any more */
byte origin = 0, origin_disk = 0; /* what S's subscription has applied up to */
byte s_got = 0, s_got_disk = 0;   /* writes of T's clients that S has */
bool s_owns = false, t_owns = true;
bool failed_over = false;
byte crashes = 0;
byte s_term = 0, t_term = 0;
mtype = { watch, held, going_back, cleaning, unknown, doubted, equal, differs };
mtype journal = watch;
mtype journal_verdict = unknown;
bool journal_accepted = false;
byte revision = 0; /* of the journal, which is written by compare-and-swap */
bool ended = false;

bool damaged = false;  /* S's copy is not what T has, beside what is on its way */
bool compared = false; /* once: what happens to it afterwards nobody looks for */
byte asks = 0;
/* what a person was told, and what he has said since */
bool told = false, may_go = false, may_count = false;

#ifdef NO_TERM
#define DEPOSED(server_term) false
#else
#define DEPOSED(server_term) (server_term > me)
#endif
#define IF_MINE \
    if :: revision == mine -> revision++; mine++ :: else -> goto dead fi
#define WRITE(state, about, on) \
    IF_MINE; journal = state; verdict = about; journal_verdict = about; accepted = on; journal_accepted = on
#define MAY_DIE if :: skip :: goto dead fi
#define OPEN    (verdict == unknown || verdict == doubted)
#define START   (origin > confirmed -> origin : confirmed)

active proctype client()
{
end:
    do
    :: atomic { t_owns && t_log < X + WRITES -> t_log++ }
    :: atomic {
           s_owns ->
           assert(!t_owns);
           assert(s_got == t_log - X);
           break
       }
    od
}

/* One entry at a time, its position with it. synchronous_commit = on: what is confirmed is on disk. */
active proctype apply_worker()
{
    byte next;

end:
    do
    :: atomic {
           reverse == ENABLED && reverse_slot && START < t_log ->
           next = START + 1;
           assert(next > X);
           assert(next - X > s_got);
           assert(!forward_subscription);
           s_got++;
           origin = next
       }
    :: atomic {
           reverse == ENABLED && confirmed < origin ->
           origin_disk = origin;
           s_got_disk = s_got;
           confirmed = origin
       }
    od
}

active proctype faults()
{
end:
    do
    :: atomic { crashes < 2 -> crashes++; origin = origin_disk; s_got = s_got_disk }
    :: atomic { !damaged && !compared && !s_owns -> damaged = true }
    :: atomic { /* to a standby that has not replayed the last write */
           !failed_over && !s_owns && s_got_disk > 0 ->
           failed_over = true;
           s_got_disk--;
           origin_disk--;
           s_got = s_got_disk;
           origin = origin_disk
       }
    od
}

proctype manager(byte me)
{
    bool absent, accepted;
    byte mine;
    mtype verdict;

    atomic { /* the journal as it is, by a hand of its own: an older manager cannot write it any more */
        revision++;
        mine = revision;
        verdict = journal_verdict;
        accepted = journal_accepted
    }
    MAY_DIE;
    if
    :: atomic { DEPOSED(t_term) -> goto dead }
    :: atomic { !DEPOSED(t_term) -> t_term = me }
    fi;
    MAY_DIE;
    if
    :: atomic { DEPOSED(s_term) -> goto dead }
    :: atomic { !DEPOSED(s_term) -> s_term = me }
    fi;
    MAY_DIE;
    atomic {
        if
        :: ended || revision != mine -> goto dead
        :: !ended && revision == mine && journal == going_back -> goto go_back
        :: !ended && revision == mine && journal == held -> goto hold
        :: !ended && revision == mine && journal == cleaning -> goto clean
        :: !ended && revision == mine && journal == watch
        fi
    }

follow: /* watch */
    if
#ifdef NO_PROOF
    :: true
#endif
    :: atomic { DEPOSED(t_term) -> goto dead }
    :: atomic { !DEPOSED(t_term) -> forward_subscription = false }
    fi;
    MAY_DIE;
    if
    :: atomic { DEPOSED(s_term) -> goto dead }
    :: atomic { !DEPOSED(s_term) -> forward_slot = false }
    fi;
    MAY_DIE;
    if
    :: atomic { DEPOSED(t_term) -> goto dead }
    :: atomic { !DEPOSED(t_term) -> absent = !forward_subscription }
    fi;
#ifndef NO_PROOF
    if
    :: !absent -> goto dead
    :: absent
    fi;
#endif
    MAY_DIE;
    if
    :: atomic { DEPOSED(s_term) -> goto dead }
    :: atomic { !DEPOSED(s_term) && reverse == NONE -> reverse = DISABLED; origin = 0; origin_disk = 0 }
    :: atomic { !DEPOSED(s_term) && reverse != NONE }
    fi;
    MAY_DIE;
#ifndef NO_ORIGIN
    if
    :: atomic { DEPOSED(s_term) -> goto dead }
#ifdef BACKWARD
    :: atomic { !DEPOSED(s_term) -> origin = X }
#else
    :: atomic { !DEPOSED(s_term) && reverse == DISABLED && origin < X -> origin = X }
    :: atomic { !DEPOSED(s_term) && (reverse != DISABLED || origin >= X) }
#endif
    fi;
    MAY_DIE;
#endif
    if
    :: atomic { DEPOSED(s_term) -> goto dead }
    :: atomic { /* S may have crashed since: then the position is looked at again, that is, this is repeated */
           !DEPOSED(s_term) && reverse == DISABLED && !forward_slot ->
#ifndef NO_ORIGIN
           if
           :: origin < X -> goto dead
           :: else
           fi;
#endif
#ifndef NOT_FLUSHED
           origin_disk = origin;
#endif
           reverse = ENABLED
       }
    :: atomic { !DEPOSED(s_term) && reverse == ENABLED }
    :: atomic { !DEPOSED(s_term) && reverse == NONE -> goto dead }
    fi;
    MAY_DIE;
end_compare: /* S may never have all */
    if
#ifdef NOT_AWAITED
    :: true
#endif
    :: accepted || !OPEN
#ifdef GIVES_IN
    :: !accepted && OPEN && failed_over
#else
    :: !accepted && verdict == unknown && failed_over /* there is nothing to compare */
    :: !accepted && verdict == doubted && failed_over -> /* what was found before stands */
       MAY_DIE;
       atomic { WRITE(held, differs, false) }
       goto hold
#endif
    :: !accepted && OPEN && asks < ASKS -> goto ask_back /* that breaks it off */
    :: atomic { /* after a marker */
           !accepted && OPEN && !failed_over && reverse == ENABLED && origin == t_log ->
           compared = true;
           verdict = (damaged -> differs : equal);
           told = (told && damaged)
       }
       if
       :: verdict == equal
       :: verdict == differs ->
          MAY_DIE;
          atomic {
#ifndef NOT_KEPT
              WRITE(held, differs, false);
#endif
              told = true
          }
          goto hold
       fi
    fi;
    MAY_DIE;
    if
    :: atomic { WRITE(cleaning, verdict, accepted) } goto clean /* the bake time is over */
    :: asks < ASKS
    fi;

ask_back: /* refused without an acceptance, if a difference is known */
    MAY_DIE;
    atomic {
        if
        :: asks < ASKS -> asks++
        :: else -> goto dead
        fi;
        WRITE(going_back, verdict, verdict == differs || verdict == doubted);
#ifndef NO_REFUSAL
        may_count = accepted
#endif
    }

go_back:
    MAY_DIE;
    if
#ifndef NO_TIMELINE
    :: failed_over && !s_owns -> goto stay
    :: (!failed_over || s_owns)
#else
    :: true
#endif
    :: !failed_over && !s_owns -> goto stay /* tried too often */
    :: !failed_over && !s_owns && damaged && !accepted -> /* some rows are looked at once more */
       verdict = differs;
       goto stay
    fi;
end_fence: /* S may never have all: then it is given up as well */
    /* the fence; nothing can be failed over inside it, or the marker's connection and with it the fence goes */
    if
    :: atomic { DEPOSED(s_term) || DEPOSED(t_term) -> goto dead }
    :: atomic {
           (!DEPOSED(s_term) && !DEPOSED(t_term) && t_owns && reverse == ENABLED
#ifndef NO_TIMELINE
           && !failed_over
#endif
#ifndef NO_MARKER
           && origin_disk == t_log /* a marker is seen when it is on disk */
#endif
           ) -> assert(!(damaged && told) || may_count); t_owns = false; s_owns = true
       }
    :: atomic { s_owns }
    :: atomic { t_owns && failed_over -> goto dead }
    fi;
    MAY_DIE;
    /* its subscription and slot go */
    if
    :: atomic { DEPOSED(s_term) -> goto dead }
    :: atomic { !DEPOSED(s_term) -> reverse = NONE }
    fi;
    MAY_DIE;
    if
    :: atomic { DEPOSED(t_term) -> goto dead }
    :: atomic { !DEPOSED(t_term) -> reverse_slot = false }
    fi;
    goto end_of_move;

stay: /* T keeps it; what was accepted was this rollback */
    MAY_DIE;
    atomic {
#ifdef BAKES_ON
        WRITE(watch, verdict, accepted);
#else
        WRITE((verdict == differs -> held : watch), verdict, false);
#endif
        told = (told || verdict == differs);
        may_go = false;
        may_count = false;
        if
        :: journal == watch -> goto follow
        :: journal == held
        fi
    }

hold:
    MAY_DIE;
end_hold: /* until somebody says how it goes on */
    if
    :: asks < ASKS -> goto ask_back
    :: atomic {
           asks < ASKS ->
           asks++;
#ifdef BLIND
           WRITE(watch, equal, false);
#else
#ifdef FORGETS
           WRITE(watch, unknown, false);
#else
           verdict = (verdict == differs -> doubted : unknown);
           WRITE(watch, verdict, false);
#endif
#endif
           if
           :: damaged = false /* repaired, on either side */
           :: true
           fi
       }
    :: atomic { asks < ASKS -> asks++; WRITE(watch, differs, true); may_go = true }
    fi;
    goto follow;

clean:
    MAY_DIE;
    if
    :: atomic { DEPOSED(s_term) -> goto dead }
    :: atomic {
           !DEPOSED(s_term) ->
           assert(!damaged || may_go || (failed_over && !told));
           reverse = NONE
       }
    fi;
    MAY_DIE;
    if
    :: atomic { DEPOSED(t_term) -> goto dead }
    :: atomic { !DEPOSED(t_term) -> reverse_slot = false }
    fi;

end_of_move:
    MAY_DIE;
    atomic {
        if
        :: s_term == me && t_term == me -> ended = true
        :: else
        fi
    }

dead:
    skip
}


init
{
    run manager(1);
    run manager(2);
    /* whatever an old manager still does: what has ended stays ended */
end:
    do
    :: atomic { ended -> assert(reverse == NONE && !reverse_slot && !forward_slot && !forward_subscription) ; break }
    od;
end_after:
    do
    :: atomic { ended && reverse != NONE -> assert(false) }
    od
}
