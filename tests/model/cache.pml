/*
 * cache: the protocol between writers, readers and one key of the cache, for spin.
 *
 * Two writers make a new version of a mailbox each; two readers look at its cached list, and fill
 * it when they may. Every step of theirs that touches the server or the database is one step here,
 * and all interleavings are tried. PROTOCOL and the faults are given by tests/model/run, which
 * knows what each pair must come to.
 *
 * Checked: a list that is read is at least as new as every write that was answered; and when all
 * is quiet, no old list is left, whoever died on the way.
 *
 * A tombstone ends by itself, but not before the commit it was set for: its life is longer than a
 * commit may take. A placeholder and a list may end at any time.
 */
#define READERS 2
#define WRITERS 2

#define DELETE_PLAIN     1 /* delete after the commit; readers set what they have read */
#define DELETE_CAS       2 /* delete after the commit; readers fill by add and cas */
#define TOMBSTONE_BEFORE 3 /* tombstone before the commit only */
#define TOMBSTONE_DELETE 4 /* tombstone before, delete after */
#define TOMBSTONE_TWICE  5 /* tombstone before and after: ours */

mtype = { absent, placeholder, tombstone, list };

/* The key, as the server has it. */
mtype slot = absent;
byte token;          /* of the placeholder */
byte version;        /* of the list */
bool moved[READERS]; /* written to since this reader's add or gets: its cas will fail */

/* The database. */
byte db;
bool sent[WRITERS];      /* COMMIT is on its way */
bool committed[WRITERS];
byte became[WRITERS]; /* the version that it made */
byte uncommitted;     /* writers that have begun and whose commit is still to come */

byte answered; /* the newest version whose writer has said so to its client */
byte working = READERS + WRITERS;
bool crashed;

inline put(what)
{
    slot = what;
    moved[0] = true;
    moved[1] = true
}

/* --- writers --------------------------------------------------------------------------------- */

/* A writer that is cut off from the server goes on without its tombstones. */
inline set_tombstone()
{
    if
    :: put(tombstone)
#ifdef CUT
    :: me == 0
#endif
    fi
}

inline before_commit()
{
    atomic {
        uncommitted++;
#if PROTOCOL >= TOMBSTONE_BEFORE
        set_tombstone()
#endif
    }
}

inline after_commit()
{
    atomic {
#if PROTOCOL == TOMBSTONE_TWICE
        set_tombstone()
#elif PROTOCOL != TOMBSTONE_BEFORE
        put(absent)
#else
        skip
#endif
    }
}

/* At most one node dies. */
#ifdef CRASH
#define MAY_CRASH :: atomic { !crashed -> crashed = true; goto dead }
#else
#define MAY_CRASH
#endif

proctype writer(byte me)
{
    before_commit();
    if
    :: sent[me] = true
#ifdef CRASH
    :: atomic { !crashed -> crashed = true; uncommitted--; goto dead }
#endif
    fi;
    if
    :: committed[me]
    MAY_CRASH
    fi;
    if
    :: after_commit()
    MAY_CRASH
    fi;
    atomic {
        if
        :: became[me] > answered -> answered = became[me]
        :: else
        fi
    }
dead:
    working--
}

inline commit(who)
{
    db++;
    became[who] = db;
    committed[who] = true;
    uncommitted--
}

/* A COMMIT that was sent is carried out, whether its node lives or not. */
active proctype database()
{
end:
    do
    :: atomic { sent[0] && !committed[0] -> commit(0) }
    :: atomic { sent[1] && !committed[1] -> commit(1) }
    od
}

/* --- readers --------------------------------------------------------------------------------- */

proctype reader(byte me)
{
    byte seen;
    mtype what;
    atomic {
        what = slot;
        assert(what != list || version >= answered)
    }
    if
    :: what == absent ->
#if PROTOCOL == DELETE_PLAIN
        seen = db;
        atomic { put(list); version = seen }
#else
        atomic { /* add */
            if
            :: slot == absent -> put(placeholder); token = me; moved[me] = false
            :: else -> goto done
            fi
        }
        seen = db;
        atomic { /* gets, when the connection is gone that told the placeholder's number */
            if
            :: skip
            :: slot == placeholder && token == me -> moved[me] = false
            :: slot != placeholder || token != me -> goto done
            fi
        }
        atomic { /* cas */
            if
            :: !moved[me] -> put(list); version = seen
            :: else
            fi
        }
#endif
    :: else /* a hit, or a miss that must not be filled */
    fi;
done:
    working--
}

/* --- time, and the server's own will --------------------------------------------------------- */

active proctype server()
{
end:
    do
    :: atomic { slot == placeholder -> put(absent) }
    :: atomic { slot == tombstone && uncommitted == 0 -> put(absent) }
#ifdef EVICT
    :: atomic { slot == tombstone -> put(absent) }
#endif
    od
}

init
{
    atomic {
        run writer(0);
        run writer(1);
        run reader(0);
        run reader(1)
    }
    /* All is quiet: nobody works, and nothing that was sent is still to be carried out. */
    (working == 0 && sent[0] == committed[0] && sent[1] == committed[1]);
    assert(slot != list || version == db)
}
