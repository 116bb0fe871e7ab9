/* pop3: see pop3.h */
