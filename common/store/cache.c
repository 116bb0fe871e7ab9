/* cache: see cache.h */
