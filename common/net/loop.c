/* loop: see loop.h */
