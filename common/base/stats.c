/* stats: see stats.h */
