/* pool: see pool.h */
