/* seal: see seal.h */
