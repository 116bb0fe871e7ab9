/* check: see check.h */
