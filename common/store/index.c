/* index: see index.h */
