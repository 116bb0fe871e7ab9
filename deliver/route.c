/* route: see route.h */
