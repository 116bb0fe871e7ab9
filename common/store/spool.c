/* spool: see spool.h */
