/* error: see error.h */
