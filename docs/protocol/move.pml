/*
 * The cutover of a move, for spin: two servers, of which T may crash once; two managers, each of which may be stale or
 * die at any step; COMMITs that are executed some time after they were sent, if at all; servers that end idle
 * transactions whenever they like; and clients that write to whichever server they believe in, one of them under an
 * old snapshot. After a move R may go back to S by another one, and be moved again.
 *
 * Claims (assertions below, in client and managers):
 *   never do S and T both accept writes of R;
 *   when T accepts one, it has every write that S acknowledged;
 *   no manager finds S and T both owning R, whatever it resumes from.
 *
 * tests/scripts/test_models.py runs it, and each mutation, which must fail:
 *   spin -a [-DMUTATION] docs/protocol/move.pml && cc -O2 -DSAFETY -o pan pan.c && ./pan -m2000000
 *   GATE_FIRST      the opening is committed before the fence
 *   NO_MARKER       nobody waits for S's last writes to be on T
 *   OTHER_SESSION   COMMIT of the fence may run in a session that does not hold its lock
 *   NO_TERM         an older leader's transactions are not refused
 *   NOT_FLUSHED     T tells of the marker before what it applied is on its disk
 *   GATE_REUSED     every move uses the same gate row
 *   NOT_BURNED      going back after the fence without taking the gate away first
 */
#define WRITES 2 /* acknowledged by S, at most */
#define MOVES  2 /* begun, at most */

bool s_owns = true; /* by S's committed guards */
byte s_term = 0, t_term = 0;
byte s_tx = 0;     /* who holds S's control row and table locks in the fence's transaction; 0 = nobody */
byte t_tx = 0;     /* who holds T's control row with a prepared opening */
byte gate = 0;     /* the move whose gate row stands on T; 0 = none */
bool opened = false; /* that row is open */
bool t_owns = false; /* settled */
byte s_rows = 0, t_rows = 0; /* acknowledged on S; of these on T */
bool s_commit = false, t_commit = false; /* sent, not executed yet */
byte t_flushed = 0; /* of t_rows */
bool t_crashed = false;
byte journal = 0;  /* the move that is under way; 0 = none */
byte moves = 0;

#ifdef NO_TERM
#define DEPOSED(server_term) false
#else
#define DEPOSED(server_term) (server_term > me)
#endif
#ifdef GATE_REUSED
#define GATE(move) 1
#else
#define GATE(move) move
#endif
#define T_ACCEPTS (t_owns || opened)
#define END_S     atomic { s_tx = 0; s_commit = false }
#define END_T     atomic { t_tx = 0; t_commit = false }
#define MAY_DIE   if :: skip :: goto dead fi

/* One write of a key of R; S's table lock makes it wait. A stale client tries either. */
active proctype client()
{
end:
    do
    :: atomic {
           s_owns && s_tx == 0 && s_rows < WRITES ->
           assert(!T_ACCEPTS);
           s_rows++
       }
    :: atomic {
           T_ACCEPTS ->
           assert(!s_owns);
           assert(t_rows == s_rows);
           break
       }
    od
}

/* A transaction on T that began while a gate was open; what its statements are checked by is T's newest trigger. */
active proctype old_client()
{
    byte sees;

end:
    atomic { opened -> sees = gate }
end_seen:
    do
    :: atomic {
           t_owns || (gate != 0 && sees == gate) ->
           assert(!s_owns);
           break
       }
    od
}

/* synchronous_commit = on for the subscription: what it has applied is on disk when it is seen */
active proctype apply_worker()
{
end:
    do
    :: atomic {
           t_rows < s_rows ->
           t_rows++;
#ifndef NOT_FLUSHED
           t_flushed = t_rows
#endif
       }
    od
}

/* Servers execute what was sent to them. A COMMIT's flush takes everything before it along. idle_in_transaction_
 * session_timeout, a lost connection or a terminated backend roll back. */
active proctype servers()
{
end:
    do
    :: atomic { s_commit -> s_commit = false; s_tx = 0; s_owns = false }
    :: atomic { t_commit -> t_commit = false; t_tx = 0; opened = true; t_flushed = t_rows }
    :: atomic { s_tx != 0 -> s_tx = 0; s_commit = false }
    :: atomic { t_tx != 0 -> t_tx = 0; t_commit = false }
    :: atomic { !t_crashed -> t_crashed = true; t_tx = 0; t_commit = false; t_rows = t_flushed }
    od
}

/* `me` is its term as well. */
proctype manager(byte me)
{
    byte move;

    /* T first, then S: end the old leader's backends, then wait for whoever holds the row */
    END_T;
    MAY_DIE;
    if
    :: atomic { DEPOSED(t_term) -> goto dead }
    :: atomic { !DEPOSED(t_term) && t_tx == 0 -> t_term = me }
    fi;
    MAY_DIE;
    END_S;
    if
    :: atomic { DEPOSED(s_term) -> goto dead }
    :: atomic { !DEPOSED(s_term) && s_tx == 0 -> s_term = me }
    fi;
    MAY_DIE;

begin:
    atomic {
        if
        :: journal == 0 && moves == MOVES -> goto dead
        :: journal == 0 && moves < MOVES -> moves++; journal = moves
        :: else
        fi;
        move = journal
    }
    MAY_DIE;
    /* the servers are the truth */
    atomic {
        assert(!(s_owns && T_ACCEPTS));
        if
        :: t_owns -> goto dead
        :: !s_owns && !t_owns -> goto after
        :: else
        fi
    }

rehearse:
    if
    :: atomic { DEPOSED(t_term) -> goto dead }
    :: atomic {
           !DEPOSED(t_term) && t_tx == 0 ->
           if
           :: gate == 0 -> gate = GATE(move); opened = false
           :: else
           fi
       }
    fi;
    MAY_DIE;

    /* T's opening, prepared: seen by nobody */
    if
    :: atomic { DEPOSED(t_term) -> goto dead }
    :: atomic { !DEPOSED(t_term) && t_tx == 0 && gate == GATE(move) -> t_tx = me }
    :: gate != GATE(move) -> goto back_out
    fi;
    MAY_DIE;
    /* the fence: lock */
    if
    :: atomic { DEPOSED(s_term) -> goto dead }
    :: atomic { !DEPOSED(s_term) && s_tx == 0 && s_owns -> s_tx = me }
    :: atomic { !s_owns -> goto after }
    fi;
    MAY_DIE;
    /* side by side with the guards, which are seen by nobody before the commit: the marker */
#ifndef NO_MARKER
    if
    :: s_tx != me -> goto back_out
    :: t_rows == s_rows && s_tx == me
    fi;
    MAY_DIE;
#endif
#ifdef GATE_FIRST
    if
    :: atomic { t_tx == me -> t_tx = 0; opened = true }
    :: t_tx != me -> goto back_out
    fi;
    MAY_DIE;
#endif
    /* COMMIT on S; its answer may be lost */
    atomic {
        if
#ifdef OTHER_SESSION
        :: true -> s_owns = false; s_tx = 0
#else
        :: s_tx == me -> s_commit = true
        :: s_tx != me -> goto back_out
#endif
        fi
    }
    MAY_DIE;
    if
    :: !s_owns /* answered */
    :: skip -> /* not answered: end that backend, take the control row, read */
       END_S;
       MAY_DIE;
       if
       :: atomic { DEPOSED(s_term) -> goto dead }
       :: atomic { !DEPOSED(s_term) && s_tx == 0 && s_owns -> goto back_out }
       :: atomic { !DEPOSED(s_term) && s_tx == 0 && !s_owns -> goto after }
       fi
    fi;
    /* COMMIT on T; its answer may be lost as well */
    if
    :: atomic { t_tx == me -> t_commit = true }
    :: t_tx != me -> goto after
    fi;
    MAY_DIE;
    if
    :: opened -> goto settle
    :: skip -> goto after
    fi;

back_out:
    atomic {
        if
        :: s_tx == me -> s_tx = 0; s_commit = false
        :: else
        fi;
        if
        :: t_tx == me -> t_tx = 0; t_commit = false
        :: else
        fi
    }
    MAY_DIE;
    if
    :: goto rehearse
    :: skip /* undo */
    fi;
    if
    :: atomic { DEPOSED(t_term) -> goto dead }
    :: atomic { !DEPOSED(t_term) && t_tx == 0 && opened -> goto dead } /* it was opened: no way back */
    :: atomic { !DEPOSED(t_term) && t_tx == 0 && !opened -> gate = 0 }
    fi;
    MAY_DIE;
    if
    :: atomic { s_owns && s_term == me -> journal = 0; goto begin }
    :: else -> goto dead
    fi;

after: /* S gave R away: forward, or back if the gate can be burned */
    if
    :: atomic { DEPOSED(t_term) -> goto dead }
    :: atomic {
           !DEPOSED(t_term) && t_tx == 0 -> /* what S says by now is not asked again */
           if
           :: gate == GATE(move) -> opened = true; t_flushed = t_rows
           :: gate != GATE(move) -> goto dead
           fi;
           goto settle
       }
#ifdef NOT_BURNED
    :: atomic { !DEPOSED(s_term) && s_tx == 0 && !opened && !t_owns -> s_owns = true; journal = 0; goto begin }
#else
    :: atomic { !DEPOSED(t_term) && t_tx == 0 && !opened && !t_owns -> gate = 0; goto give_back }
#endif
    :: atomic { t_owns -> goto dead }
    fi;

give_back:
    MAY_DIE;
    if
    :: atomic { DEPOSED(s_term) -> goto dead }
    :: atomic { !DEPOSED(s_term) && s_tx == 0 -> s_owns = true; journal = 0; goto begin }
    fi;

settle:
    MAY_DIE;
    if
    :: atomic { DEPOSED(t_term) -> goto dead }
    :: atomic { !DEPOSED(t_term) && t_tx == 0 && opened -> t_owns = true; opened = false; gate = 0 }
    :: t_owns
    :: !opened && !t_owns -> goto dead
    fi;
    if
    :: atomic { /* another move takes R back to S, all of it at once; and then again */
           t_owns && me == t_term && me == s_term && s_tx == 0 && t_tx == 0 ->
           t_owns = false;
           s_owns = true;
           s_rows = 0; t_rows = 0; t_flushed = 0;
           journal = 0;
           goto begin
       }
    :: skip
    fi;

dead:
    skip
}

init
{
    run manager(1);
    run manager(2)
}
