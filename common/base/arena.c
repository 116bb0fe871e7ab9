/* arena: see arena.h */
