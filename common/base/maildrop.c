/* maildrop: see maildrop.h */
