/* listing: see listing.h */
