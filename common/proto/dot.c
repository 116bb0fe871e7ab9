/* dot: see dot.h */
