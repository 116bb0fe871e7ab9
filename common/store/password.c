/* password: see password.h */
